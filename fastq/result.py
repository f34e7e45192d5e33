"""AsyncResult: the caller's handle on what a task comes to."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import AsyncIterator, Generator, Iterable, Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from .current import refuse_in_task
from .errors import ConfigurationError, ResultTimeout, TaskError
from .outcome import Outcome, State

if TYPE_CHECKING:
    from .app import FastQ
    from .batch import Batch
    from .message import Message
    from .progress import Progress

R = TypeVar("R")


class AsyncResult(Generic[R]):
    """The result of one task, wherever it is by now. Cheap to make from an id, in any process.

    It can be awaited: ``await add.delay(4, 4)``.
    """

    __slots__ = ("__weakref__", "_app", "_batch", "_final", "_ignored", "_key", "_text")

    def __init__(self, id: str, app: FastQ, *, ignored: bool = False, outcome: Outcome | None = None) -> None:
        try:
            self._key = uuid.UUID(id).bytes
        except (AttributeError, TypeError, ValueError):
            raise ValueError(f"{id!r:.60} is not a task id, which is a UUID") from None
        self._text = ""  # made when it is asked for
        self._app = app
        self._ignored = ignored
        self._final = outcome
        self._batch: Batch | None = None

    @classmethod
    def of(cls, message: Message, app: FastQ, batch: Batch | None = None) -> AsyncResult[Any]:
        """Return the handle on the result of a message, which may wait in a batch."""
        self: AsyncResult[Any] = cls.__new__(cls)
        self._text = ""  # made when it is asked for, which is seldom where many tasks are called
        self._key = message.id
        self._app = app
        self._ignored = message.ignore_result
        self._final = None
        self._batch = batch
        return self

    @property
    def id(self) -> str:
        """The task's id."""
        if not self._text:
            self._text = str(uuid.UUID(bytes=self._key))
        return self._text

    def __repr__(self) -> str:
        return f"<AsyncResult {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncResult) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    # -- looking, without waiting ---------------------------------------------------------------

    @property
    def state(self) -> State:
        """The task's state by the backend; PENDING is also what nobody has heard of."""
        outcome = self._look()
        return State.PENDING if outcome is None else outcome.state

    @property
    def status(self) -> State:
        """The same as `state`."""
        return self.state

    def ready(self) -> bool:
        """Return whether the task has ended, well or not."""
        return self.state.terminal

    def successful(self) -> bool:
        """Return whether the task has ended and returned a value."""
        return self.state is State.SUCCESS

    def failed(self) -> bool:
        """Return whether the task has ended without returning a value."""
        return self.state.terminal and not self.successful()

    @property
    def result(self) -> R | BaseException | None:
        """The return value, or the exception, or None while there is neither."""
        outcome = self._look()
        if outcome is None or not outcome.state.terminal or self._ignored:
            return None
        packing = self._app.settings.packing
        return self._value(outcome) if outcome.state is State.SUCCESS else packing.failure_of(outcome).exception()

    @property
    def traceback(self) -> str | None:
        """The remote traceback of a task that failed."""
        outcome = self._look()
        failed = outcome is not None and outcome.state.terminal and outcome.state is not State.SUCCESS
        return self._app.settings.packing.failure_of(outcome).traceback or None if outcome and failed else None

    @property
    def finished_at(self) -> datetime | None:
        """When the task ended, in UTC."""
        outcome = self._look()
        if outcome is None or not outcome.finished_at:
            return None
        return datetime.fromtimestamp(outcome.finished_at / 1e6, timezone.utc)

    @property
    def progress(self) -> Progress | None:
        """What the task last said by `current_task.progress`; None if nothing, or if that has expired.

        Raises NotSupported if the app's systems keep no shared state, StateUnavailable.
        """
        from .progress import progress_of

        return progress_of(self._app, self.id)

    # -- waiting -----------------------------------------------------------------------------------

    def get(self, timeout: float | None = None, *, allow_in_loop: bool = False, allow_in_task: bool = False) -> R:
        """Wait for the task to end and return its value, or raise its exception with the remote traceback.

        Raises ResultTimeout after `timeout` seconds, TaskLost, TaskRevoked, DeadLettered, RemoteError for an
        exception type that is not known here, and BackendUnavailable; TaskError where waiting would halt a running
        event loop, unless that is allowed, or where the call waits in a batch; and WaitRefused within a task, unless
        that is allowed: when all children wait for tasks, none is left to run them.
        """
        if self._final is None:
            self._check_sent()
            if not allow_in_task:
                refuse_in_task(f"result of task {self.id}")
            if not allow_in_loop:
                refuse_in_loop(f"result of task {self.id}")
            self._final = self._await(timeout)
        return self._ended()

    def wait(self, timeout: float | None = None, *, allow_in_loop: bool = False, allow_in_task: bool = False) -> R:
        """The same as `get`."""
        return self.get(timeout, allow_in_loop=allow_in_loop, allow_in_task=allow_in_task)

    async def aget(self, timeout: float | None = None, *, allow_in_task: bool = False) -> R:
        """Wait as `get` does, while the event loop goes on; ``await result`` is the same, without a timeout."""
        if self._final is None:
            self._check_sent()
            if not allow_in_task:
                refuse_in_task(f"result of task {self.id}")
            self._final = await self._app._awaiter.outcome(self._key, timeout)  # noqa: SLF001 - the app's own
        return self._ended()

    def __await__(self) -> Generator[Any, None, R]:
        return self.aget().__await__()

    def forget(self) -> None:
        """Delete the result, at the backend and here."""
        self._app.backend.forget([self._key])
        self._final = None

    def revoke(self, *, terminate: bool = False) -> None:
        """Let the task not be run; with `terminate`, break it off if it runs. See `Control.revoke`."""
        self._app.control.revoke(self.id, terminate=terminate)

    # -- steps ----------------------------------------------------------------------------------------

    def _check_sent(self) -> None:
        if self._ignored:
            raise ConfigurationError(f"Task {self.id} was sent with ignore_result: there is nothing to wait for")
        if self._batch is not None and (why := self._batch.why_unsent(self._key)):
            raise TaskError(f"Task {self.id} {why}: there is nothing to wait for")

    def _await(self, timeout: float | None) -> Outcome:
        deadline = None if timeout is None else time.monotonic() + timeout
        for outcome in self._app.backend.wait([self._key], deadline):
            return outcome
        raise ResultTimeout(f"Task {self.id} has not ended within {timeout} s")

    def _ended(self) -> R:
        if self._ignored:
            raise ConfigurationError(f"Task {self.id} was sent with ignore_result: there is nothing to wait for")
        assert self._final is not None
        if self._final.state is not State.SUCCESS:
            raise self._app.settings.packing.failure_of(self._final).exception()
        return self._value(self._final)

    def _look(self) -> Outcome | None:
        if self._final is not None:
            return self._final
        outcome = self._app.backend.load([self._key])[0]
        if outcome is not None and outcome.state.terminal:
            self._final = outcome
        return outcome

    def _value(self, outcome: Outcome) -> R:
        return cast("R", self._app.settings.packing.value_of(outcome))


def refuse_in_loop(what: str) -> None:
    """Raise TaskError if this thread runs an event loop, which waiting would halt."""
    asyncio = sys.modules.get("asyncio")  # who has not imported it runs no loop
    if asyncio is not None and asyncio._get_running_loop() is not None:  # noqa: SLF001 - the one that does not raise
        raise TaskError(
            f"Waiting for the {what} would halt the event loop that runs in this thread: write `await result`, or "
            "`await result.aget(timeout)`; get(allow_in_loop=True) waits all the same"
        )


def as_completed(
    results: Iterable[AsyncResult[R]], timeout: float | None = None, *, allow_in_loop: bool = False,
    allow_in_task: bool = False,
) -> Iterator[AsyncResult[R]]:  # fmt: skip
    """Yield results of one app as their tasks end; each is ready. Raises ResultTimeout after `timeout` seconds.

    Raises at once what `AsyncResult.get` raises where waiting is no good. In an event loop, see `aas_completed`.
    """
    app, left = _to_be_awaited(results)
    if not allow_in_loop:
        refuse_in_loop("results of tasks")
    if not allow_in_task:
        refuse_in_task("results of tasks")
    return iter(()) if app is None else _as_completed(app, left, timeout)


def _as_completed(app: FastQ, left: dict[bytes, AsyncResult[R]], timeout: float | None) -> Iterator[AsyncResult[R]]:
    deadline = None if timeout is None else time.monotonic() + timeout
    total = len(left)
    for outcome in app.backend.wait(list(left), deadline):
        result = left.pop(outcome.id)
        result._final = outcome  # noqa: SLF001 - a result of ours, told what it would ask for
        yield result
    if left:
        raise ResultTimeout(f"{len(left)} of {total} tasks have not ended within {timeout} s")


async def aas_completed(
    results: Iterable[AsyncResult[R]], timeout: float | None = None, *, allow_in_task: bool = False
) -> AsyncIterator[AsyncResult[R]]:
    """Yield results as `as_completed` does, while the event loop goes on: ``async for result in aas_completed(…)``."""
    app, left = _to_be_awaited(results)
    if not allow_in_task:
        refuse_in_task("results of tasks")
    if app is None:
        return
    async for outcome in app._awaiter.outcomes(left, timeout):  # noqa: SLF001 - the app and its results are one
        result = left[outcome.id]
        result._final = outcome  # noqa: SLF001 - a result of ours, told what it would ask for
        yield result


def _to_be_awaited(results: Iterable[AsyncResult[R]]) -> tuple[FastQ | None, dict[bytes, AsyncResult[R]]]:
    found: dict[bytes, AsyncResult[R]] = {}
    for result in results:
        result._check_sent()  # noqa: SLF001 - a result of ours, as below
        found[result._key] = result  # noqa: SLF001
    apps = {id(result._app): result._app for result in found.values()}  # noqa: SLF001
    if len(apps) > 1:
        raise ConfigurationError("Results of several apps can't be waited for together")
    return next(iter(apps.values()), None), found
