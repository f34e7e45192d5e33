"""A worker that kills itself at one step of what follows the end of a task: ``dying_worker URL STEP``."""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from fastq.settings import Settings
from fastq.testing.workers import running_worker
from tests.apps.canvas import app

#: Each step as the client and the method that take it, and whether the worker dies before it or behind it.
STEPS = {
    "outcomes stored": ("state", "arrive", True),
    "flow told": ("state", "arrive", False),
    "values known": ("state", "put", False),
    "callback published": ("broker", "publish", False),
    "flow closed": ("state", "close_flows", False),
}


def die_at(client: object, name: str, *, before: bool) -> None:
    method: Callable[..., Any] = getattr(client, name)

    def step(*arguments: Any, **more: Any) -> Any:
        if before:
            os.kill(os.getpid(), signal.SIGKILL)
        done = method(*arguments, **more)
        if done or name != "arrive":  # flows that wait for more are not told yet
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    setattr(client, name, step)


if __name__ == "__main__":
    app.settings = Settings.load({"broker": sys.argv[1], "control": False})
    client, method, before = STEPS[sys.argv[2]]
    die_at(getattr(app, client), method, before=before)
    with running_worker(app, "tests.apps.canvas:app", concurrency=2, lease_s=1.0):
        signal.pause()
