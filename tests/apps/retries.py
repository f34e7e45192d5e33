"""An app for tests of retries."""

from typing import Any

from fastq import FastQ, current_task

app = FastQ("retries", broker="memory://retries")


@app.task(bind=True, max_retries=3)
def third_time_lucky(self: Any, countdown: float = 0.0) -> int:
    if self.request.attempt < 3:
        self.retry(countdown=countdown)
    return current_task.attempt


@app.task(bind=True, max_retries=2)
def never(self: Any) -> None:
    try:
        raise KeyError("shelf")
    except KeyError as error:
        self.retry(exc=error, countdown=0)


@app.task(bind=True, max_retries=0)
def not_once(self: Any) -> None:
    self.retry(countdown=0)


@app.task(autoretry_for=(OSError,), dont_autoretry_for=(FileNotFoundError,), max_retries=2, default_retry_delay=0)
def by_itself(what: str) -> int:
    if what == "file":
        raise FileNotFoundError("it will not come back")
    if current_task.attempt < 3:
        raise OSError("network")
    return current_task.attempt


@app.task(bind=True, ack="early", max_retries=None)
def early(self: Any) -> int:
    if self.request.attempt < 6:
        self.retry(countdown=0)
    return current_task.attempt


@app.task(bind=True)
async def later(self: Any) -> int:
    if self.request.attempt < 2:
        self.retry(countdown=0)
    return current_task.attempt
