"""Shared state inside one process: memory:// or memory://name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastq.errors import StateUnavailable
from fastq.state import Answer, Arrival, Ask, Continuation, Flow, Follower, SharedState
from fastq.systems.memory import MemorySystem, memory_system


class MemoryState(SharedState):
    """A face on the MemorySystem of the URL, or on the one that is given."""

    def __init__(self, url: str = "memory://", *, system: MemorySystem | None = None) -> None:
        self.system: MemorySystem = system or memory_system(url)

    # -- facts -----------------------------------------------------------------------------------------

    def put(self, family: str, facts: Mapping[str, bytes], expires_s: float) -> None:
        with self.system.held(StateUnavailable) as now:
            self.system.state.put(family, facts, now, now + round(expires_s * 1e6))

    def put_new(self, family: str, name: str, value: bytes, expires_s: float) -> bytes | None:
        with self.system.held(StateUnavailable) as now:
            known = self.system.state.get(family, name, now)
            if known is None:
                self.system.state.put(family, {name: value}, now, now + round(expires_s * 1e6))
            return known

    def get(self, family: str, names: Sequence[str]) -> list[bytes | None]:
        with self.system.held(StateUnavailable) as now:
            return [self.system.state.get(family, name, now) for name in names]

    def find(self, family: str) -> dict[str, bytes]:
        with self.system.held(StateUnavailable) as now:
            return self.system.state.find(family, now)

    def delete(self, family: str, names: Sequence[str]) -> int:
        with self.system.held(StateUnavailable) as now:
            return sum(self.system.state.delete(family, name, now) for name in names)

    def delete_if(self, family: str, name: str, value: bytes) -> bool:
        with self.system.held(StateUnavailable) as now:
            same = self.system.state.get(family, name, now) == value
            return same and self.system.state.delete(family, name, now)

    def replace_if(self, family: str, name: str, old: bytes, new: bytes, expires_s: float) -> bool:
        with self.system.held(StateUnavailable) as now:
            same = self.system.state.get(family, name, now) == old
            if same:
                self.system.state.put(family, {name: new}, now, now + round(expires_s * 1e6))
            return same

    # -- limits ----------------------------------------------------------------------------------------

    def acquire(self, asks: Sequence[Ask], lease_s: float, horizon_s: float) -> list[Answer]:
        with self.system.held(StateUnavailable) as now:
            until = now + round(lease_s * 1e6)
            return self.system.state.acquire(asks, now, until, round(horizon_s * 1e6))

    def extend(self, asks: Sequence[Ask], lease_s: float) -> None:
        with self.system.held(StateUnavailable) as now:
            self.system.state.extend(asks, now + round(lease_s * 1e6))

    def give_back(self, asks: Sequence[Ask]) -> None:
        with self.system.held(StateUnavailable):
            self.system.state.give_back(asks)

    # -- flows -----------------------------------------------------------------------------------------

    def open_flows(self, flows: Sequence[Flow], expires_s: float) -> None:
        with self.system.held(StateUnavailable) as now:
            self.system.state.open_flows(flows, now, now + round(expires_s * 1e6))

    def arrive(self, arrivals: Sequence[Arrival]) -> list[Continuation]:
        with self.system.held(StateUnavailable) as now:
            return self.system.state.arrive(arrivals, now)

    def close_flows(self, flows: Sequence[bytes]) -> None:
        with self.system.held(StateUnavailable):
            self.system.state.close_flows(flows)

    # -- logs ------------------------------------------------------------------------------------------

    def append(self, log: str, entries: Sequence[bytes], keep: int, expires_s: float) -> None:
        with self.system.held(StateUnavailable) as now:
            self.system.state.append(log, entries, keep, now, now + round(expires_s * 1e6))
            self.system.arrived.notify_all()

    def follow(self, log: str, *, from_start: bool = False) -> Follower:
        return MemoryFollower(self.system, log, from_start=from_start)

    def close(self) -> None:
        """Nothing is to be let go of: the state is kept for whoever opens the URL next."""


class MemoryFollower(Follower):
    """A place in a log of a MemorySystem."""

    def __init__(self, system: MemorySystem, log: str, *, from_start: bool) -> None:
        self._system = system
        self._log = log
        self._interrupted = False
        with system.held(StateUnavailable):
            self._seen = 0 if from_start else system.state.newest()

    def read(self, deadline: float | None) -> list[bytes]:
        with self._system.held(StateUnavailable):
            while not self._interrupted:
                self._seen, entries = self._system.state.since(self._log, self._seen, self._system.clock())
                if entries or not self._system.wait(deadline, 0):
                    return entries
            self._interrupted = False
            return []

    def interrupt(self) -> None:
        with self._system.held(StateUnavailable):
            self._interrupted = True
            self._system.arrived.notify_all()

    def close(self) -> None:
        """It holds nothing."""
