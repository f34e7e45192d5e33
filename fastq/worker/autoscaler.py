"""The autoscaler: has as many children as there is work for, between two bounds."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

from .dispatcher import Dispatcher
from .loop import Loop

logger = logging.getLogger("fastq.worker")


class Autoscaler(Loop):
    """Looks every `EVERY_S`. It grows by half when all children are busy and more waits, and shrinks to as many as
    were busy at most in the last `IDLE_S`.
    """

    EVERY_S = 0.25
    IDLE_S = 10.0

    def __init__(
        self, *, dispatcher: Dispatcher, least: int, most: int, resize: Callable[[int], None],
        fail: Callable[[BaseException], None],
    ) -> None:  # fmt: skip
        super().__init__("autoscaler", fail)
        self._dispatcher = dispatcher
        self._least, self._most = max(1, least), most
        self._resize = resize
        self._began = time.monotonic()
        self._looks: deque[tuple[float, int]] = deque()  # when, and how many were busy

    def turn(self) -> None:
        """Look once."""
        children, held = self._dispatcher.load()
        now = time.monotonic()
        self._looks.append((now, min(held, children)))
        while now - self._looks[0][0] > self.IDLE_S:
            self._looks.popleft()
        peak = max(busy for _, busy in self._looks)
        target = children
        if held > children:
            target = min(self._most, children + max(1, children // 2))
        elif peak < children and now - self._began >= self.IDLE_S:
            target = max(self._least, peak)
        if target != children:
            logger.info("%s from %d to %d children", "Growing" if target > children else "Shrinking", children, target)
            self._began = now
            self._resize(target)
        self.quieted.wait(self.EVERY_S)
