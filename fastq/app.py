"""FastQ: an app, which is a name, its settings and its tasks, and the connections that they need."""

from __future__ import annotations

import inspect
import threading
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from .backend import Backend
from .backends import open_backend
from .broker import Broker
from .brokers import open_broker
from .errors import ConfigurationError, UnknownTask
from .result import AsyncResult
from .settings import Settings
from .task import AsyncTask, Call, Task, TaskOptions, checked_arguments, name_of

P = ParamSpec("P")
R = TypeVar("R")


class TaskDecorator(Protocol):
    """What ``@app.task(...)`` gives."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class FastQ:
    """An app. Making one opens nothing; the broker and the backend are opened when they are first needed.

    `name` is for people; `broker` and `backend` are URLs, and the backend's default is the broker's.
    Further arguments are settings (`fastq.settings.Settings`). Raises ConfigurationError.
    """

    def __init__(
        self, name: str = "fastq", *, broker: str | None = None, backend: str | None = None, **settings: Any
    ) -> None:
        given = {"broker": broker, "backend": backend}
        settings.update((key, url) for key, url in given.items() if url is not None)
        self.name = name
        self.settings = Settings.load(settings)
        self.tasks: dict[str, Task[..., Any]] = {}
        self._broker: Broker | None = None
        self._backend: Backend | None = None
        self._opening = threading.Lock()

    def __repr__(self) -> str:
        return f"<FastQ {self.name!r} with {len(self.tasks)} tasks>"

    # -- declaring tasks --------------------------------------------------------------------

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(
        self,
        *,
        name: str | None = None,
        queue: str | None = None,
        priority: int = 0,
        ack: str | None = None,
        serializer: str | None = None,
        ignore_result: bool | None = None,
        throws: Sequence[type[BaseException]] = (),
    ) -> TaskDecorator: ...
    def task(self, function: Callable[..., Any] | None = None, **options: Any) -> Any:
        """Make a function a task of this app; it stays callable as it was.

        `name` is by default the function's module and name. `queue`, `serializer`, `ack` ("late": at least
        once, "early": at most once) and `ignore_result` are by default the app's. `priority` is 0 to 9, and 9
        goes first. `throws` names the exception types that callers get back as themselves.
        Raises ConfigurationError for what can't be, TypeError for an option that there isn't.
        """
        chosen = TaskOptions.of(self.settings, **options)

        def declare(function: Callable[..., Any]) -> Task[..., Any]:
            name = chosen.name or name_of(function)
            kind = AsyncTask if inspect.iscoroutinefunction(function) else Task
            task: Task[..., Any] = kind(self, function, name, chosen)
            present = self.tasks.get(task.name)
            if present is not None and not present.stands_where(function):
                raise ConfigurationError(f"Two functions are the task {task.name!r}: {present.place} and {task.place}")
            self.tasks[task.name] = task
            return task

        return declare if function is None else declare(function)

    # -- calling them ------------------------------------------------------------------------

    def send_task(
        self,
        name: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        queue: str | None = None,
        priority: int = 0,
        countdown: float | None = None,
        eta: datetime | None = None,
        expires: float | datetime | None = None,
        task_id: str | None = None,
        headers: Mapping[str, Any] | None = None,
        ignore_result: bool | None = None,
    ) -> AsyncResult[Any]:
        """Call a task by its name, which need not be declared here; see `Task.apply_async`."""
        options = TaskOptions.of(self.settings, name=name, queue=queue, priority=priority, ignore_result=ignore_result)
        call = Call(name, *checked_arguments(args, kwargs), options, countdown, eta, expires, task_id, headers)
        return self._send(call)

    def _send(self, call: Call) -> AsyncResult[Any]:
        message = call.message(self.settings)
        self.broker.publish([message])
        return AsyncResult(message.uuid, self, ignored=message.ignore_result)

    def result(self, id: str) -> AsyncResult[Any]:
        """Return the handle on a task's result. Raises ValueError if `id` is no UUID."""
        return AsyncResult(str(uuid.UUID(id)), self)

    def find_task(self, name: str) -> Task[..., Any]:
        """Return a task of this app by name. Raises UnknownTask."""
        try:
            return self.tasks[name]
        except KeyError:
            raise UnknownTask(f"The app {self.name!r} has no task {name!r}") from None

    # -- connections -------------------------------------------------------------------------

    @property
    def broker(self) -> Broker:
        """The broker's client, opened at first use. Raises UnknownScheme, MissingExtra, BrokerUnavailable."""
        if self._broker is None:
            with self._opening:
                if self._broker is None:
                    self._broker = open_broker(self.settings.broker)
        return self._broker

    @property
    def backend(self) -> Backend:
        """The backend's client, opened at first use. Raises UnknownScheme, MissingExtra, BackendUnavailable."""
        if self._backend is None:
            with self._opening:
                if self._backend is None:
                    self._backend = open_backend(self.settings.backend_url, expires_s=self.settings.result_expires_s)
        return self._backend

    def close(self) -> None:
        """Close what was opened; the next use opens it again."""
        with self._opening:
            for client in (self._broker, self._backend):
                if client is not None:
                    client.close()
            self._broker = self._backend = None

    def __enter__(self) -> FastQ:  # noqa: PYI034 - Self is in typing from Python 3.11 on
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_default: FastQ | None = None
_making_default = threading.Lock()


def default_app() -> FastQ:
    """Return the app that `fastq.task` declares tasks in; its settings come from environment and file."""
    global _default
    with _making_default:
        if _default is None:
            _default = FastQ("default")
        return _default


def has_default_app() -> bool:
    """Return whether anything was declared in the default app."""
    return _default is not None and bool(_default.tasks)


@overload
def task(function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
@overload
def task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(
    *,
    name: str | None = None,
    queue: str | None = None,
    priority: int = 0,
    ack: str | None = None,
    serializer: str | None = None,
    ignore_result: bool | None = None,
    throws: Sequence[type[BaseException]] = (),
) -> TaskDecorator: ...
def task(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Make a function a task of the default app; see `FastQ.task`."""
    app = default_app()
    return app.task(**options) if function is None else app.task(function)
