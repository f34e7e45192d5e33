"""The outcomes of the memory system, until they expire. Not locked; times are microseconds."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from fastq.outcome import Outcome

_SWEEP_EVERY = 1000  # outcomes stored between two looks for expired ones, at the least
_LOG_LENGTH = 100_000  # who falls further behind looks up each id again


class _Kept(NamedTuple):
    outcome: Outcome
    expires: int


class Results:
    """Owns outcomes and groups."""

    def __init__(self) -> None:
        self._kept: dict[bytes, _Kept] = {}
        self._groups: dict[bytes, tuple[list[bytes], int]] = {}
        self._in_group: dict[bytes, set[bytes]] = {}
        self._log: deque[tuple[int, bytes]] = deque(maxlen=_LOG_LENGTH)  # terminal ones, numbered as they came
        self._last = 0
        self._stored = 0

    def store(self, outcomes: Iterable[Outcome], now: int, expires: int) -> None:
        """Keep outcomes, but none in place of a terminal one or of a later attempt."""
        for outcome in outcomes:
            known = self.get(outcome.id, now)
            if known is not None and (known.state.terminal or known.attempt > outcome.attempt):
                continue
            self._kept[outcome.id] = _Kept(outcome, expires)
            if outcome.group:
                self._in_group.setdefault(outcome.group, set()).add(outcome.id)
            if outcome.state.terminal:
                self._last += 1
                self._log.append((self._last, outcome.id))
            self._stored += 1
        if self._stored >= max(_SWEEP_EVERY, len(self._kept) // 2):  # so that sweeping stays a constant part of storing
            self._stored = 0
            self._sweep(now)

    def get(self, id: bytes, now: int) -> Outcome | None:
        """Return what is known of an id."""
        kept = self._kept.get(id)
        return kept.outcome if kept is not None and kept.expires > now else None

    def since(self, seen: int, pending: Collection[bytes], now: int) -> tuple[int, list[Outcome]]:
        """Return the number of the latest outcome, and those of `pending` that are terminal.

        With `seen` 0 these are all; with the number of an earlier call those that came since, in order.
        """
        ids: list[bytes] = []
        if not seen or not self._log or self._log[0][0] > seen + 1:
            ids = list(pending)
        else:
            for number, id in reversed(self._log):
                if number <= seen:
                    break
                if id in pending:
                    ids.append(id)
            ids.reverse()
        found = [outcome for id in ids if (outcome := self.get(id, now)) is not None and outcome.state.terminal]
        return self._last, found

    def forget(self, ids: Iterable[bytes]) -> None:
        """Delete what is known of these ids."""
        for id in ids:
            kept = self._kept.pop(id, None)
            if kept is not None and kept.outcome.group:
                self._in_group.get(kept.outcome.group, set()).discard(id)

    def create_group(self, group: bytes, ids: Sequence[bytes], expires: int) -> None:
        """Keep the members of a group."""
        self._groups[group] = (list(ids), expires)

    def members(self, group: bytes, now: int) -> list[bytes]:
        """Return the members of a group."""
        ids, expires = self._groups.get(group, ([], 0))
        return list(ids) if expires > now else []

    def completed(self, group: bytes, now: int) -> int:
        """Return how many of a group's outcomes are terminal."""
        outcomes = (self.get(id, now) for id in self._in_group.get(group, ()))
        return sum(outcome is not None and outcome.state.terminal for outcome in outcomes)

    def _sweep(self, now: int) -> None:
        self.forget([id for id, kept in self._kept.items() if kept.expires <= now])
        self._groups = {group: kept for group, kept in self._groups.items() if kept[1] > now}
        self._in_group = {group: ids for group, ids in self._in_group.items() if ids}
