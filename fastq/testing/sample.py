"""The app that the pool suite runs: ``fastq.testing.sample:app``."""

import os
import signal
import time

from fastq.app import FastQ

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


@app.task(ack="early")
def die() -> None:
    """Kill the process."""
    os.kill(os.getpid(), signal.SIGKILL)
