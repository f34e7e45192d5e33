"""Patience: when something is tried again that a server could not do."""

from __future__ import annotations

import math
import threading
import time

from fastq.backoff import Backoff

from .loop import waiting


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
        with waiting():
            self._quieted.wait(self._backoff.failed())
