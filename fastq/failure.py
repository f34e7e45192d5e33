"""Failures: what is kept of an exception on its way to the caller, and how the caller gets it back.

An exception travels as its type's name, its text, its arguments (as text, where JSON can't carry them)
and its traceback. At the caller, a type is looked up among those that were registered and those that
Python and fastq bring; it is never imported, and nothing is called, because a message names it.
"""

from __future__ import annotations

import builtins
import math
import reprlib
import traceback
from collections.abc import Callable, Mapping
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
    origin: tuple[str, str] | None = None  # in a workflow: the name and the id of the task that failed

    @classmethod
    def of(cls, error: BaseException, *, frames_to_skip: int = 0) -> Failure:
        """Keep an exception; `frames_to_skip` leaves out the innermost callers that are fastq's own."""
        trace = error.__traceback__
        for _ in range(frames_to_skip):
            trace = trace.tb_next if trace is not None and trace.tb_next is not None else trace
        name = _name_of(type(error))
        lines = _or_else(lambda: "".join(traceback.format_exception(type(error), error, trace)), f"{name}\n")
        text = _or_else(lambda: str(error), f"<{name}, whose text can't be made>")
        return cls(name, text[:_MAX_TEXT], _carried(error, text[:_MAX_TEXT]), lines[-_MAX_TRACEBACK:])

    def encode(self) -> bytes:
        """Return it as JSON."""
        fields = self._clean()
        return orjson.dumps(list(fields if fields.origin else fields[:4]))

    @classmethod
    def decode(cls, body: bytes) -> Failure:
        """Read it back; bytes that are not a failure become one that says so."""
        try:
            type_name, message, arguments, trace, *more = orjson.loads(body)
            if not (isinstance(type_name, str) and isinstance(message, str) and isinstance(trace, str)):
                raise TypeError("not a failure's fields")
            if arguments is not None and not isinstance(arguments, list):
                raise TypeError("arguments are a list")
            origin = _origin_of(*more)
        except (ValueError, TypeError) as error:
            text = f"The stored failure can't be read: {error}"
            return cls("fastq.errors.EncodingError", text, [text], "")
        return cls(type_name, message, arguments, trace, origin)

    def exception(self) -> BaseException:
        """Return the exception to raise at the caller; its cause is the remote traceback."""
        known = self._known()
        found = RemoteError(self.type_name, self.message) if known is None else known
        trace = f"In task {self.origin[0]}[{self.origin[1]}]:\n{self.traceback}" if self.origin else self.traceback
        found.__cause__ = RemoteTraceback(trace) if trace else None
        return found

    def _known(self) -> BaseException | None:
        kind = _registered.get(self.type_name) or _standard().get(self.type_name)
        if kind is None or self.arguments is None:
            return None
        try:
            made: object = kind(*self.arguments)
        except Exception:  # noqa: BLE001 - a user's type may refuse its own arguments
            return None
        return made if isinstance(made, BaseException) else None

    def _clean(self) -> Failure:
        """Return it without lone surrogates, which UTF-8 has no form for."""
        return self._replace(
            type_name=_in_utf8(self.type_name), message=_in_utf8(self.message), traceback=_in_utf8(self.traceback)
        )


def _origin_of(given: object = None) -> tuple[str, str] | None:
    if given is None:
        return None
    if not (isinstance(given, list) and len(given) == 2 and all(isinstance(text, str) for text in given)):
        raise TypeError("the origin is a task's name and its id")
    return given[0], given[1]


_registered: dict[str, type[BaseException]] = {}


def register_exception(kind: E) -> E:
    """Let callers in this process get this exception type back as itself. Fit for use as a decorator.

    Raises TypeError for what is no exception type.
    """
    given: object = kind
    if not (isinstance(given, type) and issubclass(given, BaseException)):
        raise TypeError(f"{kind!r} is not an exception type")
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


def _carried(error: BaseException, text: str) -> list[Any]:
    """Return the arguments that make this exception anew; if they are too long, its text instead."""
    arguments: tuple[Any, ...] = _ARGS.__get__(error)  # a subclass may have an `args` of its own
    if isinstance(error, OSError) and error.filename is not None and len(arguments) == 2:
        arguments += (error.filename,)  # which Python keeps out of `args`, and the text needs
    carried = [_carried_one(argument) for argument in arguments]
    return carried if len(orjson.dumps(carried)) <= _MAX_TEXT else [_in_utf8(text)]


def _carried_one(argument: Any) -> Any:
    if argument is None or type(argument) is bool:
        return argument
    if type(argument) is str:
        return _in_utf8(argument)
    if type(argument) is int and -(1 << 63) <= argument < 1 << 64:
        return argument
    if type(argument) is float and math.isfinite(argument):
        return argument
    return _in_utf8(_or_else(lambda: reprlib.repr(argument), f"<{type(argument).__name__}>"))


def _in_utf8(text: str) -> str:
    """Return a text with its lone surrogates escaped: UTF-8 has no form for them."""
    return text.encode("utf-8", "backslashreplace").decode()


def _or_else(make: Callable[[], str], otherwise: str) -> str:
    """Return what the user's code makes of an exception, whatever that code raises."""
    try:
        return str(make())
    except BaseException:  # noqa: BLE001 - `__str__`, `__repr__` and the like are the user's code, in a worker
        return otherwise


_ARGS: Any = BaseException.args
