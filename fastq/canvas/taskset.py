"""Task-sets: calls that are made together, and the results of a group, watched together."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast

from fastq.errors import ConfigurationError
from fastq.outcome import State
from fastq.result import AsyncResult, aas_completed, as_completed

if TYPE_CHECKING:
    from fastq.app import FastQ

    from .work import Signature

R = TypeVar("R")

#: How the values of a group lie in lists: None for one value, and a tuple for a list.
Shape: TypeAlias = tuple["Shape", ...] | None


class TaskSet(Generic[R]):
    """Calls to be made together, in one round trip: ``TaskSet(add.s(n, n) for n in range(100))``."""

    def __init__(self, calls: Iterable[Signature[R]]) -> None:
        """Collect the calls.

        Raises ConfigurationError if there are none, if they are of several apps, or if one ignores its result,
        for which the set would wait in vain; TypeError for what is no call.
        """
        from .work import Group, Signature  # the results of groups, below, are known to it

        self.calls = list(calls)
        for call in self.calls:
            if not isinstance(call, Signature):
                raise TypeError(f"A TaskSet takes calls, as in add.s(4, 4), not {call!r:.60}")
            if call.task.options.ignore_result:
                raise ConfigurationError(f"A TaskSet waits for results, and {call.task.name} ignores its own")
        if len({id(call.task.app) for call in self.calls}) != 1:
            raise ConfigurationError("A TaskSet takes one call or more, all of tasks of one app")
        self._group: Group[R] = Group(self.calls)

    def apply_async(self) -> TaskSetResult[R]:
        """Make the calls in the background; return when the broker has accepted all of them."""
        return self._group.apply_async()


class TaskSetResult(Generic[R]):
    """The results of a task-set or a group; iteration gives them in the order of submission.

    Of groups within a group it gives the results of all members, one after another; `join` puts their values into
    lists within the list.
    """

    def __init__(self, id: str, app: FastQ, ids: Sequence[str]) -> None:
        self.id = id
        self.results: list[AsyncResult[R]] = [AsyncResult(each, app) for each in ids]
        self._app = app
        self._shape: Shape = None  # a list of values
        self._ignored = False  # whether any of the tasks ignores its result

    @classmethod
    def of(
        cls, group: bytes, app: FastQ, results: list[AsyncResult[R]], *, shape: Shape, ignored: bool
    ) -> TaskSetResult[R]:
        """Return the results of a group that was just sent."""
        self = cls(str(uuid.UUID(bytes=group)), app, ())
        self.results, self._shape, self._ignored = results, shape, ignored
        return self

    @classmethod
    def restore(cls, id: str, app: FastQ) -> TaskSetResult[Any]:
        """Return the results of a task-set by its id. Raises ValueError for an id that the backend does not know.

        That groups lay within a group is not known any more: `join` gives all values in one list.
        """
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
        """Return how many tasks have ended, well or not. Raises ConfigurationError if one ignores its result."""
        self._refuse_ignored()
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

    def as_completed(self, timeout: float | None = None, *, allow_in_task: bool = False) -> Iterator[AsyncResult[R]]:
        """Yield the results as their tasks end; each is ready.

        Raises ResultTimeout after `timeout` seconds, ConfigurationError if a task ignores its result, and WaitRefused
        within a task, unless `allow_in_task`: see `AsyncResult.get`.
        """
        self._refuse_ignored()
        return as_completed(self.results, timeout, allow_in_task=allow_in_task)

    def aas_completed(
        self, timeout: float | None = None, *, allow_in_task: bool = False
    ) -> AsyncIterator[AsyncResult[R]]:
        """Yield the results as `as_completed` does, while the event loop goes on, for ``async for``."""
        self._refuse_ignored()
        return aas_completed(self.results, timeout, allow_in_task=allow_in_task)

    def join(self, timeout: float | None = None, *, allow_in_task: bool = False) -> list[R]:
        """Wait for all tasks and return their values in the order of submission.

        Raises the exception of the first that failed, and what `as_completed` raises.
        """
        for _ in self.as_completed(timeout, allow_in_task=allow_in_task):
            pass
        return self._values()

    def get(self, timeout: float | None = None, *, allow_in_task: bool = False) -> list[R]:
        """The same as `join`."""
        return self.join(timeout, allow_in_task=allow_in_task)

    async def ajoin(self, timeout: float | None = None, *, allow_in_task: bool = False) -> list[R]:
        """Wait as `join` does, while the event loop goes on; ``await results`` is the same, without a timeout."""
        async for _ in self.aas_completed(timeout, allow_in_task=allow_in_task):
            pass
        return self._values()

    def __await__(self) -> Generator[Any, None, list[R]]:
        return self.ajoin().__await__()

    def forget(self) -> None:
        """Delete the results, at the backend and here."""
        self._app.backend.forget(self._keys())
        for result in self.results:
            result._final = None  # noqa: SLF001 - a result of ours

    def _values(self) -> list[R]:
        values = [result.get() for result in self.results]
        return values if self._shape is None else cast("list[R]", in_shape(self._shape, iter(values)))

    def _states(self) -> list[State]:
        found = self._app.backend.load(self._keys())
        return [State.PENDING if outcome is None else outcome.state for outcome in found]

    def _keys(self) -> list[bytes]:
        return [result._key for result in self.results]  # noqa: SLF001 - results of ours

    def _refuse_ignored(self) -> None:
        if self._ignored:
            raise ConfigurationError("A task of the group ignores its result: there is nothing to wait for")


def in_shape(shape: Shape, values: Iterator[Any]) -> Any:
    """Take as many values as the shape has room for, and return them in lists within lists."""
    return next(values) if shape is None else [in_shape(each, values) for each in shape]
