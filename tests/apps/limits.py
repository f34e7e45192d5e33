"""An app for tests of time limits: tasks that take too long, each in its own way."""

import asyncio
import ctypes
import os
import time
from pathlib import Path

from fastq import FastQ, current_task
from fastq.errors import SoftTimeLimitExceeded

app = FastQ("limits", broker="memory://limits")


@app.task
def pid() -> int:
    return os.getpid()


@app.task
async def pid_of_the_loop() -> int:
    return os.getpid()


@app.task
def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


@app.task(time_limit=0.2)
def stuck() -> None:
    """Hold the GIL for ten minutes."""
    ctypes.PyDLL(None).sleep(600)


@app.task(time_limit=0.2, ack="early")
def stuck_early() -> None:
    ctypes.PyDLL(None).sleep(600)


@app.task(soft_time_limit=0.2)
def endless() -> None:
    while True:
        time.sleep(0.01)


@app.task(soft_time_limit=0.2, time_limit=30)
def tidy(path: str) -> str:
    try:
        while True:
            time.sleep(0.01)
    except SoftTimeLimitExceeded:
        Path(path).write_text("clean")
        return "tidied up"


@app.task(soft_time_limit=0.05, autoretry_for=(SoftTimeLimitExceeded,), max_retries=2, default_retry_delay=0)
def impatient() -> None:
    while True:
        time.sleep(0.01)


@app.task(soft_time_limit=0.002)
def just_about() -> str:
    """End when the limit is reached, more or less."""
    end = time.monotonic() + 0.002
    while time.monotonic() < end:
        pass
    return "done"


@app.task(soft_time_limit=0.2)
async def endless_later() -> None:
    await asyncio.sleep(600)


@app.task(soft_time_limit=0.2, time_limit=30)
async def tidy_later(path: str) -> str:
    try:
        await asyncio.wait_for(asyncio.sleep(600), 500)
    except SoftTimeLimitExceeded:
        await asyncio.sleep(0.01)
        Path(path).write_text("clean")
        return "tidied up"
    return "never"


@app.task(time_limit=0.2)
async def stuck_later() -> None:
    await asyncio.sleep(600)


@app.task(time_limit=0.2)
async def stubborn() -> None:
    """Take no notice of being cancelled."""
    while True:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            pass


@app.task(time_limit=0.2)
async def blocking_the_loop() -> None:
    time.sleep(600)


@app.task
async def sleep_later(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "slept"


@app.task
def wait(path: str) -> str:
    """Wait until a file exists."""
    while not os.path.exists(path):
        time.sleep(0.005)
    return "waited"


@app.task
async def wait_later(path: str) -> int:
    """Wait until a file exists; return how many did so at once, at most."""
    mine = Path(f"{path}.{current_task.id}.{os.getpid()}")
    mine.touch()
    try:
        most = 0
        while not os.path.exists(path):
            most = max(most, sum(1 for _ in mine.parent.glob(f"{Path(path).name}.*")))
            await asyncio.sleep(0.005)
        return max(most, 1)
    finally:
        mine.unlink()


@app.task
async def own_ids(seconds: float) -> list[str]:
    ids = [current_task.id]
    await asyncio.sleep(seconds)
    return [*ids, current_task.id, await asyncio.to_thread(lambda: current_task.id)]


@app.task
async def meet(folder: str, count: int) -> int:
    """Return once as many have come in."""
    (Path(folder) / str(id(asyncio.current_task()))).touch()
    while len(os.listdir(folder)) < count:
        await asyncio.sleep(0.005)
    return os.getpid()
