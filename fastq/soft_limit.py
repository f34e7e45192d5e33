"""What ends a coroutine from outside, and is raised where it waits: its soft time limit, and the end of its worker."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any

from .ending import Ending
from .errors import Interrupted, SoftTimeLimitExceeded


# What the coroutine gets is a cancellation as well, so that whatever it waits with ends what it began. Callers get it
# as what it is for them.
class _Over(SoftTimeLimitExceeded, asyncio.CancelledError):
    """The soft limit is reached."""


class _Stopped(Interrupted, asyncio.CancelledError):
    """The worker stops."""


for _kind, _known_as in ((_Over, SoftTimeLimitExceeded), (_Stopped, Interrupted)):
    _kind.__qualname__ = _kind.__name__ = _known_as.__name__
    _kind.__module__ = _known_as.__module__

INTERRUPTED = "The worker stops"
_interruptible: set[_Drive] = set()


async def limited(limited: Coroutine[Any, Any, Any], limit_s: float, ending: Ending | None = None) -> Any:
    """Await a coroutine in this asyncio task; after `limit_s` seconds (0: never) SoftTimeLimitExceeded is raised in it.

    With an ending, Interrupted is, when that is announced: see `interrupt`. Like a cancellation, either is raised where
    the coroutine waits for something else than itself, and once.
    """
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    drive = _Drive(task, loop)
    over = _Over(f"The task ran past its soft time limit of {limit_s:g} s")
    handle = loop.call_later(limit_s, drive.end, over) if limit_s else None
    if ending is not None:
        _interruptible.add(drive)
    try:
        if ending is not None and ending.near:  # `interrupt` may have passed before
            limited.close()
            raise Interrupted(INTERRUPTED)
        return await drive.through(limited)
    finally:
        _interruptible.discard(drive)
        drive.close()
        if handle is not None:
            handle.cancel()


def interrupt() -> None:
    """Raise Interrupted in the coroutines of this process that have an ending. Any thread may call this."""
    for drive in list(_interruptible):
        drive.loop.call_soon_threadsafe(drive.end, _Stopped(INTERRUPTED))


class _Drive:
    """Takes a coroutine from step to step, and turns the cancellation that `end` asks for into the exception."""

    def __init__(self, task: asyncio.Task[Any], loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._task = task
        self._error: BaseException | None = None
        self._closed = False

    def end(self, error: BaseException) -> None:
        """Have an exception raised, if none was before; the loop calls this, and so the coroutine waits now."""
        if not self._closed:
            self._closed = True
            self._error = error
            self._task.cancel()

    def close(self) -> None:
        """Raise nothing from now on: the coroutine has ended."""
        self._closed = True

    @coroutine
    def through(self, driven: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Go through all the steps; return what the coroutine returns."""
        error: BaseException | None = None
        received = None
        while True:
            try:
                waits_for = driven.send(received) if error is None else driven.throw(error)
            except StopIteration as end:
                return end.value
            error = received = None
            try:
                received = yield waits_for
            except asyncio.CancelledError as cancelled:
                error = self._instead_of(cancelled)
            except GeneratorExit:
                driven.close()
                raise
            except BaseException as raised:  # noqa: BLE001 - it is the coroutine's, whatever it is
                error = raised

    def _instead_of(self, cancelled: asyncio.CancelledError) -> BaseException:
        error, self._error = self._error, None
        if error is None:
            return cancelled
        if hasattr(self._task, "uncancel"):  # from Python 3.11 on: what follows is not being cancelled
            self._task.uncancel()
        return error
