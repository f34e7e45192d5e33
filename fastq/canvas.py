"""Signatures and task-sets: calls that are made together and watched together."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from . import _speedups
from .errors import ConfigurationError, ResultTimeout
from .outcome import State
from .result import AsyncResult

if TYPE_CHECKING:
    from .app import FastQ
    from .task import Task

R = TypeVar("R")


class Signature(Generic[R]):
    """A call of a task that is not made yet."""

    def __init__(self, task: Task[..., R], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.task = task
        self.args = args
        self.kwargs = kwargs

    def __repr__(self) -> str:
        given = [repr(value) for value in self.args] + [f"{key}={value!r}" for key, value in self.kwargs.items()]
        return f"{self.task.name}({', '.join(given)})"

    def delay(self) -> AsyncResult[R]:
        """Make the call in the background."""
        return self.task.apply_async(self.args, self.kwargs)


class TaskSet(Generic[R]):
    """Calls to be made together, in one round trip: ``TaskSet(add.s(n, n) for n in range(100))``."""

    def __init__(self, calls: Iterable[Signature[R]]) -> None:
        """Collect the calls.

        Raises ConfigurationError if there are none, if they are of several apps, or if one ignores its result,
        for which the set would wait in vain; TypeError for what is no call.
        """
        self.calls = list(calls)
        for call in self.calls:
            if not isinstance(call, Signature):
                raise TypeError(f"A TaskSet takes calls, as in add.s(4, 4), not {call!r:.60}")
            if call.task.options.ignore_result:
                raise ConfigurationError(f"A TaskSet waits for results, and {call.task.name} ignores its own")
        if len({id(call.task.app) for call in self.calls}) != 1:
            raise ConfigurationError("A TaskSet takes one call or more, all of tasks of one app")

    def apply_async(self) -> TaskSetResult[R]:
        """Make the calls in the background; return when the broker has accepted all of them."""
        app = self.calls[0].task.app
        group = _speedups.new_id()
        calls = [call.task._call(call.args, call.kwargs) for call in self.calls]  # noqa: SLF001
        messages = [call.message(app.settings, group) for call in calls]
        app.backend.create_group(group, [message.id for message in messages])
        app.broker.publish(messages)
        return TaskSetResult(str(uuid.UUID(bytes=group)), app, [message.uuid for message in messages])


class TaskSetResult(Generic[R]):
    """The results of a task-set; iteration gives them in the order of submission."""

    def __init__(self, id: str, app: FastQ, ids: Sequence[str]) -> None:
        self.id = id
        self.results: list[AsyncResult[R]] = [AsyncResult(each, app) for each in ids]
        self._app = app

    @classmethod
    def restore(cls, id: str, app: FastQ) -> TaskSetResult[Any]:
        """Return the results of a task-set by its id. Raises ValueError for an id that the backend does not know."""
        members = app.backend.group_members(uuid.UUID(id).bytes)
        if not members:
            raise ValueError(f"There is no task-set {id} at the backend, or it has expired")
        return cls(id, app, [str(uuid.UUID(bytes=member)) for member in members])

    def __repr__(self) -> str:
        return f"<TaskSetResult {self.id} of {self.total}>"

    @property
    def total(self) -> int:
        """How many tasks there are."""
        return len(self.results)

    def __len__(self) -> int:
        return self.total

    def completed_count(self) -> int:
        """Return how many tasks have ended, well or not."""
        return self._app.backend.group_completed(uuid.UUID(self.id).bytes)

    def ready(self) -> bool:
        """Return whether all tasks have ended."""
        return self.completed_count() == self.total

    def successful(self) -> bool:
        """Return whether all tasks have ended and returned values."""
        return all(state is State.SUCCESS for state in self._states())

    def failed(self) -> bool:
        """Return whether any task has ended without returning a value."""
        return any(state.terminal and state is not State.SUCCESS for state in self._states())

    def __iter__(self) -> Iterator[AsyncResult[R]]:
        return iter(self.results)

    def as_completed(self, timeout: float | None = None) -> Iterator[AsyncResult[R]]:
        """Yield the results as their tasks end; each is ready. Raises ResultTimeout after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        left = {uuid.UUID(result.id).bytes: result for result in self.results}
        for outcome in self._app.backend.wait(list(left), deadline):
            result = left.pop(outcome.id)
            result._final = outcome  # noqa: SLF001 - a result of ours, told what it would ask for
            yield result
        if left:
            raise ResultTimeout(f"{len(left)} of {self.total} tasks have not ended within {timeout} s")

    def join(self, timeout: float | None = None) -> list[R]:
        """Wait for all tasks and return their values in the order of submission.

        Raises the exception of the first that failed, and ResultTimeout after `timeout` seconds.
        """
        for _ in self.as_completed(timeout):
            pass
        return [result.get() for result in self.results]

    def forget(self) -> None:
        """Delete the results, at the backend and here."""
        self._app.backend.forget([uuid.UUID(result.id).bytes for result in self.results])
        for result in self.results:
            result._final = None  # noqa: SLF001 - a result of ours

    def _states(self) -> list[State]:
        found = self._app.backend.load([uuid.UUID(result.id).bytes for result in self.results])
        return [State.PENDING if outcome is None else outcome.state for outcome in found]
