"""What a task is given from those that ran before it: a value, the values of a group, or a failure. In a pool child."""

from __future__ import annotations

import inspect
import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from fastq.backoff import Backoff
from fastq.errors import BackendError, NotSupported, StateUnavailable, UpstreamFailed
from fastq.failure import Failure
from fastq.message import Message
from fastq.outcome import Outcome, State

from .then import VALUES

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.task import Task

logger = logging.getLogger("fastq.task")

T = TypeVar("T")

_AT_ONCE = 1_000  # outcomes that are loaded at once
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0


def given_to(app: FastQ, message: Message) -> Any:
    """Return what is put before the arguments of a message, which has `given` or `failed` among its extras.

    It waits for a backend or a state that can't be reached. Raises UpstreamFailed for a value that is not there any
    more, and what decoding raises.
    """
    extras = message.extras
    return _failure(app, message, extras.failed) if extras.failed else _value(app, message, extras.given)


def each_of(task: Task[..., Any]) -> Callable[[Any], Any]:
    """Return what calls a task's function for each of a list of argument lists, one after another."""

    def one_by_one(items: Any) -> list[Any]:
        return [task.run(*item) for item in _lists(task, items)]

    async def one_by_one_awaited(items: Any) -> list[Any]:
        return [await task.run(*item) for item in _lists(task, items)]

    return one_by_one_awaited if inspect.iscoroutinefunction(task.function) else one_by_one


def _lists(task: Task[..., Any], items: Any) -> list[Sequence[Any]]:
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, (list, tuple)) for item in items):
        raise TypeError(f"{task.name}.each takes a list of argument lists, not {items!r:.60}")
    return list(items)


def _value(app: FastQ, message: Message, given: bytes) -> Any:
    outcome = _patiently(message, lambda: app.backend.load([given])[0])
    if outcome is not None:
        return _value_of(app, message, given, outcome)
    packed = _patiently(message, lambda: _values_of_flow(app, given))
    if packed is None:
        raise _gone(message, given)
    tree = orjson.loads(packed)
    ids = [bytes.fromhex(each) for each in _leaves(tree)]
    found: dict[str, Outcome | None] = {}
    for at in range(0, len(ids), _AT_ONCE):
        some = ids[at : at + _AT_ONCE]
        outcomes = _patiently(message, lambda some=some: app.backend.load(some))  # type: ignore[misc]
        found.update((id.hex(), outcome) for id, outcome in zip(some, outcomes, strict=True))
    return _filled(app, message, tree, found)


def _values_of_flow(app: FastQ, flow: bytes) -> bytes | None:
    try:
        return app.state.get(VALUES, [flow.hex()])[0]
    except NotSupported:  # so there never was a flow
        return None


def _leaves(tree: Any) -> list[str]:
    return [tree] if isinstance(tree, str) else [leaf for each in tree for leaf in _leaves(each)]


def _filled(app: FastQ, message: Message, tree: Any, found: Mapping[str, Outcome | None]) -> Any:
    if isinstance(tree, str):
        return _value_of(app, message, bytes.fromhex(tree), found[tree])
    return [_filled(app, message, each, found) for each in tree]


def _value_of(app: FastQ, message: Message, id: bytes, outcome: Outcome | None) -> Any:
    if outcome is None or outcome.state is not State.SUCCESS:
        raise _gone(message, id)
    return app.settings.packing.value_of(outcome)


def _gone(message: Message, id: bytes) -> UpstreamFailed:
    name = f"Task {message.task}[{message.uuid}]"
    return UpstreamFailed(
        f"{name} can't run: the value of {uuid.UUID(bytes=id)}, which it is to be given, has expired or was forgotten"
    )


def _failure(app: FastQ, message: Message, id: bytes) -> dict[str, str]:
    """Return a failure as error callbacks are given it."""
    outcome = _patiently(message, lambda: app.backend.load([id])[0])
    if outcome is None or outcome.state is State.SUCCESS:
        failure = Failure.of(UpstreamFailed("a task failed, and how is not known any more"))
    else:
        failure = app.settings.packing.failure_of(outcome)
    task, task_id = failure.origin or ("", str(uuid.UUID(bytes=id)))
    return {
        "task_id": task_id,
        "task": task,
        "type": failure.type_name,
        "message": failure.message,
        "traceback": failure.traceback,
    }


def _patiently(message: Message, load: Callable[[], T]) -> T:
    """Load something; while that can't be done, wait. The task's time limit goes on."""
    backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
    while True:
        try:
            return load()
        except (BackendError, StateUnavailable) as error:
            logger.warning("Task %s[%s] waits for what it is given: %s", message.task, message.uuid, error)
            time.sleep(backoff.failed())
