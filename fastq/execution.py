"""Running one message's task: decode, call, encode. The same in a pool child and in `Task.apply`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import copy_context
from types import CoroutineType
from typing import TYPE_CHECKING, Any, TypeVar

from . import _speedups
from .current import Run, current_task, running
from .encoder import decode, encode
from .errors import FastQError, Interrupted, MaxRetriesExceeded, ProtocolError, Retry, UpstreamFailed
from .failure import Failure
from .message import CONTENT_CODES, CONTENT_TYPES, IGNORE_RESULT, JSON, NO_EXTRAS, Message, next_attempt, now_us
from .options import due_us
from .outcome import Outcome, State
from .result import AsyncResult

if TYPE_CHECKING:
    import asyncio

    from ._speedups import CallGlance
    from .app import FastQ
    from .call import Call
    from .options import CallOptions
    from .settings import Settings
    from .task import Task

R = TypeVar("R")

logger = logging.getLogger("fastq.task")


#: Calls a function with arguments, and raises SoftTimeLimitExceeded in it after so many seconds (0: never) and, if it
#: is interruptible, Interrupted when the worker stops.
Limiter = Callable[[float, bool, Callable[..., Any], Sequence[Any], Mapping[str, Any]], Any]


def execute(app: FastQ, message: Message, limiter: Limiter | None = None, ticket: int = 0) -> Outcome:
    """Run a message's task and return what it came to; whatever the user's code raises is an outcome too.

    Soft time limits hold, and tasks are interrupted, where there is a limiter. `ticket` is the pool's, if the message
    came through one.
    """
    started_at = now_us()
    try:
        task = app.tasks.get(message.task) or app.find_task(message.task)
        args, kwargs = _arguments(app, message)
    except FastQError as error:
        return _unrun(message, error, started_at)
    run = Run(app, task, message, started_at, ticket)
    token = running.set(run)
    try:
        try:
            if task.hooks is not None:
                task.hooks.before(run, args, kwargs)
            function = function_of(task, message)
            soft_ms = message.extras.soft_limit_ms or task.options.soft_limit_ms
            if limiter is not None and (soft_ms or task.options.interruptible):
                value = limiter(soft_ms / 1000, task.options.interruptible, function, args, kwargs)
                if isinstance(value, CoroutineType):
                    value = _awaited(_limited(run, value, soft_ms))
            else:
                value = function(*args, **kwargs)
                if isinstance(value, CoroutineType):
                    value = _awaited(value)
            outcome = returned(run, value)
        except BaseException as error:  # noqa: BLE001 - the user's code; SystemExit too ends the task, not the child
            outcome = raised(run, error)
        if run.afterwards is not None:
            finish(run, outcome)
        return outcome
    finally:
        running.reset(token)


def answer(app: FastQ, task: Task[..., Any], frame: bytes, glance: CallGlance, ticket: int = 0) -> bytes | Outcome:
    """Do as `execute` for the call in a frame, whose task is plain; return the frame of its success, or the outcome.

    The short way, for tasks that ask for nothing special: the call is not taken apart, and its answer is made of it.
    """
    started_at = now_us()
    _, content, flags, body = glance
    run = Run(app, task, frame, started_at, ticket)
    try:
        args, kwargs = _pair(body, CONTENT_TYPES.get(content, ""), app.settings)
    except FastQError:
        return execute(app, run.message)
    token = running.set(run)
    try:
        try:
            value = task.run(*args, **kwargs)
            if isinstance(value, CoroutineType):
                value = _awaited(value)
            serializer = task.options.serializer
            result = b""
            if not flags & IGNORE_RESULT:
                result = encode(
                    value, serializer, task.value_words, (), app.settings.max_depth, task.options.secret
                )  # fmt: skip
            if run.afterwards is None:
                code = CONTENT_CODES[serializer.content_type if result else JSON]
                return _speedups.pack_answer(frame, State.SUCCESS.code, code, result, started_at, now_us())
            outcome = returned(run, value)
        except BaseException as error:  # noqa: BLE001 - as in `execute`
            outcome = raised(run, error)
        if run.afterwards is not None:
            finish(run, outcome)
        return outcome
    finally:
        running.reset(token)


async def execute_async(app: FastQ, message: Message, ticket: int = 0) -> Outcome:
    """As `execute`, for an ``async def`` task on the loop that runs here; soft time limits hold."""
    started_at = now_us()
    try:
        task = app.tasks.get(message.task) or app.find_task(message.task)
        if message.extras.given or message.extras.failed:  # they are asked for, which takes time
            args, kwargs = await _in_thread(_arguments, app, message)
        else:
            args, kwargs = _arguments(app, message)
    except FastQError as error:
        return _unrun(message, error, started_at)
    run = Run(app, task, message, started_at, ticket)
    token = running.set(run)
    try:
        try:
            if task.hooks is not None:
                task.hooks.before(run, args, kwargs)
            soft_ms = message.extras.soft_limit_ms or task.options.soft_limit_ms
            coroutine = function_of(task, message)(*args, **kwargs)
            if soft_ms or task.options.interruptible:
                coroutine = _limited(run, coroutine, soft_ms)
            outcome = returned(run, await coroutine)
        except BaseException as error:  # noqa: BLE001 - the user's code, and what ends it from outside
            outcome = raised(run, error)
        if run.blocks:
            await _in_thread(copy_context().run, finish, run, outcome)
        elif run.afterwards is not None:
            finish(run, outcome)
        return outcome
    finally:
        running.reset(token)


def _unrun(message: Message, error: FastQError, started_at: int) -> Outcome:
    """Return the end of a call that can't be run, and why: its value is gone that it needs, or it is a dead letter."""
    state = State.FAILURE if isinstance(error, UpstreamFailed) else State.REFUSED
    return Outcome.of(message, state, Failure.of(error).encode(), started_at=started_at)


async def _in_thread(function: Callable[..., R], *args: Any) -> R:
    import asyncio

    return await asyncio.get_running_loop().run_in_executor(None, function, *args)


def _limited(run: Run, coroutine: Coroutine[Any, Any, Any], soft_ms: int) -> Coroutine[Any, Any, Any]:
    from .soft_limit import limited  # needs asyncio, which not everyone does

    ending = run.app.lifecycle.ending if run.task.options.interruptible else None
    return limited(coroutine, soft_ms / 1000, ending)


def function_of(task: Task[..., Any], message: Message) -> Callable[..., Any]:
    """Return what runs for a message: the task's function, or what calls it for each of a list of arguments."""
    if not message.extras.each:
        return task.run
    from .canvas.values import each_of

    return each_of(task)


def returned(run: Run, value: Any) -> Outcome:
    """Return what a run came to that returned a value. Raises EncodingError for one that can't be carried."""
    run.value = value
    if run.message.ignore_result:
        return Outcome.of(run.message, State.SUCCESS, started_at=run.started_at)
    options = run.task.options
    serializer = options.serializer
    body = encode(value, serializer, run.task.value_words, (), run.app.settings.max_depth, options.secret)
    return Outcome.of(run.message, State.SUCCESS, body, serializer.content_type, run.started_at)


def retry_of(
    task: Task[..., Any], error: BaseException | None, when: CallOptions, max_retries: int | None
) -> BaseException:
    """Return what ends the attempt that runs here: Retry, or why there is no other."""
    message = current_task._message()  # noqa: SLF001 - ours
    policy = task.options.retries
    if not policy.allows(message.attempt, max_retries):
        return error or MaxRetriesExceeded(f"Task {message.task}[{message.uuid}] was tried {message.attempt} times")
    if when.get("countdown") is None and when.get("eta") is None:
        when = {"countdown": policy.delay_after(message.attempt)}
    retry = Retry(f"attempt {message.attempt} asks for another", due_us(when, now_us()))
    retry.__cause__ = error
    return retry


def raised(run: Run, error: BaseException) -> Outcome:
    """Return what a run came to that ended with an exception: a failure, or another try."""
    policy = run.task.options.retries
    due = 0
    if isinstance(error, Retry):
        due = error.due
        error = error.__cause__ or error
        state = State.RETRY
    elif isinstance(error, Interrupted) and run.app.lifecycle.ending.near:
        state = State.INTERRUPTED
    elif policy.retries_on(error) and policy.allows(run.message.attempt):
        due = now_us() + round(policy.delay_after(run.message.attempt) * 1e6)
        state = State.RETRY
    else:
        state = State.FAILURE
    run.error = error
    body = Failure.of(error, frames_to_skip=1).encode()
    return Outcome.of(run.message, state, body, started_at=run.started_at)._replace(due=due)


def finish(run: Run, outcome: Outcome) -> None:
    """Call what is to be called after a run; what it raises is logged, and changes nothing."""
    for function in run.afterwards or ():
        try:
            function(outcome)
        except BaseException:  # the user's code; SystemExit too must not cost the outcome
            logger.exception("Task %s[%s] has ended, but what follows failed", run.message.task, run.message.uuid)


def run_here(task: Task[..., R], call: Call) -> AsyncResult[R]:
    """Run a call in this process, by way of both frames, and as often as it asks for; it does not wait in between."""
    settings = task.app.settings
    packing = settings.packing
    message = Message.decode(packing.packed(call.message(settings)).encode())
    while True:
        outcome = execute(task.app, message)
        if outcome.state is State.INTERRUPTED:  # it is for the task that runs this one
            raise Interrupted("The worker stops")
        outcome = Outcome.decode(packing.packed_outcome(outcome).encode())
        if outcome.state is not State.RETRY:
            break
        message = next_attempt(message, 0)
    if outcome.state is State.REFUSED:
        outcome = outcome._replace(state=State.FAILURE)
    return AsyncResult(message.uuid, task.app, ignored=message.ignore_result, outcome=outcome)


def _arguments(app: FastQ, message: Message) -> tuple[Sequence[Any], dict[str, Any]]:
    plain = app.settings.packing.plain(message)
    args, kwargs = _pair(plain.body, plain.content_type, app.settings)
    if message.extras is not NO_EXTRAS and (message.extras.given or message.extras.failed):
        from .canvas.values import given_to

        args = (given_to(app, message), *args)
    return args, kwargs


def _pair(body: bytes, content_type: str, settings: Settings) -> tuple[Sequence[Any], dict[str, Any]]:
    """Return what a body says. Raises EncodingError, ProtocolError."""
    pair = decode(body, content_type, settings.accept, settings.max_depth)
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        raise ProtocolError("The body is not a pair of arguments and keyword arguments")
    args, kwargs = pair
    if not isinstance(args, (list, tuple)) or not isinstance(kwargs, dict):
        raise ProtocolError("The body is not a list of arguments and a mapping of keyword arguments")
    if kwargs and not all(isinstance(key, str) for key in kwargs):
        raise ProtocolError("The name of a keyword argument is not text")
    return args, kwargs


_local = threading.local()


def _awaited(coroutine: Coroutine[Any, Any, Any]) -> Any:
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


def close_event_loop() -> None:
    """Close this thread's loop for ``async def`` tasks, if it has one; for threads that end before their process."""
    loop: asyncio.AbstractEventLoop | None = _local.__dict__.pop("loop", None)
    if loop is not None:
        loop.close()
