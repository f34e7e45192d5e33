"""Back-off: how long to wait before something that failed is tried again, exponential and with full jitter.

After Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015): those who lost the same server at the
same moment come back spread over the whole pause, and not in waves.
"""

from __future__ import annotations

import random

_MOST_DOUBLINGS = 60


def longest_pause(failures: int, first_s: float, longest_s: float) -> float:
    """Return the pause in seconds after so many failures in a row, from 1, before jitter: twice as long each time."""
    return min(longest_s, first_s * 2.0 ** min(failures - 1, _MOST_DOUBLINGS))


def pause(failures: int, first_s: float, longest_s: float) -> float:
    """Return a random pause in seconds, up to `longest_pause`."""
    return random.uniform(0, longest_pause(failures, first_s, longest_s))


class Backoff:
    """Pauses between failures in a row. Times are in seconds."""

    def __init__(self, first_s: float = 0.5, longest_s: float = 15.0) -> None:
        self._first_s, self._longest_s = first_s, longest_s
        self.failures = 0  # in a row

    def failed(self) -> float:
        """Note a failure; return for how long to pause."""
        self.failures += 1
        return pause(self.failures, self._first_s, self._longest_s)

    def worked(self) -> bool:
        """Note that it works; return whether it did not, the last time."""
        failed = self.failures > 0
        self.failures = 0
        return failed
