"""Events: what becomes of tasks and workers, as it is reported in the log "events" for whoever follows it.

An entry of the log is a batch: a JSON list of events. Nothing waits for it to be written, and nobody depends on it.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Generic, NamedTuple, TypeVar

import orjson

from .errors import ConfigurationError, FastQError, ProtocolError, did_you_mean
from .message import Message
from .state import Follower, SharedState

T = TypeVar("T")

logger = logging.getLogger("fastq.events")

LOG = "events"
KINDS = (
    "task-sent", "task-received", "task-started", "task-succeeded", "task-failed", "task-retried", "task-revoked",
    "task-lost", "worker-online", "worker-heartbeat", "worker-offline", "events-dropped",
)  # fmt: skip

_KEPT = 1_000  # entries
_EXPIRE_S = 3_600.0
_AT_ONCE = 500  # events in one entry
_MOST_WAITING = 20_000
_PAUSE_S = 0.1  # how long a caller's events wait for others
_PATIENCE_S = 5.0  # how long the shared state is left in peace when it fails
_NOTHING: Mapping[str, Any] = {}


class Event(NamedTuple):
    """Something that happened. Of what is not said, there is none; times are seconds since the epoch."""

    kind: str  # one of `KINDS`
    at: float
    worker: str = ""  # its name; empty: a caller reports this
    id: str = ""  # of the task
    task: str = ""
    queue: str = ""
    attempt: int = 0
    runtime_s: float = 0.0
    detail: str = ""  # why, for people
    numbers: Mapping[str, Any] = _NOTHING  # of a worker, at its heartbeat; of events that were dropped


def encode(events: Sequence[Event]) -> bytes:
    """Return an entry of the log; what an event does not say is left out."""
    names = Event._fields
    return orjson.dumps([{name: value for name, value in zip(names, each, strict=True) if value} for each in events])


def decode(entry: bytes) -> list[Event]:
    """Read an entry. What a newer fastq says besides is passed over. Raises ProtocolError."""
    try:
        known = Event._fields
        given = [{name: value for name, value in each.items() if name in known} for each in orjson.loads(entry)]
        return [Event(**{"kind": "", "at": 0.0, **each}) for each in given]
    except (ValueError, TypeError, AttributeError) as error:
        raise ProtocolError(f"Not events: {error}") from error


class Wanted(NamedTuple):
    """Which events somebody wants to see; of what is left empty, all."""

    kinds: frozenset[str] = frozenset()
    task: str = ""  # a pattern, as in "shop.*"
    queue: str = ""
    worker: str = ""
    id: str = ""

    def covers(self, event: Event) -> bool:
        """Return whether an event is wanted."""
        return bool(
            (not self.kinds or event.kind in self.kinds)
            and (not self.task or fnmatchcase(event.task, self.task))
            and (not self.queue or event.queue == self.queue)
            and (not self.worker or event.worker == self.worker)
            and (not self.id or event.id == self.id)
        )


def wanted(kinds: Iterable[str] = (), **others: str) -> Wanted:
    """Return a filter. A kind may be given without its "task-". Raises ConfigurationError for one that there isn't."""
    found = set()
    for kind in kinds:
        full = kind if kind in KINDS else f"task-{kind}"
        if full not in KINDS:
            raise ConfigurationError(f"There are no events {kind!r:.60}: {did_you_mean(kind, KINDS)}")
        found.add(full)
    return Wanted(frozenset(found), **others)


class EventStream:
    """Events as they come, one after another; iteration ends when there was none for `timeout_s` seconds.

    Raises StateUnavailable. To be closed, or used as a context manager.
    """

    def __init__(self, follower: Follower, chosen: Wanted, timeout_s: float | None) -> None:
        self._follower = follower
        self._chosen = chosen
        self._timeout_s = timeout_s
        self._ready: deque[Event] = deque()

    def __iter__(self) -> EventStream:
        return self

    def __next__(self) -> Event:
        deadline = None if self._timeout_s is None else time.monotonic() + self._timeout_s
        while not self._ready:
            entries = self._follower.read(deadline)
            if not entries:
                raise StopIteration
            self._ready.extend(event for event in _events(entries) if self._chosen.covers(event))
        return self._ready.popleft()

    def close(self) -> None:
        """Let go of what it holds. May be called twice."""
        self._follower.close()

    def __enter__(self) -> EventStream:  # noqa: PYI034
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _events(entries: Iterable[bytes]) -> Iterator[Event]:
    for entry in entries:
        try:
            yield from decode(entry)
        except ProtocolError as error:
            logger.warning("%s", error)


class Buffer(Generic[T]):
    """What is still to be reported. It takes up to a bound and drops the rest, and counts what it drops."""

    def __init__(self, most: int = _MOST_WAITING) -> None:
        self._most = most
        self._waiting: deque[T] = deque()
        self._dropped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, some: Sequence[T]) -> None:
        """Take some, or none of them. Any thread may call it; it waits for nobody."""
        if len(self._waiting) < self._most:
            self._waiting.extend(some)
        else:
            self._dropped += len(some)

    def take(self) -> tuple[list[T], int]:
        """Return what there is, and how many were dropped since the last time. One thread calls it."""
        waiting = self._waiting
        found = [waiting.popleft() for _ in range(len(waiting))]
        dropped, self._dropped = self._dropped, 0
        return found, dropped


def report(state: SharedState, events: Sequence[Event], dropped: int = 0) -> None:
    """Append events to the log. Raises StateUnavailable."""
    if dropped:
        events = [*events, Event("events-dropped", time.time(), numbers={"count": dropped})]
    entries = [encode(events[at : at + _AT_ONCE]) for at in range(0, len(events), _AT_ONCE)]
    if entries:
        state.append(LOG, entries, keep=_KEPT, expires_s=_EXPIRE_S)


class SentReporter:
    """Reports, from a thread of its own, what a caller has sent. The thread is there as long as there is something."""

    def __init__(self, state: Callable[[], SharedState]) -> None:
        self._state = state
        self._buffer: Buffer[Message] = Buffer()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._silent_until = 0.0
        self.pid = os.getpid()
        atexit.register(self.flush)

    def sent(self, messages: Sequence[Message]) -> None:
        """Report messages that the broker has accepted."""
        self._buffer.put(messages)
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="fastq-events", daemon=True)
                self._thread.start()

    def flush(self) -> None:
        """Report what there is now; where that fails, it is lost."""
        messages, dropped = self._buffer.take()
        if os.getpid() != self.pid or not (messages or dropped) or time.monotonic() < self._silent_until:
            return
        try:
            report(self._state(), [_sent(message) for message in messages], dropped)
        except FastQError as error:
            self._silent_until = time.monotonic() + _PATIENCE_S
            logger.warning("%d events are lost: %s", len(messages) + dropped, error)

    def _run(self) -> None:
        while True:
            time.sleep(_PAUSE_S)
            self.flush()
            with self._starting:
                if not self._buffer:
                    self._thread = None
                    return


def _sent(message: Message) -> Event:
    return Event("task-sent", message.enqueued_at / 1e6, "", message.uuid, message.task, message.queue, message.attempt)
