"""Running one message's task: decode, call, encode. The same in a pool child and in `Task.apply`."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from types import CoroutineType
from typing import TYPE_CHECKING, Any, TypeVar

from .encoder import decode, encode
from .errors import FastQError, ProtocolError, TaskError
from .failure import Failure
from .message import Message, now_us
from .outcome import Outcome, State
from .result import AsyncResult

if TYPE_CHECKING:
    import asyncio

    from .app import FastQ
    from .task import Call, Task

R = TypeVar("R")

_running: ContextVar[Message] = ContextVar("fastq_running")


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
    def headers(self) -> Mapping[str, Any]:
        """The headers that the caller sent along."""
        return self._message().extras.headers

    def _message(self) -> Message:
        try:
            return _running.get()
        except LookupError:
            raise TaskError("No task is running here: current_task is for the code of tasks") from None


current_task = CurrentTask()


def execute(app: FastQ, message: Message) -> Outcome:
    """Run a message's task and return what it came to; whatever the user's code raises is an outcome too."""
    started_at = now_us()
    try:
        task = app.tasks.get(message.task) or app.find_task(message.task)
        args, kwargs = _arguments(app, message)
    except FastQError as error:
        return Outcome.of(message, State.REFUSED, Failure.of(error).encode(), started_at=started_at)
    token = _running.set(message)
    try:
        value = task.function(*args, **kwargs)
        if isinstance(value, CoroutineType):
            value = _awaited(value)
        if message.ignore_result:
            return Outcome.of(message, State.SUCCESS, started_at=started_at)
        serializer = task.options.serializer
        body = encode(value, serializer, task.value_words)
    except BaseException as error:  # noqa: BLE001 - the user's code; SystemExit too ends the task, not the child
        failure = Failure.of(error, frames_to_skip=1).encode()
        return Outcome.of(message, State.FAILURE, failure, started_at=started_at)
    finally:
        _running.reset(token)
    return Outcome.of(message, State.SUCCESS, body, serializer.content_type, started_at)


def run_here(task: Task[..., R], call: Call) -> AsyncResult[R]:
    """Run a call in this process, by way of both frames."""
    message = Message.decode(call.message(task.app.settings).encode())
    outcome = Outcome.decode(execute(task.app, message).encode())
    if outcome.state is State.REFUSED:
        outcome = outcome._replace(state=State.FAILURE)
    return AsyncResult(message.uuid, task.app, ignored=message.ignore_result, outcome=outcome)


def _arguments(app: FastQ, message: Message) -> tuple[Sequence[Any], dict[str, Any]]:
    pair = decode(message.body, message.content_type, app.settings.accept)
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        raise ProtocolError("The body is not a pair of arguments and keyword arguments")
    args, kwargs = pair
    if not isinstance(args, (list, tuple)) or not isinstance(kwargs, dict):
        raise ProtocolError("The body is not a list of arguments and a mapping of keyword arguments")
    if kwargs and not all(isinstance(key, str) for key in kwargs):
        raise ProtocolError("The name of a keyword argument is not text")
    return args, kwargs


_local = threading.local()


def _awaited(coroutine: CoroutineType[Any, Any, Any]) -> Any:
    loop = _event_loop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        coroutine.close()  # for `apply` within a running loop, where it was not begun
        if not loop.is_running():
            _cancel_what_is_left(loop)


def _cancel_what_is_left(loop: asyncio.AbstractEventLoop) -> None:
    """End what a task left running, as `asyncio.run` does: it is not to go on within another task."""
    import asyncio

    left = asyncio.all_tasks(loop)
    for each in left:
        each.cancel()
    if left:
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))


def _event_loop() -> asyncio.AbstractEventLoop:
    """Return this thread's loop for ``async def`` tasks; it lives as long as the thread."""
    loop: asyncio.AbstractEventLoop | None = getattr(_local, "loop", None)
    if loop is None:
        import asyncio

        loop = _local.loop = asyncio.new_event_loop()
    return loop
