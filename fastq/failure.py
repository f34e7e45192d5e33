"""Failures: what is kept of an exception on its way to the caller, and how the caller gets it back.

An exception travels as its type's name, its text, its arguments where JSON can carry them, and its
traceback. At the caller, a type is looked up among those that were registered and those that Python and
fastq bring; it is never imported, and nothing is called, because a message names it.
"""

from __future__ import annotations

import builtins
import traceback
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import orjson

from . import errors
from .errors import RemoteError, RemoteTraceback

E = TypeVar("E", bound=type[BaseException])

_MAX_TEXT = 10_000
_MAX_TRACEBACK = 100_000


class Failure(NamedTuple):
    """What is kept of an exception."""

    type_name: str
    message: str
    arguments: list[Any] | None  # None: they can't be carried
    traceback: str

    @classmethod
    def of(cls, error: BaseException, *, frames_to_skip: int = 0) -> Failure:
        """Keep an exception; `frames_to_skip` leaves out the innermost callers that are fastq's own."""
        trace = error.__traceback__
        for _ in range(frames_to_skip):
            trace = trace.tb_next if trace is not None and trace.tb_next is not None else trace
        lines = traceback.format_exception(type(error), error, trace)
        return cls(_name_of(type(error)), _text_of(error), _carried(error.args), "".join(lines)[-_MAX_TRACEBACK:])

    def encode(self) -> bytes:
        """Return it as JSON."""
        return orjson.dumps(list(self._clean()))

    @classmethod
    def decode(cls, body: bytes) -> Failure:
        """Read it back; bytes that are not a failure become one that says so."""
        try:
            type_name, message, arguments, trace = orjson.loads(body)
            if not (isinstance(type_name, str) and isinstance(message, str) and isinstance(trace, str)):
                raise TypeError("not a failure's fields")
            if arguments is not None and not isinstance(arguments, list):
                raise TypeError("arguments are a list")
        except (ValueError, TypeError) as error:
            return cls("fastq.errors.EncodingError", f"The stored failure can't be read: {error}", None, "")
        return cls(type_name, message, arguments, trace)

    def exception(self) -> BaseException:
        """Return the exception to raise at the caller; its cause is the remote traceback."""
        found = self._known() or RemoteError(self.type_name, self.message)
        found.__cause__ = RemoteTraceback(self.traceback) if self.traceback else None
        return found

    def _known(self) -> BaseException | None:
        kind = _registered.get(self.type_name) or _standard().get(self.type_name)
        if kind is None or self.arguments is None:
            return None
        try:
            return kind(*self.arguments)
        except Exception:  # noqa: BLE001 - a user's type may refuse its own arguments
            return None

    def _clean(self) -> Failure:
        """Return it without lone surrogates, which UTF-8 has no form for."""
        texts = (
            text.encode("utf-8", "backslashreplace").decode() for text in (self.type_name, self.message, self.traceback)
        )
        type_name, message, trace = texts
        return Failure(type_name, message, self.arguments, trace)


_registered: dict[str, type[BaseException]] = {}


def register_exception(kind: E) -> E:
    """Let callers in this process get this exception type back as itself. Fit for use as a decorator."""
    _registered[_name_of(kind)] = kind
    return kind


def _standard() -> Mapping[str, type[BaseException]]:
    """Return the exception types that everyone has: Python's builtin ones and fastq's."""
    if not _standard_types:
        for module in (builtins, errors):
            for kind in vars(module).values():
                if isinstance(kind, type) and issubclass(kind, Exception):
                    _standard_types[_name_of(kind)] = kind
    return _standard_types


_standard_types: dict[str, type[BaseException]] = {}


def _name_of(kind: type[BaseException]) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _text_of(error: BaseException) -> str:
    try:
        return str(error)[:_MAX_TEXT]
    except Exception:  # noqa: BLE001 - __str__ is the user's code
        return f"<{type(error).__name__}, whose text can't be made>"


def _carried(arguments: tuple[Any, ...]) -> list[Any] | None:
    plain = all(argument is None or isinstance(argument, (str, int, float, bool)) for argument in arguments)
    if not plain:
        return None
    try:
        data = orjson.dumps(arguments)
    except TypeError:
        return None
    return list(arguments) if len(data) <= _MAX_TEXT else None
