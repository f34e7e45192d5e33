"""The contract of a result backend: where outcomes are kept until they expire.

In batches; deadlines are points on `time.monotonic`, None for "without end". A backend is thread-safe.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from .completion import System
from .outcome import Outcome


class Watch(ABC):
    """Waits for the outcomes of ids that come and go. One thread listens, any may add and drop; two for one id don't.

    Made by `Backend.watch`; each method raises BackendUnavailable, after which the same call may be made again.
    """

    @abstractmethod
    def add(self, ids: Sequence[bytes]) -> list[Outcome]:
        """Begin to watch ids; return the terminal outcomes that are there already."""

    @abstractmethod
    def drop(self, ids: Sequence[bytes]) -> None:
        """Watch ids no more."""

    @abstractmethod
    def listen(self, deadline: float) -> list[Outcome]:
        """Return terminal outcomes as they come, waiting for the first until the deadline.

        One may be told of that `add` has returned, too, or that was dropped meanwhile.
        """

    @abstractmethod
    def close(self) -> None:
        """Watch nothing any more. May be called twice."""


class Backend(ABC):
    """A client for one backend URL."""

    system: System | None = None  # what it shares with a broker of the same server
    expires_s: float  # how long outcomes are kept
    #: Where outcomes are pushed, the channel of this process, for its messages; then no other process learns of them.
    reply_to: int = 0

    @abstractmethod
    def store(self, outcomes: Sequence[Outcome]) -> None:
        """Keep outcomes, in one round trip, until they expire.

        A terminal outcome is never replaced, nor is one of a later attempt. Raises BackendUnavailable:
        then the same call may be made again.
        """

    @abstractmethod
    def load(self, ids: Sequence[bytes]) -> list[Outcome | None]:
        """Return what is known of each id, in order; None where nothing is."""

    @abstractmethod
    def wait(self, ids: Sequence[bytes], deadline: float | None) -> Iterator[Outcome]:
        """Yield the terminal outcome of each id once, as they come; stop at the deadline.

        The order is that of completion, for those that were not there at the start. Raises BackendUnavailable.
        """

    def watch(self) -> Watch:
        """Return a watch on outcomes, which serves many callers at once."""
        return _LookingWatch(self)

    @abstractmethod
    def forget(self, ids: Sequence[bytes]) -> None:
        """Delete what is known of these ids."""

    @abstractmethod
    def create_group(self, group: bytes, ids: Sequence[bytes]) -> None:
        """Keep the members of a group, in order."""

    @abstractmethod
    def group_members(self, group: bytes) -> list[bytes]:
        """Return the ids of a group in order; [] for one that is not known."""

    @abstractmethod
    def group_completed(self, group: bytes) -> int:
        """Return how many of a group's outcomes are terminal."""

    @abstractmethod
    def close(self) -> None:
        """Let go of connections. May be called twice."""


class _LookingWatch(Watch):
    """For a backend that has no better: it waits for all ids together, and begins anew every now and then."""

    _SLICE_S = 0.02

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._ids: dict[bytes, None] = {}
        self._lock = threading.Lock()

    def add(self, ids: Sequence[bytes]) -> list[Outcome]:
        with self._lock:
            self._ids.update(dict.fromkeys(ids))
        ended = [each for each in self._backend.load(ids) if each is not None and each.state.terminal]
        self.drop([outcome.id for outcome in ended])
        return ended

    def drop(self, ids: Sequence[bytes]) -> None:
        with self._lock:
            for id in ids:
                self._ids.pop(id, None)

    def listen(self, deadline: float) -> list[Outcome]:
        with self._lock:
            ids = list(self._ids)
        if not ids:
            time.sleep(self._SLICE_S)
        for outcome in self._backend.wait(ids, min(deadline, time.monotonic() + self._SLICE_S)):
            self.drop([outcome.id])
            return [outcome]
        return []

    def close(self) -> None:
        with self._lock:
            self._ids.clear()
