"""Shared state in a database: sqlite:///fastq.db."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping, Sequence

from fastq.errors import StateUnavailable
from fastq.state import Answer, Arrival, Ask, Continuation, Flow, Follower, SharedState
from fastq.systems import sql_state, sql_state_flows
from fastq.systems.sql import LOOK_AGAIN_S, SqlSystem

_EXPIRE_EVERY, _EXPIRE_AFTER_US = 500, 5_000_000  # things kept, or time, between two deletions of expired ones
_READ_AT_ONCE = 1000


class SqlState(SharedState):
    """A face on the SqlSystem of the URL.

    Facts and flows are written through. What limits and logs know is not worth it: a crash of the host, which alone
    can take it back, takes along whoever holds a slot.
    """

    def __init__(self, url: str) -> None:
        self.system: SqlSystem = SqlSystem.open(url, StateUnavailable)
        self._close: Callable[[], None] | None = self.system.close
        self._kept = 0  # things since expired ones were deleted, and when that was
        self._expired_at = 0

    # -- facts -----------------------------------------------------------------------------------------

    def put(self, family: str, facts: Mapping[str, bytes], expires_s: float) -> None:
        if facts:
            with self.system.write(StateUnavailable) as connection:
                sql_state.put(connection, family, facts, self.system.now() + round(expires_s * 1e6))
            self._expire(len(facts))

    def put_new(self, family: str, name: str, value: bytes, expires_s: float) -> bytes | None:
        with self.system.write(StateUnavailable) as connection:
            now = self.system.now()
            known = sql_state.put_new(connection, family, name, value, now, now + round(expires_s * 1e6))
        self._expire(1)
        return known

    def get(self, family: str, names: Sequence[str]) -> list[bytes | None]:
        with self.system.read(StateUnavailable) as connection:
            known = sql_state.get(connection, family, names, self.system.now())
        return [known.get(name) for name in names]

    def find(self, family: str) -> dict[str, bytes]:
        with self.system.read(StateUnavailable) as connection:
            return sql_state.find(connection, family, self.system.now())

    def delete(self, family: str, names: Sequence[str]) -> int:
        with self.system.write(StateUnavailable) as connection:
            return sql_state.remove(connection, family, names, self.system.now())

    def delete_if(self, family: str, name: str, value: bytes) -> bool:
        with self.system.write(StateUnavailable) as connection:
            return sql_state.remove_if(connection, family, name, value, self.system.now())

    def replace_if(self, family: str, name: str, old: bytes, new: bytes, expires_s: float) -> bool:
        with self.system.write(StateUnavailable) as connection:
            now = self.system.now()
            return sql_state.replace_if(connection, family, name, old, new, now, now + round(expires_s * 1e6))

    # -- limits ----------------------------------------------------------------------------------------

    def acquire(self, asks: Sequence[Ask], lease_s: float, horizon_s: float) -> list[Answer]:
        with self.system.write(StateUnavailable, durable=False) as connection:
            now = self.system.now()
            until = now + round(lease_s * 1e6)
            answers = sql_state.acquire(connection, asks, now, until, round(horizon_s * 1e6))
        self._expire(len(asks))
        return answers

    def extend(self, asks: Sequence[Ask], lease_s: float) -> None:
        with self.system.write(StateUnavailable, durable=False) as connection:
            sql_state.extend(connection, asks, self.system.now() + round(lease_s * 1e6))

    def give_back(self, asks: Sequence[Ask]) -> None:
        with self.system.write(StateUnavailable, durable=False) as connection:
            sql_state.give_back(connection, asks)

    # -- flows -----------------------------------------------------------------------------------------

    def open_flows(self, flows: Sequence[Flow], expires_s: float) -> None:
        with self.system.write(StateUnavailable) as connection:
            now = self.system.now()
            sql_state_flows.open_flows(connection, flows, now, now + round(expires_s * 1e6))
        self._expire(len(flows))

    def arrive(self, arrivals: Sequence[Arrival]) -> list[Continuation]:
        with self.system.write(StateUnavailable) as connection:
            return sql_state_flows.arrive(connection, arrivals, self.system.now())

    def close_flows(self, flows: Sequence[bytes]) -> None:
        with self.system.write(StateUnavailable) as connection:
            sql_state_flows.close_flows(connection, flows)

    # -- logs ------------------------------------------------------------------------------------------

    def append(self, log: str, entries: Sequence[bytes], keep: int, expires_s: float) -> None:
        if not entries:
            return
        with self.system.write(StateUnavailable, durable=False) as connection:
            now = self.system.now()
            sql_state_flows.append(connection, log, entries, keep, now, now + round(expires_s * 1e6))
        self.system.ring(_kind_of(log))
        self._expire(1)

    def follow(self, log: str, *, from_start: bool = False) -> Follower:
        return SqlFollower(self.system, log, from_start=from_start)

    def _expire(self, count: int) -> None:
        """Now and then delete what has expired: more than has come in the meantime."""
        now = self.system.now()
        self._kept += count
        if self._kept >= _EXPIRE_EVERY or now - self._expired_at > _EXPIRE_AFTER_US:
            most, self._kept, self._expired_at = 2 * self._kept + _EXPIRE_EVERY, 0, now
            with self.system.write(StateUnavailable, durable=False) as connection:
                sql_state.expire(connection, now, most)
                sql_state_flows.expire(connection, now, most)

    def close(self) -> None:
        close, self._close = self._close, None
        if close is not None:
            close()


class SqlFollower(Follower):
    """A place in a log of a database, and a bell that is rung when the log has grown."""

    def __init__(self, system: SqlSystem, log: str, *, from_start: bool) -> None:
        self._system = system
        self._log = log
        self._interrupted = False
        with system.read(StateUnavailable) as connection:
            now = system.now()
            self._place = sql_state_flows.START if from_start else sql_state_flows.end(connection, log, now)
        self._bell = system.bell(_kind_of(log))

    def read(self, deadline: float | None) -> list[bytes]:
        while not self._take_interrupt():
            self._bell.drain()
            if entries := self._next():
                return entries
            left = LOOK_AGAIN_S if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return []
            if not self._interrupted:
                self._bell.wait(min(LOOK_AGAIN_S, left))
        return []

    def _take_interrupt(self) -> bool:
        interrupted, self._interrupted = self._interrupted, False
        return interrupted

    def _next(self) -> list[bytes]:
        with self._system.read(StateUnavailable) as connection:
            now = self._system.now()
            self._place, entries = sql_state_flows.since(connection, self._log, self._place, now, _READ_AT_ONCE)
        return entries

    def interrupt(self) -> None:
        self._interrupted = True
        self._bell.ring()

    def close(self) -> None:
        self._bell.close()


def _kind_of(log: str) -> str:
    """Return the kind of the bells of those who follow a log."""
    return f"log{zlib.crc32(log.encode()):08x}"
