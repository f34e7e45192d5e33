"""An app for tests: tasks that return, raise, wait, die, and write down that they ran."""

import asyncio
import os
import signal
import sys
import time

from fastq import FastQ
from fastq.testing.faults import Ledger

app = FastQ("basic", broker=os.environ.get("TEST_BROKER", "memory://basic"))


def note(word: str) -> None:
    """Append a line to the ledger."""
    Ledger(os.environ["LEDGER"]).note(word)


@app.task
def add(a: int, b: int) -> int:
    return a + b


@app.task
async def add_later(a: int, b: int) -> int:
    await asyncio.sleep(0.001)
    return a + b


@app.task
def echo(value: object) -> object:
    return value


@app.task
def fail(message: str) -> None:
    raise ValueError(message)


@app.task
def leave(code: int) -> None:
    sys.exit(code)


@app.task
def unsayable() -> object:
    return object()


@app.task
def pid() -> int:
    return os.getpid()


@app.task
def noted(seconds: float = 0.0) -> int:
    note("start")
    time.sleep(seconds)
    note("end")
    return os.getpid()


@app.task(ack="early")
def noted_early(seconds: float = 0.0) -> int:
    note("start")
    time.sleep(seconds)
    note("end")
    return os.getpid()


@app.task
def kill_self() -> None:
    note("start")
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(ack="early")
def kill_self_early() -> None:
    note("start")
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def wait_for(path: str) -> str:
    """Wait until a file exists."""
    note("start")
    while not os.path.exists(path):
        time.sleep(0.005)
    return path


@app.task
def fork_and_fall_through() -> int:
    """Fork, and let the copy go on as if it were the child."""
    return os.fork()


@app.task
def close_everything() -> None:
    os.closerange(3, 256)


@app.task
def shout(megabytes: int) -> int:
    line = b"x" * 65_535 + b"\n"
    return sum(os.write(1, line) for _ in range(16 * megabytes))
