"""Pool children for the tests: forked straight from the test's process, each on its seat of a channel."""

from __future__ import annotations

import importlib
import os
import select
import signal
import time
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest


def body(kind: str, name: str) -> ModuleType:
    """Import a body, `channel_c` say; skip where it is not built, unless it is required."""
    try:
        return importlib.import_module(f"fastq._speedups.{name}_{kind}")
    except ImportError:
        if os.environ.get("FASTQ_SPEEDUPS") == "1":
            raise
        pytest.skip(f"{name}_c is not built")


def echo(seat: Any) -> None:
    """End every payload with itself reversed."""
    while True:
        ticket, payload = seat.get(0) or seat.get()
        seat.end(ticket, payload[::-1])


class Crew:
    """Owns a channel and its children."""

    def __init__(self, channels: ModuleType, children: int, capacity: int, run: Callable[[Any], None] = echo) -> None:
        self.channels = channels
        self.channel = channels.Channel(children, capacity)
        self.pids: dict[int, int] = {}
        self._run = run
        self._poll = select.poll()
        self._poll.register(self.channel.fileno(), select.POLLIN)
        for child in range(children):
            self.fork(child)

    def fork(self, child: int, run: Callable[[Any], None] | None = None) -> int:
        pid = os.fork()
        if not pid:
            try:
                (run or self._run)(self.channels.Seat(self.channel.fds(), child))
            except EOFError:
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        self.pids[child] = pid
        return pid

    def wait(self, seconds: float = 10) -> bool:
        """Wait until the channel says that something ended."""
        return bool(self._poll.poll(seconds * 1000))

    def collect(self, count: int, seconds: float = 10) -> list[tuple[int, int, bytes]]:
        """Take until `count` payloads have ended."""
        deadline = time.monotonic() + seconds
        ended: list[tuple[int, int, bytes]] = []
        while len(ended) < count:
            assert self.wait(deadline - time.monotonic()), f"{len(ended)} of {count} ended in {seconds} s"
            ended += self.channel.take()
        return ended

    def until_running(self, *tickets: int) -> None:
        """Wait until exactly these tickets run."""
        deadline = time.monotonic() + 10
        while {ticket for _, ticket, _ in self.channel.running()} != set(tickets):
            assert time.monotonic() < deadline, f"{self.channel.running()} run, and not {tickets}"
            time.sleep(0.001)

    def kill(self, child: int) -> None:
        pid = self.pids.pop(child)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    def reap(self, child: int) -> int:
        """Wait for a child to leave, and return its exit code."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.pids[child], 0)[1])
        del self.pids[child]
        return code

    def close(self) -> None:
        for child in list(self.pids):
            self.kill(child)
        self.channel.close()
