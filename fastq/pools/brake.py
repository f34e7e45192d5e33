"""The brake on a crash loop."""

from __future__ import annotations

from fastq.backoff import longest_pause


class Brake:
    """Slows the replacement of children that die without ending anything, one after another."""

    _FREE = 3  # deaths in a row that are replaced at once
    _FIRST_S, _MOST_S = 0.1, 5.0

    def __init__(self) -> None:
        self._fruitless = 0
        self._fruitful: set[int] = set()

    def forgive(self, children: set[int]) -> None:
        """Note that children have ended something, or that their deaths are wanted."""
        self._fruitful |= children

    def delay_after_death(self, child: int) -> float:
        """Return for how many seconds the successor of a dead child is to wait."""
        if child in self._fruitful:
            self._fruitful.discard(child)
            self._fruitless = 0
        else:
            self._fruitless += 1
        late = self._fruitless - self._FREE
        return longest_pause(late, self._FIRST_S, self._MOST_S) if late > 0 else 0.0
