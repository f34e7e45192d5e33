"""Signals: SIGTERM and SIGINT ask a worker to finish, a second SIGINT or SIGQUIT to stop at once; SIGUSR1: stacks."""

from __future__ import annotations

import enum
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType


class Wish(enum.IntEnum):
    """What a worker's main thread is woken for, the stronger the higher."""

    NOTHING = 0
    FINISH = 1  # end what runs, hand back the rest
    NOW = 2
    FAILED = 3  # a background loop broke


_STACKS = 255  # no wish: what is told in between


class Wishes:
    """A mailbox of wishes, with signals among the senders while it is entered as a context manager.

    A handler does nothing but write a byte to a pipe: no user code is interrupted by it. It serves once.

    The system may deliver a signal to any thread, and Python runs its handler in the main one, which may be waiting: so
    a second pipe, written to by the interpreter itself, wakes it.
    """

    def __init__(self, *, leaving: bool = False, on_stacks: Callable[[], None] = lambda: None) -> None:
        """With `leaving`, the signals are ignored afterwards, not given back: the process is about to end.

        Given back, they could end it in between, with another status than its own. `on_stacks` is called by whoever
        waits, at SIGUSR1.
        """
        self._read, self._write = os.pipe()
        self._signalled, self._signal = os.pipe()
        for end in (self._read, self._write, self._signalled, self._signal):
            os.set_blocking(end, False)
        self._closing = threading.RLock()  # `send` never writes to a closed descriptor; a handler may interrupt another
        self._leaving = leaving
        self._on_stacks = on_stacks
        self._interrupted = False
        self._strongest = Wish.NOTHING
        self._before: dict[int, object] = {}
        self._wakeup_before = -1

    def send(self, wish: Wish) -> None:
        """Wake the waiter; without effect once nobody waits any more. Any thread may call this."""
        self._send(wish)

    def wait(self, above: Wish, deadline: float | None = None) -> Wish:
        """Return the strongest wish so far, once it is stronger than `above`, or at the deadline."""
        while self._strongest <= above:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = select.select([self._read, self._signalled], [], [], left)[0]
            if not ready:
                break
            if self._signalled in ready:
                os.read(self._signalled, 4096)  # and before the next look, the handler runs
            if self._read in ready:
                self._hear(os.read(self._read, 4096))
        return self._strongest

    def _hear(self, said: bytes) -> None:
        if _STACKS in said:
            self._on_stacks()
        self._strongest = max((self._strongest, *(Wish(word) for word in said if word != _STACKS)))

    def __enter__(self) -> Wishes:  # noqa: PYI034 - Self is in typing from Python 3.11 on
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1):
                self._before[number] = signal.signal(number, self._on_signal)
            self._wakeup_before = signal.set_wakeup_fd(self._signal, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before:
            signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            after = signal.SIG_IGN if self._leaving else handler
            signal.signal(number, after)  # type: ignore[arg-type]  # what signal.signal gave is what it takes
        self._before.clear()
        with self._closing:
            for end in (self._read, self._write, self._signalled, self._signal):
                os.close(end)
            self._read = self._write = -1

    def _send(self, word: int) -> None:
        with self._closing, suppress(BlockingIOError):
            if self._write >= 0:
                os.write(self._write, bytes([word]))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            self._send(_STACKS)
            return
        again = number == signal.SIGINT and self._interrupted
        self._interrupted = self._interrupted or number == signal.SIGINT
        self.send(Wish.NOW if again or number == signal.SIGQUIT else Wish.FINISH)
