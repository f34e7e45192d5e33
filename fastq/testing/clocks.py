"""Clocks for the conformance suites: one that really waits, and one that is moved by hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from fastq.message import now_us


class Clock(Protocol):
    """The clock that a system under test goes by."""

    def now_us(self) -> int:
        """Return the time in microseconds since the epoch."""

    def advance(self, seconds: float) -> None:
        """Return when so much time has passed for the system."""


class RealClock:
    """For a server that has its own clock: time passes by itself."""

    def now_us(self) -> int:
        """Return the host's time."""
        return now_us()

    def advance(self, seconds: float) -> None:
        """Wait."""
        over = time.monotonic() + seconds
        while (left := over - time.monotonic()) > 0:
            threading.Event().wait(left)


class FakeClock:
    """For a system whose clock can be replaced: give it `now_us`, and add to `watchers` what wakes its waiters."""

    def __init__(self) -> None:
        self.watchers: list[Callable[[], object]] = []
        self._now_us = now_us()

    def now_us(self) -> int:
        """Return the time as it was set."""
        return self._now_us

    def advance(self, seconds: float) -> None:
        """Move on at once."""
        self._now_us += round(seconds * 1e6)
        for wake in self.watchers:
            wake()
