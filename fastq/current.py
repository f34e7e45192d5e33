"""current_task: what the code of a task may know of the attempt that runs it, and say of it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from .errors import TaskError, WaitRefused
from .message import Message

if TYPE_CHECKING:
    from .app import FastQ
    from .outcome import Outcome
    from .steps import Step, Steps
    from .task import Task


P = ParamSpec("P")
R = TypeVar("R")


class Run:
    """One attempt of one task, while it runs in this process. `started_at` is in microseconds since the epoch."""

    __slots__ = (
        "_message", "afterwards", "app", "args", "blocks", "error", "kwargs", "reports", "started_at", "steps", "task",
        "ticket", "value",
    )  # fmt: skip

    args: Sequence[Any]  # these four are there for hooks alone
    kwargs: Mapping[str, Any]
    value: Any
    error: BaseException | None

    def __init__(
        self, app: FastQ, task: Task[..., Any], message: Message | bytes, started_at: int, ticket: int = 0
    ) -> None:
        self.app = app
        self.task = task
        self._message = message
        self.started_at = started_at
        self.ticket = ticket  # the pool's; 0: it did not come through one
        self.reports = False  # whether it said how far it is
        self.steps: Steps | None = None
        #: What is to be called, in this order, with what the attempt came to; None: nothing.
        self.afterwards: list[Callable[[Outcome], None]] | None = None
        self.blocks = False  # whether one of these waits for a server

    @property
    def message(self) -> Message:
        """The message; read from its frame when it is first asked for, which most tasks never do."""
        message = self._message
        if isinstance(message, bytes):
            message = self._message = Message.decode(message)
        return message

    def finally_call(self, function: Callable[[Outcome], None], *, blocks: bool = False) -> None:
        """Have a function called with the outcome of this attempt, before it leaves the process.

        One that `blocks`, for it waits for a server, is not called on an event loop.
        """
        self.blocks = self.blocks or blocks
        if self.afterwards is None:
            self.afterwards = []
        self.afterwards.append(function)


#: The attempt that runs here. It is looked up with every call of a task, by which children know their parents.
running: ContextVar[Run | None] = ContextVar("fastq_running", default=None)


class CurrentTask:
    """What the task that runs here may know of itself. Raises TaskError outside of a task."""

    @property
    def id(self) -> str:
        """The task's id."""
        return self._message().uuid

    @property
    def name(self) -> str:
        """The task's name."""
        return self._message().task

    @property
    def queue(self) -> str:
        """The queue that the message came through."""
        return self._message().queue

    @property
    def attempt(self) -> int:
        """Which try this is, from 1, of those that the task asked for."""
        return self._message().attempt

    @property
    def retries(self) -> int:
        """How often the task was tried before: 0 at the first attempt."""
        return self._message().attempt - 1

    @property
    def is_retry(self) -> bool:
        """Whether the task was tried before."""
        return self._message().attempt > 1

    @property
    def crashes(self) -> int:
        """How often the task was charged with the death of a process that ran it; `max_deliveries` are too many."""
        return self._message().crashes

    @property
    def fence(self) -> int:
        """A number that is higher each time the task is delivered to a worker, and with each attempt.

        A worker that was cut off or asleep may still be writing while another runs the task again. A store of your own
        that keeps the highest fence it has seen, and refuses writes with a lower one, is safe from that.
        """
        from .pool import fence_of

        run = self._run()
        return run.message.attempt << 32 | fence_of(run.ticket)

    @property
    def headers(self) -> Mapping[str, Any]:
        """The headers that the caller sent along."""
        return self._message().extras.headers

    @property
    def root_id(self) -> str:
        """The id of the task that began the tree this one belongs to: its own, if no task called it."""
        message = self._message()
        return str(uuid.UUID(bytes=message.extras.root or message.id))

    @property
    def parent_id(self) -> str | None:
        """The id of the task that called this one; None if no task did."""
        parent = self._message().extras.parent
        return str(uuid.UUID(bytes=parent)) if parent else None

    @property
    def deadline(self) -> datetime | None:
        """When the task is broken off, in UTC; None if nothing is known of it.

        That is the end of its `time_limit` or, if it is earlier, that of the time a worker that stops leaves its tasks.
        """
        run = self._run()
        limit_ms = run.message.extras.hard_limit_ms or run.task.options.hard_limit_ms
        limit = run.started_at / 1e6 + limit_ms / 1e3 if limit_ms else None
        ends = [end for end in (limit, run.app.lifecycle.ending.at) if end is not None]
        return datetime.fromtimestamp(min(ends), timezone.utc) if ends else None

    @property
    def stopping(self) -> bool:
        """Whether the worker stops: the task has until `deadline`, and had better begin nothing long.

        It may save what there is and raise `fastq.errors.Interrupted`, and goes back to its queue then, uncharged.
        """
        return self._run().app.lifecycle.ending.near

    @property
    def time_left(self) -> float | None:
        """How many seconds are left until `deadline`; None if there is none."""
        deadline = self.deadline
        return None if deadline is None else deadline.timestamp() - time.time()

    def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Say how far the task is, for `AsyncResult.progress`; cheap, as often as it is said.

        It is written some ten times a second, the last always. Raises NotSupported if the app's systems keep no shared
        state, TypeError and ValueError for what is no progress.
        """
        from .progress import Progress, report

        report(self._run(), Progress(done, total, note))

    @overload
    def step(self, name: str, /) -> Step: ...
    @overload
    def step(
        self, name: str, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R]: ...
    @overload
    def step(self, name: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def step(self, name: str, function: Callable[..., Any] | None = None, /, *args: Any, **kwargs: Any) -> Any:
        """Do a part of the task that another attempt need not do again.

        ``current_task.step("download", fetch, url)`` returns what ``fetch(url)`` returned, in this attempt or in an
        earlier one, as the task's serializer gives it back; of an ``async def`` function it is to be awaited. Without
        a function it returns a `Step` for ``with`` or ``async with``. Each step of a task has a name of its own.

        Raises NotSupported if the app's systems keep no shared state, StateUnavailable, EncodingError for a value that
        can't be carried, ConfigurationError for one over `max_step_bytes`, TaskError for a name that is used twice.
        """
        from .steps import Step, Steps, computed

        run = self._run()
        if run.steps is None:
            run.steps = Steps(run)
        if function is None:
            return Step(run.steps, name)
        return computed(run.steps, name, partial(function, *args, **kwargs))

    def _run(self) -> Run:
        run = running.get()
        if run is None:
            raise TaskError("No task is running here: current_task is for the code of tasks")
        return run

    def _message(self) -> Message:
        return self._run().message


current_task = CurrentTask()


def refuse_in_task(what: str) -> None:
    """Raise WaitRefused if a task runs here."""
    run = running.get()
    if run is not None:
        raise WaitRefused(
            f"Task {run.message.task}[{run.message.uuid}] waits for the {what}. When all children of the workers wait "
            "like this, nobody is left to run what they wait for: let the rest follow from it, in a chain or a chord; "
            "get(allow_in_task=True) waits all the same"
        )
