"""The line of messages that were refused a start, and wait at the broker to ask again; pure arithmetic."""

from __future__ import annotations

import math
import random


class Line:
    """Says when a message that was refused is to ask again. Times are in seconds, on a monotonic clock.

    Two things hold it back. The longer nothing has started, the longer is the pause, up to `LONGEST_S`. And messages
    come back one after the other, at most `EAGER` times as many a second as have started lately, or `LEAST`: so many
    that wait cost no more than few. Nobody waits longer than `FURTHEST_S`, after which the world may be another.
    What comes back in more than a second comes at the ticks of a clock, several at once.
    """

    SHORTEST_S, LONGEST_S, FURTHEST_S = 0.05, 2.0, 120.0
    PATIENCE = 8.0  # the pause is this part of the time since the last start
    EAGER, LEAST = 4.0, 10.0
    SPAN_S = 2.0  # of the mean rate of starts
    TICK_S = 0.1

    def __init__(self, now: float) -> None:
        self._started_at = now
        self._rate = 100.0  # starts a second, at `_started_at`: a first guess
        self._last = now  # when the last in the line comes back

    def started(self, count: int, now: float) -> None:
        """Note that messages started, or were promised their turn."""
        self._rate = self._rate_at(now) + count / self.SPAN_S
        self._started_at = now

    def wait(self, now: float, least_s: float = 0.0) -> float:
        """Return in how many seconds one that was refused is to ask again."""
        pause = max(least_s, self.SHORTEST_S, min(self.LONGEST_S, (now - self._started_at) / self.PATIENCE))
        back = max(now + pause * random.uniform(0.75, 1.25), self._last + 1 / self._returns(now))
        furthest = max(self.FURTHEST_S, 2 * least_s)
        if back > now + furthest:
            back = now + random.uniform(0.5, 1.0) * furthest
        else:
            self._last = back
        if back > now + 1.0:
            tick = min(self.TICK_S, 1 / max(1.0, self._rate_at(now)))
            back = math.ceil(back / tick) * tick
        return back - now

    def is_over(self, now: float) -> bool:
        """Return whether nobody is in the line any more, and nothing has started lately."""
        return self._last < now and self._started_at < now - 2 * self.SPAN_S

    def _returns(self, now: float) -> float:
        return max(self.LEAST, self.EAGER * self._rate_at(now))

    def _rate_at(self, now: float) -> float:
        return self._rate * math.exp(-max(0.0, now - self._started_at) / self.SPAN_S)
