"""Serializers for arguments and return values: json, msgpack, yaml, pickle, and whatever is registered.

A serializer is known by its name in settings and by its content type in messages. Only those that the
app accepts are used, in either direction.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any

import orjson

from .errors import (
    ConfigurationError,
    EncodingError,
    MissingExtra,
    SerializerRefused,
    UnknownSerializer,
    did_you_mean,
)


@dataclass(frozen=True)
class Serializer:
    """A way to make bytes of a value and back. Both functions may raise whatever they like.

    How deeply lists and mappings are nested is looked at where there is `is_shallow`, which says of bytes, as well as
    it can without reading them, whether they stand for nothing that is nested more deeply than so many levels.
    """

    name: str
    content_type: str
    dumps: Callable[[Any], bytes]
    loads: Callable[[bytes], Any]
    is_shallow: Callable[[bytes, int], bool] | None = None


MAX_DEPTH = 100  # of lists and mappings in one another, unless a setting says otherwise

_by_name: dict[str, Serializer] = {}
_by_content_type: dict[str, Serializer] = {}


def register_serializer(serializer: Serializer) -> Serializer:
    """Make a serializer known, in place of one with the same name; apps still have to accept it.

    Raises ConfigurationError for a content type that messages can't name, or that another serializer has.
    """
    content_type = serializer.content_type
    if not re.fullmatch(r"[!-~]{1,255}", content_type):
        raise ConfigurationError(f"{content_type!r:.300} is not a content type: 1 to 255 ASCII characters are")
    other = _by_content_type.get(content_type)
    if other is not None and other.name != serializer.name:
        raise ConfigurationError(f"The content type {content_type!r} is that of the serializer {other.name!r}")
    _by_name[serializer.name] = serializer
    _by_content_type[serializer.content_type] = serializer
    return serializer


def serializer_named(name: str, accept: Collection[str]) -> Serializer:
    """Return an accepted serializer by its name. Raises UnknownSerializer, SerializerRefused."""
    serializer = _by_name.get(name)
    if serializer is None:
        raise UnknownSerializer(f"There is no serializer {name!r}: {did_you_mean(name, _by_name)}")
    return _accepted(serializer, accept)


def encode(
    value: Any, serializer: Serializer, what: str, parts: Sequence[str] = (), max_depth: int = MAX_DEPTH,
    secret: Collection[str] = (),
) -> bytes:  # fmt: skip
    """Return a value's bytes.

    Raises EncodingError, which quotes `what` the value is, and the part of it that can't be carried, unless there are
    `secret` arguments, which may be in it; `parts` are the names of a list's items.
    """
    try:
        data = serializer.dumps(value)
    except MissingExtra:
        raise
    except Exception as error:
        if secret:
            why = "what of it is not said: there are arguments, and some of them are secret"
            raise EncodingError(f"{what} can't be carried by {serializer.name}; {why}") from None
        cause = _culprit(serializer.dumps, value, parts) or str(error) or type(error).__name__
        raise EncodingError(f"{what} can't be carried by {serializer.name}: {cause}") from error
    if not isinstance(data, bytes):
        raise EncodingError(f"The serializer {serializer.name} made {type(data).__name__} of {what}, not bytes")
    shallow = serializer.is_shallow
    deep = len(data) > max_depth and shallow and not shallow(data, max_depth)
    if deep and is_deeper(serializer.loads(data), max_depth):
        raise EncodingError(f"{what} is nested more deeply than {max_depth} levels, the limit of max_depth")
    return data


def serializer_of(content_type: str, accept: Collection[str]) -> Serializer:
    """Return the serializer of a content type. Raises UnknownSerializer, SerializerRefused."""
    serializer = _by_content_type.get(content_type)
    if serializer is None:
        raise UnknownSerializer(f"There is no serializer for content type {content_type!r}")
    return _accepted(serializer, accept)


def decode(data: bytes, content_type: str, accept: Collection[str], max_depth: int = MAX_DEPTH) -> Any:
    """Return the value of some bytes. Raises UnknownSerializer, SerializerRefused, EncodingError."""
    serializer = _by_content_type.get(content_type)
    if serializer is None or serializer.name not in accept:
        serializer = serializer_of(content_type, accept)
    try:
        value = serializer.loads(data)
    except MissingExtra:
        raise
    except Exception as error:
        raise EncodingError(f"{len(data)} bytes are not valid {serializer.name}: {error}") from error
    shallow = serializer.is_shallow
    if len(data) > max_depth and shallow and not shallow(data, max_depth) and is_deeper(value, max_depth):
        raise EncodingError(f"A value is nested more deeply than {max_depth} levels, the limit of max_depth")
    return value


def _accepted(serializer: Serializer, accept: Collection[str]) -> Serializer:
    if serializer.name not in accept:
        raise SerializerRefused(
            f"The serializer {serializer.name!r} is not accepted: accept={tuple(accept)!r}; add it there if you trust "
            "every writer of the broker and the backend"
        )
    return serializer


# -- nesting --------------------------------------------------------------------------------------


_NESTS = (list, tuple, dict)
_MANY = 1_000


def is_deeper(value: Any, levels: int) -> bool:
    """Return whether lists and mappings are in one another beyond so many levels."""
    nests = [value] if isinstance(value, _NESTS) else []
    for _ in range(levels):
        nests = [
            item for each in nests for item in (each.values() if isinstance(each, dict) else each)
            if isinstance(item, _NESTS)
        ]  # fmt: skip
        if not nests:
            return False
        if len(nests) > _MANY:  # among them may be the same one very often, as in YAML
            nests = list({id(nest): nest for nest in nests}.values())
    return True


_SQUARE = bytes.maketrans(b"{}", b"[]")
_WORDS = bytes(set(range(256)) - set(b'[]{}"'))


def _is_shallow_json(data: bytes, levels: int) -> bool:
    """Leave out all but brackets that are in no text, and then pairs with nothing in between, level by level."""
    if len(data) <= 2 * levels or data.count(b"[") + data.count(b"{") <= levels:
        return True
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = data.translate(_SQUARE, _WORDS).replace(b'""', b"")
    if b'"' in brackets:
        brackets = b"".join(brackets.split(b'"')[::2])
    for _ in range(levels):
        if not brackets:
            return True
        brackets = brackets.replace(b"[]", b"")
    return not brackets


_NO_MSGPACK_NESTS = bytes(set(range(256)) - {*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF})


def _is_shallow_msgpack(data: bytes, levels: int) -> bool:
    """Count the bytes that may begin a list or a mapping."""
    return len(data.translate(None, _NO_MSGPACK_NESTS)) <= levels


def _is_shallow_yaml(data: bytes, levels: int) -> bool:
    """Look at the length alone: there are many ways to nest, and all of them take a character a level."""
    return len(data) <= levels


# -- what can't be carried, and why ---------------------------------------------------------------

_DEEPEST = 50


def _culprit(dumps: Callable[[Any], bytes], value: Any, parts: Sequence[str] = ()) -> str:
    """Return, in words, the smallest part of a value that a serializer refuses; "" if it is not one part."""
    path = "" if parts else "it"
    for depth in range(_DEEPEST):
        error = _refusal(dumps, value)
        if isinstance(value, dict):
            items = [(f"[{_shown(key)}]", item) for key, item in value.items()]
            for key in value:
                if _refusal(dumps, {key: None}):
                    return f"{path} has the key {_shown(key)} of type {type(key).__name__}: {error}"
        elif isinstance(value, (list, tuple)):
            items = [(parts[at] if parts and not depth else f"[{at}]", item) for at, item in enumerate(value)]
        else:
            return f"{path} is {_shown(value)} of type {type(value).__name__}: {error}"
        for name, item in items:
            if _refusal(dumps, item):
                path, value = path + name, item
                break
        else:
            return ""
    return ""


def _shown(value: Any) -> str:
    try:
        import reprlib  # only those who err pay for it

        return reprlib.repr(value)
    except Exception:  # noqa: BLE001 - an integer of thousands of digits, or the user's code
        return f"<{type(value).__name__}>"


def _refusal(dumps: Callable[[Any], bytes], value: Any) -> str:
    try:
        dumps(value)
    except Exception as error:  # noqa: BLE001 - a serializer may raise whatever it likes
        return str(error) or type(error).__name__
    return ""


# -- json -----------------------------------------------------------------------------------------


def _json_dumps(value: Any) -> bytes:
    data = orjson.dumps(value)
    if b"null" in data and not _all_finite(value):
        raise ValueError("JSON has no form for a number that is not finite")
    return data


def _all_finite(value: Any) -> bool:
    """Return whether there is no NaN or infinity: orjson would write null for it, and lose it in silence."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_all_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_all_finite, value))
    if isinstance(value, Enum):
        return _all_finite(value.value)
    if is_dataclass(value):
        return all(_all_finite(getattr(value, field.name)) for field in fields(value))
    return True


register_serializer(Serializer("json", "application/json", _json_dumps, orjson.loads, _is_shallow_json))


# -- the others: their libraries are loaded when they are used -----------------------------------------


def _msgpack_dumps(value: Any) -> bytes:
    data: bytes = _library("msgpack").packb(value)
    return data


def _msgpack_loads(data: bytes) -> Any:
    # Keys that are no text are let through: they were let in by `packb`, which has no way to refuse them.
    return _library("msgpack").unpackb(data, strict_map_key=False)


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


def _pickle_dumps(value: Any) -> bytes:
    data: bytes = _library("pickle").dumps(value, protocol=4)
    return data


def _pickle_loads(data: bytes) -> Any:
    return _library("pickle").loads(data)


register_serializer(Serializer("msgpack", "application/msgpack", _msgpack_dumps, _msgpack_loads, _is_shallow_msgpack))
register_serializer(Serializer("yaml", "application/yaml", _yaml_dumps, _yaml_loads, _is_shallow_yaml))
register_serializer(Serializer("pickle", "application/x-pickle", _pickle_dumps, _pickle_loads))
