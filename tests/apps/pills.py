"""An app for tests of harm: tasks that end their process, or its parents, or leave things behind."""

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from fastq import FastQ
from fastq.testing.faults import Ledger

app = FastQ("pills", broker=os.environ.get("TEST_BROKER", "memory://pills"))


def note(word: str) -> None:
    Ledger(os.environ["LEDGER"]).note(word)


@app.task
def fine(seconds: float = 0.0) -> int:
    note("start")
    time.sleep(seconds)
    note("end")
    return os.getpid()


@app.task
def nothing() -> None:
    pass


@app.task
def pill(kind: str) -> None:
    """End the process, in one of the ways in which processes end."""
    note("start")
    if kind == "segfault":
        ctypes.string_at(0)
    elif kind == "abort":
        os.abort()
    elif kind == "exit":
        os._exit(3)
    elif kind == "overflow":
        sys.setrecursionlimit(1 << 30)
        overflow(0)


def overflow(depth: int) -> int:
    """Call this by way of C, which takes a part of its stack each time."""
    return max([depth], key=lambda _: overflow(depth + 1))


@app.task
def kill_worker() -> None:
    """Kill the parent of the process that this one was forked from."""
    note("start")
    fields = Path(f"/proc/{os.getppid()}/stat").read_text().rsplit(")", 1)[1].split()
    os.kill(int(fields[1]), signal.SIGKILL)
    signal.pause()


@app.task
def swell(megabytes: int) -> int:
    """Take memory, and use it."""
    note("start")
    return len(b"x" * (megabytes << 20))


@app.task
def start_process() -> int:
    """Start a process, and leave it behind."""
    return subprocess.Popen(["sleep", "600"]).pid


@app.task
def start_daemon() -> None:
    """Start a process that is nobody's child, and that ends at once."""
    if not os.fork():
        if not os.fork():
            os._exit(0)
        os._exit(0)
    os.wait()


@app.task
def vandalise() -> None:
    """Write what is no text to the standard streams, close them, put something else in their place, and log."""
    for end in (1, 2, 0):
        with suppress(OSError):  # this child has been here before
            os.write(end, b"\xff\xfe\x00\x1b[31m\r\n" * 100)
            os.close(end)
    logging.getLogger("pills").warning("is anybody there?")
    file = os.open(os.devnull, os.O_RDWR)
    os.dup2(file, 1)
    logging.getLogger("pills").warning("hello?")


@app.task
def length(text: str) -> int:
    return len(text)
