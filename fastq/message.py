"""Message: one call of one task, and its two envelopes, binary and JSON (``docs/protocol.rst``)."""

from __future__ import annotations

import re
import struct
import time
import uuid
from collections.abc import Mapping
from datetime import datetime, timezone
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson

from . import _speedups
from .errors import ProtocolError

#: Content types that the binary envelope names in one byte; 0 stands for "named in the extras".
CONTENT_CODES = {"application/json": 1, "application/msgpack": 2, "application/yaml": 3, "application/x-pickle": 4}
CONTENT_TYPES = {code: name for name, code in CONTENT_CODES.items()}

IGNORE_RESULT = 1  # flags of the binary envelope
_KNOWN_FLAGS = IGNORE_RESULT

_NO_HEADERS: Mapping[str, Any] = MappingProxyType({})
_QUEUE_NAME = re.compile(r"[A-Za-z0-9._:-]{1,255}", re.ASCII)
_MAX_MICROSECONDS = 253_402_300_799_999_999  # the last of the year 9999


class Extras(NamedTuple):
    """What only some messages carry."""

    root: bytes = b""  # id of the task that began the tree this one belongs to
    parent: bytes = b""  # id of the task that sent this one
    group: bytes = b""  # id of the task-set
    hard_limit_ms: int = 0
    soft_limit_ms: int = 0
    trace: str = ""  # W3C traceparent
    headers: Mapping[str, Any] = _NO_HEADERS  # the user's own, JSON values


NO_EXTRAS = Extras()


class Message(NamedTuple):
    """One call of one task. Times are microseconds since the epoch, 0 where there is none."""

    id: bytes  # 16 bytes: a UUID, time-ordered when fastq makes it
    task: str
    queue: str
    body: bytes  # the encoded pair [args, kwargs]; opaque to all but the process that runs the task
    content_type: str = "application/json"
    priority: int = 0  # 0 to 9; 9 goes first
    enqueued_at: int = 0
    eta: int = 0
    expires: int = 0
    attempt: int = 1  # counts the tries that the task itself asked for, from 1
    crashes: int = 0  # attempts that ended with the death of their process
    reply_to: int = 0  # the caller's channel for results; 0: nobody waits
    ignore_result: bool = False
    extras: Extras = NO_EXTRAS

    def encode(self) -> bytes:
        """Return the binary envelope. Raises ProtocolError for a field that it can't carry."""
        check_queue(self.queue)
        content = CONTENT_CODES.get(self.content_type, 0)
        extras = b"" if content and self.extras is NO_EXTRAS else _pack_extras(self.extras, content, self.content_type)
        try:
            return _speedups.pack_call(
                self.id, self.task, self.queue, self.body, content, IGNORE_RESULT if self.ignore_result else 0,
                self.priority, self.enqueued_at, self.eta, self.expires, self.reply_to, self.attempt, self.crashes,
                extras,
            )  # fmt: skip
        except ValueError as error:
            raise ProtocolError(f"Task {self.task!r} can't be put into a message: {error}") from error

    @classmethod
    def decode(cls, frame: bytes) -> Message:
        """Read either envelope. Whatever the bytes are, the answer is a message or ProtocolError."""
        if frame[:1] in _JSON_FIRST:
            return _from_json(frame)
        try:
            (
                id, task, queue, body, content, flags, priority, enqueued_at, eta, expires, reply_to, attempt, crashes,
                packed,
            ) = _speedups.unpack_call(frame)  # fmt: skip
            if flags & ~_KNOWN_FLAGS:
                raise ValueError(f"unknown flags {flags:#x}")
            extras, content_name = _unpack_extras(packed) if packed else (NO_EXTRAS, "")
            if bool(content) == bool(content_name):
                raise ValueError("the content type is to be named once")
            content_type = CONTENT_TYPES[content] if content else content_name
        except KeyError:
            raise ProtocolError(f"Not a fastq message: content type {content} is not known here") from None
        except ValueError as error:
            raise ProtocolError(f"Not a fastq message: {error}") from error
        check_queue(queue)
        check_task(task)
        return cls(
            id, task, queue, body, content_type, priority, enqueued_at, eta, expires, attempt, crashes, reply_to,
            bool(flags & IGNORE_RESULT), extras,
        )  # fmt: skip

    @property
    def uuid(self) -> str:
        """The id as people write it."""
        return str(uuid.UUID(bytes=self.id))


def binary(frame: bytes, message: Message) -> bytes:
    """Return the binary envelope of a message that was decoded from `frame`, which may be JSON."""
    return message.encode() if frame[:1] in _JSON_FIRST else frame


def now_us() -> int:
    """Return the present time in microseconds since the epoch."""
    return time.time_ns() // 1000


def check_queue(name: str) -> str:
    """Return a queue's name if it is one: 1 to 255 of ``A-Z a-z 0-9 . _ : -``. Raises ProtocolError."""
    if not _QUEUE_NAME.fullmatch(name):
        raise ProtocolError(f"{name!r} is not a queue name: 1 to 255 characters of A-Z a-z 0-9 . _ : - are")
    return name


def check_task(name: str) -> str:
    """Return a task's name if it is one: printable, no spaces, at most 255 bytes. Raises ProtocolError."""
    if not name.isprintable() or " " in name or not 0 < len(name.encode("utf-8", "replace")) <= 255:
        raise ProtocolError(f"{name[:300]!r} is not a task name: 1 to 255 printable characters without spaces are")
    return name


# -- extras: a tag, a length, a value, in ascending order of tags -------------------------------

_TAG = struct.Struct("<BI")
_ROOT, _PARENT, _GROUP, _HARD, _SOFT, _TRACE, _HEADERS, _CONTENT = range(1, 9)
_ID_TAGS = (_ROOT, _PARENT, _GROUP)
_OPTIONAL = 128  # tags from here on may be passed over by a reader that doesn't know them


def _pack_extras(extras: Extras, content: int, content_type: str) -> bytes:
    values: list[tuple[int, bytes]] = [
        (_ROOT, extras.root),
        (_PARENT, extras.parent),
        (_GROUP, extras.group),
        (_HARD, extras.hard_limit_ms.to_bytes(8, "little") if extras.hard_limit_ms else b""),
        (_SOFT, extras.soft_limit_ms.to_bytes(8, "little") if extras.soft_limit_ms else b""),
        (_TRACE, extras.trace.encode()),
        (_HEADERS, orjson.dumps(dict(extras.headers)) if extras.headers else b""),
        (_CONTENT, b"" if content else content_type.encode()),
    ]
    return b"".join(_TAG.pack(tag, len(value)) + value for tag, value in values if value)


def _unpack_extras(packed: bytes) -> tuple[Extras, str]:
    found: dict[int, bytes] = {}
    at, last, size = 0, 0, len(packed)
    while at < size:
        if at + _TAG.size > size:
            raise ValueError("an extra is cut short")
        tag, length = _TAG.unpack_from(packed, at)
        at += _TAG.size
        if tag <= last:
            raise ValueError("extras are not in ascending order")
        if not 0 < length <= size - at:
            raise ValueError(f"extra {tag} promises {length} bytes, {size - at} are left")
        if tag > _CONTENT and tag < _OPTIONAL:
            raise ValueError(f"extra {tag} is not known here, and may not be passed over")
        found[tag] = packed[at : at + length]
        at, last = at + length, tag
    for tag in _ID_TAGS:
        if len(found.get(tag, bytes(16))) != 16:
            raise ValueError(f"extra {tag} is an id and has 16 bytes, not {len(found[tag])}")
    for tag in (_HARD, _SOFT):
        if len(found.get(tag, bytes(8))) != 8:
            raise ValueError(f"extra {tag} is a number of 8 bytes, not {len(found[tag])}")
    headers = orjson.loads(found[_HEADERS]) if _HEADERS in found else _NO_HEADERS
    if not isinstance(headers, Mapping):
        raise ValueError("headers are a JSON object")
    extras = Extras(
        found.get(_ROOT, b""), found.get(_PARENT, b""), found.get(_GROUP, b""),
        int.from_bytes(found.get(_HARD, b""), "little"), int.from_bytes(found.get(_SOFT, b""), "little"),
        found.get(_TRACE, b"").decode(), headers,
    )  # fmt: skip
    return extras, found.get(_CONTENT, b"").decode()


# -- the JSON envelope ----------------------------------------------------------------------------

_JSON_FIRST = (b"{", b" ", b"\t", b"\r", b"\n")
_JSON_KEYS = frozenset(
    "task args kwargs id queue priority enqueued_at eta expires attempt ignore_result reply_to root parent group "
    "hard_limit_ms soft_limit_ms trace headers".split()
)


def _from_json(frame: bytes) -> Message:
    try:
        call = orjson.loads(frame)
        if not isinstance(call, dict):
            raise ValueError("a JSON envelope is an object")
        if unknown := call.keys() - _JSON_KEYS:
            raise ValueError(f"unknown keys {sorted(unknown)}; the known ones are {sorted(_JSON_KEYS)}")
        args, kwargs = _typed(call, "args", list, []), _typed(call, "kwargs", dict, {})
        extras = Extras(
            _json_id(call, "root"), _json_id(call, "parent"), _json_id(call, "group"),
            _json_number(call, "hard_limit_ms", 0, _MAX_MICROSECONDS),
            _json_number(call, "soft_limit_ms", 0, _MAX_MICROSECONDS),
            _typed(call, "trace", str, ""), _typed(call, "headers", dict, _NO_HEADERS),
        )  # fmt: skip
        return Message(
            id=_json_id(call, "id") or _speedups.new_id(),
            task=check_task(_typed(call, "task", str)),
            queue=check_queue(_typed(call, "queue", str, "default")),
            body=orjson.dumps([args, kwargs]),
            priority=_json_number(call, "priority", 0, 9),
            enqueued_at=_json_time(call, "enqueued_at"),
            eta=_json_time(call, "eta"),
            expires=_json_time(call, "expires"),
            attempt=_json_number(call, "attempt", 1, (1 << 32) - 1),
            reply_to=_json_number(call, "reply_to", 0, (1 << 64) - 1),
            ignore_result=_typed(call, "ignore_result", bool, False),
            extras=NO_EXTRAS if extras == NO_EXTRAS else extras,
        )
    except (ValueError, TypeError, RecursionError) as error:  # orjson's errors are ValueError and TypeError
        raise ProtocolError(f"Not a fastq message: {error}") from error


_REQUIRED = object()


def _typed(call: dict[str, Any], key: str, kind: type, default: Any = _REQUIRED) -> Any:
    value = call.get(key, default)
    if value is default and value is not _REQUIRED:
        return value
    if value is _REQUIRED or not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        shown = "is missing" if value is _REQUIRED else f"is {value!r:.60}"
        raise ValueError(f"{key!r} {shown}; it takes a JSON value that Python reads as {kind.__name__}")
    return value


def _json_id(call: dict[str, Any], key: str) -> bytes:
    text = _typed(call, key, str, "")
    if text and not re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text):
        raise ValueError(f"{key!r} is {text[:60]!r}; it takes a UUID")
    return uuid.UUID(text).bytes if text else b""


def _json_number(call: dict[str, Any], key: str, low: int, high: int) -> int:
    number: int = _typed(call, key, int, low)
    if not low <= number <= high:
        raise ValueError(f"{key!r} is {number}; it takes {low} to {high}")
    return number


def _json_time(call: dict[str, Any], key: str) -> int:
    """Read a time: seconds since the epoch, or RFC 3339 text with an offset."""
    value = call.get(key)
    if value is None:
        return 0
    if isinstance(value, str):
        moment = datetime.fromisoformat(value[:-1] + "+00:00" if value.endswith(("Z", "z")) else value)
        if moment.tzinfo is None:
            raise ValueError(f"{key!r} is {value!r}; it takes an offset too, such as Z")
        return time_us(moment)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value * 1e6 <= _MAX_MICROSECONDS:
        raise ValueError(f"{key!r} is {value!r:.60}; it takes seconds since the epoch, or an RFC 3339 time")
    return round(value * 1_000_000)


_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def time_us(moment: datetime) -> int:
    """Return a datetime in microseconds since the epoch; one without a zone is taken as UTC."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
