"""Task: a function that can also be called elsewhere, later, or in parallel."""

from __future__ import annotations

import functools
import inspect
import sys
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, ParamSpec, TypeVar

from . import _speedups
from .encoder import Serializer, encode, serializer_named
from .errors import ConfigurationError, ProtocolError
from .failure import register_exception
from .message import NO_EXTRAS, Extras, Message, check_queue, check_task, now_us, time_us
from .result import AsyncResult
from .settings import Settings

if TYPE_CHECKING:
    from .app import FastQ
    from .canvas import Signature

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class TaskOptions:
    """How the calls of a task are made and run, checked and with the app's defaults filled in."""

    name: str | None
    queue: str
    priority: int
    ack: str
    serializer: Serializer
    ignore_result: bool

    @classmethod
    def of(
        cls,
        settings: Settings,
        *,
        name: str | None = None,
        queue: str | None = None,
        priority: int = 0,
        ack: str | None = None,
        serializer: str | None = None,
        ignore_result: bool | None = None,
        throws: Sequence[type[BaseException]] = (),
    ) -> TaskOptions:
        """Check options. Raises ConfigurationError, UnknownSerializer, SerializerRefused."""
        for kind in throws:
            register_exception(kind)
        try:
            if name is not None:
                check_task(name)
            check_queue(queue or settings.default_queue)
        except ProtocolError as error:
            raise ConfigurationError(str(error)) from error
        if not 0 <= priority <= 9:
            raise ConfigurationError(f"priority is {priority!r}; it takes 0 to 9, and 9 goes first")
        if ack not in (None, "late", "early"):
            raise ConfigurationError(f"ack is {ack!r}; it takes 'late' or 'early'")
        return cls(
            name,
            queue or settings.default_queue,
            priority,
            ack or settings.ack,
            serializer_named(serializer or settings.serializer, settings.accept),
            settings.ignore_result if ignore_result is None else ignore_result,
        )


class Call(NamedTuple):
    """A call that is about to become a message."""

    task: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    options: TaskOptions
    countdown: float | None = None
    eta: datetime | None = None
    expires: float | datetime | None = None
    task_id: str | None = None
    headers: Mapping[str, Any] | None = None

    def message(self, settings: Settings, group: bytes = b"") -> Message:
        """Return the message. Raises EncodingError, ConfigurationError."""
        options = self.options
        body = encode([self.args, self.kwargs], options.serializer, f"The call of {self.task}", ("args", "kwargs"))
        if len(body) > settings.max_message_bytes:
            raise ConfigurationError(
                f"The call of {self.task} has {len(body)} bytes; max_message_bytes is {settings.max_message_bytes}"
            )
        now = now_us()
        return Message(
            id=uuid.UUID(self.task_id).bytes if self.task_id else _speedups.new_id(),
            task=self.task,
            queue=options.queue,
            body=body,
            content_type=options.serializer.content_type,
            priority=options.priority,
            enqueued_at=now,
            eta=self._eta(now),
            expires=_moment("expires", self.expires, now),
            ignore_result=options.ignore_result,
            extras=Extras(group=group, headers=self.headers or {}) if group or self.headers else NO_EXTRAS,
        )

    def _eta(self, now: int) -> int:
        if self.countdown is not None and self.eta is not None:
            raise ConfigurationError("countdown and eta say the same thing: give one of them")
        return _moment("countdown", self.countdown, now) if self.eta is None else _moment("eta", self.eta, now)


class Task(Generic[P, R]):
    """A task of an app. Made by ``@app.task`` and ``@fastq.task``; called, it is the function itself."""

    def __init__(self, app: FastQ, function: Callable[..., Any], name: str, options: TaskOptions) -> None:
        self.app = app
        self.name = name
        self.options = options
        self.function = function
        self._signature = inspect.signature(function)
        self._positional = _plain_arity(self._signature)
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, here and now, as if it were no task."""
        result: R = self.function(*args, **kwargs)
        return result

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Call the task in the background; return when the broker has accepted it.

        Raises TypeError for arguments that the function does not take, EncodingError for those that the
        serializer can't carry, and BrokerError.
        """
        return self.apply_async(args, kwargs)

    def apply_async(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        queue: str | None = None,
        priority: int | None = None,
        countdown: float | None = None,
        eta: datetime | None = None,
        expires: float | datetime | None = None,
        task_id: str | None = None,
        serializer: str | None = None,
        headers: Mapping[str, Any] | None = None,
        ignore_result: bool | None = None,
    ) -> AsyncResult[R]:
        """Call the task in the background, with options for this call.

        It starts not before `countdown` seconds have passed, or not before `eta`; it is not run after
        `expires`, seconds from now or a time. A time without a zone is taken as UTC. `task_id` is a UUID,
        `headers` are JSON values that go with the message. Raises what `delay` raises, and
        ConfigurationError.
        """
        call = self._call(
            args, kwargs, queue, priority, countdown, eta, expires, task_id, serializer, headers, ignore_result
        )  # fmt: skip
        return self.app._send([call])[0]  # noqa: SLF001 - the app and its tasks are one

    def apply(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> AsyncResult[R]:
        """Run the task here and now, through the same encoding, decoding and error handling as in a worker."""
        from .execution import run_here

        return run_here(self, self._call(args, kwargs))

    def s(self, *args: P.args, **kwargs: P.kwargs) -> Signature[R]:
        """Return a call that is not made yet, to be put into a `TaskSet`."""
        from .canvas import Signature

        return Signature(self, args, kwargs)

    @property
    def place(self) -> str:
        """Where the function stands, for people."""
        return f"{self.function.__module__}.{self.function.__qualname__}"

    def stands_where(self, function: Callable[..., Any]) -> bool:
        """Return whether another function is this one, imported again."""
        mine, other = (getattr(each, "__code__", None) for each in (self.function, function))
        return mine is None or other is None or (mine.co_filename, mine.co_name) == (other.co_filename, other.co_name)

    def _call(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None,
        queue: str | None = None,
        priority: int | None = None,
        countdown: float | None = None,
        eta: datetime | None = None,
        expires: float | datetime | None = None,
        task_id: str | None = None,
        serializer: str | None = None,
        headers: Mapping[str, Any] | None = None,
        ignore_result: bool | None = None,
    ) -> Call:
        kwargs = kwargs or {}
        if kwargs or len(args) not in self._positional:
            self._check(args, kwargs)
        options = self.options
        if any(given is not None for given in (queue, priority, serializer, ignore_result)):
            options = TaskOptions.of(
                self.app.settings,
                queue=queue or options.queue,
                priority=options.priority if priority is None else priority,
                serializer=serializer or options.serializer.name,
                ignore_result=options.ignore_result if ignore_result is None else ignore_result,
            )
        return Call(self.name, args, kwargs, options, countdown, eta, expires, task_id, headers)

    def _check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.name}{self._signature}: {error}") from None


class AsyncTask(Task[P, R]):
    """A task made of an ``async def`` function: called, it gives a coroutine; run by a worker, its value."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]
        """Call the function; the coroutine is to be awaited."""
        coroutine: Coroutine[Any, Any, R] = self.function(*args, **kwargs)
        return coroutine


def name_of(function: Callable[..., Any]) -> str:
    """Return a function's task name: the module a worker would import it from, and its own name."""
    module = function.__module__
    if module == "__main__":
        main = sys.modules["__main__"]
        spec = getattr(main, "__spec__", None)
        module = spec.name if spec else Path(str(getattr(main, "__file__", "__main__"))).stem
    return f"{module}.{function.__qualname__}"


def _plain_arity(signature: inspect.Signature) -> range:
    """Return how many positional arguments are right without a further look."""
    parameters = list(signature.parameters.values())
    plain = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if any(p.kind == p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
        return range(0)
    required = sum(p.default is p.empty for p in plain)
    most = 1 << 30 if any(p.kind == p.VAR_POSITIONAL for p in parameters) else len(plain)
    return range(required, most + 1)


def _moment(what: str, when: float | datetime | None, now: int) -> int:
    if when is None:
        return 0
    if isinstance(when, datetime):
        moment = time_us(when)
    elif not 0 <= when < 1e10:
        raise ConfigurationError(f"{what} is {when!r}; it takes seconds from now, 0 or more")
    else:
        moment = now + round(when * 1e6)
    if moment <= 0:
        raise ConfigurationError(f"{what} is {when!r}, before 1970")
    return moment
