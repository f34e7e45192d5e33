"""Task: a function that can also be called elsewhere, later, or in parallel."""

from __future__ import annotations

import functools
import inspect
import itertools
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, TypeVar

from .batch import SIZE
from .call import NO_OPTIONS, Call, checked_arguments
from .errors import ConfigurationError, ProtocolError
from .message import CONTENT_CODES, check_task
from .middleware import Hooks, Middleware, hooks_named
from .options import CallOptions, TaskOptions
from .pool import TaskInfo
from .result import AsyncResult

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .app import FastQ
    from .canvas import Group, Signature, Workflow
    from .current import CurrentTask, Run
    from .failure import Failure
    from .outcome import Outcome, State

P = ParamSpec("P")
R = TypeVar("R")

_STARS = "'***'"
_AFTER = ("on_success", "on_failure", "on_retry", "after_return")


class Task(Generic[P, R]):
    """A task of an app. Made by ``@app.task`` and ``@fastq.task``; called, it is the function itself."""

    def __init__(
        self, app: FastQ, function: Callable[..., Any], name: str, options: TaskOptions, *, bind: bool = False
    ) -> None:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigurationError(f"{name} has yield: a call of it runs nothing of it. Let it return a list instead")
        functools.update_wrapper(self, function)  # first: the function may have an attribute `name`
        self.app = app
        self.name = name
        self.value_words = f"The return value of {name}"  # for error messages
        self.options = options = options.routed(app.settings, name)
        self.function = function
        #: What a worker calls: the function, given the task as its first argument if it is bound.
        self.run: Callable[..., Any] = functools.partial(function, self) if bind else function
        self._signature = _without_first(inspect.signature(function)) if bind else inspect.signature(function)
        options.check(name, self._signature)
        self._positional = _plain_arity(self._signature)
        self._keyed = options.keyed
        #: What is called around the runs of this task; None: nothing.
        self.hooks: Hooks | None = None
        self.use(app.middleware)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, here and now, as if it were no task."""
        result: R = self.run(*args, **kwargs)
        return result

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Call the task in the background; return when the broker has accepted it.

        Raises TypeError for arguments that the function does not take, EncodingError for those that the
        serializer can't carry, and BrokerError.
        """
        return self.app._send(self._call(args, kwargs))  # noqa: SLF001 - the app and its tasks are one

    def apply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, *,
        link: Workflow[Any] | Sequence[Workflow[Any]] = (), link_error: Workflow[Any] | Sequence[Workflow[Any]] = (),
        **options: Unpack[CallOptions],
    ) -> AsyncResult[R]:  # fmt: skip
        """Call the task in the background, with options for this call: see `CallOptions`.

        What is in `link` follows when it has ended well, and is given its value; what is in `link_error` follows when
        it has not, and is given the failure: see `Signature`. Raises what `delay` raises, and ConfigurationError.
        """
        if link or link_error:
            from .canvas import Signature

            return Signature(self, args, kwargs).apply_async(link=link, link_error=link_error, **options)
        return self.app._send(self._call(args, kwargs, options))  # noqa: SLF001 - the app and its tasks are one

    def apply(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> AsyncResult[R]:
        """Run the task here and now, through the same encoding, decoding and error handling as in a worker."""
        from .execution import run_here

        return run_here(self, self._call(args, kwargs))

    def map(self, arguments: Iterable[Any], **options: Unpack[CallOptions]) -> list[AsyncResult[R]]:
        """Call the task in the background once for each argument, a thousand calls at a time.

        The iterable is consumed as the calls are sent. Raises what `apply_async` raises; the thousands before have
        been sent then. The options are those of `apply_async`, but for `task_id`.
        """
        return self.starmap(((argument,) for argument in arguments), **options)

    def starmap(self, arguments: Iterable[Sequence[Any]], **options: Unpack[CallOptions]) -> list[AsyncResult[R]]:
        """Call the task in the background once for each tuple of arguments; else the same as `map`."""
        if options.get("task_id") is not None:
            raise ConfigurationError("task_id names one task, and many are called here")
        left, results = iter(arguments), list[AsyncResult[R]]()
        while chunk := list(itertools.islice(left, SIZE)):
            results += self.app._send_all([self._call(args, None, options) for args in chunk])  # noqa: SLF001
        return results

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Call the task as `delay` does, while the event loop goes on.

        What coroutines of one loop call at the same time is sent together. When this is cancelled, the task may be
        called all the same. It is not collected by `FastQ.batch`.
        """
        return await self.app._asend(self._call(args, kwargs))  # noqa: SLF001 - the app and its tasks are one

    async def aapply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> AsyncResult[R]:
        """Call the task as `apply_async` does, while the event loop goes on; see `adelay`."""
        return await self.app._asend(self._call(args, kwargs, options))  # noqa: SLF001 - the app and its tasks are one

    def s(self, *args: Any, **kwargs: Any) -> Signature[R]:
        """Return a call that is not made yet, to be put into a workflow.

        If it follows something, it is given the value of that before these arguments, which are checked when the
        workflow begins.
        """
        from .canvas import Signature

        return Signature(self, args, kwargs)

    def si(self, *args: P.args, **kwargs: P.kwargs) -> Signature[R]:
        """Return a call that is not made yet, and that takes no value of what it follows: immutable."""
        from .canvas import Signature

        return Signature(self, args, kwargs, immutable=True)

    def each(self, *arguments: Iterable[Sequence[Any]]) -> Signature[list[R]]:
        """Return one call, not made yet, that runs the task once for each of a list of argument lists.

        One child runs them all, one after another, under the time limit of one task; the value is the list of what
        they returned. The first that raises ends it all. Without the list, it is the value of what this follows.
        """
        from .canvas import Signature

        return Signature(self, [[list(each) for each in items] for items in arguments], each=True)

    def chunks(self, arguments: Iterable[Sequence[Any]], size: int) -> Group[list[R]]:
        """Return a group of calls, each of which runs the task for up to `size` argument lists: see `each`.

        Raises ConfigurationError for a size below 1, and for no arguments at all.
        """
        from .canvas import Group

        if type(size) is not int or size < 1:
            raise ConfigurationError(f"The size of chunks is {size!r}; it takes 1 or more")
        left = iter(arguments)
        chunks = [self.each(chunk) for chunk in iter(lambda: list(itertools.islice(left, size)), [])]
        if not chunks:
            raise ConfigurationError(f"{self.name}.chunks takes one list of arguments or more")
        return Group(chunks)

    def retry(
        self,
        exc: BaseException | None = None,
        *,
        countdown: float | None = None,
        eta: datetime | None = None,
        max_retries: int | None = None,
    ) -> NoReturn:
        """End this attempt of the task that runs here, and try it again later.

        `exc` is why, by default the exception that is being handled. The next attempt starts not before `countdown`
        seconds have passed, or `eta`, or else when the task's own options say. Raises Retry, which is to be let
        through; after `max_retries` retries, `exc` itself or MaxRetriesExceeded; outside of a task, TaskError.
        """
        from .execution import retry_of

        raise retry_of(self, exc or sys.exc_info()[1], {"countdown": countdown, "eta": eta}, max_retries)

    # -- for classes of tasks: to be overridden; called in the pool's children ---------------------------------

    def on_child_start(self) -> None:
        """Prepare the process that is going to run this task. If it raises, the child ends, and another is tried."""

    def on_child_stop(self) -> None:
        """Clean up before the process ends in order; what this raises is logged."""

    def before_start(self, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Do something before an attempt; what this raises, the task has raised."""

    def on_success(self, retval: R, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Do something after an attempt that returned a value; what this raises is logged, as below."""

    def on_failure(
        self, exc: BaseException, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any], einfo: Failure
    ) -> None:
        """Do something after an attempt that failed for good; `einfo.traceback` is text."""

    def on_retry(
        self, exc: BaseException, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any], einfo: Failure
    ) -> None:
        """Do something after an attempt that another one follows."""

    def after_return(
        self, status: State, retval: Any, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any],
        einfo: Failure | None,
    ) -> None:  # fmt: skip
        """Do something after any attempt; `retval` is what it returned, or the exception."""

    def use(self, middleware: Sequence[Middleware]) -> None:
        """Find out once what is to be called around the runs of this task."""
        before = list(hooks_named("before_run", middleware))
        after = list(hooks_named("after_run", middleware))
        if type(self).before_start is not Task.before_start:
            before.append(self._before_start)
        if any(getattr(type(self), name) is not getattr(Task, name) for name in _AFTER):
            after.append(self._after)
        self.hooks = Hooks(before, after) if before or after else None

    def _before_start(self, run: Run) -> None:
        self.before_start(run.message.uuid, run.args, run.kwargs)

    def _after(self, run: Run, outcome: Outcome) -> None:
        from .failure import Failure

        id, args, kwargs, error = run.message.uuid, run.args, run.kwargs, run.error
        if error is None:
            self.on_success(run.value, id, args, kwargs)
            self.after_return(outcome.state, run.value, id, args, kwargs, None)
            return
        einfo = Failure.decode(outcome.body)
        ended = self.on_failure if outcome.state.terminal else self.on_retry
        ended(error, id, args, kwargs, einfo)
        self.after_return(outcome.state, error, id, args, kwargs, einfo)

    # -- what it is ------------------------------------------------------------------------------------------

    @property
    def request(self) -> CurrentTask:
        """What the task that runs here may know of itself: the same as `fastq.current_task`."""
        from .current import current_task

        return current_task

    @property
    def is_plain(self) -> bool:
        """Whether its calls ask for nothing that `fastq.execution.answer` does not do."""
        options = self.options
        if self.hooks is not None or options.soft_limit_ms or options.interruptible:
            return False
        return options.serializer.content_type in CONTENT_CODES

    @property
    def info(self) -> TaskInfo:
        """What the parent of a pool needs to know of the task."""
        options = self.options
        return TaskInfo(
            self.name,
            options.ack,
            is_async=inspect.iscoroutinefunction(self.function),
            hard_limit_ms=options.hard_limit_ms,
            limits=tuple(limit._replace(key=f"task:{self.name}") for limit in options.limits),
            limited_by_key=options.limit_by is not None,
            superseded=options.unique is not None and options.unique.latest,
            strict_early=options.strict_early,
        )

    @property
    def place(self) -> str:
        """Where the function stands, for people."""
        code = getattr(self.function, "__code__", None)
        return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(self.function)

    def shown(self, args: Sequence[Any], kwargs: Mapping[str, Any], *, of: str = "", partial: bool = False) -> str:
        """Return a call as people write it, with stars for the arguments that are secret; `of` follows the name.

        Of a `partial` call it is not known what the arguments will be, so that stars stand for all without a name.
        """
        secret = self.options.secret
        if not secret:
            values = [*map(repr, args)]
        elif partial:
            values = [_STARS] * len(args)
        else:
            names = [*self._signature.parameters]
            names += names[-1:] * len(args)  # what goes into *args has the name of that parameter
            values = [_STARS if name in secret else repr(value) for name, value in zip(names, args, strict=False)]
        values += [f"{key}={_STARS if key in secret else repr(value)}" for key, value in kwargs.items()]
        return f"{self.name}{of}({', '.join(values)})"

    def stands_where(self, function: Callable[..., Any]) -> bool:
        """Return whether another function is this one, imported again, or written anew at a prompt."""
        if function.__module__ == "__main__" and _main_file() is None:
            return True
        mine, other = (getattr(each, "__code__", None) for each in (self.function, function))
        if mine is None or other is None:
            return self.function is function
        return (mine.co_filename, mine.co_firstlineno) == (other.co_filename, other.co_firstlineno)

    def _call(self, args: Sequence[Any], kwargs: Mapping[str, Any] | None, given: CallOptions | None = None) -> Call:
        """Return a call that can become a message."""
        args, kwargs = self._checked(args, kwargs)
        limit_key = given.get("limit_key") if given else None
        keys = None
        if self._keyed or limit_key:
            keys = self.options.keys_of(self.name, self._signature, args, kwargs, limit_key)
        if not given:
            return Call(self.name, args, kwargs, self.options, NO_OPTIONS, keys)
        return Call(self.name, args, kwargs, self.options.for_call(self.app.settings, given), given, keys)

    def _checked(
        self, args: Sequence[Any], kwargs: Mapping[str, Any] | None
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        args, kwargs = checked_arguments(args, kwargs)
        if kwargs or len(args) not in self._positional:
            try:
                self._signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{self.name}{self._signature}: {error}") from None
        return args, kwargs


class AsyncTask(Task[P, R]):
    """A task made of an ``async def`` function: called, it gives a coroutine; run by a worker, its value."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]
        """Call the function; the coroutine is to be awaited."""
        coroutine: Coroutine[Any, Any, R] = self.run(*args, **kwargs)
        return coroutine


def kind_of(base: type[Task[..., Any]], *, is_async: bool) -> type[Task[..., Any]]:
    """Return the class of the tasks whose base a user has given. Raises ConfigurationError for what is none."""
    given: object = base
    if not (isinstance(given, type) and issubclass(given, Task)):
        raise ConfigurationError(f"base is {base!r:.60}; it takes a class derived from fastq.Task")
    if not is_async or issubclass(base, AsyncTask):
        return base
    return AsyncTask if base is Task else type(base.__name__, (base, AsyncTask), {"__module__": base.__module__})


def name_of(function: Callable[..., Any]) -> str:
    """Return a function's task name: the module a worker would import it from, and its own name.

    Raises ConfigurationError for what has no name, or none that a task can have.
    """
    if not callable(function):
        raise ConfigurationError(f"{function!r:.300} is not a function; task options are keywords, as in queue='mail'")
    if not hasattr(function, "__qualname__"):
        raise ConfigurationError(f"{function!r:.300} has no name of its own: give it one, name='package.module.name'")
    module = function.__module__
    if module == "__main__":
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        file = _main_file()
        module = spec.name if spec else file.stem if file else module
    try:
        return check_task(f"{module}.{function.__qualname__}")
    except ProtocolError as error:
        raise ConfigurationError(f"{error}: give it one, name='package.module.name'") from error


def _main_file() -> Path | None:
    """Return the script that runs, None at a prompt."""
    file = Path(getattr(sys.modules["__main__"], "__file__", None) or "")
    return file if file.is_file() else None


def _without_first(signature: inspect.Signature) -> inspect.Signature:
    """Return the signature of a bound task for its callers. Raises ConfigurationError if it has no room for itself."""
    first, *others = signature.parameters.values() or [None]
    if first is None or first.kind not in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD):
        raise ConfigurationError("bind=True gives the task as the first argument, and the function takes none")
    return signature.replace(parameters=[each for each in others if each is not None])


def _plain_arity(signature: inspect.Signature) -> range:
    """Return how many positional arguments are right without a further look."""
    parameters = list(signature.parameters.values())
    plain = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if any(p.kind == p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
        return range(0)
    required = sum(p.default is p.empty for p in plain)
    most = 1 << 30 if any(p.kind == p.VAR_POSITIONAL for p in parameters) else len(plain)
    return range(required, most + 1)
