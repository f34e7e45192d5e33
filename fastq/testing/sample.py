"""The app that the pool suite runs: ``fastq.testing.sample:app``."""

import os
import signal
import time

from fastq.app import FastQ
from fastq.current import current_task

app = FastQ("sample", broker="memory://sample")


@app.task
def echo(value: object) -> object:
    """Return the argument."""
    return value


@app.task
def fail(message: str) -> None:
    """Raise ValueError."""
    raise ValueError(message)


@app.task
def wait_for(path: str) -> int:
    """Wait until a file exists; return the pid of the process that waited."""
    while not os.path.exists(path):  # noqa: PTH110 - called two hundred times a second
        time.sleep(0.005)
    return os.getpid()


@app.task
def wait_to_be_told() -> float | None:
    """Wait until the pool is to end; return how many seconds it leaves."""
    while not current_task.stopping:
        time.sleep(0.005)
    return current_task.time_left


@app.task(interruptible=True)
def wait_for_ever() -> None:
    """Wait until interrupted."""
    while True:
        time.sleep(0.005)


@app.task(ack="early")
def die() -> None:
    """Kill the process."""
    os.kill(os.getpid(), signal.SIGKILL)
