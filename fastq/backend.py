"""The contract of a result backend: where outcomes are kept until they expire.

In batches; deadlines are points on `time.monotonic`, None for "without end". A backend is thread-safe.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from .completion import System
from .outcome import Outcome


class Backend(ABC):
    """A client for one backend URL."""

    system: System | None = None  # what it shares with a broker of the same server
    expires_s: float  # how long outcomes are kept

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
