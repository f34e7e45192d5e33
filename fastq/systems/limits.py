"""How asks are answered under limits: the arithmetic, for the systems that have no script to do it.

Starts by the generic cell rate algorithm (ITU-T I.371) with a burst of one: each start of a limit is at least
`interval_us` after the one before it, so no window of the limit's period has more of them than its amount.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from fastq.state import Answer, Ask, Limit

#: How long to wait where a slot is missing: nobody knows when one will be given back.
GUESS_US = 250_000

#: For how long a slot whose lease has ended is left to whom it was, if nobody asks for it.
LATE_US = 60_000_000


def interval_us(limit: Limit) -> int:
    """Return how far apart the starts under a limit are; 0 for a limit on what runs at once."""
    return math.ceil(limit.period_s * 1e6 / limit.amount)


class Turnstile:
    """Answers the asks of one batch, one after the other.

    It is given, as they are now, the latest start of each limit on starts, how many slots of each other limit are held,
    and which slots, by key and holder, are held by those who ask. Afterwards it has what is to be kept.
    """

    def __init__(
        self, *, now: int, horizon_us: int, starts: dict[str, int], taken: dict[str, int], held: set[tuple[str, str]]
    ) -> None:
        self._now = now
        self._horizon_us = horizon_us
        self._taken = taken
        self._held = held
        self.starts = starts
        self.binding: dict[str, int] = {}  # limits on starts that were asked, and until when their latest start counts
        self.slots: dict[tuple[str, str], None] = {}  # those that are to be held from now on

    def answer(self, ask: Ask) -> Answer:
        """Answer an ask."""
        slots = {(limit.key, ask.holder): limit.amount for limit in ask.limits if not limit.period_s}
        rates = {limit.key: interval_us(limit) for limit in ask.limits if limit.period_s}
        if any(slot not in self._held and self._taken[slot[0]] >= amount for slot, amount in slots.items()):
            return Answer(min(GUESS_US, self._horizon_us) / 1e6)
        if slots and self._held.issuperset(slots):  # it has started
            self._hold(slots)
            return Answer(0.0)
        turn = max([self._now, *(self.starts.get(key, 0) + interval for key, interval in rates.items())])
        if turn > self._now + self._horizon_us:
            return Answer(self._horizon_us / 1e6)
        for key, interval in rates.items():
            self.starts[key] = turn
            self.binding[key] = turn + interval
        if turn > self._now:
            return Answer((turn - self._now) / 1e6, reserved=True)
        self._hold(slots)
        return Answer(0.0)

    def _hold(self, slots: Iterable[tuple[str, str]]) -> None:
        for slot in slots:
            self.slots[slot] = None
            if slot not in self._held:
                self._held.add(slot)
                self._taken[slot[0]] += 1


def slots_of(asks: Iterable[Ask]) -> list[tuple[str, str]]:
    """Return the key and the holder of each slot that is asked for, once."""
    return list(dict.fromkeys((it.key, ask.holder) for ask in asks for it in ask.limits if not it.period_s))
