"""How long a child serves: so many tasks, so much memory, so long a time; without end if none is set."""

from __future__ import annotations

import os
import random
import threading
import time

from fastq.settings import Settings

_STAGGER = 0.1  # by up to so much of a limit a child leaves early, lest all leave at once
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Term:
    """The term of one child, from now on. Any thread may ask."""

    def __init__(self, settings: Settings) -> None:
        early = 1 - random.uniform(0, _STAGGER)
        self._tasks_left = round(settings.max_tasks_per_child * early)
        self._most_bytes = settings.max_memory_per_child_mb * 1_000_000
        age_s = settings.max_child_age_s
        self._end = time.monotonic() + age_s * early if age_s else None
        self._counts = bool(settings.max_tasks_per_child)
        self._counting = threading.Lock()
        #: Whether there is any end to it.
        self.limited = self._counts or self._most_bytes > 0 or self._end is not None

    def over(self, ended: int = 0) -> str:
        """Note that tasks have ended; return why the term is over, or ""."""
        with self._counting:
            self._tasks_left -= ended
        if self._counts and self._tasks_left <= 0:
            return "it has run its number of tasks"
        if self._end is not None and time.monotonic() >= self._end:
            return "it has reached its age"
        if self._most_bytes and (size := resident_bytes()) > self._most_bytes:
            return f"it has grown to {size / 1e6:.0f} MB"
        return ""


def resident_bytes() -> int:
    """Return how much memory of this process is resident; 0 where the system doesn't say."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - after each task, where memory is limited
            return int(file.read().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0
