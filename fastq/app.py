"""FastQ: an app, which is a name, its settings and its tasks, and the connections that they need."""

from __future__ import annotations

import inspect
import os
import threading
import uuid
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, overload

from . import failpoints
from .backend import Backend
from .backends import open_backend, pushes
from .batch import SIZE, Batch, collected
from .broker import Broker
from .brokers import open_broker
from .call import Call, checked_arguments
from .errors import ConfigurationError, UnknownTask
from .lifecycle import Lifecycle
from .message import Message
from .middleware import Middleware, Outgoing, checked, hooks_named, prepared, tell
from .options import CallOptions, TaskDeclaration, TaskOptions
from .result import AsyncResult
from .settings import Settings
from .state import SharedState
from .states import open_state
from .task import AsyncTask, Task, kind_of, name_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .awaiting import Awaiter
    from .control import Control
    from .events import EventStream, SentReporter

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[[], Any])


class TaskDecorator(Protocol):
    """What ``@app.task(...)`` gives."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class BoundTaskDecorator(Protocol):
    """What ``@app.task(bind=True, ...)`` gives: the function's first argument is the task itself."""

    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> Task[P, R]: ...


class FastQ:
    """An app. Making one opens nothing; the broker and the backend are opened when they are first needed.

    `name` is for people; `broker` and `backend` are URLs, and the backend's default is the broker's.
    `middleware` is called around publishing and running, see `fastq.middleware`; `task_class` is what tasks are made
    of. Further arguments are settings (`fastq.settings.Settings`). Raises ConfigurationError.
    """

    def __init__(
        self, name: str = "fastq", *, broker: str | None = None, backend: str | None = None,
        middleware: Iterable[Middleware] = (), task_class: type[Task[..., Any]] = Task, **settings: Any,
    ) -> None:  # fmt: skip
        given = {"broker": broker, "backend": backend}
        settings.update((key, url) for key, url in given.items() if url is not None)
        self.name = name
        self.settings = Settings.load(settings)
        self.tasks: dict[str, Task[..., Any]] = {}
        self.middleware: tuple[Middleware, ...] = ()
        self.lifecycle = Lifecycle(self)
        self._before_publish: tuple[Callable[[Outgoing], None], ...] = ()
        self._after_publish: tuple[Callable[[Sequence[Message]], None], ...] = ()
        self._task_class = task_class
        self._broker: Broker | None = None
        self._backend: Backend | None = None
        self._state: SharedState | None = None
        self._awaiting: Awaiter | None = None
        self._reporter: SentReporter | None = None
        self._opening = threading.Lock()
        self.add_middleware(*middleware)

    def __repr__(self) -> str:
        return f"<FastQ {self.name!r} with {len(self.tasks)} tasks>"

    # -- declaring tasks --------------------------------------------------------------------

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(
        self, *, bind: Literal[True], base: type[Task[..., Any]] | None = None, **options: Unpack[TaskDeclaration]
    ) -> BoundTaskDecorator: ...
    @overload
    def task(
        self, *, bind: Literal[False] = False, base: type[Task[..., Any]] | None = None,
        **options: Unpack[TaskDeclaration],
    ) -> TaskDecorator: ...  # fmt: skip
    def task(
        self, function: Callable[..., Any] | None = None, *, bind: bool = False, base: Any = None, **options: Any
    ) -> Any:
        """Make a function a task of this app; it stays callable as it was.

        The options are those of `TaskDeclaration`. With `bind`, the function is given its task as the first argument.
        `base` is a class derived from `Task`, in place of the app's `task_class`. Raises ConfigurationError for what
        can't be, TypeError for an option that there isn't.
        """
        chosen = TaskOptions.of(self.settings, **options)
        base = self._task_class if base is None else base

        def declare(function: Callable[..., Any]) -> Task[..., Any]:
            name = chosen.name or name_of(function)
            kind = kind_of(base, is_async=inspect.iscoroutinefunction(function))
            task: Task[..., Any] = kind(self, function, name, chosen, bind=bind)
            present = self.tasks.get(task.name)
            if present is not None and not present.stands_where(function):
                raise ConfigurationError(f"Two functions are the task {task.name!r}: {present.place} and {task.place}")
            self.tasks[task.name] = task
            return task

        return declare if function is None else declare(function)

    def add_middleware(self, *middleware: Middleware) -> None:
        """Have middleware called around publishing and running. Raises ConfigurationError for what is none."""
        self.middleware += checked(middleware)
        self._before_publish = hooks_named("before_publish", self.middleware)
        self._after_publish = hooks_named("after_publish", reversed(self.middleware))
        for task in self.tasks.values():
            task.use(self.middleware)

    # -- what is done when processes begin and end -------------------------------------------

    def on_worker_start(self, function: F) -> F:
        """Call a function once in a worker, before children are forked, which share what it leaves in memory.

        It must not leave threads or connections behind. If it raises, the worker does not start. A decorator.
        """
        self.lifecycle.worker_start.append(function)
        return function

    def on_child_start(self, function: F) -> F:
        """Call a function in each process that runs tasks, before the first of them: to open connections, say.

        If it raises, the child ends, which is logged, and another is tried, after a pause that grows. A decorator.
        """
        self.lifecycle.child_start.append(function)
        return function

    def on_child_stop(self, function: F) -> F:
        """Call a function in each process that ran tasks, when it ends in order; errors are logged. A decorator."""
        self.lifecycle.child_stop.append(function)
        return function

    # -- calling them ------------------------------------------------------------------------

    def send_task(
        self, name: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[Any]:  # fmt: skip
        """Call a task by its name, which need not be declared here; see `Task.apply_async`."""
        chosen = TaskOptions.of(self.settings, name=name).routed(self.settings, name).for_call(self.settings, options)
        return self._send(Call(name, *checked_arguments(args, kwargs), chosen, options))

    def batch(self, size: int = SIZE) -> Batch:
        """Collect the calls that are made within ``with app.batch():``, and send up to `size` of them at once.

        Raises what `Task.delay` raises, at the end or in a call that fills a batch; see `Batch`.
        """
        return Batch(self, size)

    def _send(self, call: Call) -> AsyncResult[Any]:
        message = call.message(self.settings, reply_to=self._reply_to)
        if message.extras.unique:
            return self._send_unique(call, message)
        return AsyncResult.of(message, self, self._publish([message]))

    def _send_unique(self, call: Call, message: Message) -> AsyncResult[Any]:
        """Send a call unless there is one like it; batches are not waited for."""
        from .unique import lock_and_send

        options, settings = call.options, self.settings
        assert options.unique is not None
        (message,) = self._prepared([message])
        other = lock_and_send(
            message, options.unique, self.state, settings.result_expires_s, lambda: self._publish_now([message])
        )
        return AsyncResult.of(message, self) if other is None else AsyncResult(str(uuid.UUID(bytes=other)), self)

    def _send_all(self, calls: Sequence[Call]) -> list[AsyncResult[Any]]:
        if calls and calls[0].options.unique is not None:
            return [self._send(call) for call in calls]
        settings, reply_to = self.settings, self._reply_to
        messages = [call.message(settings, reply_to=reply_to) for call in calls]
        batch = self._publish(messages)
        return [AsyncResult.of(message, self, batch) for message in messages]

    async def _asend(self, call: Call) -> AsyncResult[Any]:
        if call.options.unique is not None:
            import asyncio

            return await asyncio.to_thread(self._send, call)
        message = call.message(self.settings, reply_to=self._reply_to)
        if self._before_publish:
            (message,) = self._prepared([message])
        await self._awaiter.publish(message)
        return AsyncResult.of(message, self)

    def _publish(self, messages: Sequence[Message]) -> Batch | None:
        """Send messages, or leave them to the batch that is open here, and return it."""
        if self._before_publish:
            messages = self._prepared(messages)
        batch = collected(self, messages)
        if batch is None:
            self._publish_now(messages)
        return batch

    def _prepared(self, messages: Sequence[Message]) -> list[Message]:
        """Return messages as middleware wants them to be sent."""
        return [prepared(message, self._before_publish) for message in messages]

    def _publish_now(self, messages: Sequence[Message]) -> None:
        if failpoints.on:
            failpoints.hit("P0")
        self.broker.publish(messages)
        if failpoints.on:
            failpoints.hit("P2")
        if self._after_publish:
            tell(messages, self._after_publish)
        if self.settings.events:
            self._sent_reporter.sent(messages)

    def result(self, id: str) -> AsyncResult[Any]:
        """Return the handle on a task's result. Raises ValueError if `id` is no UUID."""
        return AsyncResult(id, self)

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
                    self._broker = open_broker(self.settings.broker, self.settings.envelope)
        return self._broker

    @property
    def backend(self) -> Backend:
        """The backend's client, opened at first use. Raises UnknownScheme, MissingExtra, BackendUnavailable."""
        if self._backend is None:
            with self._opening:
                if self._backend is None:
                    self._backend = open_backend(self.settings.backend_url, expires_s=self.settings.result_expires_s)
        return self._backend

    @property
    def _awaiter(self) -> Awaiter:
        """What does for coroutines that which would block them."""
        from .awaiting import Awaiter

        with self._opening:
            if self._awaiting is None or self._awaiting.pid != os.getpid():
                self._awaiting = Awaiter(self)
            return self._awaiting

    @property
    def state(self) -> SharedState:
        """The shared state's client, opened at first use. Raises NotSupported, MissingExtra, StateUnavailable."""
        if self._state is None:
            with self._opening:
                if self._state is None:
                    self._state = open_state(*self.settings.state_urls)
        return self._state

    @property
    def _sent_reporter(self) -> SentReporter:
        """What reports the calls of this process."""
        from .events import SentReporter

        if self._reporter is None or self._reporter.pid != os.getpid():
            with self._opening:
                if self._reporter is None or self._reporter.pid != os.getpid():
                    self._reporter = SentReporter(lambda: self.state)
        return self._reporter

    @property
    def control(self) -> Control:
        """The remote control of the app's workers."""
        from .control import Control

        return Control(self)

    def events(
        self, kinds: Iterable[str] = (), *, task: str = "", queue: str = "", worker: str = "", id: str = "",
        from_start: bool = False, timeout: float | None = None,
    ) -> EventStream:  # fmt: skip
        """Follow what becomes of tasks and workers, where the setting `events` is on: an iterator of `Event`.

        It gives what is reported from now on or, `from_start`, also what the log has kept, and ends when nothing came
        for `timeout` seconds. The others say which events are wanted: `kinds` as in "task-failed" or "failed", and
        `task` a pattern as in "shop.*". Raises ConfigurationError, NotSupported, StateUnavailable.
        """
        from .events import LOG, EventStream, wanted

        chosen = wanted(kinds, task=task, queue=queue, worker=worker, id=id)
        return EventStream(self.state.follow(LOG, from_start=from_start), chosen, timeout)

    @property
    def _reply_to(self) -> int:
        """Where outcomes are pushed to this process; 0 where the backend keeps them."""
        return self.backend.reply_to if pushes(self.settings.backend_url) else 0

    def close(self) -> None:
        """Close what was opened; the next use opens it again."""
        with self._opening:
            awaiting, self._awaiting = self._awaiting, None
        if awaiting is not None:
            awaiting.close()
        if self._reporter is not None:
            self._reporter.flush()
        with self._opening:
            for client in (self._broker, self._backend, self._state):
                if client is not None:
                    client.close()
            self._broker = self._backend = self._state = None

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
    *, bind: Literal[True], base: type[Task[..., Any]] | None = None, **options: Unpack[TaskDeclaration]
) -> BoundTaskDecorator: ...
@overload
def task(
    *, bind: Literal[False] = False, base: type[Task[..., Any]] | None = None, **options: Unpack[TaskDeclaration]
) -> TaskDecorator: ...
def task(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Make a function a task of the default app; see `FastQ.task`."""
    app = default_app()
    return app.task(**options) if function is None else app.task(function)
