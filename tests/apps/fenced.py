"""An app for tests of fences: tasks that write down the fence of each of their runs."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from fastq import FastQ, current_task

app = FastQ("fenced", broker=os.environ.get("TEST_BROKER", "memory://fenced"))


def note(path: str) -> None:
    """Append the fence to a file, in one write."""
    with Path(path).open("a") as file:
        file.write(f"{current_task.fence}\n")


@app.task
def fence() -> int:
    return current_task.fence


@app.task
async def fence_later() -> int:
    return current_task.fence


@app.task(bind=True, max_retries=3)
def retried(self: Any, path: str) -> int:
    note(path)
    if current_task.attempt < 4:
        self.retry(countdown=0)
    return current_task.fence


@app.task(bind=True, max_retries=3, ack="early")
def retried_early(self: Any, path: str) -> int:
    note(path)
    if current_task.attempt < 4:
        self.retry(countdown=0)
    return current_task.fence


@app.task
def deadly(path: str, antidote: str) -> int:
    """Kill the process, unless a file is there."""
    note(path)
    if not Path(antidote).exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return current_task.fence


@app.task
def slow(path: str, gate: str) -> int:
    """Run until a file is there."""
    note(path)
    while not Path(gate).exists():
        time.sleep(0.01)
    return current_task.fence
