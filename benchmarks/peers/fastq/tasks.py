"""fastq itself; it runs in the harness's own environment, with the compiled bodies or the Python ones."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.peers import tally
from benchmarks.peers.peer import BROKER, KEEP, URL, VARIANT, Peer
from fastq import AsyncResult, FastQ, Task, chord

BROKERS = {"classic": f"{BROKER}?queue_type=classic", "classic rpc": f"{BROKER}?queue_type=classic"}
BACKENDS = {"classic rpc": BROKER.replace("amqp://", "rpc://")}
app = FastQ("bench", broker=BROKERS.get(VARIANT, BROKER), backend=BACKENDS.get(VARIANT, URL), ignore_result=not KEEP)
ROOT = Path(__file__).parents[3]


@app.task
def same(value: int) -> int:
    tally.ran()
    return value


@app.task
def size(text: str) -> int:
    tally.ran()
    return len(text)


@app.task
def late(sent: float) -> None:
    tally.waited(sent)


@app.task
def nap(seconds: float) -> None:
    tally.began()
    time.sleep(seconds)
    tally.ended()


@app.task
def member(value: int) -> int:
    tally.ran_now()
    return value


@app.task
def gather(values: Sequence[int]) -> int:
    tally.gathered(len(values))
    return len(values)


class Adapter(Peer):
    """Its defaults: a worker says only how many children it has."""

    tasks: ClassVar[dict[str, Task[..., Any]]] = {"same": same, "size": size, "late": late, "nap": nap}

    def start_inside(self, children: int) -> Callable[[], None] | None:
        if not URL.startswith("memory"):
            return None
        from fastq.testing.workers import running_worker

        stack = ExitStack()
        path = "benchmarks.peers.fastq.tasks:app"
        stack.enter_context(running_worker(app, path, folder=str(ROOT), concurrency=children))
        return stack.close

    def workers(self, children: int) -> list[list[str]]:
        return [
            [
                sys.executable, "-m", "fastq", "worker", "-A", "benchmarks.peers.fastq.tasks:app",
                "--folder", str(ROOT), "-c", str(children), "--loglevel", "warning",
            ]
        ]  # fmt: skip

    def send(self, task: str, argument: Any) -> AsyncResult[Any]:
        return self.tasks[task].delay(argument)

    def send_many(self, task: str, arguments: Sequence[Any]) -> AsyncResult[Any]:
        return self.tasks[task].map(arguments)[-1]

    def chord(self, count: int) -> AsyncResult[Any]:
        return chord([member.s(1) for _ in range(count)], gather.s()).apply_async()

    def wait(self, handle: Any, timeout_s: float) -> Any:
        return handle.get(timeout_s)
