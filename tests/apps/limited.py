"""An app for tests of limits: tasks that say when they ran."""

import os
import signal
import time

from fastq import FastQ, current_task

app = FastQ("limited", broker="memory://limited")

Times = tuple[float, float]


def times(seconds: float) -> Times:
    began = time.time()
    time.sleep(seconds)
    return began, time.time()


@app.task(max_concurrency=2)
def two_at_once(seconds: float) -> Times:
    return times(seconds)


@app.task(max_concurrency=2, ack="early")
def two_at_once_early(seconds: float) -> Times:
    return times(seconds)


@app.task(rate_limit="10/s")
def ten_a_second() -> Times:
    return times(0)


@app.task(rate_limit="20/s", max_concurrency=1)
def twenty_a_second_one_at_once() -> Times:
    return times(0.01)


@app.task(rate_limit="1/h")
def one_an_hour() -> Times:
    return times(0)


@app.task(max_concurrency=1, limit_by="tenant")
def one_a_tenant(path: str, tenant: str = "nobody") -> str:
    """Wait until a file exists."""
    while not os.path.exists(path):
        time.sleep(0.005)
    return tenant


@app.task(max_concurrency=1, max_retries=1, default_retry_delay=0)
def one_at_once(how: str = "") -> str:
    if how == "raise":
        raise ValueError(how)
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "retry" and current_task.attempt == 1:
        one_at_once.retry()
    return how


@app.task
def free(seconds: float = 0.0) -> Times:
    return times(seconds)
