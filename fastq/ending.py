"""The end of a worker, as the tasks that run in it see it: by when they are to have ended."""

from __future__ import annotations

import time


class Ending:
    """By when what runs here is to have ended. One thread announces it, any may look, at next to no cost.

    It is a number in memory: that of this process or, in the children of a pool, that of a page they share.
    """

    def __init__(self) -> None:
        self._place: memoryview[float] = memoryview(bytearray(8)).cast("d")

    def watch(self, place: memoryview[float]) -> None:
        """Look at a number elsewhere from now on: one element of format "d"."""
        self._place = place

    def announce(self, deadline: float) -> None:
        """Say by when, on `time.monotonic`, whose clock all processes of a machine share; 0.0 takes it back."""
        self._place[0] = deadline

    @property
    def near(self) -> bool:
        """Whether the worker stops."""
        return self._place[0] != 0.0

    @property
    def at(self) -> float | None:
        """When the worker will have stopped, in seconds since the epoch; None as long as it goes on."""
        deadline = self._place[0]
        return time.time() + deadline - time.monotonic() if deadline else None
