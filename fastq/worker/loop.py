"""A background loop: a thread that takes one turn after another, and survives a bad one."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from fastq.errors import PoolError

logger = logging.getLogger("fastq.worker")

_BAD_TURNS = 10  # unexpected errors in a row after which the loop gives up
_PAUSE_S = 1.0
_here = threading.local()


class Loop(ABC):
    """Lifecycle: `start`, `quiet` (take no more turns), `stop` (wait for the last one); each may be called twice.

    `fail` is told the error that ended the loop before its time.
    """

    def __init__(self, name: str, fail: Callable[[BaseException], None]) -> None:
        self.name = name
        self._fail = fail
        #: Since when a turn does what is to take no long time, on `time.monotonic`; None: it waits, or there is none.
        self.working_since: float | None = None
        #: For ``with``, within a turn: what may take any time.
        self.waiting = _Waiting(self)
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
        _here.loop = self
        bad = 0
        while not self.quieted.is_set():
            self.working_since = time.monotonic()
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
                with self.waiting:
                    self.quieted.wait(_PAUSE_S)
            finally:
                self.working_since = None


class _Waiting:
    """A loop waits within this, and is at work again behind it."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def __enter__(self) -> None:
        self._loop.working_since = None

    def __exit__(self, *_: object) -> None:
        self._loop.working_since = time.monotonic()


def goes_on() -> None:
    """Note that the turn of the loop whose thread this is, if any, takes long because there is much to do."""
    loop: Loop | None = getattr(_here, "loop", None)
    if loop is not None:
        loop.working_since = time.monotonic()


def waiting() -> AbstractContextManager[None]:
    """Return the `Loop.waiting` of the loop whose thread this is; in other threads, what does nothing."""
    loop: Loop | None = getattr(_here, "loop", None)
    return loop.waiting if loop is not None else nullcontext()
