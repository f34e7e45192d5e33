"""An app for tests of tasks that kill their process, each in a way of its own."""

import ctypes
import os
import signal
from contextlib import suppress
from pathlib import Path

from fastq import FastQ, current_task

app = FastQ("poison", broker="memory://poison")


@app.task(name="segfault")
def segfault() -> None:
    read_nothing()


def read_nothing() -> None:
    ctypes.string_at(0)


@app.task(name="abort", ack="early")
def abort() -> None:
    os.abort()


@app.task(name="abort_later")
async def abort_later() -> None:
    os.abort()


@app.task(name="swell")
def swell(megabytes: int) -> None:
    """Take memory, and be killed."""
    _ = b"x" * (megabytes * 1_000_000)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="exit")
def leave() -> None:
    os._exit(3)


@app.task(name="second_thoughts")
def second_thoughts() -> int:
    """Kill the process, unless it did so before."""
    if not current_task.crashes:
        os.kill(os.getpid(), signal.SIGKILL)
    return current_task.crashes


@app.task(name="forge")
def forge() -> None:
    """Write whatever into the files that are open, and crash."""
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # among them the one that lists the folder
            if "last-words" in os.readlink(descriptor):
                os.write(int(descriptor.name), b"Fatal Python error: \x1b[2J\xff\n" + b"x" * 1_000_000)
    os.abort()
