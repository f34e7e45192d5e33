"""An app for tests of what surrounds a task: middleware, task classes, the life of processes, progress and steps."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fastq import FastQ, Middleware, Task, current_task, get_task_logger
from fastq.current import Run
from fastq.failure import Failure
from fastq.middleware import Outgoing
from fastq.outcome import Outcome, State

logger = get_task_logger(__name__)


def note(*words: object) -> None:
    """Append a line to the ledger, in one write."""
    ledger = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(ledger, (" ".join(map(str, words)) + "\n").encode())
    finally:
        os.close(ledger)


def wait_for(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.005)


class Tenant(Middleware):
    """Adds a header to what is sent; refuses to run for a tenant that is locked out."""

    def before_publish(self, outgoing: Outgoing) -> None:
        if outgoing.task.endswith("unsendable"):
            raise PermissionError("nobody may call this")
        outgoing.headers.setdefault("tenant", "nobody")

    def before_run(self, run: Run) -> None:
        if run.message.extras.headers.get("tenant") == "locked-out":
            raise PermissionError("not for you")


class Noting(Middleware):
    """Writes down what runs, and what it came to."""

    def before_run(self, run: Run) -> None:
        note("before", run.task.name.rpartition(".")[2], *run.args)

    def after_run(self, run: Run, outcome: Outcome) -> None:
        note("after", run.task.name.rpartition(".")[2], outcome.state, current_task.id == run.message.uuid)
        if run.args[:1] == ["spoil the end"]:
            sys.exit("this must not matter")


app = FastQ("around", broker="memory://around", middleware=[Tenant(), Noting()])


# -- the life of processes --------------------------------------------------------------------------


@app.on_worker_start
def worker_starts() -> None:
    if os.environ.get("REFUSE") == "worker":
        raise OSError("no database")
    if "LEDGER" in os.environ:
        note("worker-start", os.getpid())


@app.on_child_start
def child_starts() -> None:
    if os.environ.get("REFUSE") == "child":
        note("refused", os.getpid())
        if not os.path.exists(os.environ["GATE"]):
            raise OSError("no database")
    note("child-start", os.getpid())


@app.on_child_stop
def child_stops() -> None:
    note("child-stop", os.getpid())


@app.on_child_stop
def child_stops_badly() -> None:
    raise OSError("the database is gone already")


# -- classes of tasks -------------------------------------------------------------------------------


class Connected(Task[..., Any]):
    """A task with a state of its own in each process."""

    connection = ""

    def on_child_start(self) -> None:
        self.connection = f"connection of {os.getpid()}"

    def before_start(self, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        note("before_start", task_id == current_task.id, *args)

    def on_success(self, retval: Any, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        note("on_success", retval)

    def on_failure(
        self, exc: BaseException, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any], einfo: Failure
    ) -> None:
        note("on_failure", type(exc).__name__, "Traceback" in einfo.traceback)

    def on_retry(
        self, exc: BaseException, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any], einfo: Failure
    ) -> None:
        note("on_retry", type(exc).__name__)

    def after_return(
        self, status: State, retval: Any, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any],
        einfo: Failure | None,
    ) -> None:  # fmt: skip
        note("after_return", status)


@app.task(bind=True, base=Connected)
def connected(self: Connected) -> bool:
    return self.connection == f"connection of {os.getpid()}"


@app.task(base=Connected, max_retries=1, autoretry_for=(OSError,), default_retry_delay=0)
async def by_class(what: str) -> str:
    await asyncio.sleep(0)
    if what == "fail":
        raise ValueError(what)
    if what == "retry":
        raise OSError(what)
    return what


# -- what a task knows of itself --------------------------------------------------------------------


@app.task
def echo(value: object = None) -> object:
    return value


@app.task
async def echo_later(value: object = None) -> object:
    return value


@app.task
def unsendable() -> None: ...


@app.task
def family() -> dict[str, Any]:
    """Who I am, and who my child and its child are."""
    return {**whoami.function(), "child": child.delay().id}


@app.task
def child() -> None:
    grandchild.apply_async(headers={"trace": "its own"}, task_id=current_task.headers.get("grandchild"))


@app.task
def grandchild() -> dict[str, Any]:
    return whoami.function()


@app.task(time_limit=60)
def whoami() -> dict[str, Any]:
    left = current_task.time_left
    return {
        "id": current_task.id, "root": current_task.root_id, "parent": current_task.parent_id,
        "headers": dict(current_task.headers), "retries": current_task.retries, "is_retry": current_task.is_retry,
        "left": left and round(left), "deadline": current_task.deadline and current_task.deadline.isoformat(),
    }  # fmt: skip


@app.task
def logs(text: str) -> None:
    logging.getLogger("somewhere.else").warning("%s", text)
    logger.warning("%s", text)


@app.task(secret=["password"], serializer="json")
def log_in(user: str, password: object) -> str:
    return user


# -- progress ---------------------------------------------------------------------------------------


@app.task
def count(total: int, gate: str = "") -> int:
    for done in range(1, total + 1):
        current_task.progress(done, total, f"number {done}")
    if gate:
        wait_for(gate)
    return total


@app.task
async def count_later(total: int) -> int:
    for done in range(1, total + 1):
        current_task.progress(done, total)
        await asyncio.sleep(0)
    return total


@app.task
def wrong_progress(done: Any, total: Any, note: Any) -> None:
    current_task.progress(done, total, note)


# -- steps ------------------------------------------------------------------------------------------


def part(name: str, value: object = None) -> object:
    note("part", name)
    return value


async def part_later(name: str, value: object = None) -> object:
    await asyncio.sleep(0)
    return part(name, value)


@app.task(bind=True, max_retries=5)
def three_steps(self: Any) -> list[object]:
    one = current_task.step("one", part, "one", value=(1, 2))
    with current_task.step("two") as two:
        if not two.done:
            two.save(part("two", {"files": 2}))
    if current_task.attempt == 1:
        self.retry(countdown=0)
    with current_task.step("three") as three:
        if not three.done:
            part("three")
    return [one, two.value, two.done, three.value, three.done]


@app.task(bind=True, max_retries=5)
async def three_steps_later(self: Any) -> list[object]:
    one = await current_task.step("one", part_later, "one", value=[1, 2])
    async with current_task.step("two") as two:
        if not two.done:
            two.save(await part_later("two", {"files": 2}))
    if current_task.attempt == 1:
        self.retry(countdown=0)
    return [one, two.value, two.done]


@app.task
def dies_once(marker: str) -> object:
    one = current_task.step("one", part, "one", "first")
    if not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    two = current_task.step("two", part, "two", "second")
    return [one, two]


@app.task(bind=True, max_retries=1)
def unfinished(self: Any) -> int:
    try:
        with current_task.step("one") as step:
            if not step.done:
                step.save("half")
                raise ValueError("in the middle of it")
    except ValueError:
        if current_task.attempt == 1:
            self.retry(countdown=0)
    with current_task.step("one") as step:
        return -1 if step.done else current_task.attempt


@app.task
def twice() -> None:
    for _ in range(2):
        current_task.step("one", part, "one")


@app.task
def unnamed(name: Any) -> None:
    current_task.step(name, part, "one")


@app.task
def large_step(size: int) -> int:
    return len(current_task.step("large", str.ljust, "", size))


@app.task
def unsayable_step() -> None:
    current_task.step("thing", object)


@app.task
def impatient() -> None:
    with current_task.step("one") as step:
        print(step.value)


@app.task
def obstinate() -> None:
    app.state.put_new(f"step:{current_task.id}", "one", b"application/json\n2", 60.0)
    with current_task.step("one") as step:
        step.save(3)


@app.task
def overtaken() -> list[object]:
    """Another attempt, whose worker went on after its lease was lost, finishes the step first."""
    state, family = app.state, f"step:{current_task.id}"

    def compute() -> str:
        state.put_new(family, "one", b'application/json\n"theirs"', 60.0)
        return "ours"

    return [current_task.step("one", compute)]
