"""The app of the crash-point grid: tasks that write into the ledger, and pass the point in the midst of a task."""

import os

from fastq import FastQ, current_task, failpoints
from fastq.testing.faults import Ledger

app = FastQ(
    "grid", broker=os.environ.get("TEST_BROKER", "memory://grid"), backend=os.environ.get("TEST_BACKEND", ""),
    state=os.environ.get("TEST_STATE", ""),
)  # fmt: skip


def work() -> None:
    ledger = Ledger(os.environ["LEDGER"])
    ledger.note("start")
    if failpoints.on:
        failpoints.hit("P8")
    ledger.note("end")


@app.task
def late() -> None:
    work()


@app.task(ack="early")
def early() -> None:
    work()


@app.task(autoretry_for=(ConnectionError,), default_retry_delay=0)
def twice() -> None:
    """Do the work at the second attempt; the first one asks for it."""
    if current_task.attempt == 1:
        raise ConnectionError("not yet")
    work()


@app.task
def first() -> int:
    return 1


@app.task
def then(value: int) -> None:
    """Do the work, as what follows another task."""
    work()
