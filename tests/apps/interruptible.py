"""An app for tests of what tasks are told when their worker stops."""

import asyncio
import time
from pathlib import Path

from fastq import FastQ, current_task
from fastq.errors import Interrupted

app = FastQ("interruptible", broker="memory://interruptible")


def begin(folder: str) -> bool:
    """Note that an attempt has begun; return whether an earlier one saved something."""
    Path(folder, "begun").touch()
    return Path(folder, "saved").exists()


@app.task(interruptible=True)
def save(folder: str) -> str:
    """Wait until interrupted, save, and leave; then end at the next attempt."""
    if begin(folder):
        return f"went on, attempt {current_task.attempt}"
    try:
        while True:
            time.sleep(0.01)
    except Interrupted:
        Path(folder, "saved").touch()
        raise


@app.task(interruptible=True)
async def save_later(folder: str) -> str:
    if begin(folder):
        return f"went on, attempt {current_task.attempt}"
    try:
        await asyncio.wait_for(asyncio.sleep(600), 500)
    except Interrupted:
        await asyncio.sleep(0.01)
        Path(folder, "saved").touch()
        raise
    return "never"


@app.task(interruptible=True, ack="early")
def save_early(folder: str) -> str:
    return save.run(folder)


@app.task(interruptible=True, autoretry_for=(Exception,), max_retries=5)
def leave_at_once(folder: str) -> str:
    return save.run(folder)


@app.task(interruptible=True)
def save_within(folder: str) -> str:
    return str(save.apply((folder,)).get())


@app.task(interruptible=True, soft_time_limit=500)
def end_well(folder: str) -> str:
    begin(folder)
    try:
        time.sleep(600)
    except Interrupted:
        return "ended well"
    return "never"


@app.task
def ask(folder: str) -> str:
    """Wait until told that the worker stops, note by when, and leave."""
    if begin(folder):
        return "went on"
    assert current_task.deadline is None
    while not current_task.stopping:
        time.sleep(0.01)
    deadline = current_task.deadline
    assert deadline is not None
    Path(folder, "saved").write_text(str(deadline.timestamp()))
    raise Interrupted


@app.task(time_limit=500)
def ask_limited(folder: str) -> str:
    return ask.run(folder) if Path(folder, "saved").exists() else note_deadlines(folder)


def note_deadlines(folder: str) -> str:
    """Note the deadline before and after the worker was told to stop."""
    begin(folder)
    before = current_task.time_left
    while not current_task.stopping:
        time.sleep(0.01)
    return f"{before} {current_task.time_left}"


@app.task
def raise_it() -> None:
    """Raise what only a worker that stops has a reason to raise."""
    raise Interrupted("no reason")


@app.task(interruptible=True)
def done_just_now(folder: str) -> str:
    """End when interrupted, more or less."""
    Path(folder, f"{current_task.id}.begun").touch()
    while not current_task.stopping:
        pass
    return "done"
