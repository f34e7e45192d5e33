"""How many messages a worker holds at once: as many as it has children, and more only when tasks are short."""

from __future__ import annotations

import math


class Window:
    """A target for the number of messages in hand, from the rate at which they end.

    Beyond one for each child, a worker takes what it can run within `AHEAD_S` at its present rate. So tiny
    tasks are fetched by the hundred, and no long task is kept waiting here while another worker is free.
    The rate is an exponentially weighted mean over `SPAN_S`. Times are points on a monotonic clock.
    """

    AHEAD_S = 0.1
    SPAN_S = 0.5

    def __init__(self, children: int, most: int) -> None:
        self.children = children
        #: How many to hold that no child is there for, so that it shows when more children are needed.
        self.spare = 0
        self._most = most
        self._rate = 0.0  # messages a second, at the time of `_seen`
        self._seen = 0.0

    def ended(self, count: int, now: float) -> None:
        """Note that `count` messages have ended."""
        self._rate = self._rate_at(now) + count / self.SPAN_S
        self._seen = now

    def size(self, now: float) -> int:
        """Return how many messages to hold."""
        return min(self._most, self.children + self.spare + int(self._rate_at(now) * self.AHEAD_S))

    def room(self, held: int, now: float) -> int:
        """Return how many messages to fetch when so many are held; 0 if it is not worth a fetch."""
        size = self.size(now)
        return max(0, size - held) if held < self.children + self.spare or size - held > size // 4 else 0

    def _rate_at(self, now: float) -> float:
        return self._rate * math.exp(-max(0.0, now - self._seen) / self.SPAN_S)
