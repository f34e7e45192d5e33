"""The two binary frames, packed and unpacked strictly. ``docs/protocol.rst`` has them byte by byte.

A frame is a fixed header (little-endian) and then its variable parts back to back; the header's lengths
must add up to the frame's size exactly. Whatever the bytes are, the answer is a tuple or a ``ValueError``.
"""

from __future__ import annotations

import struct
from typing import Any

MAX_NAME = 255
MAX_FRAME = (1 << 31) - 1

_CALL_MAGIC = b"\xf5Q"
_CALL_VERSION = 1
_CALL = struct.Struct("<2sBBBBH16sQQQQIHHII")
CALL_HEADER = _CALL.size

_END_MAGIC = b"\xf5O"
_END_VERSION = 1
_END = struct.Struct("<2sBBBBH16s16sQQQII")
END_HEADER = _END.size

#: id, name, queue, body, content code, flags, priority, enqueued_at, eta, expires, reply_to, attempt,
#: crashes, extras
CallFields = tuple[bytes, str, str, bytes, int, int, int, int, int, int, int, int, int, bytes]

#: name, content code, flags, body
CallGlance = tuple[str, int, int, bytes]

#: id, state, attempt, content code, content name, body, group, started_at, finished_at, due
EndFields = tuple[bytes, int, int, int, str, bytes, bytes, int, int, int]


def pack_call(
    id: bytes,
    name: str,
    queue: str,
    body: bytes,
    content: int,
    flags: int,
    priority: int,
    enqueued_at: int,
    eta: int,
    expires: int,
    reply_to: int,
    attempt: int,
    crashes: int,
    extras: bytes,
) -> bytes:
    """Return the frame of one call. Raises ValueError for a field that does not fit its place."""
    name_bytes = _name_bytes(name, "name")
    queue_bytes = _name_bytes(queue, "queue")
    if len(id) != 16:
        raise ValueError(f"an id has 16 bytes, not {len(id)}")
    if not 0 <= priority <= 9:
        raise ValueError(f"priority {priority} is outside 0 to 9")
    if not attempt:
        raise ValueError("attempt counts from 1")
    size = CALL_HEADER + len(name_bytes) + len(queue_bytes) + len(extras) + len(body)
    if size > MAX_FRAME:
        raise ValueError(f"a frame of {size} bytes is over the limit of {MAX_FRAME}")
    try:
        header = _CALL.pack(
            _CALL_MAGIC, _CALL_VERSION, flags, priority, content, len(name_bytes), id, enqueued_at, eta, expires,
            reply_to, attempt, crashes, len(queue_bytes), len(extras), len(body),
        )  # fmt: skip
    except struct.error as error:
        raise ValueError(f"a number does not fit its field: {error}") from None
    return b"".join((header, name_bytes, queue_bytes, extras, body))


def unpack_call(frame: bytes) -> CallFields:
    """Return the fields of a call's frame, in the order of `pack_call`. Raises ValueError."""
    (
        _, _, flags, priority, content, name_size, id, enqueued_at, eta, expires,
        reply_to, attempt, crashes, queue_size, extras_size, _,
    ) = _call_header(frame)  # fmt: skip
    queue_at = CALL_HEADER + name_size
    extras_at = queue_at + queue_size
    body_at = extras_at + extras_size
    return (
        id, str(frame[CALL_HEADER:queue_at], "utf-8"), str(frame[queue_at:extras_at], "utf-8"), frame[body_at:],
        content, flags, priority, enqueued_at, eta, expires, reply_to, attempt, crashes, frame[extras_at:body_at],
    )  # fmt: skip


def glance_call(frame: bytes) -> CallGlance | None:
    """Return name, content code, flags and body of a call, None for one with extras. Raises ValueError.

    What is not returned is not looked at: a queue that is not UTF-8 is left to `unpack_call`.
    """
    _, _, flags, _, content, name_size, _, _, _, _, _, _, _, queue_size, extras_size, _ = _call_header(frame)
    if extras_size:
        return None
    queue_at = CALL_HEADER + name_size
    return str(frame[CALL_HEADER:queue_at], "utf-8"), content, flags, frame[queue_at + queue_size :]


def pack_answer(frame: bytes, state: int, content: int, body: bytes, started_at: int, finished_at: int) -> bytes:
    """Return the frame of how the call in `frame` ended, one of no group. Raises ValueError.

    Of the call its header is read, and no more.
    """
    _, _, _, _, _, _, id, _, _, _, _, attempt, _, _, _, _ = _call_header(frame)
    return pack_end(id, state, attempt, content, "", body, b"", started_at, finished_at, 0)


def _call_header(frame: bytes) -> tuple[Any, ...]:
    """Return the fields of a call's header, checked against each other and the frame's size. Raises ValueError."""
    if len(frame) < CALL_HEADER:
        raise ValueError(f"a call has at least {CALL_HEADER} bytes, not {len(frame)}")
    header = _CALL.unpack_from(frame)
    magic, version, _, priority, _, name_size, _, _, _, _, _, attempt, _, queue_size, extras_size, body_size = header
    if magic != _CALL_MAGIC:
        raise ValueError("the first two bytes are not a call's")
    if version != _CALL_VERSION:
        raise ValueError(f"version {version} of the envelope is not known here (known: {_CALL_VERSION})")
    if priority > 9:
        raise ValueError(f"priority {priority} is outside 0 to 9")
    if not attempt:
        raise ValueError("attempt counts from 1")
    if not 0 < name_size <= MAX_NAME or not 0 < queue_size <= MAX_NAME:
        raise ValueError(f"name and queue have 1 to {MAX_NAME} bytes, not {name_size} and {queue_size}")
    size = CALL_HEADER + name_size + queue_size + extras_size + body_size
    if size != len(frame):
        raise ValueError(f"the header promises {size} bytes, the frame has {len(frame)}")
    return header


def pack_end(
    id: bytes,
    state: int,
    attempt: int,
    content: int,
    content_name: str,
    body: bytes,
    group: bytes,
    started_at: int,
    finished_at: int,
    due: int,
) -> bytes:
    """Return the frame of how a call ended; ``group`` is empty or 16 bytes. Raises ValueError."""
    name_bytes = content_name.encode()
    if len(id) != 16 or len(group) not in (0, 16):
        raise ValueError(f"an id has 16 bytes, a group 16 or none, not {len(id)} and {len(group)}")
    if END_HEADER + len(name_bytes) + len(body) > MAX_FRAME:
        raise ValueError(f"a frame of {END_HEADER + len(name_bytes) + len(body)} bytes is over {MAX_FRAME}")
    try:
        header = _END.pack(
            _END_MAGIC, _END_VERSION, state, content, len(name_bytes), 0, id, group, started_at, finished_at, due,
            attempt, len(body),
        )  # fmt: skip
    except struct.error as error:
        raise ValueError(f"a number does not fit its field: {error}") from None
    return b"".join((header, name_bytes, body))


def unpack_end(frame: bytes) -> EndFields:
    """Return the fields of an end's frame, in the order of `pack_end`. Raises ValueError."""
    if len(frame) < END_HEADER:
        raise ValueError(f"an end has at least {END_HEADER} bytes, not {len(frame)}")
    (
        magic, version, state, content, name_size, reserved, id, group, started_at, finished_at, due,
        attempt, body_size,
    ) = _END.unpack_from(frame)  # fmt: skip
    if magic != _END_MAGIC:
        raise ValueError("the first two bytes are not an end's")
    if version != _END_VERSION:
        raise ValueError(f"version {version} of an end is not known here (known: {_END_VERSION})")
    if reserved:
        raise ValueError("reserved bits are set")
    body_at = END_HEADER + name_size
    if body_at + body_size != len(frame):
        raise ValueError(f"the header promises {body_at + body_size} bytes, the frame has {len(frame)}")
    return (
        id, state, attempt, content, str(frame[END_HEADER:body_at], "utf-8"), frame[body_at:],
        group if group != _NO_GROUP else b"", started_at, finished_at, due,
    )  # fmt: skip


_NO_GROUP = bytes(16)


def _name_bytes(name: str, what: str) -> bytes:
    encoded = name.encode()
    if not 0 < len(encoded) <= MAX_NAME:
        raise ValueError(f"a {what} has 1 to {MAX_NAME} bytes in UTF-8, not {len(encoded)}")
    return encoded
