"""Settings: one frozen value, from arguments, environment and file; an unknown name gets a suggestion.

What an argument says wins over ``FASTQ_*`` variables, and they win over the file: the module named by
``FASTQ_CONFIG``, or else the ``[tool.fastq]`` table of the nearest ``pyproject.toml``.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from .errors import ConfigurationError, ProtocolError, UnknownSetting, did_you_mean
from .message import check_queue

_ENVIRONMENT = "FASTQ_"
#: Variables with fastq's prefix that are no settings.
_OTHER_VARIABLES = frozenset(("FASTQ_APP", "FASTQ_CONFIG", "FASTQ_SPEEDUPS", "FASTQ_PURE", "FASTQ_REQUIRE_SERVICES"))


@dataclass(frozen=True)
class Settings:
    """Everything that can be set. Times are in seconds, sizes in bytes."""

    broker: str = "sqlite:///fastq.db"
    backend: str = ""  # empty: the broker's own URL
    default_queue: str = "default"
    serializer: str = "json"
    accept: tuple[str, ...] = ("json", "msgpack")  # the serializers that may be used, in either direction
    ack: str = "late"  # late: at least once; early: at most once
    ignore_result: bool = False
    result_expires_s: float = 86_400.0
    concurrency: int = 0  # children of a worker; 0: one for each CPU
    lease_s: float = 30.0
    grace_s: float = 30.0  # how long running tasks may go on after SIGTERM
    max_deliveries: int = 5  # a message that is charged with more crashes is a dead letter
    unknown_task_grace_s: float = 300.0  # how long a worker holds a task that it doesn't know, for a newer one
    max_message_bytes: int = 100_000_000

    def __post_init__(self) -> None:
        try:
            check_queue(self.default_queue)
        except ProtocolError as error:
            raise ConfigurationError(f"default_queue: {error}") from error
        if self.ack not in ("late", "early"):
            raise ConfigurationError(f"ack is {self.ack!r}; it takes 'late' or 'early'")
        for name, (least, most) in _RANGES.items():
            if not least <= getattr(self, name) <= most:
                raise ConfigurationError(f"{name} is {getattr(self, name)!r}; it takes {least:,} to {most:,}")

    @property
    def backend_url(self) -> str:
        """Where results are kept."""
        return self.backend or self.broker

    @classmethod
    def load(cls, arguments: Mapping[str, Any]) -> Settings:
        """Put settings together from arguments, environment and file. Raises ConfigurationError."""
        values: dict[str, Any] = {}
        for source, found in (_from_file(), _from_environment(), ("arguments", arguments)):
            for name, value in found.items():
                values[name] = _converted(name, value, source)
        return cls(**values)


_YEARS_S = 1_000_000_000  # some thirty of them: times in microseconds stay far within 64 bits
_RANGES: dict[str, tuple[float, float]] = {
    "result_expires_s": (1, _YEARS_S),
    "concurrency": (0, 10_000),
    "lease_s": (0.1, _YEARS_S),
    "grace_s": (0, _YEARS_S),
    "max_deliveries": (1, 65_535),
    "unknown_task_grace_s": (0, _YEARS_S),
    "max_message_bytes": (2_000, (1 << 31) - 1),
}


def fields_of(settings: Settings) -> dict[str, Any]:
    """Return settings by name, fit for JSON."""
    return asdict(settings)


def _from_environment() -> tuple[str, dict[str, Any]]:
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
    return name.islower() and not name.startswith("_") and isinstance(value, (str, int, float, list, tuple))


@cache
def _types() -> dict[str, Any]:
    return get_type_hints(Settings)


def _converted(name: str, value: Any, source: str) -> Any:
    kind = _types().get(name)
    if kind is None:
        raise UnknownSetting(f"{source}: there is no setting {name!r}; {did_you_mean(name, _types())}")
    try:
        return _convert(kind, value)
    except (TypeError, ValueError, KeyError, OverflowError) as error:
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
    names = [part.strip() for part in value.split(",")] if isinstance(value, str) else list(value)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(value)
    return tuple(filter(None, names))


def _shape(kind: Any) -> str:
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}.get(kind, "a list of names")
