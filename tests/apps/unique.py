"""An app for tests of unique tasks."""

import os
import time
from typing import Any

from fastq import FastQ

app = FastQ("unique", broker="memory://unique")


def wait_for(path: str) -> None:
    while path and not os.path.exists(path):
        time.sleep(0.005)


@app.task(unique="args")
def once(name: str, path: str = "") -> str:
    wait_for(path)
    return name


@app.task(unique="name", on_duplicate="existing")
def once_a_name(name: str, value: int = 0) -> int:
    return value


@app.task(unique="args", unique_for=0.3)
def once_in_a_while(name: str) -> str:
    return name


@app.task(unique="name", on_duplicate="replace")
def latest(name: str, value: int = 0, path: str = "") -> int:
    wait_for(path)
    return value


@app.task(unique="name", on_duplicate="debounce", unique_for=0.5)
def settled(name: str, value: int = 0) -> int:
    return value


@app.task(bind=True, unique="args", max_retries=1, on_duplicate="reject")
def again(self: Any, path: str) -> int:
    if self.request.attempt == 1:
        self.retry(countdown=0.01)
    wait_for(path)
    return self.request.attempt


@app.task(unique=lambda name, how="": None if how == "free" else name.lower())
def by_function(name: str, how: str = "") -> None:
    if how == "raise":
        raise ValueError(how)


@app.task
def other() -> str:
    return "other"
