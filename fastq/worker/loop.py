"""A background loop: a thread that takes one turn after another, and survives a bad one."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable

from fastq.errors import PoolError

logger = logging.getLogger("fastq.worker")

_BAD_TURNS = 10  # unexpected errors in a row after which the loop gives up
_PAUSE_S = 1.0


class Loop(ABC):
    """Lifecycle: `start`, `quiet` (take no more turns), `stop` (wait for the last one); each may be called twice.

    `fail` is told the error that ended the loop before its time.
    """

    def __init__(self, name: str, fail: Callable[[BaseException], None]) -> None:
        self._fail = fail
        self.quieted = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"fastq-{name}", daemon=True)

    def start(self) -> None:
        """Begin to take turns."""
        if not self._thread.ident:
            self._thread.start()

    def quiet(self) -> None:
        """Take no further turn; wakes the present one if it waits."""
        self.quieted.set()
        self.wake()

    def stop(self, timeout_s: float) -> bool:
        """Wait for the last turn to end; return whether it did."""
        self.quiet()
        if self._thread.ident:
            self._thread.join(max(0.0, timeout_s))
        return not self._thread.is_alive()

    @abstractmethod
    def turn(self) -> None:
        """Do one round of work; may wait, until `wake`."""

    def wake(self) -> None:  # noqa: B027 - a turn that never waits for others needs none
        """Make a turn that waits return."""

    def _run(self) -> None:
        bad = 0
        while not self.quieted.is_set():
            try:
                self.turn()
                bad = 0
            except PoolError as error:
                self._fail(error)
                return
            except Exception as error:
                bad += 1
                logger.exception("A turn of %s failed", self._thread.name)
                if bad >= _BAD_TURNS:
                    self._fail(error)
                    return
                self.quieted.wait(_PAUSE_S)
