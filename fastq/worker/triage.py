"""What is to be done about a fetched message, from its envelope alone: run it, or one of the other ends."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fastq.broker import Action, Decision, Delivery
from fastq.completion import Completed, awaited
from fastq.errors import (
    BackendError,
    ConfigurationError,
    DeadLettered,
    FastQError,
    ProtocolError,
    StateUnavailable,
    TaskLost,
    TaskRevoked,
)
from fastq.failure import Failure
from fastq.message import JSON, NO_EXTRAS, Message, binary, now_us
from fastq.outcome import Outcome, State
from fastq.pool import TaskInfo
from fastq.sealing import is_sealed, of_queue
from fastq.settings import Settings
from fastq.state import Ask

from .replays import Replays
from .revocations import Revocations

logger = logging.getLogger("fastq.worker")

_EARLY_US = 1_000  # a message that is due within this time counts as due
_MOST_CRASHES = 65_535  # that a message can carry
_SHORTEST_HOLD_S, _LONGEST_HOLD_S = 0.25, 10.0  # before an unknown task is offered again
_HOLD_PART = 4  # it waits for this part of the time that it was known to be unknown
_REMEMBERED = 10_000  # messages of unknown tasks whose first sight is remembered
_NAMED = 1_000  # unknown tasks that are remembered to have been named in the log


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
    """Decides about deliveries; keeps nothing but when it first saw which unknown task.

    `state` opens the shared state, for messages that others wait for.
    """

    def __init__(
        self, tasks: Mapping[str, TaskInfo], settings: Settings, state: Callable[[], object] = lambda: None,
        replays: Replays | None = None,
    ) -> None:  # fmt: skip
        self._tasks = tasks
        self._seals = settings.seals
        self.revocations = Revocations()
        self.replays = Replays() if replays is None else replays
        self._settings = settings
        self._state = state
        self._first_seen: dict[int, float] = {}  # messages of unknown tasks, by the hash of their frames
        self._named: dict[str, float] = {}  # unknown tasks, and when they were named in the log

    def sort(self, delivery: Delivery) -> Flight | Completed:
        """Return a flight that can start, or else what is to be done."""
        if len(delivery.frame) > self._settings.max_message_bytes:
            return dead(delivery, None, f"{len(delivery.frame)} bytes are over the limit of max_message_bytes")
        inner, is_old = delivery.frame, False
        try:
            if self._seals.active:
                inner, is_old = self._opened(delivery)
                if self.replays.has(delivery.frame):
                    return _ended_before(delivery)
            message = Message.decode(inner)
            frame = binary(inner, message)
        except ProtocolError as error:
            unasked = is_sealed(inner) and not self._seals.active
            return dead(delivery, None, "it is signed, and there are no signing_keys here" if unasked else str(error))
        if is_old:
            return dead(delivery, message, "its signature has expired")
        if message.extras is not NO_EXTRAS and awaited(message) is not None and (problem := self._without_state()):
            # Not even its failure can be told to those who wait.
            return dead(delivery, message, f"others wait for its end, and {problem}")._replace(message=None)
        if self.revocations.known and self.revocations.covers(message):
            return revoked(delivery, message)
        if delivery.crashes >= self._settings.max_deliveries:
            return dead(delivery, message, f"{delivery.crashes} of its attempts ended with the death of their process")
        if message.crashes != delivery.crashes:  # the task may ask
            frame = message._replace(crashes=min(delivery.crashes, _MOST_CRASHES)).encode()
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

    def _opened(self, delivery: Delivery) -> tuple[bytes, bool]:
        """Return the call in a seal, and whether it is too old. Raises ProtocolError for what is not to be trusted."""
        opened = self._seals.open(delivery.frame, of_queue(delivery.queue))
        self._seals.check_call(opened, Message.decode(opened.inner), delivery.queue)
        return opened.inner, opened.expired

    def _without_state(self) -> str:
        """Return why there can be no shared state here, if so."""
        try:
            self._state()
        except ConfigurationError as error:
            return str(error)
        except StateUnavailable:  # it will be there before long, and is waited for
            pass
        return ""

    def _unknown(self, delivery: Delivery, message: Message) -> Completed:
        """Hold a task that this worker doesn't know, so that a newer worker may take it, and then give it up."""
        now = time.monotonic()
        grace = self._settings.unknown_task_grace_s
        key = hash(delivery.frame)  # what has no id of its own gets another each time it is decoded
        known_for = now - self._first_seen.get(key, now)
        if known_for >= grace:
            self._first_seen.pop(key, None)
            reason = f"the task {message.task!r} is not known to this worker, nor was it within {grace:g} s"
            return dead(delivery, message, reason)
        if key not in self._first_seen:
            self._name(message, now, grace)
            self._remember(key, now, grace)
        shortest = min(_SHORTEST_HOLD_S, grace / 10) if key in self._first_seen else _LONGEST_HOLD_S
        hold_s = min(max(known_for / _HOLD_PART, shortest) * random.uniform(1.0, 1.5), _LONGEST_HOLD_S)
        return Completed(Decision(delivery, Action.RETRY, due=now_us() + round(hold_s * 1e6)), None)

    def _name(self, message: Message, now: float, grace: float) -> None:
        """Say in the log that a task is not known here: once in its grace, however many its messages are."""
        named_at = self._named.get(message.task)
        if named_at is not None and now - named_at < grace:
            return
        if len(self._named) >= _NAMED:  # names without end: some of them are enough
            self._named = {name: at for name, at in self._named.items() if now - at < grace}
        if len(self._named) >= _NAMED:
            return
        self._named[message.task] = now
        logger.warning(
            "Task %s[%s] is not known here; all of its kind are held for up to %g s", message.task, message.uuid, grace
        )

    def _remember(self, key: int, now: float, grace: float) -> None:
        """Remember a first sight; of a flood, the first ones, so that they are given up and make room."""
        if len(self._first_seen) >= _REMEMBERED:  # what was not seen again when its time had come is elsewhere
            fresh = {key: seen for key, seen in self._first_seen.items() if now - seen < grace + 2 * _LONGEST_HOLD_S}
            self._first_seen = fresh
        if len(self._first_seen) < _REMEMBERED:
            self._first_seen[key] = now


def dead(delivery: Delivery, message: Message | None, reason: str) -> Completed:
    """Give a message up: to the dead letters with it, and a failure for whoever waits."""
    name = f"Task {message.task}[{message.uuid}]" if message else f"A message in {delivery.queue!r}"
    logger.error("%s goes to the dead letters: %s", name, reason.partition("\n")[0])
    outcome = failed(message, DeadLettered(f"{name} went to the dead letters: {reason}")) if message else None
    return Completed(Decision(delivery, Action.DEAD, reason=reason), outcome, awaited(message) if message else None)


def _ended_before(delivery: Delivery) -> Completed:
    """End a signed message that has ended here: its acknowledgement was lost, if it comes again, or it is a copy."""
    if delivery.fence > 1:
        logger.warning("A message in %r was delivered once more after its end, and is not run again", delivery.queue)
        return Completed(Decision(delivery), None)
    return dead(delivery, None, "it has ended here before: a copy of a signed message is not run again")


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


def replacing(outcome: Outcome, error: BackendError) -> Outcome:
    """Return a failure in place of an outcome that the backend refuses for good."""
    failure = outcome._replace(state=State.FAILURE, body=Failure.of(error).encode(), content_type=JSON)
    failure.reply_to = outcome.reply_to
    return failure


def failed(message: Message, error: FastQError, state: State = State.FAILURE) -> Outcome | None:
    """Return the outcome of a message that did not run to its end; None where results are ignored."""
    if message.ignore_result:
        return None
    body = Failure.of(error).encode()
    return Outcome.of(message, state, body)
