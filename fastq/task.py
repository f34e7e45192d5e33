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


_JSON = serializer_named("json", ("json",))
_ENVELOPE_BYTES = 1_200  # what a message has, at most, besides its body and headers
_FAR_S = 1e10  # three hundred years; a countdown beyond is a time stamp in the wrong place


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
        texts: dict[str, object] = {"name": name, "queue": queue, "serializer": serializer}
        for what, text in texts.items():
            if text is not None and not isinstance(text, str):
                raise ConfigurationError(f"{what} is {text!r:.60}; it takes text")
        try:
            if name is not None:
                check_task(name)
            check_queue(settings.default_queue if queue is None else queue)
        except ProtocolError as error:
            raise ConfigurationError(str(error)) from error
        if type(priority) is not int or not 0 <= priority <= 9:
            raise ConfigurationError(f"priority is {priority!r}; it takes 0 to 9, and 9 goes first")
        if ack not in (None, "late", "early"):
            raise ConfigurationError(f"ack is {ack!r}; it takes 'late' or 'early'")
        for kind in throws:
            register_exception(kind)
        return cls(
            name,
            settings.default_queue if queue is None else queue,
            priority,
            ack or settings.ack,
            serializer_named(settings.serializer if serializer is None else serializer, settings.accept),
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
        """Return the message. Raises EncodingError, ConfigurationError, and TypeError for headers that are none."""
        options = self.options
        body = encode([self.args, self.kwargs], options.serializer, f"The call of {self.task}", ("args", "kwargs"))
        headers = _headers(self.headers)
        size = len(body) + _ENVELOPE_BYTES
        if headers:
            size += len(encode(headers, _JSON, f"The headers of the call of {self.task}"))
        if size > settings.max_message_bytes:
            raise ConfigurationError(
                f"The call of {self.task} has {size} bytes; max_message_bytes is {settings.max_message_bytes}"
            )
        now = now_us()
        return Message(
            id=_speedups.new_id() if self.task_id is None else _id_of(self.task_id),
            task=self.task,
            queue=options.queue,
            body=body,
            content_type=options.serializer.content_type,
            priority=options.priority,
            enqueued_at=now,
            eta=self._eta(now),
            expires=_moment("expires", self.expires, now),
            ignore_result=options.ignore_result,
            extras=Extras(group=group, headers=headers) if group or headers else NO_EXTRAS,
        )

    def _eta(self, now: int) -> int:
        if self.countdown is not None and self.eta is not None:
            raise ConfigurationError("countdown and eta say the same thing: give one of them")
        if self.eta is None:
            return _moment("countdown", self.countdown, now)
        if not isinstance(self.eta, datetime):
            raise ConfigurationError(f"eta is {self.eta!r}; it takes a datetime, and countdown takes seconds")
        return _moment("eta", self.eta, now)


class Task(Generic[P, R]):
    """A task of an app. Made by ``@app.task`` and ``@fastq.task``; called, it is the function itself."""

    def __init__(self, app: FastQ, function: Callable[..., Any], name: str, options: TaskOptions) -> None:
        functools.update_wrapper(self, function)  # first: the function may have an attribute `name`
        self.app = app
        self.name = name
        self.value_words = f"The return value of {name}"  # for error messages
        self.options = options
        self.function = function
        self._signature = inspect.signature(function)
        self._positional = _plain_arity(self._signature)

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
        args, kwargs = self._checked(args, kwargs)
        options = self.options
        if any(given is not None for given in (queue, priority, serializer, ignore_result)):
            options = TaskOptions.of(
                self.app.settings,
                queue=options.queue if queue is None else queue,
                priority=options.priority if priority is None else priority,
                serializer=options.serializer.name if serializer is None else serializer,
                ignore_result=options.ignore_result if ignore_result is None else ignore_result,
            )
        call = Call(self.name, args, kwargs, options, countdown, eta, expires, task_id, headers)
        return self.app._send(call)  # noqa: SLF001 - the app and its tasks are one

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
        code = getattr(self.function, "__code__", None)
        return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(self.function)

    def stands_where(self, function: Callable[..., Any]) -> bool:
        """Return whether another function is this one, imported again, or written anew at a prompt."""
        if function.__module__ == "__main__" and _main_file() is None:
            return True
        mine, other = (getattr(each, "__code__", None) for each in (self.function, function))
        if mine is None or other is None:
            return self.function is function
        return (mine.co_filename, mine.co_firstlineno) == (other.co_filename, other.co_firstlineno)

    def _call(self, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> Call:
        """Return a call with the task's own options."""
        return Call(self.name, *self._checked(args, kwargs), self.options)

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
        coroutine: Coroutine[Any, Any, R] = self.function(*args, **kwargs)
        return coroutine


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


def checked_arguments(args: object, kwargs: object) -> tuple[list[Any] | tuple[Any, ...], dict[str, Any]]:
    """Return arguments in the types that serializers take.

    Raises TypeError for what nobody means, such as ``apply_async("text")``.
    """
    if not isinstance(args, (tuple, list)):
        if isinstance(args, (str, bytes)) or not isinstance(args, Sequence):
            raise TypeError(f"args is of type {type(args).__name__}; it takes a tuple or list of positional arguments")
        args = list(args)
    if kwargs is None:
        return args, {}
    if not isinstance(kwargs, Mapping) or not all(isinstance(key, str) for key in kwargs):
        raise TypeError(f"kwargs is {kwargs!r:.60}; it takes a mapping of names to keyword arguments")
    return args, dict(kwargs)


def _headers(headers: object) -> dict[str, Any]:
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers is {headers!r:.60}; it takes a mapping of names to JSON values")
    return dict(headers)


def _id_of(task_id: str) -> bytes:
    try:
        return uuid.UUID(task_id).bytes
    except (ValueError, TypeError, AttributeError):
        raise ConfigurationError(f"task_id is {task_id!r:.60}; it takes a UUID, such as str(uuid.uuid4())") from None


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
    elif type(when) in (int, float) and 0 <= when < _FAR_S:
        moment = now + round(when * 1e6)
    else:
        raise ConfigurationError(f"{what} is {when!r}; it takes seconds from now, 0 or more")
    if moment <= 0:
        raise ConfigurationError(f"{what} is {when!r}, before 1970")
    return moment
