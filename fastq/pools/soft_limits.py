"""Soft time limits of sync tasks: SoftTimeLimitExceeded is raised in the task's code, and nowhere else.

What comes late, when the task's code has ended, is dropped: it reaches neither fastq's code nor the next task.
"""

from __future__ import annotations

import ctypes
import heapq
import itertools
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

from fastq.errors import SoftTimeLimitExceeded


class Alarm:
    """Limits calls in the main thread of a process, by SIGALRM and the timer that belongs to it."""

    _AGAIN_S = 0.02  # an alarm that found fastq's own code at work rings again

    def __init__(self) -> None:
        self._armed = False
        self._limit_s = 0.0

    def call(self, limit_s: float, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call a function; raises SoftTimeLimitExceeded in it when it takes longer than `limit_s`."""
        signal.signal(signal.SIGALRM, self._ring)  # each time: the last task may have put in its own
        self._limit_s = limit_s
        self._armed = True
        signal.setitimer(signal.ITIMER_REAL, limit_s, self._AGAIN_S)
        try:
            return _called(function, args, kwargs)
        finally:
            self._armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)  # the handler stays: the signal may be on its way

    def _ring(self, number: int, frame: FrameType | None) -> None:
        if self._armed and frame is not None and frame.f_code is not Alarm.call.__code__:
            self._armed = False
            raise SoftTimeLimitExceeded(_words(self._limit_s))


def _words(limit_s: float) -> str:
    return f"The task ran past its soft time limit of {limit_s:g} s"


def _called(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call a function from another frame than `Alarm.call`'s, by which that is known from one that has no frame."""
    return function(*args, **kwargs)


class Watch:
    """Limits calls in any thread, by exceptions that a thread of its own has raised in them.

    They are raised between two steps of Python: a call that waits in C is not interrupted by them.
    """

    def __init__(self) -> None:
        # A plain lock: an exception that is raised from outside does not come between it and the `with` it opens.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._entries: list[tuple[float, int, int]] = []  # when, entry, thread
        self._live: set[int] = set()  # entries whose call goes on
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = False

    def close(self) -> None:
        """End the thread. No call may be going on."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def call(self, limit_s: float, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """As `Alarm.call`."""
        entry = self._enter(limit_s)
        try:
            return function(*args, **kwargs)
        except SoftTimeLimitExceeded as error:
            error.args = error.args or (_words(limit_s),)  # it was made without any
            raise
        finally:
            while True:
                try:
                    self._leave(entry)
                    break
                except SoftTimeLimitExceeded:  # too late; it is raised once, so the next turn ends it
                    continue

    def _enter(self, limit_s: float) -> int:
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep, name="fastq-soft-limits", daemon=True)
                self._thread.start()
            entry = next(self._numbers)
            self._live.add(entry)
            heapq.heappush(self._entries, (time.monotonic() + limit_s, entry, threading.get_ident()))
            self._changed.notify()
            return entry

    def _leave(self, entry: int) -> None:
        with self._lock:
            self._live.discard(entry)
            _raise_in(threading.get_ident(), None)  # what was to be raised, and was not yet

    def _keep(self) -> None:
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                while self._entries and (self._entries[0][0] <= now or self._entries[0][1] not in self._live):
                    _, entry, thread = heapq.heappop(self._entries)
                    if entry in self._live:
                        _raise_in(thread, SoftTimeLimitExceeded)
                self._changed.wait(min(self._entries[0][0] - now, threading.TIMEOUT_MAX) if self._entries else None)


def _raise_in(thread: int, kind: type[BaseException] | None) -> None:
    """Have an exception raised in a thread; None takes back the one that was not raised yet."""
    raised = ctypes.py_object(kind) if kind is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)
