"""The result backend inside one process: memory:// or memory://name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fastq.backend import Backend, Watch
from fastq.errors import BackendUnavailable
from fastq.outcome import Outcome
from fastq.systems.memory import MemorySystem, memory_system


class MemoryBackend(Backend):
    """A face on the MemorySystem of the URL, or on the one that is given."""

    def __init__(self, url: str = "memory://", *, expires_s: float, system: MemorySystem | None = None) -> None:
        self.system: MemorySystem = system or memory_system(url)
        self.expires_s = expires_s

    def store(self, outcomes: Sequence[Outcome]) -> None:
        self.system.store(outcomes, self.expires_s)

    def load(self, ids: Sequence[bytes]) -> list[Outcome | None]:
        with self.system.held(BackendUnavailable) as now:
            return [self.system.results.get(id, now) for id in ids]

    def wait(self, ids: Sequence[bytes], deadline: float | None) -> Iterator[Outcome]:
        pending = dict.fromkeys(ids)
        seen = 0
        while pending:
            with self.system.held(BackendUnavailable) as now:
                # At first every id is looked up; then only what has come since: `pending` may be long.
                seen, arrived = self.system.results.since(seen, pending, now)
                if not arrived and not self.system.wait(deadline, 0):
                    return
            for outcome in arrived:
                if outcome.id in pending:
                    del pending[outcome.id]
                    yield outcome

    def watch(self) -> Watch:
        return _MemoryWatch(self.system)

    def forget(self, ids: Sequence[bytes]) -> None:
        with self.system.held(BackendUnavailable):
            self.system.results.forget(ids)

    def create_group(self, group: bytes, ids: Sequence[bytes]) -> None:
        with self.system.held(BackendUnavailable) as now:
            self.system.results.create_group(group, ids, now + round(self.expires_s * 1e6))

    def group_members(self, group: bytes) -> list[bytes]:
        with self.system.held(BackendUnavailable) as now:
            return self.system.results.members(group, now)

    def group_completed(self, group: bytes) -> int:
        with self.system.held(BackendUnavailable) as now:
            return self.system.results.completed(group, now)

    def close(self) -> None:
        """Nothing is to be let go of: the state is kept for whoever opens the URL next."""


class _MemoryWatch(Watch):
    """Reads the log of what has ended."""

    def __init__(self, system: MemorySystem) -> None:
        self._system = system
        self._pending: dict[bytes, None] = {}
        with system.held(BackendUnavailable) as now:
            self._seen, _ = system.results.since(0, (), now)

    def add(self, ids: Sequence[bytes]) -> list[Outcome]:
        with self._system.held(BackendUnavailable) as now:
            self._pending.update(dict.fromkeys(ids))
            return self._system.results.since(0, ids, now)[1]

    def drop(self, ids: Sequence[bytes]) -> None:
        with self._system.held(BackendUnavailable):
            for id in ids:
                self._pending.pop(id, None)

    def listen(self, deadline: float) -> list[Outcome]:
        while True:
            with self._system.held(BackendUnavailable) as now:
                self._seen, arrived = self._system.results.since(self._seen, self._pending, now)
                if arrived or not self._system.wait(deadline, 0):
                    return arrived

    def close(self) -> None:
        """It holds nothing."""
