"""Time-ordered UUIDs (RFC 9562, version 7), made without a system call for each.

48 bits of Unix milliseconds, then a 74-bit number that is random when the millisecond begins and
counts upwards within it (the RFC's "monotonic random" method), so that ids made by one process sort
in the order they were made.
"""

from __future__ import annotations

import os
import threading
import time

_COUNTER_BITS = 74
_VERSION = 7 << 76
_VARIANT = 2 << 62
_LOW_62 = (1 << 62) - 1


class IdSource:
    """Makes ids; safe to share between threads, and starts afresh in a forked process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._millisecond = 0
        self._counter = 0
        os.register_at_fork(after_in_child=self._start_afresh)

    def __call__(self) -> bytes:
        """Return the 16 bytes of a new id."""
        with self._lock:
            now = time.time_ns() // 1_000_000
            if now > self._millisecond:
                self._millisecond = now
                # The top bit starts clear, so that a millisecond can't run out of numbers.
                self._counter = int.from_bytes(os.urandom(10), "big") >> (81 - _COUNTER_BITS)
            else:
                self._counter += 1
            counter = self._counter
            stamp = self._millisecond
        high = counter >> 62
        return ((stamp << 80) | _VERSION | (high << 64) | _VARIANT | (counter & _LOW_62)).to_bytes(16, "big")

    def _start_afresh(self) -> None:
        self._lock = threading.Lock()
        self._millisecond = 0


new_id = IdSource()
