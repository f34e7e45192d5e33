"""An app for tests of signed and encrypted messages."""

import os
import time
from pathlib import Path
from typing import Any

from fastq import FastQ, current_task

app = FastQ("secured", broker=os.environ.get("TEST_BROKER", "memory://secured"))


@app.task
def add(x: int, y: int = 0) -> int:
    return x + y


@app.task
def touch(path: str) -> str:
    """Leave a mark that the task has run, once more each time."""
    with Path(path).open("a") as file:
        file.write("ran\n")
    return path


@app.task
def echo(value: object) -> object:
    return value


@app.task
def fail(text: str) -> None:
    raise ValueError(text)


@app.task
def describe(failure: dict[str, Any]) -> str:
    return f"{failure['type']}: {failure['message']}"


@app.task(bind=True, max_retries=1)
def second_time_lucky(self: Any, value: object) -> object:
    if self.request.attempt < 2:
        self.retry(countdown=0)
    return value


@app.task(bind=True, max_retries=1, ack="early")
def second_time_lucky_early(self: Any, value: object) -> object:
    if self.request.attempt < 2:
        self.retry(countdown=0)
    return value


@app.task(rate_limit="5/s")
def rarely(value: int) -> int:
    return value


@app.task(bind=True, max_retries=1)
def in_steps(self: Any, value: str) -> str:
    kept: str = current_task.step("first", str.upper, value)
    if self.request.attempt < 2:
        self.retry(countdown=0)
    return kept


@app.task
async def later(value: object) -> object:
    return value


@app.task
def calls_another(x: int) -> str:
    return add.delay(x, 1).id


@app.task
def slow(seconds: float) -> float:
    time.sleep(seconds)
    return seconds
