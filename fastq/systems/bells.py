"""Bells: how the processes that share a file tell each other that something has come.

Whoever waits makes a named pipe in a directory beside the file and sleeps in `poll` on it; whoever has
committed writes a byte to each pipe of that kind. The contract that loses no wake-up: drain, then query,
then wait. A bell is a hint, not a promise, so waiters look now and then unasked too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import threading
import time
import uuid
from pathlib import Path
from typing import Protocol

_UNNAMED = "new-"  # how the names of bells begin that nobody rings yet
_PAUSE_FIRST_S, _PAUSE_LAST_S = 0.001, 0.1


class Bell(Protocol):
    """What one waiter waits on. `ring` may be called by any thread, the others by the waiter."""

    def drain(self) -> None:
        """Forget the rings so far; to be called before the query that looks for what they announce."""

    def wait(self, timeout_s: float | None) -> None:
        """Return when it has rung since it was drained, or at the timeout, or earlier."""

    def ring(self) -> None:
        """Wake the waiter."""

    def close(self) -> None:
        """Take it away. May be called twice."""


class Belfry:
    """The bells of one file. Safe in a forked child once `abandon` was called there."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pipes: set[PipeBell] = set()

    def hang(self, kind: str) -> Bell:
        """Return a new bell, or one that polls where pipes can't be made."""
        for _ in range(9):  # another process may remove the empty directory, or the new bell, in between
            try:
                self._directory.mkdir(exist_ok=True)
                return PipeBell(self._directory / f"{kind}.{uuid.uuid4().hex}", self._pipes)
            except FileNotFoundError:
                continue
            except (OSError, AttributeError):
                break
        return PollingBell()

    def ring(self, kind: str) -> None:
        """Ring every bell of a kind, and remove those whose waiter is dead."""
        with contextlib.suppress(OSError):
            for name in os.listdir(self._directory):  # noqa: PTH208  Path.iterdir costs three times as much
                if name.startswith((kind, _UNNAMED)):
                    _ring(f"{self._directory}/{name}")

    def close(self) -> None:
        """Take away the bells that this process still has, and wake their waiters."""
        for pipe in list(self._pipes):
            pipe.ring()
            pipe.close()
        self.ring("")
        with contextlib.suppress(OSError):
            self._directory.rmdir()

    def abandon(self) -> None:
        """In a forked child: drop the parent's bells, without taking them away from the parent."""
        for pipe in list(self._pipes):
            pipe.abandon()
        self._pipes.clear()


def _ring(path: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno == errno.ENXIO:  # nobody has it open, so its waiter is dead
            with contextlib.suppress(OSError):
                os.unlink(path)  # noqa: PTH108
        return
    try:
        os.write(fd, b"!")
    except OSError:  # full: it has been rung often enough; or gone in this instant
        pass
    finally:
        os.close(fd)


class PipeBell:
    """A bell that is a named pipe."""

    def __init__(self, path: Path, pipes: set[PipeBell]) -> None:
        self._path = path
        self._pipes = pipes
        # It gets its name once it is open. Whoever rings in between takes its waiter for dead and removes it, and
        # then there is nothing to be renamed: the caller tries again. It is open for writing too: with no writer at
        # all, `poll` would report a hang-up without end.
        unnamed = path.with_name(_UNNAMED + path.name)
        os.mkfifo(unnamed)
        self._fd = os.open(unnamed, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            unnamed.rename(path)
        except OSError:
            os.close(self._fd)
            raise
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._closing = threading.Lock()  # so that `ring` never writes to a descriptor that is another's by now
        pipes.add(self)

    def drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self._fd, 4096)) == 4096:
                pass

    def wait(self, timeout_s: float | None) -> None:
        self._poll.poll(None if timeout_s is None else max(0, timeout_s * 1000))

    def ring(self) -> None:
        with self._closing, contextlib.suppress(BlockingIOError):
            if self._fd >= 0:
                os.write(self._fd, b"!")

    def close(self) -> None:
        with self._closing:
            fd, self._fd = self._fd, -1
        self._pipes.discard(self)
        if fd >= 0:
            with contextlib.suppress(OSError):
                self._path.unlink()
                os.close(fd)
                self._path.parent.rmdir()  # refused while another bell hangs there

    def abandon(self) -> None:
        """In a forked child: close the copy of the descriptor, and leave the pipe to the parent."""
        self._closing = threading.Lock()  # the old one may have been held when the process forked
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class PollingBell:
    """A bell that only its own process can ring: its waiter looks again after 1 ms, then ever more rarely."""

    def __init__(self) -> None:
        self._rung = threading.Event()
        self._pause_s = _PAUSE_FIRST_S
        self._drained_at = 0.0

    def drain(self) -> None:
        now = time.monotonic()
        if self._rung.is_set() or now - self._drained_at > 2 * _PAUSE_LAST_S:
            self._pause_s = _PAUSE_FIRST_S
        self._drained_at = now
        self._rung.clear()

    def wait(self, timeout_s: float | None) -> None:
        self._rung.wait(self._pause_s if timeout_s is None else min(self._pause_s, max(0, timeout_s)))
        self._pause_s = min(2 * self._pause_s, _PAUSE_LAST_S)

    def ring(self) -> None:
        self._rung.set()

    def close(self) -> None:
        self.ring()
