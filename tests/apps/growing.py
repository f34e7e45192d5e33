"""An app for tests of recycling and autoscaling."""

import asyncio
import os
import time

from fastq import FastQ

app = FastQ("growing", broker="memory://growing")

hoard: list[bytes] = []


@app.task
def pid() -> int:
    return os.getpid()


@app.task
def nap(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


@app.task
def grow(megabytes: int) -> int:
    """Hold more memory from now on."""
    hoard.append(os.urandom(1_000_000) * megabytes)
    return os.getpid()


@app.task
async def pid_later(seconds: float = 0.0) -> int:
    await asyncio.sleep(seconds)
    return os.getpid()


@app.task
def wait(path: str) -> int:
    """Wait until a file exists."""
    while not os.path.exists(path):
        time.sleep(0.005)
    return os.getpid()
