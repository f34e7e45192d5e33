"""The contract of a pool: processes (or threads) that run tasks, and exact accounts of who runs what.

A pool is given frames under tickets, and each ticket comes back exactly once: ended with an outcome,
or broken off with the death of the child that ran it. What was not begun can be taken back.
One thread submits, one collects; `running`, `kill`, `resize` and `interrupt` are for any.

A pool has one lane or two. Each has children and room of its own, so that what waits in one is no obstacle to the
other. Where there are two, the second is for async tasks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .state import Limit

_SERIAL_BITS = 40  # of a ticket; those above are the fence's
_MOST_DELIVERIES = (1 << 64 - _SERIAL_BITS) - 1  # beyond which the fence of a message rises no more


def ticket_of(serial: int, fence: int) -> int:
    """Return the ticket for a delivery: it brings the delivery's fence to whoever runs the message."""
    return serial | min(fence, _MOST_DELIVERIES) << _SERIAL_BITS


def fence_of(ticket: int) -> int:
    """Return the fence of the delivery that a ticket is for; 0 if it is for none."""
    return ticket >> _SERIAL_BITS


#: The death, in words, of a run that left without an outcome, because it was told to.
LEFT = "was told to end it"


class Ended(NamedTuple):
    """What became of a ticket."""

    ticket: int
    outcome: bytes  # the frame of the outcome; empty when the child died while it ran this
    death: str = ""  # how the child died, in words, when it did
    blameless: bool = False  # it left, or was broken off along with another, which was to be killed


class Running(NamedTuple):
    """A ticket that a child is running."""

    ticket: int
    child: int
    pid: int
    since: float  # time.monotonic


@dataclass(frozen=True)
class TaskInfo:
    """What the parent needs to know of a task without importing it."""

    name: str
    ack: str = "late"
    is_async: bool = False
    hard_limit_ms: int = 0  # 0: none
    limits: tuple[Limit, ...] = ()
    limited_by_key: bool = False  # its limits are kept apart by the key that a message brings
    superseded: bool = False  # of several calls that are the same, only the latest is to run
    strict_early: bool = False  # it starts when its acknowledgement is known to have arrived


@dataclass(frozen=True)
class Manifest:
    """What the process that imported the app says of it."""

    app: str  # its name
    settings: Mapping[str, Any]
    tasks: Mapping[str, TaskInfo] = field(default_factory=dict)


class Pool(ABC):
    """Runs tasks in children. Lifecycle: `load`, `start`, then `quiet` and `stop(deadline)`."""

    kills = True  # whether it can end a run by force

    @abstractmethod
    def load(self) -> Manifest:
        """Import the app, away from this process, and say what is in it. Raises AppImportError, AppNotFound."""

    @abstractmethod
    def start(self, children: int) -> None:
        """Start children. Raises PoolError."""

    @property
    @abstractmethod
    def lanes(self) -> Sequence[int]:
        """How many runs go on at once, at most, in each lane; the first is `children`, once it has started."""

    @abstractmethod
    def submit(self, ticket: int, frame: bytes, lane: int = 0) -> bool:
        """Hand a message over; False, and nothing is done, when there is no room for it now in its lane."""

    @abstractmethod
    def collect(self, deadline: float | None) -> list[Ended]:
        """Return what has ended, waiting for the first.

        Returns [] at the deadline, after `interrupt`, and when a child came or went without ending anything.
        Dead children are replaced in here. Raises PoolError when the pool can't go on.
        """

    @abstractmethod
    def withdraw(self) -> list[int]:
        """Take back the tickets that no child has begun."""

    @abstractmethod
    def running(self) -> list[Running]:
        """Return what runs at this moment."""

    @abstractmethod
    def kill(self, tickets: Sequence[int]) -> None:
        """End these tickets' runs by force; they come back as broken off, unless they end before that.

        Where a process runs others beside them, and can't end one run alone, those come back, too: blameless.
        """

    @abstractmethod
    def resize(self, children: int) -> None:
        """Have so many children in the first lane; those that are too many leave when they have ended what they run.

        Raises PoolError for more than the pool can have.
        """

    @abstractmethod
    def interrupt(self) -> None:
        """Make a `collect` that waits, or else the next one, return."""

    def stacks(self) -> dict[str, str]:
        """Return where the threads of the pool's processes are, by what these are called, as far as they say."""
        return {}

    @abstractmethod
    def quiet(self, deadline: float | None = None) -> None:
        """Let children leave when they have ended what they run, and start no more.

        With a deadline, what runs gets to know by when it is to have ended, and is interrupted if it asks for that.
        """

    @abstractmethod
    def stop(self, deadline: float) -> None:
        """Wait for children to leave until the deadline, then kill them. May be called twice."""
