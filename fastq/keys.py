"""Keys made of a call's arguments: two calls have the same key if the chosen arguments are the same; pure."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from .errors import ConfigurationError

#: What a key is made of: the names of arguments, none for all of them, or a function of the arguments.
By = Sequence[str] | Callable[..., object]

_MOST_BYTES = 150  # of a key that is shown as it is; a longer one is shown by its digest


class Promised:
    """Stands for an argument that is not known yet."""


def chosen(
    what: str, by: By, signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> object:  # fmt: skip
    """Return what a key is made of for one call, in which the function's defaults are filled in.

    None, which only a function gives, is no key. Raises ConfigurationError for an argument that the call doesn't have.
    """
    if callable(by):
        return by(*args, **kwargs)
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    arguments: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            arguments.update(value)
        else:
            arguments[name] = value
    if missing := set(by) - arguments.keys():
        raise ConfigurationError(f"{what} names {min(missing)!r}, which this call does not have")
    return [arguments[name] for name in by] if by else arguments


def key_of(what: str, value: object) -> str:
    """Return a key, for people to read if it can be: up to 150 printable bytes. Raises ConfigurationError."""
    if isinstance(value, list) and len(value) == 1:
        (value,) = value
    text = value if isinstance(value, str) else _canonical(what, value).decode()
    if text and text.isprintable() and " " not in text and len(text.encode()) <= _MOST_BYTES:
        return text
    return _digest(_canonical(what, value))


def name_of_lock(task: str, value: object) -> str:
    """Return the name of the lock that calls of a task share which are the same. Raises ConfigurationError."""
    digest = _digest(task.encode(), _canonical("unique", value))
    return f"{task}:{digest}" if len(task.encode()) <= _MOST_BYTES else digest


def _digest(*parts: bytes) -> str:
    from hashlib import blake2b  # which is slow to import, and few calls have keys

    return blake2b(b"\0".join(parts), digest_size=16).hexdigest()


def _canonical(what: str, value: object) -> bytes:
    """Return the same bytes for the same value, whatever the order of its keys."""
    try:
        return orjson.dumps(value, default=_plain, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    except TypeError as error:  # among them orjson's own
        raise ConfigurationError(
            f"{what} can't tell whether two calls are the same: {error.__cause__ or error}; name other arguments, or "
            "give a function that makes text of them"
        ) from error


def _plain(value: object) -> object:
    if isinstance(value, Promised):
        raise TypeError("one of the arguments is a value that is not there yet")
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": value.hex()}
    if isinstance(value, (set, frozenset)):
        return {"set": sorted(_canonical("a set", each).decode() for each in value)}
    raise TypeError(f"a value of type {type(value).__name__} has no form that is always the same")
