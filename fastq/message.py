"""Message: one call of one task, and its two envelopes, binary and JSON (``docs/protocol.rst``)."""

from __future__ import annotations

import json
import re
import reprlib
import struct
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson

from . import _speedups
from .errors import ProtocolError

JSON = "application/json"

#: Content types that the binary envelope names in one byte; 0 stands for "named in the extras".
CONTENT_CODES = {JSON: 1, "application/msgpack": 2, "application/yaml": 3, "application/x-pickle": 4}
CONTENT_TYPES = {code: name for name, code in CONTENT_CODES.items()}

#: How a body may be packed, which its content type names behind semicolons: compressed, and then encrypted.
CODINGS = ("zlib", "zstd")
CIPHERS = ("aes-256-gcm", "chacha20-poly1305")
#: And then, of a body that is kept elsewhere, comes this; the message has its SHA-256 (``fastq.claims``).
CLAIM = ";claim"

IGNORE_RESULT = 1  # flags of the binary envelope
_KNOWN_FLAGS = IGNORE_RESULT

_NO_HEADERS: Mapping[str, Any] = MappingProxyType({})
_QUEUE_NAME = re.compile(r"[A-Za-z0-9._:-]{1,255}", re.ASCII)
_MAX_MICROSECONDS = 253_402_300_799_999_999  # the last of the year 9999
_NOBODY = bytes(16)  # the nil UUID, which names nothing


class Extras(NamedTuple):
    """What only some messages carry."""

    root: bytes = b""  # id of the task that began the tree this one belongs to
    parent: bytes = b""  # id of the task that sent this one
    group: bytes = b""  # id of the task-set
    hard_limit_ms: int = 0
    soft_limit_ms: int = 0
    trace: str = ""  # W3C traceparent
    headers: Mapping[str, Any] = _NO_HEADERS  # the user's own, JSON values
    flows: tuple[bytes, ...] = ()  # ids of the flows that wait for this task to end
    given: bytes = b""  # id of the task, or of the flow of tasks, whose value is this one's first argument
    failed: bytes = b""  # id of the task whose failure is this one's first argument
    limit_key: str = ""  # the limits of the task are kept apart by this
    unique: str = ""  # the name of the lock that ends with this task
    reserved: bool = False  # its turn under the limits on starts has come with its ETA
    each: bool = False  # the first argument is a list of argument lists: it runs once for each of them


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
    crashes: int = 0  # attempts that ended with the death of their process: what a worker tells its child
    reply_to: int = 0  # the caller's channel for results; 0: nobody waits
    ignore_result: bool = False
    extras: Extras = NO_EXTRAS

    def encode(self) -> bytes:
        """Return the binary envelope. Raises ProtocolError for a field that it can't carry."""
        check_queue(self.queue)
        check_task(self.task)
        content = CONTENT_CODES.get(self.content_type, 0)
        try:
            check_times(self.enqueued_at, self.eta, self.expires)
            plain = content and self.extras is NO_EXTRAS
            extras = b"" if plain else _pack_extras(self.extras, content, self.content_type)
            return _speedups.pack_call(
                self.id, self.task, self.queue, self.body, content, IGNORE_RESULT if self.ignore_result else 0,
                self.priority, self.enqueued_at, self.eta, self.expires, self.reply_to, self.attempt, self.crashes,
                extras,
            )  # fmt: skip
        except (ValueError, TypeError) as error:  # orjson's errors are the one and the other
            raise ProtocolError(f"Task {self.task!r} can't be put into a message: {error}") from error

    @classmethod
    def decode(cls, frame: bytes) -> Message:
        """Read either envelope. Whatever the bytes are, the answer is a message or ProtocolError."""
        first = frame[:1]
        if first != _BINARY_FIRST and first in _JSON_FIRST:
            return _from_json(frame)
        try:
            (
                id, task, queue, body, content, flags, priority, enqueued_at, eta, expires, reply_to, attempt, crashes,
                packed,
            ) = _speedups.unpack_call(frame)  # fmt: skip
            if flags & ~_KNOWN_FLAGS:
                raise ValueError(f"unknown flags {flags:#x}")
            if enqueued_at > _MAX_MICROSECONDS or eta > _MAX_MICROSECONDS or expires > _MAX_MICROSECONDS:
                check_times(enqueued_at, eta, expires)
            extras, content_name = _unpack_extras(packed) if packed else (NO_EXTRAS, "")
            content_type = (not content_name and CONTENT_TYPES.get(content)) or content_type_of(content, content_name)
        except (ValueError, TypeError) as error:
            raise ProtocolError(f"Not a fastq message: {error}") from error
        check_queue(queue)
        check_task(task)
        # Not through __new__, which NamedTuple writes in Python: `micro frames` shows the difference.
        return tuple.__new__(cls, (
            id, task, queue, body, content_type, priority, enqueued_at, eta, expires, attempt, crashes, reply_to,
            flags & IGNORE_RESULT != 0, extras,
        ))  # fmt: skip

    @property
    def uuid(self) -> str:
        """The id as people write it."""
        text = self.id.hex()
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def binary(frame: bytes, message: Message) -> bytes:
    """Return the binary envelope of a message that was decoded from `frame`, which may be JSON."""
    return message.encode() if frame[:1] in _JSON_FIRST else frame


def next_attempt(message: Message, due: int) -> Message:
    """Return the message of the next try of a task, which may start when it is `due`, in microseconds."""
    extras = message.extras._replace(reserved=False) if message.extras.reserved else message.extras
    return message._replace(attempt=message.attempt + 1, eta=due, extras=extras)


_clock_ns: Callable[[], int] = time.time_ns


def now_us() -> int:
    """Return the present time in microseconds since the epoch."""
    return _clock_ns() // 1000


def set_clock(clock_ns: Callable[[], int] | None) -> None:
    """Put another clock, of nanoseconds since the epoch, in place of this process's; None: its own again. For tests."""
    global _clock_ns
    _clock_ns = clock_ns or time.time_ns


@lru_cache(maxsize=1024)
def check_queue(name: str) -> str:
    """Return a queue's name if it is one: 1 to 255 of ``A-Z a-z 0-9 . _ : -``. Raises ProtocolError."""
    if not _QUEUE_NAME.fullmatch(name):
        raise ProtocolError(f"{_short(name)} is not a queue name: 1 to 255 characters of A-Z a-z 0-9 . _ : - are")
    return name


@lru_cache(maxsize=1024)
def check_task(name: str) -> str:
    """Return a task's name if it is one: printable, no spaces, at most 255 bytes. Raises ProtocolError."""
    if not _is_name(name):
        raise ProtocolError(f"{_short(name)} is not a task name: 1 to 255 printable characters without spaces are")
    return name


def check_times(one: int, two: int, three: int) -> None:
    """Raise ValueError if one is after the year 9999, for which clocks and stores have no form."""
    if one > _MAX_MICROSECONDS or two > _MAX_MICROSECONDS or three > _MAX_MICROSECONDS:
        raise ValueError(f"a time is {max(one, two, three)} microseconds, after the year 9999")


def content_type_of(code: int, name: str) -> str:
    """Return the content type that a frame names by its code or else, with code 0, in words. Raises ValueError."""
    if not code:
        if not _is_name(name) or name in CONTENT_CODES:
            raise ValueError(f"{_short(name)} is not a content type to be named in words")
        return name
    if name or code not in CONTENT_TYPES:
        raise ValueError(f"content type {code} is {'named twice' if name else 'not known here'}")
    return CONTENT_TYPES[code]


def _is_name(text: str) -> bool:
    return text.isprintable() and " " not in text and 0 < len(text.encode("utf-8", "replace")) <= 255


def _short(value: Any) -> str:
    """Return what a stranger sent, fit for a log line: escaped, and at most some hundred characters of it."""
    return repr(value[:300]) if isinstance(value, str) else reprlib.repr(value)


# -- extras: a tag, a length, a value, in ascending order of tags -------------------------------

_TAG = struct.Struct("<BI")
_ROOT, _PARENT, _GROUP, _HARD, _SOFT, _TRACE, _HEADERS, _CONTENT = range(1, 9)
_FLOWS, _GIVEN, _FAILED, _LIMIT_KEY, _UNIQUE, _RESERVED, _EACH = range(9, 16)
_LAST = _EACH
_OPTIONAL = 128  # tags from here on may be passed over by a reader that doesn't know them


def _pack_extras(extras: Extras, content: int, content_type: str) -> bytes:
    values: list[tuple[int, bytes]] = [
        (_ROOT, _checked_id(extras.root)),
        (_PARENT, _checked_id(extras.parent)),
        (_GROUP, _checked_id(extras.group)),
        (_HARD, _limit_bytes(extras.hard_limit_ms)),
        (_SOFT, _limit_bytes(extras.soft_limit_ms)),
        (_TRACE, _checked_word("a trace context", extras.trace).encode()),
        (_HEADERS, orjson.dumps(dict(extras.headers)) if extras.headers else b""),
        (_CONTENT, b"" if content else content_type_of(0, content_type).encode()),
        (_FLOWS, b"".join(_checked_ids(extras.flows))),
        (_GIVEN, _checked_id(extras.given)),
        (_FAILED, _checked_id(extras.failed)),
        (_LIMIT_KEY, _checked_word("a limit's key", extras.limit_key).encode()),
        (_UNIQUE, _checked_word("the name of a lock", extras.unique).encode()),
        (_RESERVED, b"\1" if extras.reserved else b""),
        (_EACH, b"\1" if extras.each else b""),
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
        if tag > _LAST and tag < _OPTIONAL:
            raise ValueError(f"extra {tag} is not known here, and may not be passed over")
        found[tag] = packed[at : at + length]
        at, last = at + length, tag
    extras = Extras(
        _checked_id(found.get(_ROOT, b"")), _checked_id(found.get(_PARENT, b"")), _checked_id(found.get(_GROUP, b"")),
        _limit_of(found.get(_HARD, b"")), _limit_of(found.get(_SOFT, b"")),
        _checked_word("a trace context", found.get(_TRACE, b"").decode()),
        _checked_headers(orjson.loads(found[_HEADERS])) if _HEADERS in found else _NO_HEADERS,
        _ids_of(found[_FLOWS]) if _FLOWS in found else (),
        _checked_id(found.get(_GIVEN, b"")), _checked_id(found.get(_FAILED, b"")),
        _checked_word("a limit's key", found.get(_LIMIT_KEY, b"").decode()),
        _checked_word("the name of a lock", found.get(_UNIQUE, b"").decode()),
        _flag_of(found.get(_RESERVED, b"")), _flag_of(found.get(_EACH, b"")),
    )  # fmt: skip
    return NO_EXTRAS if extras == NO_EXTRAS else extras, found.get(_CONTENT, b"").decode()


def _checked_id(id: bytes) -> bytes:
    if id and (len(id) != 16 or id == _NOBODY):
        raise ValueError("the id of another task, or of a group, has 16 bytes, and they are not all 0")
    return id


def _checked_ids(ids: tuple[bytes, ...]) -> tuple[bytes, ...]:
    if not all(ids):
        raise ValueError("the id of a flow has 16 bytes")
    for id in ids:
        _checked_id(id)
    return ids


def _ids_of(value: bytes) -> tuple[bytes, ...]:
    return _checked_ids(tuple(value[at : at + 16] for at in range(0, len(value), 16)))


def _flag_of(value: bytes) -> bool:
    if value not in (b"", b"\1"):
        raise ValueError("a flag among the extras is one byte, 1")
    return bool(value)


def _limit_bytes(limit_ms: int) -> bytes:
    if not 0 <= limit_ms <= _MAX_MICROSECONDS:
        raise ValueError(f"a time limit is {limit_ms} ms; it takes 0 to {_MAX_MICROSECONDS}")
    return limit_ms.to_bytes(8, "little") if limit_ms else b""


def _limit_of(value: bytes) -> int:
    limit_ms = int.from_bytes(value[:9], "little")
    if value != _limit_bytes(limit_ms):
        raise ValueError("a time limit has 8 bytes, and they are not all 0")
    return limit_ms


def _checked_word(what: str, word: str) -> str:
    if word and not _is_name(word):
        raise ValueError(f"{_short(word)} is not {what}: 1 to 255 printable characters without spaces are")
    return word


def _checked_headers(headers: Any) -> Mapping[str, Any]:
    """Return headers that can be sent on: what is nested too deeply can be read, but not written again."""
    if not isinstance(headers, dict):
        raise ValueError("headers are a JSON object")
    orjson.dumps(headers)
    return headers


# -- the JSON envelope ----------------------------------------------------------------------------

_BINARY_FIRST = b"\xf5"
_JSON_FIRST = (b"{", b" ", b"\t", b"\r", b"\n")
_JSON_KEYS = frozenset(
    "task args kwargs id queue priority enqueued_at eta expires attempt ignore_result reply_to root parent group "
    "hard_limit_ms soft_limit_ms trace headers limit_key".split()
)


def _from_json(frame: bytes) -> Message:
    try:
        call = orjson.loads(frame)
        if not isinstance(call, dict):
            raise ValueError("a JSON envelope is an object")
        if unknown := call.keys() - _JSON_KEYS:
            raise ValueError(f"unknown key {_short(min(unknown))}; the known ones are {sorted(_JSON_KEYS)}")
        _check_twins(frame, call)
        args, kwargs = _typed(call, "args", list, []), _typed(call, "kwargs", dict, {})
        extras = Extras(
            _json_id(call, "root"), _json_id(call, "parent"), _json_id(call, "group"),
            _json_number(call, "hard_limit_ms", 0, _MAX_MICROSECONDS),
            _json_number(call, "soft_limit_ms", 0, _MAX_MICROSECONDS),
            _checked_word("a trace context", _typed(call, "trace", str, "")),
            _checked_headers(_typed(call, "headers", dict, {})),
            limit_key=_checked_word("a limit's key", _typed(call, "limit_key", str, "")),
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


def _check_twins(frame: bytes, call: Mapping[str, Any]) -> None:
    """Refuse an envelope with one key twice: orjson keeps the last, a gateway before us may have read the first."""
    if b"\\" not in frame and all(frame.count(b'"%b"' % key.encode()) == 1 for key in call):
        return
    keys: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> None:
        keys[:] = [key for key, _ in pairs]  # the outermost object comes last

    json.loads(frame, object_pairs_hook=note, parse_int=str, parse_float=str)  # numbers of any length are left as text
    if twins := {key for key in keys if keys.count(key) > 1}:
        raise ValueError(f"the key {min(twins)!r} is there more than once")


_REQUIRED = object()
_OPAQUE = frozenset(("args", "kwargs", "headers"))  # whose values may be secret


def _typed(call: Mapping[str, Any], key: str, kind: type, default: Any = _REQUIRED) -> Any:
    """Return a key's value; one that is null counts as missing."""
    value = call.get(key)
    if value is None:
        if default is _REQUIRED:
            raise ValueError(f"{key!r} is missing")
        return default
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        shown = f"of type {type(value).__name__}" if key in _OPAQUE else _short(value)
        raise ValueError(f"{key!r} is {shown}; it takes a JSON value that Python reads as {kind.__name__}")
    return value


def _json_id(call: Mapping[str, Any], key: str) -> bytes:
    text = _typed(call, key, str, None)
    if text is None:
        return b""
    if not _UUID.fullmatch(text) or (id := uuid.UUID(text).bytes) == _NOBODY:
        raise ValueError(f"{key!r} is {_short(text)}; it takes a UUID, and not the nil one")
    return id


def _json_number(call: Mapping[str, Any], key: str, low: int, high: int) -> int:
    number: int = _typed(call, key, int, low)
    if not low <= number <= high:
        raise ValueError(f"{key!r} is {number}; it takes {low} to {high}")
    return number


def _json_time(call: Mapping[str, Any], key: str) -> int:
    """Read a time: seconds since the epoch, or RFC 3339 text."""
    value = call.get(key)
    if value is None:
        return 0
    if isinstance(value, str) and (match := _RFC3339.fullmatch(value)):
        day, clock, fraction, offset = match.groups()
        # Python 3.10 reads no other number of digits, and no Z.
        micros = f"{fraction or '':0<6.6}"
        moment = time_us(datetime.fromisoformat(f"{day}T{clock}.{micros}{offset.upper().replace('Z', '+00:00')}"))
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value * 1e6 <= _MAX_MICROSECONDS:
        moment = round(value * 1_000_000)
    else:
        raise ValueError(f"{key!r} is {_short(value)}; it takes seconds since the epoch, or an RFC 3339 time")
    if not 0 <= moment <= _MAX_MICROSECONDS:
        raise ValueError(f"{key!r} is {_short(value)}; it takes a time from 1970 to 9999")
    return moment


_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def time_us(moment: datetime) -> int:
    """Return a datetime in microseconds since the epoch; one without a zone is taken as UTC."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
