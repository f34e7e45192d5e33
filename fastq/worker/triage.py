"""What is to be done about a fetched message, from its envelope alone: run it, or one of the other ends."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

from fastq.broker import Action, Decision, Delivery
from fastq.completion import Completed, awaited
from fastq.errors import DeadLettered, FastQError, ProtocolError, TaskLost, TaskRevoked
from fastq.failure import Failure
from fastq.message import Message, binary, now_us
from fastq.outcome import Outcome, State
from fastq.pool import TaskInfo
from fastq.settings import Settings
from fastq.state import Ask

from .revocations import Revocations

logger = logging.getLogger("fastq.worker")

_EARLY_US = 1_000  # a message that is due within this time counts as due
_HOLD_S = 5.0  # how long an unknown task waits before it is offered again
_REMEMBERED = 10_000  # unknown tasks whose first sight is remembered


@dataclass(slots=True)
class Flight:
    """A message on its way through the worker."""

    delivery: Delivery
    message: Message
    frame: bytes  # the message's binary envelope
    info: TaskInfo
    handed_back: bool = False  # broken off by a shutdown: not charged
    admitted: bool = False  # the broker was told of the start, where that comes first
    ask: Ask | None = None  # the slots that it holds, of limits on what runs at once
    start_reported: bool = False  # to those who follow events
    lane: int = 0  # of the pool
    sentence: FastQError | None = None  # why it is broken off, if that is its end and not charged

    @property
    def careful(self) -> bool:
        """Whether the broker is to be told before this starts: an early task, or one that may kill its worker."""
        return self.early or self.delivery.suspect

    @property
    def early(self) -> bool:
        """Whether it is acknowledged before it runs."""
        return self.info.ack == "early"

    @property
    def acked(self) -> bool:
        """Whether it is acknowledged by now: nobody else will ever have it, whatever becomes of the lease."""
        return self.admitted and self.early

    @property
    def hard_limit_s(self) -> float:
        """After how many seconds it is broken off; 0 for never. The call's own limit wins over the task's."""
        return (self.message.extras.hard_limit_ms or self.info.hard_limit_ms) / 1000


class Triage:
    """Decides about deliveries; keeps nothing but when it first saw which unknown task."""

    def __init__(self, tasks: Mapping[str, TaskInfo], settings: Settings) -> None:
        self._tasks = tasks
        self.revocations = Revocations()
        self._settings = settings
        self._first_seen: dict[int, float] = {}  # unknown tasks, by the hash of their frames

    def sort(self, delivery: Delivery) -> Flight | Completed:
        """Return a flight that can start, or else what is to be done."""
        if len(delivery.frame) > self._settings.max_message_bytes:
            return dead(delivery, None, f"{len(delivery.frame)} bytes are over the limit of max_message_bytes")
        try:
            message = Message.decode(delivery.frame)
            frame = binary(delivery.frame, message)
        except ProtocolError as error:
            return dead(delivery, None, str(error))
        if self.revocations.known and self.revocations.covers(message):
            return revoked(delivery, message)
        if delivery.crashes >= self._settings.max_deliveries:
            return dead(delivery, message, f"{delivery.crashes} of its attempts ended with the death of their process")
        now = now_us()
        if message.expires and message.expires <= now:
            logger.warning("Task %s[%s] expired before it could start", message.task, message.uuid)
            expired = failed(message, TaskRevoked("expired before it could start"), State.REVOKED)
            return Completed(Decision(delivery), expired, awaited(message))
        if message.eta > now + _EARLY_US:
            return Completed(Decision(delivery, Action.RETRY, due=message.eta), None)
        info = self._tasks.get(message.task)
        if info is None:
            return self._unknown(delivery, message)
        return Flight(delivery, message, frame, info)

    def _unknown(self, delivery: Delivery, message: Message) -> Completed:
        """Hold a task that this worker doesn't know, so that a newer worker may take it, and then give it up."""
        now = time.monotonic()
        grace = self._settings.unknown_task_grace_s
        key = hash(delivery.frame)  # what has no id of its own gets another each time it is decoded
        if now - self._first_seen.get(key, now) >= grace:
            self._first_seen.pop(key, None)
            reason = f"the task {message.task!r} is not known to this worker, nor was it within {grace:g} s"
            return dead(delivery, message, reason)
        if key not in self._first_seen:
            logger.warning("Task %s[%s] is not known here; held for up to %g s", message.task, message.uuid, grace)
            self._remember(key, now, grace)
        hold_us = int(min(_HOLD_S, max(0.05, grace / 10)) * 1e6)
        return Completed(Decision(delivery, Action.RETRY, due=now_us() + hold_us), None)

    def _remember(self, key: int, now: float, grace: float) -> None:
        """Remember a first sight; of a flood, the first ones, so that they are given up and make room."""
        if len(self._first_seen) >= _REMEMBERED:  # what was not seen again when its time had come is elsewhere
            fresh = {key: seen for key, seen in self._first_seen.items() if now - seen < grace + 2 * _HOLD_S}
            self._first_seen = fresh
        if len(self._first_seen) < _REMEMBERED:
            self._first_seen[key] = now


def dead(delivery: Delivery, message: Message | None, reason: str) -> Completed:
    """Give a message up: to the dead letters with it, and a failure for whoever waits."""
    name = f"Task {message.task}[{message.uuid}]" if message else f"A message in {delivery.queue!r}"
    logger.error("%s goes to the dead letters: %s", name, reason)
    outcome = failed(message, DeadLettered(f"{name} went to the dead letters: {reason}")) if message else None
    return Completed(Decision(delivery, Action.DEAD, reason=reason), outcome, awaited(message) if message else None)


def revoked(delivery: Delivery, message: Message) -> Completed:
    """End a message that is not to run."""
    logger.info("Task %s[%s] was revoked before it started", message.task, message.uuid)
    outcome = failed(message, TaskRevoked("revoked before it started"), State.REVOKED)
    return Completed(Decision(delivery), outcome, awaited(message))


def lost(message: Message, why: str) -> Completed:
    """End an early task that will not run, though it was accepted: its message is gone."""
    name = f"Task {message.task}[{message.uuid}]"
    logger.error("%s is lost: %s", name, why)
    return Completed(None, failed(message, TaskLost(f"{name} is lost: {why}"), State.LOST), awaited(message))


def failed(message: Message, error: FastQError, state: State = State.FAILURE) -> Outcome | None:
    """Return the outcome of a message that did not run to its end; None where results are ignored."""
    if message.ignore_result:
        return None
    body = Failure.of(error).encode()
    return Outcome.of(message, state, body)
