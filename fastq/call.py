"""Call: what is known of a call where it is made, and the message that it becomes."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from . import _speedups
from .current import running
from .encoder import encode, serializer_named
from .errors import ConfigurationError
from .message import NO_EXTRAS, Extras, Message, now_us
from .options import CallOptions, Keys, TaskOptions, due_us, limits_ms, moment_us
from .routing import share_of
from .settings import Settings

if TYPE_CHECKING:
    from .current import Run

_JSON = serializer_named("json", ("json",))
NO_OPTIONS: CallOptions = {}
_ENVELOPE_BYTES = 1_700  # what a message has, at most, besides its body and headers, its seal among it


class Call(NamedTuple):
    """A call that is about to become a message."""

    task: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    options: TaskOptions  # of the task, with what this call says otherwise
    given: CallOptions = NO_OPTIONS
    keys: Keys | None = None  # where something depends on the arguments

    def message(self, settings: Settings, extras: Extras = NO_EXTRAS, reply_to: int = 0) -> Message:
        """Return the message. Raises EncodingError, ConfigurationError, and TypeError for headers that are none."""
        options, given = self.options, self.given
        size = len(body := self._body(settings.max_depth)) + _ENVELOPE_BYTES
        if given:
            extras = self._extras(extras)
        if (run := running.get()) is not None:
            extras = _inherited(extras, run, settings.propagate_headers)
        if extras.headers:
            size += len(encode(dict(extras.headers), _JSON, f"The headers of the call of {self.task}"))
        if size > settings.max_message_bytes:
            raise ConfigurationError(
                f"The call of {self.task} has {size} bytes; max_message_bytes is {settings.max_message_bytes}"
            )
        now = now_us()
        due, queue = due_us(given, now) if given else 0, options.queue
        if self.keys is not None:
            extras, queue, due = self._keyed(self.keys, settings, extras, now, due)
        task_id = given.get("task_id") if given else None
        # Not through __new__, which NamedTuple writes in Python, and which takes several times as long.
        return tuple.__new__(Message, (
            _speedups.new_id() if task_id is None else id_of(task_id),
            self.task, queue, body, options.serializer.content_type, options.priority, now, due,
            moment_us("expires", given.get("expires"), now) if given else 0,
            1, 0, reply_to, options.ignore_result, extras,
        ))  # fmt: skip

    def _body(self, max_depth: int) -> bytes:
        options, what = self.options, f"The call of {self.task}"
        return encode(
            [self.args, self.kwargs], options.serializer, what, ("args", "kwargs"), max_depth, options.secret
        )  # fmt: skip

    def _keyed(self, keys: Keys, settings: Settings, extras: Extras, now: int, due: int) -> tuple[Extras, str, int]:
        """Return extras, queue and the moment to start, with what follows from the arguments."""
        options = self.options
        queue, fair, unique = options.queue, options.fair, options.unique
        extras = extras._replace(limit_key=keys.limit, unique=keys.unique)
        if fair is not None:
            shares = settings.shares.get(queue)
            if shares is None:
                raise ConfigurationError(f"{self.task} has fair_by: its queue takes fair_queues={{{queue!r}: 16}}")
            if keys.fair:
                queue = share_of(queue, shares, keys.fair, fair.weights.get(keys.fair, 1))
        if unique is not None and unique.policy == "debounce" and unique.for_s is not None and keys.unique and not due:
            due = now + round(unique.for_s * 1e6)
        return extras, queue, due

    def _extras(self, extras: Extras) -> Extras:
        given = self.given
        headers = _headers(given.get("headers"))
        hard_ms, soft_ms = limits_ms(given.get("time_limit"), given.get("soft_time_limit"))
        limit_key = given.get("limit_key") or ""
        if not (headers or hard_ms or soft_ms or limit_key):
            return extras
        return extras._replace(headers=headers, hard_limit_ms=hard_ms, soft_limit_ms=soft_ms, limit_key=limit_key)


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


def _inherited(extras: Extras, run: Run, carried_on: Sequence[str]) -> Extras:
    """Return the extras of a call that a task makes: whose child it is, and which headers go on with it."""
    mine = run.message.extras
    headers = extras.headers
    if carried := {name: mine.headers[name] for name in carried_on if name in mine.headers and name not in headers}:
        headers = {**carried, **headers}
    return extras._replace(
        root=mine.root or run.message.id, parent=run.message.id, headers=headers, trace=extras.trace or mine.trace
    )


def id_of(task_id: str) -> bytes:
    """Return the bytes of a task's id. Raises ConfigurationError for what is none."""
    try:
        return uuid.UUID(task_id).bytes
    except (ValueError, TypeError, AttributeError):
        raise ConfigurationError(f"task_id is {task_id!r:.60}; it takes a UUID, such as str(uuid.uuid4())") from None
