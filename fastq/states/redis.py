"""Shared state in Redis: redis://host:port/db, and the other URLs of docs/redis.rst."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from fastq.errors import StateUnavailable
from fastq.state import Answer, Arrival, Ask, Continuation, Flow, Follower, SharedState
from fastq.systems import redis_state
from fastq.systems.limits import interval_us, slots_of
from fastq.systems.redis import RedisSystem
from fastq.systems.redis_scripts import Script
from fastq.systems.redis_tail import Tail

T = TypeVar("T")

_AT_ONCE = 1000  # things done in one script, lest it keep the server from others for long


class RedisState(SharedState):
    """A face on the RedisSystem of the URL."""

    def __init__(self, url: str) -> None:
        self.system: RedisSystem = RedisSystem.open(url)
        self._close: Callable[[], None] | None = self.system.close
        self._base = self.system.base("state")

    def _call(self, script: Script, key: str, *arguments: bytes | str | int) -> Any:
        with self.system.translated(StateUnavailable):
            return self.system.call(script, [key], *arguments)

    # -- facts -----------------------------------------------------------------------------------------

    def put(self, family: str, facts: Mapping[str, bytes], expires_s: float) -> None:
        for part in _parts(list(facts.items())):
            self._call(redis_state.PUT, self._family(family), *self._lasting(expires_s), *_flat(part))

    def put_new(self, family: str, name: str, value: bytes, expires_s: float) -> bytes | None:
        known: bytes | None = self._call(
            redis_state.PUT_NEW, self._family(family), *self._lasting(expires_s), name, value
        )
        return known

    def get(self, family: str, names: Sequence[str]) -> list[bytes | None]:
        key, values = self._family(family), list[bytes | None]()
        for part in _parts(names):
            values += self._call(redis_state.GET, key, self.system.clock(), *part)
        return values

    def find(self, family: str) -> dict[str, bytes]:
        found = self._call(redis_state.FIND, self._family(family), self.system.clock())
        return {name.decode(): value for name, value in zip(found[::2], found[1::2], strict=True)}

    def delete(self, family: str, names: Sequence[str]) -> int:
        key = self._family(family)
        return sum(self._call(redis_state.DELETE, key, self.system.clock(), *part) for part in _parts(names))

    def delete_if(self, family: str, name: str, value: bytes) -> bool:
        return bool(self._call(redis_state.DELETE_IF, self._family(family), self.system.clock(), name, value))

    def replace_if(self, family: str, name: str, old: bytes, new: bytes, expires_s: float) -> bool:
        key, lasting = self._family(family), self._lasting(expires_s)
        return bool(self._call(redis_state.REPLACE_IF, key, *lasting, name, new, old))

    def _family(self, name: str) -> str:
        return f"{self._base}:facts:{name}"

    def _lasting(self, seconds: float) -> tuple[int, int]:
        """Return the first arguments of the scripts that keep something for some time."""
        return self.system.clock(), round(seconds * 1e6)

    # -- limits ----------------------------------------------------------------------------------------

    def acquire(self, asks: Sequence[Ask], lease_s: float, horizon_s: float) -> list[Answer]:
        answers: list[Answer] = []
        for part in _parts(asks):
            first = (*self._lasting(lease_s), round(horizon_s * 1e6))
            reply = self._call(redis_state.ACQUIRE, self._base, *first, *_asked(part))
            pairs = zip(reply[::2], reply[1::2], strict=True)
            answers += [Answer(wait_us / 1e6, bool(reserved)) for wait_us, reserved in pairs]
        return answers

    def extend(self, asks: Sequence[Ask], lease_s: float) -> None:
        for part in _parts(slots_of(asks)):
            self._call(redis_state.EXTEND, self._base, *self._lasting(lease_s), *_flat(part))

    def give_back(self, asks: Sequence[Ask]) -> None:
        for part in _parts(slots_of(asks)):
            self._call(redis_state.GIVE_BACK, self._base, *_flat(part))

    # -- flows -----------------------------------------------------------------------------------------

    def open_flows(self, flows: Sequence[Flow], expires_s: float) -> None:
        for part in _flow_parts(flows):
            self._call(redis_state.OPEN, self._base, *self._lasting(expires_s), *_opened(part))

    def arrive(self, arrivals: Sequence[Arrival]) -> list[Continuation]:
        continuations: dict[bytes, Continuation] = {}
        for part in _parts(arrivals):
            parts = [(flow.hex(), task, int(failed)) for flow, task, failed in part]
            reply = self._call(redis_state.ARRIVE, self._base, self.system.clock(), *_flat(parts))
            for digits, then, failed in zip(reply[::3], reply[1::3], reply[2::3], strict=True):
                flow = bytes.fromhex(digits.decode())
                continuations[flow] = Continuation(flow, then, tuple(failed))
        return list(continuations.values())

    def close_flows(self, flows: Sequence[bytes]) -> None:
        for part in _parts(flows):
            self._call(redis_state.CLOSE, self._base, *(id.hex() for id in part))

    # -- logs ------------------------------------------------------------------------------------------

    def append(self, log: str, entries: Sequence[bytes], keep: int, expires_s: float) -> None:
        expires_ms = max(1, round(expires_s * 1000))
        for part in _parts(entries[-keep:]):
            self._call(redis_state.APPEND, self._log(log), keep, expires_ms, *part)

    def follow(self, log: str, *, from_start: bool = False) -> Follower:
        with self.system.translated(StateUnavailable):
            return RedisFollower(self.system, Tail(self.system.nodes, self._log(log), from_start=from_start))

    def _log(self, name: str) -> str:
        return f"{self._base}:log:{name}"

    def close(self) -> None:
        close, self._close = self._close, None
        if close is not None:
            close()


class RedisFollower(Follower):
    """A place in a log in Redis."""

    def __init__(self, system: RedisSystem, tail: Tail) -> None:
        self._system = system
        self._tail = tail

    def read(self, deadline: float | None) -> list[bytes]:
        with self._system.translated(StateUnavailable):
            return self._tail.read(deadline)

    def interrupt(self) -> None:
        self._tail.interrupt()

    def close(self) -> None:
        self._tail.close()


def _flat(rows: Iterable[Sequence[bytes | str | int]]) -> Iterator[bytes | str | int]:
    for row in rows:
        yield from row


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for at in range(0, len(items), _AT_ONCE):
        yield items[at : at + _AT_ONCE]


def _flow_parts(flows: Sequence[Flow]) -> Iterator[Sequence[Flow]]:
    """Yield flows in parts that need so many tasks at the most, or are one flow."""
    part: list[Flow] = []
    size = 0
    for flow in flows:
        if part and size + len(flow.needs) > 10 * _AT_ONCE:
            yield part
            part, size = [], 0
        part.append(flow)
        size += len(flow.needs)
    if part:
        yield part


def _opened(flows: Sequence[Flow]) -> Iterator[bytes | str | int]:
    for id, needs, then in flows:
        yield id.hex()
        yield then
        yield len(needs)
        yield from needs


def _asked(asks: Sequence[Ask]) -> Iterator[bytes | str | int]:
    for holder, limits in asks:
        yield holder
        yield len(limits)
        for limit in limits:
            yield limit.key
            yield limit.amount
            yield interval_us(limit)
