"""The result backend in a database: sqlite:///fastq.db."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

from fastq.backend import Backend, Watch
from fastq.errors import BackendUnavailable
from fastq.outcome import Outcome
from fastq.systems import sql_results
from fastq.systems.sql import CALLERS, LOOK_AGAIN_S, SqlSystem

_CHANGES = 2000  # looked through in one transaction by those who wait


class SqlBackend(Backend):
    """A face on the SqlSystem of the URL."""

    def __init__(self, url: str, *, expires_s: float) -> None:
        self.expires_s = expires_s
        self.system: SqlSystem = SqlSystem.open(url, BackendUnavailable)
        self._close: Callable[[], None] | None = self.system.close

    def store(self, outcomes: Sequence[Outcome]) -> None:
        with self.system.write(BackendUnavailable) as connection:
            self.system.store(connection, outcomes, self.expires_s)
        self.system.ring(CALLERS)

    def load(self, ids: Sequence[bytes]) -> list[Outcome | None]:
        with self.system.read(BackendUnavailable) as connection:
            known = sql_results.load(connection, ids, self.system.now())
        return [known.get(id) for id in ids]

    def wait(self, ids: Sequence[bytes], deadline: float | None) -> Iterator[Outcome]:
        pending = dict.fromkeys(ids)
        # At first every id is looked up; then only what has changed since, for `pending` may be long.
        with self.system.read(BackendUnavailable) as connection:
            seen = sql_results.last(connection)
            arrived = sql_results.ended(connection, pending, self.system.now())
        yield from self._taken(pending, arrived)
        if pending and not _passed(deadline):
            yield from self._wait_on(pending, seen, deadline)

    def _wait_on(self, pending: dict[bytes, None], seen: int, deadline: float | None) -> Iterator[Outcome]:
        bell = self.system.bell(CALLERS)
        try:
            while pending:
                bell.drain()
                before = seen
                with self.system.read(BackendUnavailable) as connection:
                    now = self.system.now()
                    seen, arrived = sql_results.ended_since(connection, seen, pending, now, _CHANGES)
                yield from self._taken(pending, arrived)
                if not pending or (seen == before and _passed(deadline)):
                    return
                if seen == before:
                    left = LOOK_AGAIN_S if deadline is None else deadline - time.monotonic()
                    bell.wait(min(LOOK_AGAIN_S, left))
        finally:
            bell.close()

    def _taken(self, pending: dict[bytes, None], arrived: Sequence[Outcome]) -> Iterator[Outcome]:
        for outcome in arrived:
            if outcome.id in pending:
                del pending[outcome.id]
                yield outcome

    def watch(self) -> Watch:
        return _SqlWatch(self.system)

    def forget(self, ids: Sequence[bytes]) -> None:
        with self.system.write(BackendUnavailable) as connection:
            sql_results.forget(connection, ids)

    def create_group(self, group: bytes, ids: Sequence[bytes]) -> None:
        with self.system.write(BackendUnavailable) as connection:
            expires = self.system.now() + round(self.expires_s * 1e6)
            sql_results.create_group(connection, group, ids, expires)

    def group_members(self, group: bytes) -> list[bytes]:
        with self.system.read(BackendUnavailable) as connection:
            return sql_results.group_members(connection, group, self.system.now())

    def group_completed(self, group: bytes) -> int:
        with self.system.read(BackendUnavailable) as connection:
            return sql_results.group_completed(connection, group, self.system.now())

    def close(self) -> None:
        close, self._close = self._close, None
        if close is not None:
            close()


class _SqlWatch(Watch):
    """Looks through what has changed, when its bell rings."""

    def __init__(self, system: SqlSystem) -> None:
        self._system = system
        self._pending: dict[bytes, None] = {}
        self._lock = threading.Lock()
        with system.read(BackendUnavailable) as connection:
            self._seen = sql_results.last(connection)
        self._bell = system.bell(CALLERS)

    def add(self, ids: Sequence[bytes]) -> list[Outcome]:
        with self._lock:
            self._pending.update(dict.fromkeys(ids))
        with self._system.read(BackendUnavailable) as connection:
            return sql_results.ended(connection, ids, self._system.now())

    def drop(self, ids: Sequence[bytes]) -> None:
        with self._lock:
            for id in ids:
                self._pending.pop(id, None)

    def listen(self, deadline: float) -> list[Outcome]:
        while True:
            self._bell.drain()
            before = self._seen
            with self._system.read(BackendUnavailable) as connection:
                now = self._system.now()
                self._seen, arrived = sql_results.ended_since(connection, before, self._pending, now, _CHANGES)
            if arrived or (self._seen == before and _passed(deadline)):
                return list(arrived)
            if self._seen == before:
                self._bell.wait(min(LOOK_AGAIN_S, deadline - time.monotonic()))

    def close(self) -> None:
        self._bell.close()


def _passed(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline
