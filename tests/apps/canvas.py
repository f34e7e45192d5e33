"""An app for tests of workflows."""

import asyncio
import os
import time
from typing import Any

from fastq import FastQ, current_task

app = FastQ("canvas", broker=os.environ.get("TEST_BROKER", "memory://canvas"))


@app.task
def add(x: int, y: int = 0) -> int:
    return x + y


@app.task
def mul(x: int, y: int) -> int:
    return x * y


@app.task
async def total(numbers: list[int]) -> int:
    await asyncio.sleep(0)
    return sum(numbers)


@app.task
def echo(*values: object) -> list[object]:
    return list(values)


@app.task
def fail(*_: object) -> None:
    raise KeyError("shelf")


@app.task(bind=True, max_retries=1)
def second_time_lucky(self: Any, value: int) -> int:
    if self.request.attempt < 2:
        self.retry(countdown=0)
    return value


@app.task(ack="early")
def early(value: int = 0) -> int:
    return value + 1


@app.task(ack="early")
def die_early() -> None:
    os.kill(os.getpid(), 9)


@app.task
def die() -> None:
    os.kill(os.getpid(), 9)


@app.task(ignore_result=True)
def quiet(value: int = 0) -> int:
    return value


@app.task
def append(*values: Any) -> int:
    """Append a line to the file that is the last argument: this task's id, and what else it was given."""
    *given, path = values
    line = f"{current_task.id} {given!r}\n".encode()
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line)
    finally:
        os.close(file)
    return len(given)


@app.task
def wait_for(path: str, value: int = 0) -> int:
    """Wait until a file exists."""
    while not os.path.exists(path):
        time.sleep(0.005)
    return value


@app.task
def wait_inside(how: str) -> int:
    """Wait for another task, as one should not."""
    result = add.delay(1, 2)
    if how == "allowed":
        return result.get(10, allow_in_task=True)
    if how == "group":
        group_of_one = add.chunks([(1, 2)], 1).delay()
        return len(group_of_one.join(10))
    return result.get(10)
