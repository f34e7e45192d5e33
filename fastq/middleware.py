"""Middleware: code of an app's own around publishing and running, and the hooks that a task brings itself.

Which hooks there are is found out once: when a middleware is added for those of the caller, and when a pool child
starts for those of a run. What is not there costs one look at an attribute. The parent of a pool runs no user code, so
hooks run in callers and in children alone: nothing is called for what never reaches a child, such as an expired task.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .errors import ConfigurationError
from .message import Message

if TYPE_CHECKING:
    from .current import Run
    from .outcome import Outcome

logger = logging.getLogger("fastq.middleware")


class Outgoing:
    """A message that is about to be published, and its headers, which may be changed: JSON values by name."""

    __slots__ = ("headers", "message")

    def __init__(self, message: Message) -> None:
        self.message = message
        self.headers = dict(message.extras.headers)

    @property
    def id(self) -> str:
        """The id of the task."""
        return self.message.uuid

    @property
    def task(self) -> str:
        """The name of the task."""
        return self.message.task

    @property
    def queue(self) -> str:
        """The queue that the message goes to."""
        return self.message.queue


class Middleware:
    """Override what is wanted. The hooks are plain functions, for ``async def`` tasks too; keep them short.

    The `before_` hooks are called in the order in which middleware was added, the `after_` hooks in the reverse order.
    """

    def before_publish(self, outgoing: Outgoing) -> None:
        """Look at a message, and change its headers, before it is sent; what this raises is raised at the caller."""

    def after_publish(self, messages: Sequence[Message]) -> None:
        """Look at messages that the broker has accepted; what this raises is logged."""

    def before_run(self, run: Run) -> None:
        """Do something before a task begins, in its context; what this raises, the task has raised."""

    def after_run(self, run: Run, outcome: Outcome) -> None:
        """Do something when an attempt has ended, and before its outcome is sent; what this raises is logged.

        `run.value` is what the task returned, `run.error` what it raised, or None.
        """


def hooks_named(name: str, middleware: Iterable[Middleware]) -> tuple[Callable[..., None], ...]:
    """Return the hooks of this name that are overridden."""
    empty = getattr(Middleware, name)
    return tuple(getattr(each, name) for each in middleware if getattr(type(each), name) is not empty)


def checked(middleware: Iterable[Middleware]) -> tuple[Middleware, ...]:
    """Return middleware. Raises ConfigurationError for what is none, or has a hook that is a coroutine."""
    import inspect

    found = tuple(middleware)
    for each in found:
        if not isinstance(each, Middleware):
            raise ConfigurationError(f"{each!r:.60} is no middleware: make one, of a class derived from Middleware")
        for name in ("before_publish", "after_publish", "before_run", "after_run"):
            if inspect.iscoroutinefunction(getattr(each, name)):
                raise ConfigurationError(f"{type(each).__name__}.{name} is a coroutine; a hook is a plain function")
    return found


def prepared(message: Message, hooks: Iterable[Callable[[Outgoing], None]]) -> Message:
    """Return a message as the hooks want it to be sent."""
    outgoing = Outgoing(message)
    for hook in hooks:
        hook(outgoing)
    if outgoing.headers == message.extras.headers:
        return message
    return message._replace(extras=message.extras._replace(headers=outgoing.headers))


def tell(messages: Sequence[Message], hooks: Iterable[Callable[[Sequence[Message]], None]]) -> None:
    """Tell the hooks of messages that were sent, which nothing can change any more."""
    for hook in hooks:
        try:
            hook(messages)
        except Exception:
            logger.exception("%d messages were sent, but a hook failed that was told", len(messages))


class Hooks:
    """What is called around the runs of one task."""

    def __init__(
        self, before: Sequence[Callable[[Run], None]], after: Sequence[Callable[[Run, Outcome], None]]
    ) -> None:
        self._before = tuple(before)
        self._after = tuple(after)

    def before(self, run: Run, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Call what comes before a run, and see to it that what comes after follows."""
        run.args, run.kwargs, run.value, run.error = args, kwargs, None, None
        for hook in reversed(self._after):
            run.finally_call(_with(hook, run))
        for before in self._before:
            before(run)


def _with(hook: Callable[[Run, Outcome], None], run: Run) -> Callable[[Outcome], None]:
    return lambda outcome: hook(run, outcome)
