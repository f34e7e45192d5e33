"""AMQP 0-9-1 on py-amqp: its codec, behind the link that both bodies share.

`Codec` is the contract of the compiled body. It turns calls into frames and bytes into what the server said, knows
nothing of sockets, and answers anything that a server should not say with ValueError.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import Any

from amqp.exceptions import AMQPError
from amqp.serialization import decode_properties_basic, dumps, loads

from .amqp_link import Link
from .amqp_methods import RECEIVED, SENT, WITH_CONTENT, Method
from .amqp_values import MAX_BODY, MAX_DEPTH, Field, Outgoing, Properties, Received

_FRAME = struct.Struct(">BHI")
_METHOD_ID = struct.Struct(">I")
_HEADER = struct.Struct(">HHQ")
_SIZES = {kind: struct.Struct(form) for kind, form in zip("oBlLsS", [">B", ">H", ">I", ">Q", ">B", ">I"], strict=True)}
_FLAGS = struct.Struct(">H")
_METHOD, _CONTENT_HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8
_END = b"\xce"
_OVERHEAD = 8  # of a frame: its head and its end
_BASIC = 60
_CHUNK = 65_536

#: How py-amqp is to pack each of `Properties`, whose order is that of their flags.
_PROPERTIES = "ssFoossssLsss"

#: What py-amqp's reader raises for bytes that make no sense.
_FLAWS = (struct.error, IndexError, ValueError, TypeError, OverflowError, RecursionError, AMQPError, ArithmeticError)


class Codec:
    """The codec of one connection with one channel, 1; the connection itself is channel 0."""

    def __init__(self) -> None:
        self.frame_max = 4096  # bytes; nobody may send more before it was agreed on
        self._rest = b""
        self._begun: tuple[Method, Any] | None = None  # whose header or body is still to come
        self._properties: tuple[Properties, str] | None = None
        self._body: list[bytes] = []
        self._missing = 0

    def method(self, method: Method, *args: Any) -> bytes:
        """Return the frame that calls a method. Raises ValueError for arguments that don't fit."""
        return self._frame(_METHOD, 0 if method >> 16 == 10 else 1, self._arguments(method, args))

    def acks(self, tags: Iterable[int]) -> bytes:
        """Return the frames that acknowledge these deliveries one by one. Raises ValueError."""
        return b"".join([self.method(Method.BASIC_ACK, tag, False) for tag in tags])

    def publications(self, batch: Sequence[Outgoing]) -> list[tuple[bytes, int]]:
        """Return the frames of a batch in pieces of some 64 KiB, each with the number of messages begun by its end.

        Raises ValueError.
        """
        pieces: list[tuple[bytes, int]] = []
        parts: list[bytes] = []
        size = 0
        for number, message in enumerate(batch, 1):
            frames = self._publication(message)
            parts += frames
            size += sum(map(len, frames))
            if size >= _CHUNK:
                pieces.append((b"".join(parts), number))
                parts, size = [], 0
        if parts:
            pieces.append((b"".join(parts), len(batch)))
        return pieces

    def feed(self, data: bytes, inbox: list[Received]) -> list[tuple[Method, Any]]:
        """Take what the server sent: put deliveries into `inbox`, and return the other methods with their arguments.

        Content that came with a method is its last argument, a `Received`. Raises ValueError, and after that the
        codec is of no more use.
        """
        data = self._rest + data
        found: list[tuple[Method, Any]] = []
        at, end = 0, len(data)
        while end - at >= _FRAME.size:
            kind, channel, size = _FRAME.unpack_from(data, at)
            if size > self.frame_max - _OVERHEAD:
                raise ValueError(f"a frame of {size} bytes, where {self.frame_max} were agreed on")
            start = at + _FRAME.size
            if end - start <= size:
                break
            if data[start + size] != _END[0]:
                raise ValueError(f"a frame that ends with {data[start + size]:#x}")
            self._take(kind, channel, data[start : start + size], inbox, found)
            at = start + size + 1
        self._rest = data[at:]
        return found

    # -- writing ------------------------------------------------------------------------------------

    def _frame(self, kind: int, channel: int, payload: bytes) -> bytes:
        if len(payload) > self.frame_max - _OVERHEAD:
            raise ValueError(f"{len(payload)} bytes of arguments or headers are over the limit of {self.frame_max - 8}")
        return b"".join((_FRAME.pack(kind, channel, len(payload)), payload, _END))

    def _arguments(self, method: Method, args: Sequence[Any]) -> bytes:
        form, fixed = SENT[method]
        given = iter(args)
        try:
            all_args = [fixed[place] if place in fixed else next(given) for place in range(len(form))]
            if form.endswith("F"):
                _check_depth(all_args[-1])
            return _METHOD_ID.pack(method) + _dumped(form, all_args)
        except _FLAWS as error:
            raise ValueError(f"{method.name} can't be called with {args!r}: {error}") from None

    def _publication(self, message: Outgoing) -> list[bytes]:
        if len(message.body) > MAX_BODY:
            raise ValueError(f"a body of {len(message.body)} bytes is over the limit of {MAX_BODY}")
        publish = self._arguments(Method.BASIC_PUBLISH, message[:2] + message[4:])
        header = _HEADER.pack(_BASIC, 0, len(message.body)) + _packed(message.properties)
        most = self.frame_max - _OVERHEAD
        body = [message.body[at : at + most] for at in range(0, len(message.body), most)]
        return [
            self._frame(_METHOD, 1, publish),
            self._frame(_CONTENT_HEADER, 1, header),
            *(self._frame(_BODY, 1, piece) for piece in body),
        ]

    # -- reading ------------------------------------------------------------------------------------

    def _take(self, kind: int, channel: int, payload: bytes, inbox: list[Received], found: list[Any]) -> None:
        if kind == _HEARTBEAT:
            return
        if channel > 1:
            raise ValueError(f"a frame for channel {channel}, which was never opened")
        if kind == _METHOD and (self._begun is None or channel == 0):
            method, args = _read_method(payload)
            if channel != (0 if method >> 16 == 10 else 1):
                raise ValueError(f"{method.name} on channel {channel}")
            if method in WITH_CONTENT:
                self._begun = method, args
            else:
                found.append((method, args))
        elif kind == _CONTENT_HEADER and self._begun is not None and self._properties is None and channel:
            self._missing, self._properties = _read_header(payload)
            self._body = []
        elif kind == _BODY and self._properties is not None and channel and len(payload) <= self._missing:
            self._missing -= len(payload)
            self._body.append(payload)
        else:
            raise ValueError(f"a frame of type {kind} out of turn")
        if self._begun is not None and self._properties is not None and not self._missing:
            self._complete(inbox, found)

    def _complete(self, inbox: list[Received], found: list[Any]) -> None:
        assert self._begun is not None
        assert self._properties is not None
        (method, args), (properties, flaw), body = self._begun, self._properties, b"".join(self._body)
        self._begun, self._properties, self._body = None, None, []
        if method == Method.BASIC_DELIVER:
            inbox.append(Received._make([*args, properties, body, flaw]))
        elif method == Method.BASIC_GET_OK:
            found.append((method, [Received._make(["", *args[:4], properties, body, flaw])]))
        else:
            found.append((method, [*args, Received._make(["", 0, False, *args[2:], properties, body, flaw])]))


def _read_method(payload: bytes) -> tuple[Method, list[Any]]:
    try:
        method = Method(_METHOD_ID.unpack_from(payload)[0])
        form, wanted = RECEIVED[method]
        return method, _read_arguments(form, payload)[:wanted]
    except KeyError:
        raise ValueError(f"{method.name}, which is for servers to hear") from None
    except _FLAWS as error:
        raise ValueError(f"a method that can't be read: {error}") from None


def _read_arguments(form: str, payload: bytes) -> list[Any]:
    args: list[Any] = []
    at, bits = _METHOD_ID.size, 0
    for kind in form:
        if kind == "b":
            at += not bits
            args.append(bool(payload[at - 1] >> bits & 1))
            bits += 1
            continue
        bits = 0
        if kind == "F":
            (table,), at = loads(kind, payload, at)
            args.append(_tidy(table))
        elif kind in "sS":
            size, start = _SIZES[kind].unpack_from(payload, at)[0], at + _SIZES[kind].size
            at = start + size
            args.append(str(payload[start:at], "utf-8", "backslashreplace"))  # nobody checks what publishers write
        else:
            args.append(_SIZES[kind].unpack_from(payload, at)[0])
            at += _SIZES[kind].size
    if at > len(payload):
        raise ValueError(f"{at} bytes of arguments, of which {len(payload)} are there")
    return args


def _read_header(payload: bytes) -> tuple[int, tuple[Properties, str]]:
    if len(payload) < _HEADER.size + 2:
        raise ValueError(f"a content header of {len(payload)} bytes")
    class_id, _, size = _HEADER.unpack_from(payload)
    if class_id != _BASIC:
        raise ValueError(f"content of class {class_id}")
    if size > MAX_BODY:
        raise ValueError(f"a body of {size} bytes, which is over the limit of {MAX_BODY}")
    try:
        found, end = decode_properties_basic(payload, _HEADER.size)
        if end > len(payload) or payload[_HEADER.size + 1] & 1:
            raise ValueError(f"the properties have {len(payload) - _HEADER.size} bytes, not {end - _HEADER.size}")
        found.pop("cluster_id", None)
        headers = found.pop("application_headers", None)
        return size, (Properties(headers=None if headers is None else _tidy(headers), **found), "")
    except _FLAWS as error:
        return size, (Properties(), f"the properties can't be read: {error}")


def _tidy(table: dict[Any, Any], room: int = MAX_DEPTH) -> dict[str, Field]:
    return {_text(key): _tidy_value(value, room - 1) for key, value in table.items()}


def _text(key: Any) -> str:
    if not isinstance(key, str):
        raise ValueError(f"the name {key!r} is not UTF-8")
    return key


def _tidy_value(value: Any, room: int) -> Field:
    if isinstance(value, (dict, list)) and not room:
        raise ValueError(f"tables nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        return _tidy(value, room)
    if isinstance(value, list):
        return [_tidy_value(item, room - 1) for item in value]
    tidy: Field = value.replace(tzinfo=timezone.utc) if isinstance(value, datetime) else value
    return tidy


def _packed(properties: Properties) -> bytes:
    given = [place for place, value in enumerate(properties) if value is not None]
    form = "".join(_PROPERTIES[place] for place in given)
    try:
        _check_depth(properties.headers)
        flags = sum(0x8000 >> place for place in given)
        return _FLAGS.pack(flags) + _dumped(form, [properties[place] for place in given])
    except _FLAWS as error:
        raise ValueError(f"{properties} can't be sent: {error}") from None


def _dumped(form: str, values: Sequence[Any]) -> bytes:
    packed: bytes = dumps(form, values)
    return packed


def _check_depth(value: Any, room: int = MAX_DEPTH) -> None:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return
    if not room:
        raise ValueError(f"tables nested more than {MAX_DEPTH} deep")
    for item in value:
        _check_depth(item, room - 1)


class AmqpLink(Link):
    """A link that speaks through py-amqp."""

    codec = Codec
