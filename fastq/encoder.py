"""Serializers for arguments and return values: json, msgpack, yaml, pickle, and whatever is registered.

A serializer is known by its name in settings and by its content type in messages. Only those that the
app accepts are used, in either direction.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Collection
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import orjson

from .errors import EncodingError, MissingExtra, SerializerRefused, UnknownSerializer


@dataclass(frozen=True)
class Serializer:
    """A way to make bytes of a value and back. Both functions may raise whatever they like."""

    name: str
    content_type: str
    dumps: Callable[[Any], bytes]
    loads: Callable[[bytes], Any]


_by_name: dict[str, Serializer] = {}
_by_content_type: dict[str, Serializer] = {}


def register_serializer(serializer: Serializer) -> Serializer:
    """Make a serializer known, in place of one with the same name; apps still have to accept it."""
    _by_name[serializer.name] = serializer
    _by_content_type[serializer.content_type] = serializer
    return serializer


def serializer_named(name: str, accept: Collection[str]) -> Serializer:
    """Return an accepted serializer by its name. Raises UnknownSerializer, SerializerRefused."""
    serializer = _by_name.get(name)
    if serializer is None:
        near = get_close_matches(name, _by_name, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(_by_name))}"
        raise UnknownSerializer(f"There is no serializer {name!r}: {hint}")
    return _accepted(serializer, accept)


def encode(value: Any, serializer: Serializer, what: str) -> bytes:
    """Return a value's bytes. Raises EncodingError, which quotes `what` the value is."""
    try:
        return serializer.dumps(value)
    except MissingExtra:
        raise
    except Exception as error:
        raise EncodingError(f"{what} can't be carried by {serializer.name}: {_cause(error, value)}") from error


def decode(data: bytes, content_type: str, accept: Collection[str]) -> Any:
    """Return the value of some bytes. Raises UnknownSerializer, SerializerRefused, EncodingError."""
    serializer = _by_content_type.get(content_type)
    if serializer is None:
        raise UnknownSerializer(f"There is no serializer for content type {content_type!r}")
    _accepted(serializer, accept)
    try:
        return serializer.loads(data)
    except MissingExtra:
        raise
    except Exception as error:
        raise EncodingError(f"{len(data)} bytes are not valid {serializer.name}: {error}") from error


def _accepted(serializer: Serializer, accept: Collection[str]) -> Serializer:
    if serializer.name not in accept:
        raise SerializerRefused(
            f"The serializer {serializer.name!r} is not accepted: accept={tuple(accept)!r}; add it there if you trust "
            "every writer of the broker and the backend"
        )
    return serializer


def _cause(error: Exception, value: Any) -> str:
    """Say which part of a value JSON has no form for, or else what the library says."""
    found = _first_alien(value, "", 0) if isinstance(error, (TypeError, orjson.JSONEncodeError)) else ""
    return found or str(error) or type(error).__name__


# -- json -----------------------------------------------------------------------------------------

_PLAIN = (str, int, bool, type(None))


def _json_dumps(value: Any) -> bytes:
    data = orjson.dumps(value)
    if b"null" in data and (where := _first_non_finite(value, "")):
        raise ValueError(f"{where} is not a finite number, and JSON has no form for it")
    return data


def _first_non_finite(value: Any, path: str) -> str:
    """Return where a NaN or infinity is: orjson would write null for it, and lose it in silence."""
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"{path or 'it'} ({value!r})"
    if isinstance(value, dict):
        return next(filter(None, (_first_non_finite(item, f"{path}[{key!r}]") for key, item in value.items())), "")
    if isinstance(value, (list, tuple)):
        return next(filter(None, (_first_non_finite(item, f"{path}[{at}]") for at, item in enumerate(value))), "")
    return ""


def _first_alien(value: Any, path: str, depth: int) -> str:
    if depth > 50 or isinstance(value, _PLAIN):
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
            return f"{path or 'it'} is an integer of {value.bit_length()} bits, and 64 are the limit"
        return ""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                return f"{path or 'it'} has the key {key!r:.60} of type {type(key).__name__}, where JSON has only text"
            if found := _first_alien(item, f"{path}[{key!r:.60}]", depth + 1):
                return found
        return ""
    if isinstance(value, (list, tuple)):
        return next(filter(None, (_first_alien(item, f"{path}[{at}]", depth + 1) for at, item in enumerate(value))), "")
    try:
        orjson.dumps(value)
    except TypeError:
        return f"{path or 'it'} is {value!r:.60} of type {type(value).__name__}"
    return ""


register_serializer(Serializer("json", "application/json", _json_dumps, orjson.loads))


# -- the others: their libraries are loaded when they are used -----------------------------------------


def _msgpack_dumps(value: Any) -> bytes:
    data: bytes = _library("msgpack").packb(value)
    return data


def _msgpack_loads(data: bytes) -> Any:
    return _library("msgpack").unpackb(data)


def _yaml_dumps(value: Any) -> bytes:
    data: bytes = _library("yaml").safe_dump(value, encoding="utf-8")
    return data


def _yaml_loads(data: bytes) -> Any:
    return _library("yaml").safe_load(data)


def _library(name: str) -> Any:
    try:
        return __import__(name)
    except ModuleNotFoundError as error:
        raise MissingExtra(f"The serializer {name!r} needs a library: pip install 'fastq-worker[{name}]'") from error


register_serializer(Serializer("msgpack", "application/msgpack", _msgpack_dumps, _msgpack_loads))
register_serializer(Serializer("yaml", "application/yaml", _yaml_dumps, _yaml_loads))
register_serializer(
    Serializer(
        "pickle",
        "application/x-pickle",
        lambda value: pickle.dumps(value, protocol=4),
        pickle.loads,
    )
)
