"""A task that goes on where it was interrupted: run ``fastq worker -A steps`` in this folder, and then this file."""

import os
import signal
from pathlib import Path

from fastq import FastQ, current_task

app = FastQ("steps")
DIARY = Path("diary.txt")


def write(line: str) -> int:
    with DIARY.open("a") as diary:
        return diary.write(f"process {os.getpid()}: {line}\n")


@app.task
def renovate() -> int:
    written = current_task.step("paint", write, "painted the walls")
    with current_task.step("accident") as step:
        if not step.done and DIARY.read_text().count("fell") == 0:
            write("fell off the ladder")
            os.kill(os.getpid(), signal.SIGKILL)  # the worker gives the task to another process
    return written + current_task.step("floor", write, "laid the floor")


if __name__ == "__main__":
    DIARY.unlink(missing_ok=True)
    renovate.delay().get(timeout=30)
    print(DIARY.read_text(), end="")
