"""Settings: one frozen value, from arguments, environment and file; an unknown name gets a suggestion.

What an argument says wins over ``FASTQ_*`` variables, and they win over the file: the module named by
``FASTQ_CONFIG``, or else the ``[tool.fastq]`` table of the nearest ``pyproject.toml``.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from . import failpoints
from .celery_names import hint
from .errors import ConfigurationError, ProtocolError, UnknownSetting, did_you_mean
from .keyring import check_key_name
from .message import CIPHERS, CODINGS, Message, check_queue
from .rates import parse_limit

if TYPE_CHECKING:
    from .claims import Claims
    from .packing import Packing
    from .sealing import Envelope, Seals

_ENVIRONMENT = "FASTQ_"
#: Variables with fastq's prefix that are no settings.
_OTHER_VARIABLES = frozenset((
    "FASTQ_APP", "FASTQ_CONFIG", "FASTQ_SPEEDUPS", "FASTQ_PURE", "FASTQ_REQUIRE_SERVICES", *failpoints.VARIABLES,
))  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """Everything that can be set. Times are in seconds, sizes in bytes. What may be secret is not in the repr."""

    broker: str = field(default="sqlite:///fastq.db", repr=False)
    backend: str = field(default="", repr=False)  # empty: the broker's own URL
    state: str = field(default="", repr=False)  # of shared state; empty: the broker's or the backend's, if they can
    default_queue: str = "default"
    task_routes: tuple[tuple[str, str], ...] = ()  # names of tasks, or patterns of them, and the queues for their calls
    queue_limits: tuple[tuple[str, str], ...] = ()  # queues, and what of them may start ("100/m"), or run at once ("4")
    fair_queues: tuple[tuple[str, str], ...] = ()  # queues that are shared fairly, and the numbers of their shares
    serializer: str = "json"
    accept: tuple[str, ...] = ("json", "msgpack")  # the serializers that may be used, in either direction
    ack: str = "late"  # late: at least once; early: at most once
    strict_early: bool = False  # whether early tasks wait until their acknowledgement is known to have arrived
    ignore_result: bool = False
    result_expires_s: float = 86_400.0
    workflow_expires_s: float = 2_592_000.0  # what has not followed in a workflow by then, never will
    pool: str = "prefork"  # what runs tasks: prefork, threads, asyncio or solo
    concurrency: int = 0  # children of a worker, each for a task at a time; 0: as many as suit its pool
    async_concurrency: int = 100  # async tasks that a worker runs at once beside them
    autoscale_min: int = 0  # children that stay when there is little to do
    autoscale_max: int = 0  # children when there is much to do; 0: their number stays
    max_tasks_per_child: int = 0  # after which a child is replaced; 0: never
    max_memory_per_child_mb: float = 0.0  # resident, after a task; 0: without limit
    max_child_age_s: float = 0.0
    lease_s: float = 30.0
    grace_s: float = 30.0  # how long running tasks may go on after SIGTERM
    watchdog_s: float = 60.0  # after which a worker of which a part hangs does something about it; 0: it does nothing
    child_silence_s: float = 60.0  # after which a child that does not answer between two tasks is replaced; 0: it stays
    max_deliveries: int = 5  # a message that is charged with more crashes is a dead letter
    unknown_task_grace_s: float = 300.0  # how long a worker holds a task that it doesn't know, for a newer one
    dead_letters_expire_s: float = 15_552_000.0  # after their death; 0: never
    dead_letters_max: int = 0  # of each queue, beyond which the oldest are deleted; 0: all are kept
    max_message_bytes: int = 100_000_000
    max_step_bytes: int = 1_000_000  # of the value of one step of a task
    max_depth: int = 100  # of lists and mappings in one another
    compression: str = "zlib"  # zlib or zstd
    compress_over_bytes: int = 0  # arguments and return values that are longer are compressed; 0: none are
    max_decompressed_bytes: int = 100_000_000  # for which a compressed body may stand
    claims_url: str = ""  # a folder for what is larger than the next; empty: all goes to the broker
    claim_over_bytes: int = 1_000_000
    claims_expire_s: float = 2_592_000.0
    signing_keys: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # names, and secrets or where they are
    signing_grants: tuple[tuple[str, str], ...] = ()  # keys, and the tasks that may be called with them; otherwise all
    signature_expires_s: float = 604_800.0  # after a message was due; 0: never
    require_signed: bool = False  # whether what is not signed is refused
    encryption_keys: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # as signing_keys
    encryption: str = "aes-256-gcm"  # or chacha20-poly1305
    require_encrypted: bool = False  # whether bodies that are not encrypted are refused
    propagate_headers: tuple[str, ...] = ()  # headers that go on to the tasks that a task calls
    control: bool = True  # whether workers obey remote control, where there is shared state
    events: bool = False  # whether workers and callers report what becomes of tasks

    def __post_init__(self) -> None:
        _check_queue("default_queue", self.default_queue)
        for name, pairs in (("task_routes", self.task_routes), ("queue_limits", self.queue_limits)):
            for key, value in pairs:
                _check_queue(name, value if name == "task_routes" else key)
        for queue, limit in self.queue_limits:
            parse_limit(limit, f"queue_limits of {queue}")
        for queue, shares in self.fair_queues:
            _check_queue("fair_queues", f"{queue}:fair-{_MOST_SHARES}")
            if not (shares.isascii() and shares.isdigit()) or not 1 <= int(shares) <= _MOST_SHARES:
                raise ConfigurationError(f"fair_queues gives {queue} {shares!r} shares; it takes 1 to {_MOST_SHARES}")
        if self.ack not in ("late", "early"):
            raise ConfigurationError(f"ack is {self.ack!r}; it takes 'late' or 'early'")
        if self.pool not in _POOLS:
            raise ConfigurationError(f"pool is {self.pool!r}; {did_you_mean(self.pool, _POOLS)}")
        for name, (least, most) in _RANGES.items():
            if not least <= getattr(self, name) <= most:
                raise ConfigurationError(f"{name} is {getattr(self, name)!r}; it takes {least:,} to {most:,}")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ConfigurationError(f"{name} is {getattr(self, name)!r}; it takes {' or '.join(map(repr, known))}")
        self._check_keys()
        if 0 < self.autoscale_max < self.autoscale_min:
            raise ConfigurationError(f"autoscale_min is {self.autoscale_min}, more than autoscale_max")

    def _check_keys(self) -> None:
        for setting in _SECRETS:
            for name, _ in getattr(self, setting):
                check_key_name(setting, name)
        known = [name for name, _ in self.signing_keys]
        for name, _ in self.signing_grants:
            if name not in known:
                raise ConfigurationError(f"signing_grants names the key {name!r}; {did_you_mean(name, known)}")
        for needs, setting in (("require_signed", "signing_keys"), ("require_encrypted", "encryption_keys")):
            if getattr(self, needs) and not getattr(self, setting):
                raise ConfigurationError(f"{needs} is set, and {setting} has no key")

    @property
    def children(self) -> int:
        """How many children a worker starts with."""
        if self.pool == "solo":
            return 1
        if self.autoscale_max:
            return min(max(self.concurrency or self.autoscale_min, self.autoscale_min, 1), self.autoscale_max)
        if self.pool == "asyncio":
            return self.concurrency or self.async_concurrency
        cpus = os.cpu_count() or 1
        return self.concurrency or (cpus if self.pool == "prefork" else min(32, cpus + 4))

    @property
    def backend_url(self) -> str:
        """Where results are kept."""
        return self.backend or self.broker

    @property
    def state_urls(self) -> tuple[str, ...]:
        """Where shared state may be kept; the first that can, does."""
        return (self.state,) if self.state else (self.broker, self.backend_url)

    @cached_property
    def shares(self) -> dict[str, int]:
        """How many shares each fair queue has."""
        return {queue: int(number) for queue, number in self.fair_queues}

    @cached_property
    def seals(self) -> Seals:
        """What signs, and checks what is signed. Raises ConfigurationError, among them MissingExtra."""
        from .sealing import Seals

        return Seals.of(self)

    @cached_property
    def packing(self) -> Packing:
        """What compresses and encrypts bodies. Raises ConfigurationError, among them MissingExtra."""
        from .packing import Packing

        return Packing(self)

    @cached_property
    def claims(self) -> Claims | None:
        """Where large bodies are kept. Raises ConfigurationError."""
        if not self.claims_url:
            return None
        from .claims import Claims

        return Claims(self.claims_url, over_bytes=self.claim_over_bytes, expires_s=self.claims_expire_s)

    @cached_property
    def envelope(self) -> Callable[[Message], bytes]:
        """What makes the bytes that a message is published as. Raises what `seals`, `packing` and `claims` raise."""
        return self._envelope or Message.encode

    @cached_property
    def reframe(self) -> Callable[[Message], bytes]:
        """What makes the bytes that take the place of a message that was published. Raises as `envelope`."""
        return self._envelope.again if self._envelope else Message.encode

    @cached_property
    def _envelope(self) -> Envelope | None:
        if not (self.signing_keys or self.encryption_keys or self.compress_over_bytes or self.claims_url):
            return None
        from .sealing import Envelope

        return Envelope(self.packing, self.claims, self.seals)

    @classmethod
    def load(cls, arguments: Mapping[str, Any]) -> Settings:
        """Put settings together from arguments, environment and file. Raises ConfigurationError."""
        values: dict[str, Any] = {}
        for source, found in (_from_file(), _from_environment(), ("arguments", arguments)):
            for name, value in found.items():
                values[name] = _converted(name, value, source)
        return cls(**values)


_PAIRS = tuple[tuple[str, str], ...]
_POOLS = ("prefork", "threads", "asyncio", "solo")
_MOST_SHARES = 1_000
_YEARS_S = 1_000_000_000  # some thirty of them: times in microseconds stay far within 64 bits
_RANGES: dict[str, tuple[float, float]] = {
    "result_expires_s": (1, _YEARS_S),
    "workflow_expires_s": (1, _YEARS_S),
    "concurrency": (0, 10_000),
    "async_concurrency": (1, 1_000),
    "autoscale_min": (0, 900),
    "autoscale_max": (0, 900),
    "max_tasks_per_child": (0, 1_000_000_000),
    "max_memory_per_child_mb": (0, 100_000_000),
    "max_child_age_s": (0, _YEARS_S),
    "lease_s": (0.1, _YEARS_S),
    "grace_s": (0, _YEARS_S),
    "watchdog_s": (0, _YEARS_S),
    "child_silence_s": (0, 1_000_000),
    "max_deliveries": (1, 65_535),
    "unknown_task_grace_s": (0, _YEARS_S),
    "dead_letters_expire_s": (0, _YEARS_S),
    "dead_letters_max": (0, 1_000_000_000),
    "max_message_bytes": (2_000, (1 << 31) - 1),
    "max_step_bytes": (100, (1 << 31) - 1),
    "max_depth": (5, 250),
    "compress_over_bytes": (0, (1 << 31) - 1),
    "max_decompressed_bytes": (2_000, (1 << 31) - 1),
    "claim_over_bytes": (100, (1 << 31) - 1),
    "claims_expire_s": (1, _YEARS_S),
    "signature_expires_s": (0, _YEARS_S),
}


_CHOICES = {"compression": CODINGS, "encryption": CIPHERS}
_SECRETS = ("signing_keys", "encryption_keys")


def fields_of(settings: Settings) -> dict[str, Any]:
    """Return settings by name, fit for JSON."""
    return asdict(settings)


def settings_of(values: Mapping[str, Any]) -> Settings:
    """Return settings that `fields_of` gave, after their way through JSON. Raises ConfigurationError."""
    return Settings(**{name: _converted(name, value, "settings") for name, value in values.items()})


def _check_queue(setting: str, queue: str) -> None:
    try:
        check_queue(queue)
    except ProtocolError as error:
        raise ConfigurationError(f"{setting}: {error}") from error


def _from_environment() -> tuple[str, dict[str, Any]]:
    failpoints.check()
    known = {f"{_ENVIRONMENT}{field.name.upper()}": field.name for field in fields(Settings)}
    found = {}
    for variable, value in os.environ.items():
        if variable.startswith(_ENVIRONMENT) and variable not in _OTHER_VARIABLES:
            if variable not in known:
                hint = did_you_mean(variable, known)
                raise UnknownSetting(f"The environment sets {variable}, which is no setting; {hint}")
            found[known[variable]] = value
    return "environment", found


def _from_file() -> tuple[str, dict[str, Any]]:
    if module := os.environ.get("FASTQ_CONFIG"):
        try:
            loaded = importlib.import_module(module)
        except Exception as error:
            raise ConfigurationError(
                f"FASTQ_CONFIG names the module {module!r}, which can't be imported: {type(error).__name__}: {error}"
            ) from error
        return module, {
            name: value for name, value in vars(loaded).items() if name in _types() or _looks_like(name, value)
        }
    path = _nearest("pyproject.toml")
    if path is None:
        return "", {}
    try:
        tool = _toml(path.read_text("utf-8")).get("tool", {})
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} can't be read: {error}") from error
    found = tool.get("fastq", {}) if isinstance(tool, dict) else {}
    if not isinstance(found, dict):
        raise ConfigurationError(f"{path}: tool.fastq is not a table")
    return str(path), found


def _nearest(name: str) -> Path | None:
    try:
        here = Path.cwd()
    except FileNotFoundError:  # the folder was deleted under us
        return None
    return next((folder / name for folder in (here, *here.parents) if (folder / name).is_file()), None)


def _toml(text: str) -> dict[str, Any]:
    if "fastq" not in text:  # most projects say nothing of fastq there, and need no parser
        return {}
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(text)


def _looks_like(name: str, value: Any) -> bool:
    """Tell a misspelt setting in a module from the module's own imports, functions and private names."""
    return name.islower() and not name.startswith("_") and isinstance(value, (str, int, float, list, tuple, dict))


@cache
def _types() -> dict[str, Any]:
    return get_type_hints(Settings)


def _converted(name: str, value: Any, source: str) -> Any:
    kind = _types().get(name)
    if kind is None:
        raise UnknownSetting(f"{source}: there is no setting {name!r}; {hint(name, _types())}")
    try:
        return _convert(kind, value)
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        if name in _SECRETS:  # neither here nor in the cause
            raise ConfigurationError(f"{source}: {name} can't be read; it takes {_shape(kind)}") from None
        raise ConfigurationError(f"{source}: {name} is {value!r}; it takes {_shape(kind)}") from error


def _convert(kind: Any, value: Any) -> Any:
    if kind is bool:
        if isinstance(value, str):
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[value.lower()]
        if not isinstance(value, bool):
            raise TypeError(value)
        return value
    if kind in (int, float):
        if isinstance(value, bool) or (kind is int and isinstance(value, float) and value != int(value)):
            raise TypeError(value)
        return kind(value)
    if kind is str:
        if not isinstance(value, str):
            raise TypeError(value)
        return value
    if kind == _PAIRS:
        return tuple(_pairs(value))
    names = [part.strip() for part in value.split(",")] if isinstance(value, str) else list(value)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(value)
    return tuple(filter(None, names))


def _pairs(value: Any) -> Iterator[tuple[str, str]]:
    """Read a table: a mapping, whose values may be lists, or text such as "mail=100/m, mail=4", or the pairs."""
    if isinstance(value, str):
        value = [part.split("=") for part in value.split(",") if part.strip()]
    items = value.items() if isinstance(value, Mapping) else [(name, item) for name, item in value]
    for name, item in items:
        for each in item if isinstance(item, (list, tuple)) else (item,):
            if not isinstance(name, str) or not isinstance(each, (str, int)) or isinstance(each, bool):
                raise TypeError(value)
            pair = name.strip(), str(each).strip()
            if not all(pair):
                raise ValueError(value)
            yield pair


_SHAPES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", _PAIRS: "a table of names"}


def _shape(kind: Any) -> str:
    return _SHAPES.get(kind, "a list of names")
