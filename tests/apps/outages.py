"""An app for tests of what a worker does when broker or backend fail."""

import os
import time
from pathlib import Path
from typing import Any

from fastq import FastQ

app = FastQ("outages", broker="memory://outages")


@app.task
def add(x: int, y: int = 0) -> int:
    return x + y


@app.task
def note(value: object, path: str) -> object:
    """Append a line to a file."""
    with Path(path).open("a") as file:
        file.write(f"{os.getpid()}\n")
    return value


@app.task
def double(value: int) -> int:
    return 2 * value


@app.task
def caught(failure: dict[str, str], path: str) -> None:
    Path(path).write_text(f"{failure['task']} {failure['type']}")


@app.task(bind=True, ack="early", max_retries=None)
def early(self: Any, attempts: int = 1) -> int:
    if self.request.attempt < attempts:
        self.retry(countdown=0)
    return attempts


@app.task(ack="early", unique="args")
def early_and_unique(value: int) -> int:
    return value


@app.task(unique="args", on_duplicate="replace")
def latest(value: int) -> int:
    return value


@app.task(ack="early")
def early_until(path: str, notes: str) -> int:
    """Run until a file is there; append a line to another at the beginning."""
    with Path(notes).open("a") as file:
        file.write("begun\n")
    while not Path(path).exists():
        time.sleep(0.01)
    return 1


@app.task(bind=True, max_retries=None)
def endless(self: Any) -> None:
    self.retry(countdown=0)
