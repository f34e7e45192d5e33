"""What can be said of a task where it is declared, and of a call where it is made."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from .celery_names import hint
from .encoder import Serializer, serializer_named
from .errors import ConfigurationError, ProtocolError, did_you_mean
from .failure import register_exception
from .keys import By, chosen, key_of, name_of_lock
from .message import check_queue, check_task, time_us
from .rates import at_once, parse_rate
from .retries import RetryPolicy, policy_of
from .routing import route
from .settings import Settings
from .state import Limit

if TYPE_CHECKING:
    from typing_extensions import Unpack


class TaskDeclaration(TypedDict, total=False):
    """The options of ``@task(...)``. Times are in seconds; what is left out is as the app's settings say."""

    name: str | None  # by default the function's module and name
    queue: str | None
    priority: int  # 0 to 9, and 9 goes first
    ack: str | None  # "late": at least once; "early": at most once
    strict_early: bool | None  # whether an early task waits until its acknowledgement is known to have arrived
    serializer: str | None
    ignore_result: bool | None
    throws: Sequence[type[BaseException]]  # exception types that callers get back as themselves
    max_retries: int | None  # 3; None: without end
    default_retry_delay: float  # 180
    autoretry_for: Sequence[type[BaseException]]
    dont_autoretry_for: Sequence[type[BaseException]]
    retry_backoff: bool | float  # the first delay of an exponential back-off; True: 1 second
    retry_backoff_max: float  # 600
    retry_jitter: bool  # True
    time_limit: float | None  # after it the task is broken off
    soft_time_limit: float | None  # after it SoftTimeLimitExceeded is raised in the task
    interruptible: bool  # whether Interrupted is raised in the task when its worker stops
    rate_limit: str | None  # starts in the whole cluster: "10/s", "100/m", "1000/h", "5/d"
    max_concurrency: int | None  # how many run at once in the whole cluster
    limit_by: str | Sequence[str] | Callable[..., object] | None  # both limits apart for each value of these arguments
    unique: str | Sequence[str] | Callable[..., object] | None  # one at a time with the same "args", or these arguments
    unique_for: float | None  # at most so long; None: until it has ended
    on_duplicate: str  # "reject", "existing", "replace" or "debounce"
    fair_by: str | Sequence[str] | Callable[..., object] | None  # in a fair queue, who has a share of it
    fair_weights: Mapping[str, int]  # those who have more than one share of it
    secret: Sequence[str]  # arguments that are never shown


class CallOptions(TypedDict, total=False):
    """The options of `Task.apply_async`; those of the same name win over the task's own."""

    queue: str | None
    priority: int | None
    countdown: float | None  # seconds until it may start
    eta: datetime | None  # when it may start; a time without a zone is taken as UTC
    expires: float | datetime | None  # seconds from now, or a time, after which it is not started
    task_id: str | None  # a UUID
    serializer: str | None
    headers: Mapping[str, Any] | None  # JSON values that go with the message
    ignore_result: bool | None
    time_limit: float | None
    soft_time_limit: float | None
    limit_key: str | None  # in place of what `limit_by` makes of the arguments


_FAR_S = 1e10  # three hundred years; a countdown beyond is a time stamp in the wrong place
_POLICIES = ("reject", "existing", "replace", "debounce")
_MOST_WEIGHT = 100
_PLAIN = RetryPolicy()
_RETRY_OPTIONS = frozenset(inspect.signature(policy_of).parameters)


@dataclass(frozen=True)
class Unique:
    """What makes a call of a task the same as another, and what is done about it."""

    by: By  # (): all arguments
    for_s: float | None
    policy: str

    @property
    def latest(self) -> bool:
        """Whether the latest call is the one that runs, and not the first."""
        return self.policy in ("replace", "debounce")


@dataclass(frozen=True)
class Fair:
    """Whose a call is, in a queue that is shared fairly."""

    by: By
    weights: Mapping[str, int]  # by key; 1 for all others


class Keys(NamedTuple):
    """What follows from the arguments of a call; empty where nothing does."""

    limit: str  # its limits are kept apart by this
    unique: str  # the name of its lock
    fair: str  # whose share of a fair queue it is in


@dataclass(frozen=True)
class TaskOptions:
    """How the calls of a task are made and run, checked and with the app's defaults filled in."""

    name: str | None
    queue: str
    priority: int
    ack: str
    serializer: Serializer
    ignore_result: bool
    retries: RetryPolicy = _PLAIN
    hard_limit_ms: int = 0  # 0: none
    soft_limit_ms: int = 0
    interruptible: bool = False
    limits: tuple[Limit, ...] = ()  # their keys are left empty: the task's name takes their place
    limit_by: By | None = None
    unique: Unique | None = None
    fair: Fair | None = None
    secret: frozenset[str] = frozenset()
    queue_given: bool = False  # by the task itself, and not by a default
    strict_early: bool = False

    @classmethod
    def of(cls, settings: Settings, **given: Unpack[TaskDeclaration]) -> TaskOptions:
        """Check options. Raises ConfigurationError, UnknownSerializer, SerializerRefused, TypeError for none such."""
        if unknown := given.keys() - TaskDeclaration.__annotations__.keys():
            wrong = min(unknown)
            raise TypeError(f"A task has no option {wrong!r}: {hint(wrong, TaskDeclaration.__annotations__)}")
        name, queue, serializer = given.get("name"), given.get("queue"), given.get("serializer")
        _check_names(settings, name, queue, serializer)
        priority, ack = given.get("priority", 0), given.get("ack")
        if ack not in (None, "late", "early"):
            raise ConfigurationError(f"ack is {ack!r}; it takes 'late' or 'early'")
        strict = given.get("strict_early")
        if strict and (ack or settings.ack) != "early":
            raise ConfigurationError("strict_early is for early tasks: say ack='early', too")
        for kind in given.get("throws", ()):
            register_exception(kind)
        ignore_result = given.get("ignore_result")
        hard_ms, soft_ms = limits_ms(given.get("time_limit"), given.get("soft_time_limit"))
        retry_options: dict[str, Any] = {key: value for key, value in given.items() if key in _RETRY_OPTIONS}
        return cls(
            name,
            settings.default_queue if queue is None else queue,
            _checked_priority(priority),
            ack or settings.ack,
            serializer_named(settings.serializer if serializer is None else serializer, settings.accept),
            settings.ignore_result if ignore_result is None else ignore_result,
            policy_of(**retry_options) if retry_options else _PLAIN,
            hard_ms,
            soft_ms,
            _flag("interruptible", given.get("interruptible", False)),
            _limits(given),
            _arguments_named("limit_by", given.get("limit_by")),
            _unique(given),
            _fair(given),
            frozenset(_names("secret", given.get("secret", ()))),
            queue_given=queue is not None,
            strict_early=settings.strict_early if strict is None else _flag("strict_early", strict),
        )

    def for_call(self, settings: Settings, given: CallOptions) -> TaskOptions:
        """Return the options of a call. Raises ConfigurationError, UnknownSerializer, SerializerRefused, TypeError."""
        if unknown := given.keys() - CallOptions.__annotations__.keys():
            wrong = min(unknown)
            raise TypeError(f"A call has no option {wrong!r}: {hint(wrong, CallOptions.__annotations__)}")
        changed: dict[str, Any] = {}
        queue, priority, serializer = given.get("queue"), given.get("priority"), given.get("serializer")
        _check_names(settings, None, queue, serializer)
        if queue is not None:
            changed.update(queue=queue, queue_given=True)
        if priority is not None:
            changed["priority"] = _checked_priority(priority)
        if serializer is not None:
            changed["serializer"] = serializer_named(serializer, settings.accept)
        if (ignore_result := given.get("ignore_result")) is not None:
            changed["ignore_result"] = ignore_result
        return replace(self, **changed) if changed else self

    def routed(self, settings: Settings, task: str) -> TaskOptions:
        """Return the options of the task of this name: where nobody said a queue, the routes do."""
        queue = None if self.queue_given else route(settings.task_routes, task)
        return self if queue is None else replace(self, queue=queue)

    @property
    def keyed(self) -> bool:
        """Whether anything depends on the arguments of a call."""
        return self.limit_by is not None or self.unique is not None or self.fair is not None

    def keys_of(
        self, task: str, signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any],
        limit_key: str | None = None,
    ) -> Keys:  # fmt: skip
        """Return the keys of a call, whose `limit_key` may be given.

        Raises ConfigurationError, and what the user's functions raise.
        """
        if limit_key and self.limit_by is None:
            raise ConfigurationError(f"limit_key is for tasks with limit_by, and {task} has none")
        made: list[str] = []
        limit_by, fair_by = None if limit_key else self.limit_by, None if self.fair is None else self.fair.by
        for what, by in (("limit_by", limit_by), ("fair_by", fair_by)):
            value = None if by is None else chosen(what, by, signature, args, kwargs)
            made.append("" if value is None else key_of(what, value))
        limit, fair = made
        value = None if self.unique is None else chosen("unique", self.unique.by, signature, args, kwargs)
        return Keys(limit_key or limit, "" if value is None else name_of_lock(task, value), fair)

    def check(self, name: str, signature: inspect.Signature) -> None:
        """Raise ConfigurationError if an option names an argument that the function does not have, or hides."""
        keys: dict[str, By | None] = {"limit_by": self.limit_by, "fair_by": None if self.fair is None else self.fair.by}
        for what, by in keys.items():
            if by is not None and not callable(by) and (shown := self.secret.intersection(by)):
                raise ConfigurationError(f"{what} names {min(shown)!r}, which is secret, and keys are shown to people")
        parameters = signature.parameters.values()
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return
        known = {parameter.name for parameter in parameters}
        options = {
            "limit_by": self.limit_by,
            "unique": None if self.unique is None else self.unique.by,
            "fair_by": None if self.fair is None else self.fair.by,
            "secret": sorted(self.secret),
        }
        for what, names in options.items():
            if names is not None and not callable(names) and (wrong := set(names) - known):
                raise ConfigurationError(
                    f"{what} names {min(wrong)!r}, which is no argument of {name}: {did_you_mean(min(wrong), known)}"
                )


def _checked_priority(priority: int) -> int:
    if type(priority) is not int or not 0 <= priority <= 9:
        raise ConfigurationError(f"priority is {priority!r}; it takes 0 to 9, and 9 goes first")
    return priority


def limits_ms(hard: float | None, soft: float | None) -> tuple[int, int]:
    """Return time limits in milliseconds, 0 for none. Raises ConfigurationError."""
    for what, limit in (("time_limit", hard), ("soft_time_limit", soft)):
        if limit is not None and (type(limit) not in (int, float) or not 0 < limit < 1e9):
            raise ConfigurationError(f"{what} is {limit!r}; it takes seconds, more than 0")
    if hard is not None and soft is not None and soft >= hard:
        raise ConfigurationError(f"soft_time_limit is {soft!r}: it has to come before time_limit, {hard!r}")
    return (*(0 if limit is None else max(1, round(limit * 1000)) for limit in (hard, soft)),)  # type: ignore[return-value]


def due_us(given: CallOptions, now: int) -> int:
    """Return when a call may start, in microseconds since the epoch, 0 for at once. Raises ConfigurationError."""
    countdown, eta = given.get("countdown"), given.get("eta")
    if countdown is not None and eta is not None:
        raise ConfigurationError("countdown and eta say the same thing: give one of them")
    if eta is None:
        return moment_us("countdown", countdown, now)
    if not isinstance(eta, datetime):
        raise ConfigurationError(f"eta is {eta!r}; it takes a datetime, and countdown takes seconds")
    return moment_us("eta", eta, now)


def moment_us(what: str, when: float | datetime | None, now: int) -> int:
    """Return a moment, given as such or in seconds from now; 0 for none. Raises ConfigurationError."""
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


def _limits(given: TaskDeclaration) -> tuple[Limit, ...]:
    limits: tuple[Limit, ...] = ()
    if (rate := given.get("rate_limit")) is not None:
        limits += (Limit("", *parse_rate(rate)),)
    if (most := given.get("max_concurrency")) is not None:
        limits += (Limit("", at_once(most)),)
    if not limits and given.get("limit_by") is not None:
        raise ConfigurationError("limit_by keeps limits apart: say rate_limit or max_concurrency, too")
    return limits


def _unique(given: TaskDeclaration) -> Unique | None:
    unique, for_s, policy = given.get("unique"), given.get("unique_for"), given.get("on_duplicate", "reject")
    if policy not in _POLICIES:
        raise ConfigurationError(f"on_duplicate is {policy!r}; {did_you_mean(str(policy), _POLICIES)}")
    if for_s is not None and (type(for_s) not in (int, float) or not 0 < for_s < 1e9):
        raise ConfigurationError(f"unique_for is {for_s!r}; it takes seconds, more than 0")
    if unique is None:
        if for_s is not None or "on_duplicate" in given:
            raise ConfigurationError("unique_for and on_duplicate are for unique tasks: say unique='args', too")
        return None
    if policy == "debounce" and for_s is None:
        raise ConfigurationError(
            "on_duplicate='debounce' waits for unique_for seconds after the last call: say it, too"
        )
    by = () if unique == "args" else _arguments_named("unique", unique)
    return Unique(by or (), for_s, policy)


def _fair(given: TaskDeclaration) -> Fair | None:
    by = _arguments_named("fair_by", given.get("fair_by"))
    weights: Any = given.get("fair_weights", {})
    if not isinstance(weights, Mapping) or not all(
        isinstance(key, str) and type(weight) is int and 1 <= weight <= _MOST_WEIGHT for key, weight in weights.items()
    ):
        raise ConfigurationError(f"fair_weights is {weights!r:.60}; it takes weights, 1 to {_MOST_WEIGHT}, by key")
    if by is None:
        if weights:
            raise ConfigurationError("fair_weights is for those whom fair_by tells apart: say it, too")
        return None
    return Fair(by, dict(weights))


def _flag(what: str, given: object) -> bool:
    if not isinstance(given, bool):
        raise ConfigurationError(f"{what} is {given!r:.60}; it takes True or False")
    return given


def _arguments_named(what: str, given: object) -> By | None:
    if given is None or callable(given):
        return given
    return _names(what, given)


def _names(what: str, given: object) -> tuple[str, ...]:
    names = (given,) if isinstance(given, str) else given
    if not isinstance(names, Sequence) or not all(isinstance(name, str) and name for name in names):
        raise ConfigurationError(f"{what} is {given!r:.60}; it takes the names of arguments")
    return tuple(names)


def _check_names(settings: Settings, name: object, queue: object, serializer: object) -> None:
    texts: dict[str, object] = {"name": name, "queue": queue, "serializer": serializer}
    for what, text in texts.items():
        if text is not None and not isinstance(text, str):
            raise ConfigurationError(f"{what} is {text!r:.60}; it takes text")
    try:
        if isinstance(name, str):
            check_task(name)
        check_queue(queue if isinstance(queue, str) else settings.default_queue)
    except ProtocolError as error:
        raise ConfigurationError(str(error)) from error
