"""Workflows: calls that are not made yet, and how they follow from each other."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from fastq.errors import ConfigurationError
from fastq.options import CallOptions
from fastq.result import AsyncResult

from .taskset import TaskSetResult

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from fastq.app import FastQ
    from fastq.task import Task

R = TypeVar("R")
H = TypeVar("H")  # the handle that a workflow's `apply_async` returns
H2 = TypeVar("H2")


class Workflow(Generic[H]):
    """Work to be done: one call, a chain or a group. Each may be a part of others, and be made as often as wanted.

    `link`, `on_error` and `set` change the workflow itself, and return it.
    """

    def __init__(self, app: FastQ) -> None:
        self.app = app  # that of its tasks
        self.links: list[Workflow[Any]] = []  # follow when it has ended well, with its value
        self.errbacks: list[Workflow[Any]] = []  # follow when it has not, with the failure
        self.options: CallOptions = {}

    def link(self, *callbacks: Workflow[Any]) -> Self:
        """Let callbacks follow when this has ended well; each is given the value before its own arguments."""
        self.links += _all_workflows("link", callbacks)
        return self

    def on_error(self, *callbacks: Workflow[Any]) -> Self:
        """Let callbacks follow when this has ended, and any part of it not well.

        Each is given the failure that came first, before its own arguments: a dictionary of ``task_id``, ``task``,
        ``type`` (the exception's), ``message`` and ``traceback``, all of them text.
        """
        self.errbacks += _all_workflows("on_error", callbacks)
        return self

    def set(self, **options: Unpack[CallOptions]) -> Self:
        """Set options of the calls in here; those that a call has itself win.

        `countdown`, `eta` and `task_id` are for the calls that begin it, not for those that follow within.
        """
        self.options = {**self.options, **options}
        return self

    def clone(self) -> Self:
        """Return a copy whose callbacks and options may be changed apart."""
        twin = copy.copy(self)
        twin.links, twin.errbacks = list(self.links), list(self.errbacks)
        return twin

    def __or__(self, other: Workflow[H2]) -> Chain[H2]:
        if not isinstance(other, Workflow):
            return NotImplemented
        return Chain([*self.steps, *other.steps])

    @property
    def steps(self) -> Sequence[Workflow[Any]]:
        """The parts that follow each other, where this is put into a chain."""
        return (self,)

    def delay(self, *args: Any, **kwargs: Any) -> H:
        """Begin the work in the background; see `apply_async`."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, *,
        link: Workflow[Any] | Sequence[Workflow[Any]] = (), link_error: Workflow[Any] | Sequence[Workflow[Any]] = (),
        **options: Unpack[CallOptions],
    ) -> H:  # fmt: skip
        """Begin the work in the background; return when the broker has accepted it.

        `args` are put before the arguments of the calls that begin it, and `kwargs` are added to theirs, unless they
        are immutable. Raises ConfigurationError for what can't be done; NotSupported and StateUnavailable, where
        anything follows from anything; and what `Task.delay` raises.
        """
        from .plan import plan_of  # on a higher step of this same floor

        workflow: Workflow[H] = self
        links, errbacks = listed(link), listed(link_error)
        if links or errbacks or options:
            workflow = self.clone().link(*links).on_error(*errbacks).set(**options)
        return cast("H", plan_of(workflow, args, kwargs or {}).begin())


class Signature(Workflow[AsyncResult[R]]):
    """A call of a task that is not made yet."""

    def __init__(
        self, task: Task[..., Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, *,
        immutable: bool = False, each: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(task.app)
        self.task = task
        self.args = args
        self.kwargs = kwargs or {}
        self.immutable = immutable  # it takes no value of what it follows
        self.each = each  # the first argument is a list of argument lists, and the task runs once for each

    def __repr__(self) -> str:
        return self.task.shown(self.args, self.kwargs, of=".each" if self.each else "", partial=True)

    def set(self, **options: Unpack[CallOptions]) -> Self:
        """Set options of the call. Raises ConfigurationError and TypeError for what can't be."""
        self.task.options.for_call(self.task.app.settings, options)
        return super().set(**options)


class Chain(Workflow[H]):
    """Parts that follow each other; each is given the value of the one before it."""

    def __init__(self, parts: Sequence[Workflow[Any]]) -> None:
        super().__init__(parts[0].app)
        self.parts = parts

    def __repr__(self) -> str:
        return " | ".join(f"({part})" if isinstance(part, Chain) else repr(part) for part in self.parts)

    @property
    def steps(self) -> Sequence[Workflow[Any]]:
        """Its own parts, unless something was said of the chain as a whole."""
        return (self,) if self.links or self.errbacks or self.options else self.parts


class Group(Workflow[TaskSetResult[R]]):
    """Members that run in any order; the value is the list of their values, in the order of the members."""

    def __init__(self, members: Sequence[Workflow[Any]]) -> None:
        super().__init__(members[0].app)
        self.members = members

    def __repr__(self) -> str:
        shown = [repr(member) for member in self.members[:3]]
        return f"group({', '.join(shown)}{', …' if len(self.members) > 3 else ''})"


def chain(*parts: Workflow[Any] | Iterable[Workflow[Any]]) -> Chain[Any]:
    """Return a chain: ``chain(add.s(4, 4), mul.s(8))``, the same as ``add.s(4, 4) | mul.s(8)``.

    A group that something follows is a chord. Raises ConfigurationError for a chain of nothing, TypeError for what is
    no workflow.
    """
    steps = [step for part in _given("chain", parts) for step in part.steps]
    return Chain(steps)


@overload
def group(*members: Signature[R]) -> Group[R]: ...
@overload
def group(members: Iterable[Signature[R]], /) -> Group[R]: ...
@overload
def group(*members: Workflow[Any] | Iterable[Workflow[Any]]) -> Group[Any]: ...
def group(*members: Any) -> Group[Any]:
    """Return a group: ``group(add.s(n, n) for n in range(10))``.

    Raises ConfigurationError for a group of nothing, TypeError for what is no workflow.
    """
    return Group(_given("group", members))


def chord(header: Workflow[Any] | Iterable[Workflow[Any]], callback: Workflow[H]) -> Chain[H]:
    """Return a group and the callback that is given the list of its values: ``group(header) | callback``.

    If a member fails or is revoked, the callback fails with the first failure, once all members have ended, and its
    own error callbacks follow. Raises ConfigurationError for an empty header, TypeError for what is no workflow.
    """
    if not isinstance(callback, Workflow):
        raise TypeError(f"The callback of a chord is {_short(callback)}; it takes a call, as in add.s(4)")
    members = header if isinstance(header, Group) else Group(_given("chord", (header,)))
    return Chain([*members.steps, *callback.steps])


def listed(given: Workflow[Any] | Sequence[Workflow[Any]]) -> Sequence[Workflow[Any]]:
    """Return workflows where one or several are given."""
    return (given,) if isinstance(given, Workflow) else given


def _given(what: str, parts: Sequence[Any]) -> list[Workflow[Any]]:
    if len(parts) == 1 and isinstance(parts[0], Iterable):
        parts = list(parts[0])
    if not parts:
        raise ConfigurationError(f"A {what} takes one call or more, as in add.s(4, 4)")
    return _all_workflows(what, parts)


def _all_workflows(what: str, parts: Iterable[Any]) -> list[Workflow[Any]]:
    found = list(parts)
    for part in found:
        if not isinstance(part, Workflow):
            raise TypeError(f"{what} takes calls, as in add.s(4, 4), not {_short(part)}")
    return found


def _short(value: object) -> str:
    return f"{value!r:.60}"
