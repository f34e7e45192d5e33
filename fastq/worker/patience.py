"""Patience: when something is tried again that a server could not do."""

from __future__ import annotations

import math
import random
import threading
import time


class Backoff:
    """Pauses between failures in a row: up to twice as long each time, with full jitter. Times are in seconds."""

    def __init__(self, first_s: float = 0.5, longest_s: float = 15.0) -> None:
        self._first_s, self._longest_s = first_s, longest_s
        self.failures = 0  # in a row

    def failed(self) -> float:
        """Note a failure; return for how long to pause."""
        longest = self._first_s * 2.0 ** min(self.failures, 60)
        self.failures += 1
        return random.uniform(0, min(self._longest_s, longest))

    def worked(self) -> bool:
        """Note that it works; return whether it did not, the last time."""
        failed = self.failures > 0
        self.failures = 0
        return failed


class Patience:
    """For one step: `pause` after each failure, as long as it is not `over`.

    Patience is over after `for_s` seconds, and when the worker stops, which `quieted` says.
    """

    def __init__(self, quieted: threading.Event, for_s: float = math.inf) -> None:
        self._quieted = quieted
        self._until = time.monotonic() + for_s
        self._backoff = Backoff(0.1, 5.0)

    @property
    def over(self) -> bool:
        """Whether the step is not to be tried again."""
        return self._quieted.is_set() or time.monotonic() > self._until

    def pause(self) -> None:
        """Wait until it may be tried again; not beyond the end of the worker."""
        self._quieted.wait(self._backoff.failed())
