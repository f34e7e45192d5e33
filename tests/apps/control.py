"""An app for tests of remote control: tasks that leave a trace, and tasks that last until they are let go."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from fastq import FastQ, Task

__all__ = ["Task"]

app = FastQ("control", broker="memory://control")


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def touch(path: str) -> str:
    Path(path).touch()
    return path


@app.task
def last(begun: str, until: str = "") -> int:
    """Say that it has begun, and last until the other file is there; without one, for ever."""
    Path(begun).write_text(str(os.getpid()))
    while not (until and Path(until).exists()):
        time.sleep(0.01)
    return os.getpid()


@app.task(ack="early")
def last_early(begun: str) -> None:
    last.function(begun)


@app.task
def fail(text: str) -> None:
    raise ValueError(text)


@app.task(bind=True, max_retries=1, default_retry_delay=0)
def twice(self: Any, countdown: float = 0.0) -> int:
    if self.request.attempt == 1:
        self.retry(countdown=countdown)
    return 2


@app.task(queue="mail")
def post() -> str:
    return "sent"
