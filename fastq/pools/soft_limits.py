"""What is raised in sync tasks from outside, in their code and nowhere else: their soft time limit, and Interrupted.

What comes late, when the task's code has ended, is dropped: it reaches neither fastq's code nor the next task.
"""

from __future__ import annotations

import ctypes
import heapq
import itertools
import math
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

from fastq.ending import Ending
from fastq.errors import Interrupted, SoftTimeLimitExceeded, TaskError

#: By which a child in the midst of an interruptible task is told that the worker stops: whoever has no handler for it
#: does not notice it.
INTERRUPT = signal.SIGURG

_STOPS = "The worker stops"


class Alarm:
    """Ends calls in the main thread of a process: by SIGALRM and the timer that belongs to it, and by `INTERRUPT`."""

    _AGAIN_S = 0.02  # an alarm that found fastq's own code at work rings again

    def __init__(self, ending: Ending) -> None:
        self._ending = ending
        self._armed = False
        self._interruptible = False
        self._limit_s = 0.0
        self._over_at = math.inf

    def call(
        self, limit_s: float, interruptible: bool, function: Callable[..., Any], args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:  # fmt: skip
        """Call a function; raises SoftTimeLimitExceeded in it when it takes longer than `limit_s`, if that is not 0.

        If it is interruptible, Interrupted is raised in it when the worker stops. One of both is raised, once.
        """
        signal.signal(signal.SIGALRM, self._ring)  # each time: the last task may have put in its own
        if interruptible:
            signal.signal(INTERRUPT, self._ring)
        self._limit_s, self._interruptible = limit_s, interruptible
        self._over_at = time.monotonic() + limit_s if limit_s else math.inf
        self._armed = True
        try:
            signal.setitimer(signal.ITIMER_REAL, limit_s, self._AGAIN_S)
            if interruptible and self._ending.near:  # `INTERRUPT` may have come before
                raise Interrupted(_STOPS)
            return _called(function, args, kwargs)
        finally:
            self._armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)  # the handlers stay: a signal may be on its way

    def _ring(self, number: int, frame: FrameType | None) -> None:
        if not self._armed or frame is None or (error := self._due()) is None:
            return
        if frame.f_code is Alarm.call.__code__:
            signal.setitimer(signal.ITIMER_REAL, self._AGAIN_S, self._AGAIN_S)
            return
        self._armed = False
        raise error

    def _due(self) -> TaskError | None:
        if self._interruptible and self._ending.near:
            return Interrupted(_STOPS)
        if time.monotonic() >= self._over_at:
            return SoftTimeLimitExceeded(_words(self._limit_s))
        return None


def _words(limit_s: float) -> str:
    return f"The task ran past its soft time limit of {limit_s:g} s"


def _called(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call a function from another frame than `Alarm.call`'s, by which that is known from one that has no frame."""
    return function(*args, **kwargs)


class Watch:
    """Ends calls in any thread, by exceptions that another thread has raised in them.

    They are raised between two steps of Python: a call that waits in C is not interrupted by them.
    """

    def __init__(self, ending: Ending) -> None:
        self._ending = ending
        # A plain lock: an exception that is raised from outside does not come between it and the `with` it opens.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._entries: list[tuple[float, int, int]] = []  # when, entry, thread
        self._live: set[int] = set()  # entries whose call goes on
        self._interruptible: dict[int, int] = {}  # entry: thread
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

    def call(
        self, limit_s: float, interruptible: bool, function: Callable[..., Any], args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:  # fmt: skip
        """As `Alarm.call`."""
        entry = self._enter(limit_s, interruptible=interruptible)
        try:
            if interruptible and self._ending.near:  # `interrupt` may have passed before
                raise Interrupted(_STOPS)
            return function(*args, **kwargs)
        except (SoftTimeLimitExceeded, Interrupted) as error:
            # It was made without any words.
            error.args = error.args or (_STOPS if isinstance(error, Interrupted) else _words(limit_s),)
            raise
        finally:
            while True:
                try:
                    self._leave(entry)
                    break
                except (SoftTimeLimitExceeded, Interrupted):  # too late; it is raised once, so the next turn ends it
                    continue

    def interrupt(self) -> None:
        """Raise Interrupted in the calls that are interruptible. Any thread may call this."""
        with self._lock:
            for thread in self._interruptible.values():
                _raise_in(thread, Interrupted)
            self._interruptible.clear()

    def _enter(self, limit_s: float, *, interruptible: bool) -> int:
        with self._changed:
            entry = next(self._numbers)
            self._live.add(entry)
            if interruptible:
                self._interruptible[entry] = threading.get_ident()
            if limit_s:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._keep, name="fastq-soft-limits", daemon=True)
                    self._thread.start()
                heapq.heappush(self._entries, (time.monotonic() + limit_s, entry, threading.get_ident()))
                self._changed.notify()
            return entry

    def _leave(self, entry: int) -> None:
        with self._lock:
            self._live.discard(entry)
            self._interruptible.pop(entry, None)
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
