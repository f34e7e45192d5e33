"""The shared state of the memory system: facts, limits, flows and logs. Not locked; times are microseconds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from fastq.state import Answer, Arrival, Ask, Continuation, Flow
from fastq.systems.limits import LATE_US, Turnstile, slots_of

K = TypeVar("K")
V = TypeVar("V")

_SWEEP_EVERY = 1000  # changes between two looks for what has expired, at the least


class _Fact(NamedTuple):
    value: bytes
    expires: int


@dataclass(slots=True)
class _Flow:
    then: bytes
    expires: int
    waits_for: set[bytes]
    failed: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class _Log:
    entries: deque[tuple[int, bytes]] = field(default_factory=deque)  # numbered, over all logs
    expires: int = 0


class State:
    """Owns what the users of one memory system share."""

    def __init__(self) -> None:
        self._facts: dict[str, dict[str, _Fact]] = {}
        self._starts: dict[str, int] = {}  # of each limit on starts, the latest
        self._binding: dict[str, int] = {}  # and until when it counts
        self._slots: dict[str, dict[str, int]] = {}  # of each other limit, the holders and the ends of their leases
        self._flows: dict[bytes, _Flow] = {}
        self._logs: dict[str, _Log] = {}
        self._last = 0  # the number of the latest entry in any log
        self._changes = 0

    # -- facts -----------------------------------------------------------------------------------------

    def put(self, family: str, facts: Mapping[str, bytes], now: int, expires: int) -> None:
        """Keep facts."""
        self._facts.setdefault(family, {}).update({name: _Fact(value, expires) for name, value in facts.items()})
        self._changed(len(facts), now)

    def get(self, family: str, name: str, now: int) -> bytes | None:
        """Return the value of a fact."""
        fact = self._facts.get(family, {}).get(name)
        return fact.value if fact is not None and fact.expires > now else None

    def find(self, family: str, now: int) -> dict[str, bytes]:
        """Return all facts of a family."""
        return {name: fact.value for name, fact in self._facts.get(family, {}).items() if fact.expires > now}

    def delete(self, family: str, name: str, now: int) -> bool:
        """Delete a fact; return whether there was one."""
        fact = self._facts.get(family, {}).pop(name, None)
        return fact is not None and fact.expires > now

    # -- limits ----------------------------------------------------------------------------------------

    def acquire(self, asks: Sequence[Ask], now: int, until: int, horizon_us: int) -> list[Answer]:
        """Answer asks; slots are held until `until`."""
        slots = slots_of(asks)
        for key in {key for key, _ in slots}:
            self._slots[key] = _lasting(self._slots.get(key, {}), lambda end: end > now)
        held = {(key, holder) for key, holder in slots if holder in self._slots[key]}
        taken = {key: len(self._slots[key]) for key, _ in slots}
        turnstile = Turnstile(now=now, horizon_us=horizon_us, starts=self._starts, taken=taken, held=held)
        answers = [turnstile.answer(ask) for ask in asks]
        self._binding.update(turnstile.binding)
        for key, holder in turnstile.slots:
            self._slots[key][holder] = until
        self._changed(len(asks), now)
        return answers

    def extend(self, asks: Sequence[Ask], until: int) -> None:
        """Hold until `until` what is held, and what nobody has asked for since it was."""
        for key, holder in slots_of(asks):
            if holder in self._slots.get(key, {}):
                self._slots[key][holder] = until

    def give_back(self, asks: Sequence[Ask]) -> None:
        """Free slots."""
        for key, holder in slots_of(asks):
            self._slots.get(key, {}).pop(holder, None)

    # -- flows -----------------------------------------------------------------------------------------

    def open_flows(self, flows: Iterable[Flow], now: int, expires: int) -> None:
        """Keep flows that are not known."""
        for flow in flows:
            known = self._flows.get(flow.id)
            if known is None or known.expires <= now:
                self._flows[flow.id] = _Flow(flow.then, expires, set(flow.needs))
            self._changed(len(flow.needs), now)

    def arrive(self, arrivals: Iterable[Arrival], now: int) -> list[Continuation]:
        """Note ends; return what is to be done."""
        arrived: dict[bytes, _Flow] = {}
        for arrival in arrivals:
            flow = self._flows.get(arrival.flow)
            if flow is None or flow.expires <= now:
                continue
            arrived[arrival.flow] = flow
            if arrival.task in flow.waits_for:
                flow.waits_for.discard(arrival.task)
                if arrival.failed:
                    flow.failed.append(arrival.task)
        return [Continuation(id, it.then, tuple(it.failed)) for id, it in arrived.items() if not it.waits_for]

    def close_flows(self, flows: Iterable[bytes]) -> None:
        """Forget flows."""
        for id in flows:
            self._flows.pop(id, None)

    # -- logs ------------------------------------------------------------------------------------------

    def append(self, name: str, entries: Sequence[bytes], keep: int, now: int, expires: int) -> None:
        """Add entries to a log, and drop all but the last `keep`."""
        log = self._logs.get(name)
        if log is None or log.expires <= now:
            log = self._logs[name] = _Log()
        log.expires = expires
        for entry in entries:
            self._last += 1
            log.entries.append((self._last, entry))
        while len(log.entries) > keep:
            log.entries.popleft()
        self._changed(len(entries), now)

    def newest(self) -> int:
        """Return the number of the latest entry; what comes to any log from now on has a higher one."""
        return self._last

    def since(self, name: str, seen: int, now: int) -> tuple[int, list[bytes]]:
        """Return the number of the latest entry of a log, and its entries after the number `seen`."""
        log = self._logs.get(name)
        entries: list[bytes] = []
        if log is None or log.expires <= now:
            return seen, entries
        for number, entry in reversed(log.entries):
            if number <= seen:
                break
            entries.append(entry)
        entries.reverse()
        return (log.entries[-1][0] if entries else seen), entries

    # -- what has expired ------------------------------------------------------------------------------

    def _changed(self, count: int, now: int) -> None:
        self._changes += count
        if self._changes < _SWEEP_EVERY:
            return
        kept = len(self._flows) + len(self._logs) + len(self._binding) + sum(map(len, self._facts.values()))
        if self._changes >= kept // 2:  # so that sweeping stays a constant part of changing
            self._changes = 0
            self._sweep(now)

    def _sweep(self, now: int) -> None:
        for family in self._facts:
            self._facts[family] = _lasting(self._facts[family], lambda fact: fact.expires > now)
        for key in self._slots:
            self._slots[key] = _lasting(self._slots[key], lambda end: end > now - LATE_US)
        self._facts = _lasting(self._facts, bool)
        self._slots = _lasting(self._slots, bool)
        self._binding = _lasting(self._binding, lambda end: end > now)
        self._starts = {key: self._starts[key] for key in self._binding}
        self._flows = _lasting(self._flows, lambda flow: flow.expires > now)
        self._logs = _lasting(self._logs, lambda log: log.expires > now)


def _lasting(kept: Mapping[K, V], lasts: Callable[[V], bool]) -> dict[K, V]:
    return {key: value for key, value in kept.items() if lasts(value)}
