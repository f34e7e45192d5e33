"""What was revoked, as far as this worker has heard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

import orjson

from fastq.message import Message


class Revocation(NamedTuple):
    """Task ids, and headers with a value, whose tasks are not to run."""

    ids: AbstractSet[bytes] = frozenset()
    headers: frozenset[tuple[str, bytes]] = frozenset()

    @classmethod
    def of(cls, ids: Iterable[bytes], headers: Iterable[tuple[str, Any]]) -> Revocation:
        """Return what revokes these. Raises TypeError for a header's value that is not a JSON value."""
        return cls(set(ids), frozenset((name, _canonical(value)) for name, value in headers))

    def covers(self, message: Message) -> bool:
        """Return whether a message's task is revoked."""
        if message.id in self.ids:
            return True
        return bool(self.headers) and self._covers_headers(message.extras.headers)

    def _covers_headers(self, carried: Mapping[str, Any]) -> bool:
        return any(name in carried and value == _canonical(carried[name]) for name, value in self.headers)


class Revocations:
    """All that are known. One thread changes them; any may ask, and those who do look at `known` first."""

    def __init__(self) -> None:
        self._ids: set[bytes] = set()
        self._all = Revocation(self._ids)
        self.known = 0  # how many

    def add(self, some: Revocation) -> None:
        """Know of some more."""
        self._ids |= some.ids  # in place: there may be many
        self._all = Revocation(self._ids, self._all.headers | some.headers)
        self.known = len(self._ids) + len(self._all.headers)

    def replace(self, all: Revocation) -> Revocation:
        """Know of these, and of no others; return those that were not known before."""
        fresh = Revocation(all.ids - self._ids, all.headers - self._all.headers)
        self._ids = set(all.ids)
        self._all = Revocation(self._ids, all.headers)
        self.known = len(self._ids) + len(all.headers)
        return fresh

    def covers(self, message: Message) -> bool:
        """Return whether a message's task is revoked."""
        return self._all.covers(message)


def _canonical(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
