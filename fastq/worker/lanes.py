"""The lanes of a pool, as the dispatcher sees them: which flight goes through which, and what each has room for."""

from __future__ import annotations

from collections.abc import Sequence

from fastq.pool import TaskInfo

from .triage import Flight
from .window import Window

_LOOK, _FARTHEST_LOOK = 16, 256  # messages that are fetched for one lane while another is full
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 1.0  # between two such looks; twice as long after each that found nothing
_LEAST_SHARE = 0.01


class Lanes:
    """A window for each lane.

    A queue has messages for all lanes, and they come as they come. How many are fetched follows from the shares that
    the lanes had of the last ones. Those that there is no room for in their lane go back at once: they wait where any
    worker may take them. While a lane is full, it is looked from time to time, and farther each time, what
    is behind its messages for the others. Times are points on a monotonic clock.
    """

    def __init__(self, sizes: Sequence[int], most: int) -> None:
        self.windows = [Window(size, most) for size in sizes]
        self._shares = [1 / len(sizes)] * len(sizes)
        self._look = _LOOK
        self._pause_s = 0.0
        self._look_at = 0.0

    @property
    def several(self) -> bool:
        """Whether there is more than one."""
        return len(self.windows) > 1

    def lane_of(self, info: TaskInfo) -> int:
        """Return the lane of a task."""
        return 1 if info.is_async and self.several else 0

    def ended(self, flights: Sequence[Flight | None], now: float) -> None:
        """Note that flights have ended."""
        if not self.several:
            self.windows[0].ended(len(flights), now)
            return
        for number, window in enumerate(self.windows):
            if count := sum(flight is not None and flight.lane == number for flight in flights):
                window.ended(count, now)

    def room(self, held: Sequence[int], now: float) -> int:
        """Return how many messages to fetch, when so many are held in each lane; 0 if it is not worth a fetch."""
        if not self.several:
            return self.windows[0].room(held[0], now)
        left = [window.size(now) - count for window, count in zip(self.windows, held, strict=True)]
        if min(left) <= 0:
            return self._look if max(left) > 0 and now >= self._look_at else 0
        if not any(window.room(count, now) for window, count in zip(self.windows, held, strict=True)):
            return 0
        return max(1, min(int(room / share) for room, share in zip(left, self._shares, strict=True)))

    def sift(self, flights: Sequence[Flight], held: Sequence[int], now: float) -> tuple[list[Flight], list[Flight]]:
        """Return the flights that there is room for, and the others, when so many are held in each lane already."""
        left = [window.size(now) - count for window, count in zip(self.windows, held, strict=True)]
        counts = [0] * len(left)
        fitting: list[Flight] = []
        surplus: list[Flight] = []
        for flight in flights:
            flight.lane = self.lane_of(flight.info)
            counts[flight.lane] += 1
            (fitting if counts[flight.lane] <= left[flight.lane] else surplus).append(flight)
        weight = min(1.0, len(flights) / _LOOK)
        for number, count in enumerate(counts if flights else ()):
            share = self._shares[number] + weight * (count / len(flights) - self._shares[number])
            self._shares[number] = max(_LEAST_SHARE, share)
        self._pause(found=bool(fitting), all_were_seen=not surplus, now=now)
        return fitting, surplus

    def _pause(self, *, found: bool, all_were_seen: bool, now: float) -> None:
        if all_were_seen:
            self._look, self._pause_s = _LOOK, 0.0
        elif found:
            self._pause_s = _FIRST_PAUSE_S
        else:
            self._look = min(2 * self._look, _FARTHEST_LOOK)
            self._pause_s = min(max(2 * self._pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
        self._look_at = now + self._pause_s
