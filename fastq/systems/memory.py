"""The system inside one process: messages, leases, outcomes and shared state in dictionaries under one lock.

For tests, for trying things out, and as the model that the other systems are compared with. Nothing
survives the process, and a forked child has no part in it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from fastq.backend import Backend
from fastq.broker import Decision, Delivery, Subscription
from fastq.completion import Completed, Completion
from fastq.errors import BackendUnavailable, BrokerUnavailable, FastQError, LeaseLost
from fastq.message import now_us
from fastq.outcome import Outcome
from fastq.systems.memory_queues import Lease, Queues
from fastq.systems.memory_results import Results
from fastq.systems.memory_state import State

_systems: dict[str, MemorySystem] = {}
_opening = threading.Lock()


def memory_system(url: str) -> MemorySystem:
    """Return the system of a URL, memory:// or memory://name: one a name, for the life of the process."""
    name = url.partition("://")[2].strip("/")
    with _opening:
        if name not in _systems:
            _systems[name] = MemorySystem()
        return _systems[name]


class MemorySystem:
    """Owns the state and its one lock. `clock` gives microseconds since the epoch.

    Rules: `queues`, `results` and `state` are touched only inside `held()`; whoever makes messages ready, stores
    outcomes or adds to a log notifies `arrived`.
    """

    def __init__(self, clock: Callable[[], int] = now_us) -> None:
        self.clock = clock
        self.queues = Queues()
        self.results = Results()
        self.state = State()
        self.arrived = threading.Condition(threading.Lock())
        self._pid = os.getpid()

    @contextmanager
    def held(self, unavailable: type[FastQError] = BrokerUnavailable) -> Iterator[int]:
        """Hold the lock; the value is the present time."""
        if os.getpid() != self._pid:  # the child has a copy of the state, and of a lock that may be held for ever
            raise unavailable("memory:// lives in one process, and this is a child of it: use sqlite:///fastq.db")
        with self.arrived:
            yield self.clock()

    def wait(self, deadline: float | None, due: int) -> bool:
        """Wait for news, inside `held()`, until the deadline or the moment `due`; False when past the deadline."""
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            return False
        until_due = (due - self.clock()) / 1e6 if due else None
        waits = [wait for wait in (left, until_due) if wait is not None]
        self.arrived.wait(max(min(waits), 0.001) if waits else None)
        return True

    def wake(self) -> None:
        """Make all waiters look again, as when the clock was set."""
        with self.held():
            self.arrived.notify_all()

    def settle(self, lease: Lease, decisions: Sequence[Decision]) -> list[Delivery]:
        """Carry out decisions; return the deliveries that the lease does not hold any more."""
        with self.held() as now:
            lost = [decision.delivery for decision in decisions if not self.queues.settle(lease, decision, now)]
            self.arrived.notify_all()
            return lost

    def store(self, outcomes: Iterable[Outcome], expires_s: float) -> None:
        """Keep outcomes."""
        with self.held(BackendUnavailable) as now:
            self.results.store(outcomes, now, now + round(expires_s * 1e6))
            self.arrived.notify_all()

    def completion(self, subscription: Subscription, backend: Backend) -> Completion:
        """Return the completion that settles and stores under one lock."""
        return _OneStep(self, subscription.lease, backend.expires_s)  # type: ignore[attr-defined]


class _OneStep(Completion):
    def __init__(self, system: MemorySystem, lease: Lease, expires_s: float) -> None:
        self._system = system
        self._lease = lease
        self._expires_s = expires_s

    def complete(self, batch: Sequence[Completed]) -> list[Delivery]:
        lost: list[Delivery] = []
        outcomes: list[Outcome] = []
        with self._system.held() as now:
            for decision, outcome, _ in batch:
                if decision is not None and not self._system.queues.settle(self._lease, decision, now):
                    lost.append(decision.delivery)
                elif outcome is not None:
                    outcomes.append(outcome)
            self._system.results.store(outcomes, now, now + round(self._expires_s * 1e6))
            self._system.arrived.notify_all()
        return lost


def lease_lost(owner: str) -> LeaseLost:
    """Return the error for a lease that has ended."""
    return LeaseLost(f"The lease of {owner} has ended, and its messages may be in other hands: subscribe anew")
