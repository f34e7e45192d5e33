"""The contract of a pool: processes (or threads) that run tasks, and exact accounts of who runs what.

A pool is given frames under tickets, and each ticket comes back exactly once: ended with an outcome,
or broken off with the death of the child that ran it. What was not begun can be taken back.
One thread submits, one collects; `running`, `kill` and `interrupt` are for any.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Ended(NamedTuple):
    """What became of a ticket."""

    ticket: int
    outcome: bytes  # the frame of the outcome; empty when the child died while it ran this
    death: str = ""  # how the child died, in words, when it did


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


@dataclass(frozen=True)
class Manifest:
    """What the process that imported the app says of it."""

    app: str  # its name
    settings: Mapping[str, Any]
    tasks: Mapping[str, TaskInfo] = field(default_factory=dict)


class Pool(ABC):
    """Runs tasks in children. Lifecycle: `load`, `start`, then `quiet` and `stop(deadline)`."""

    @abstractmethod
    def load(self) -> Manifest:
        """Import the app, away from this process, and say what is in it. Raises AppImportError, AppNotFound."""

    @abstractmethod
    def start(self, children: int) -> None:
        """Start children. Raises PoolError."""

    @abstractmethod
    def submit(self, ticket: int, frame: bytes) -> bool:
        """Hand a message over; False, and nothing is done, when there is no room for it now."""

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
        """Kill the children that run these tickets; they come back as broken off."""

    @abstractmethod
    def interrupt(self) -> None:
        """Make a `collect` that waits, or else the next one, return."""

    @abstractmethod
    def quiet(self) -> None:
        """Let children leave when they have ended what they run, and start no more."""

    @abstractmethod
    def stop(self, deadline: float) -> None:
        """Wait for children to leave until the deadline, then kill them. May be called twice."""
