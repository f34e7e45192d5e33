"""The reporter: tells the log of events what becomes of tasks, from a thread of its own that nobody waits for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from fastq.backoff import Backoff
from fastq.broker import Action
from fastq.completion import Completed
from fastq.errors import NotSupported, ProtocolError, StateUnavailable, TaskRevoked
from fastq.events import Buffer, Event, report
from fastq.failure import Failure
from fastq.message import Message
from fastq.outcome import Outcome, State
from fastq.packing import is_packed
from fastq.pool import Ended, Running
from fastq.sealing import unsealed
from fastq.state import SharedState

from .loop import Loop
from .triage import Flight

logger = logging.getLogger("fastq.worker")

_PAUSE_S = 0.25  # how long events wait for others, and how late the start of a long task is reported
_HEARTBEAT_S = 10.0

_KINDS = {
    State.SUCCESS: "task-succeeded",
    State.FAILURE: "task-failed",
    State.REFUSED: "task-failed",
    State.RETRY: "task-retried",
    State.REVOKED: "task-revoked",
    State.LOST: "task-lost",
}


class Reporter(Loop):
    """Is told of what happens by whoever sees it, which takes no more than an append; the rest is done here.

    Nobody tells the parent when a task starts: it is seen to run, or else it has run when its end is seen.
    """

    def __init__(
        self, *, worker: str, state: Callable[[], SharedState],
        in_hand: Callable[[], Iterable[tuple[Flight, Running | None]]], numbers: Callable[[], Mapping[str, Any]],
        fail: Callable[[BaseException], None],
    ) -> None:  # fmt: skip
        super().__init__("reporter", fail)
        self._worker = worker
        self._state = state
        self._in_hand = in_hand
        self._numbers = numbers
        self._buffer: Buffer[tuple[Callable[..., Iterator[Event]], float, Any]] = Buffer()
        self._dropped = 0
        self._backoff = Backoff()
        self._heartbeat_at = 0.0

    # -- what it is told -------------------------------------------------------------------------

    def received(self, flights: Sequence[Flight]) -> None:
        """Flights were taken in that can start."""
        now = time.time()
        self._buffer.put([(self._received, now, flight) for flight in flights])

    def turned_away(self, completed: Sequence[Completed]) -> None:
        """Messages came to their end without a start."""
        now = time.time()
        self._buffer.put([(self._turned_away, now, each) for each in completed])

    def ended(self, flights: Sequence[Flight | None], ended: Sequence[Ended], ends: Sequence[Completed]) -> None:
        """Runs came to their end; `ends` has one for each flight that there is."""
        now = time.time()
        runs = [(flight, each) for flight, each in zip(flights, ended, strict=True) if flight]
        self._buffer.put([(self._ended, now, (*run, end)) for run, end in zip(runs, ends, strict=True)])

    # -- lifecycle -------------------------------------------------------------------------------

    def start(self) -> None:
        """Report that the worker is there, and begin."""
        self._buffer.put([(self._about_worker, time.time(), "worker-online")])
        self._heartbeat_at = time.monotonic()
        super().start()

    def turn(self) -> None:
        """Wait a little, and report what has come together."""
        self.quieted.wait(_PAUSE_S)
        now = time.monotonic()
        if now - self._heartbeat_at >= _HEARTBEAT_S:
            self._heartbeat_at = now
            self._buffer.put([(self._about_worker, time.time(), "worker-heartbeat")])
        self._send()

    def stop(self, timeout_s: float) -> bool:
        """Wait for the last turn to end, and report that the worker is leaving."""
        ended = super().stop(timeout_s)
        if ended and not self._backoff.failures:
            self._buffer.put([(self._about_worker, time.time(), "worker-offline")])
            self._send()
        return ended

    def _send(self) -> None:
        waiting, dropped = self._buffer.take()
        self._dropped += dropped
        events = [event for make, at, what in waiting for event in make(at, what)]
        events += self._starts()
        try:
            report(self._state(), events, self._dropped)
        except NotSupported as error:
            self._fail(error)
        except StateUnavailable as error:
            if not self._backoff.failures:
                logger.warning("Events can't be reported, and are dropped: %s", error)
            self._dropped += len(events)
            self.quieted.wait(self._backoff.failed())
        else:
            if self._backoff.worked():
                logger.info("Events are reported again")
            self._dropped = 0

    # -- what it makes of it ---------------------------------------------------------------------

    def _starts(self) -> Iterator[Event]:
        for flight, run in self._in_hand():
            if run is not None and not flight.start_reported:
                flight.start_reported = True
                yield self._event("task-started", time.time() - (time.monotonic() - run.since), flight.message)

    def _received(self, at: float, flight: Flight) -> Iterator[Event]:
        yield self._event("task-received", at, flight.message)

    def _turned_away(self, at: float, completed: Completed) -> Iterator[Event]:
        decision = completed.decision
        if decision is None or decision.action not in (Action.ACK, Action.DEAD):
            return
        try:
            message = Message.decode(unsealed(decision.delivery.frame))
        except ProtocolError:
            return  # a dead letter without a name
        dead = decision.action is Action.DEAD
        detail = decision.reason if dead else _words(completed.outcome)
        yield self._event("task-failed" if dead else "task-revoked", at, message, detail=detail)

    def _ended(self, at: float, end: tuple[Flight, Ended, Completed]) -> Iterator[Event]:
        flight, ended, completed = end
        outcome = completed.outcome
        if outcome is None and not ended.death:
            try:
                outcome = Outcome.decode(ended.outcome)  # which is not kept
            except ProtocolError:
                outcome = None
        began = outcome.started_at / 1e6 if outcome is not None else 0.0
        if began and not flight.start_reported:
            flight.start_reported = True
            yield self._event("task-started", began, flight.message)
        kind, detail = _end_of(flight, ended, completed, outcome)
        if kind:
            runtime_s = max(0.0, at - began) if began else 0.0
            if outcome is not None and began and outcome.finished_at:
                at = outcome.finished_at / 1e6
                runtime_s = max(0.0, at - began)
            yield self._event(kind, at, flight.message, detail=detail, runtime_s=round(runtime_s, 6))

    def _about_worker(self, at: float, kind: str) -> Iterator[Event]:
        yield Event(kind, at, self._worker, numbers=self._numbers())

    def _event(self, kind: str, at: float, message: Message, *, detail: str = "", runtime_s: float = 0.0) -> Event:
        return Event(
            kind, at, self._worker, message.uuid, message.task, message.queue, message.attempt, runtime_s, detail
        )  # fmt: skip


def _end_of(flight: Flight, ended: Ended, completed: Completed, outcome: Outcome | None) -> tuple[str, str]:
    """Return the kind of event that the end of a run is, and why it ended so; no kind if nothing has come to an end."""
    decision = completed.decision
    if decision is not None and decision.action is Action.DEAD:
        return "task-failed", decision.reason
    if outcome is not None:
        return _KINDS[outcome.state], _words(outcome)
    if flight.sentence is not None:
        revoked = isinstance(flight.sentence, TaskRevoked)
        return "task-revoked" if revoked else "task-failed", str(flight.sentence)
    if decision is None:
        return "task-lost", ended.death
    return ("task-retried", ended.death) if decision.action is Action.REJECT else ("", "")


def _words(outcome: Outcome | None) -> str:
    """Return what an outcome says of its failure."""
    if outcome is None or outcome.state is State.SUCCESS or not outcome.body:
        return ""
    if is_packed(outcome.content_type):  # and not to be told
        return ""
    failure = Failure.decode(outcome.body)
    name = failure.type_name.removeprefix("builtins.")
    return f"{name}: {failure.message}" if failure.message else name
