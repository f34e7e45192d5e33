"""The soft time limit of a coroutine: SoftTimeLimitExceeded is raised where it waits."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any

from .errors import SoftTimeLimitExceeded


class _Cancelled(SoftTimeLimitExceeded, asyncio.CancelledError):
    """What the coroutine gets: a cancellation as well, so that whatever it waits with ends what it began."""


# Callers get it as what it is for them.
_Cancelled.__qualname__ = _Cancelled.__name__ = SoftTimeLimitExceeded.__name__
_Cancelled.__module__ = SoftTimeLimitExceeded.__module__


async def limited(limited: Coroutine[Any, Any, Any], limit_s: float) -> Any:
    """Await a coroutine in this asyncio task; after `limit_s` seconds SoftTimeLimitExceeded is raised in it, once.

    Like a cancellation, it is raised where the coroutine waits for something else than itself.
    """
    task = asyncio.current_task()
    assert task is not None
    drive = _Drive(task, limit_s)
    handle = asyncio.get_running_loop().call_later(limit_s, drive.ring)
    try:
        return await drive.through(limited)
    finally:
        handle.cancel()


class _Drive:
    """Takes a coroutine from step to step, and turns the cancellation that `ring` asks for into the exception."""

    def __init__(self, task: asyncio.Task[Any], limit_s: float) -> None:
        self._task = task
        self._limit_s = limit_s
        self._rings = False

    def ring(self) -> None:
        """The limit is reached; the loop calls this, and so the coroutine waits at this moment."""
        self._rings = True
        self._task.cancel()

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
        if not self._rings:
            return cancelled
        self._rings = False
        if hasattr(self._task, "uncancel"):  # from Python 3.11 on: what follows is not being cancelled
            self._task.uncancel()
        return _Cancelled(f"The task ran past its soft time limit of {self._limit_s:g} s")
