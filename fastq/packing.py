"""Packing: what becomes of a body between its serializer and its envelope. It is compressed, and then encrypted.

The content type of a packed body says so, behind semicolons: ``application/json;zlib;aes-256-gcm``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .compression import compress, decompress
from .encoder import decode
from .encryption import Encryption
from .errors import EncodingError
from .failure import Failure
from .message import CIPHERS, CLAIM, CODINGS, Message
from .outcome import Outcome, State

if TYPE_CHECKING:
    from .settings import Settings

_SUFFIXES = (*(f";{name}" for name in (*CODINGS, *CIPHERS)), CLAIM)


def is_packed(content_type: str) -> bool:
    """Return whether a body of this content type is compressed, or encrypted, or kept elsewhere."""
    return content_type.endswith(_SUFFIXES)


class Packing:
    """Packs and unpacks the bodies of calls and outcomes as settings say. What is packed already stays as it is.

    An encrypted body is bound to what it is the body of: it can't be put into the place of another.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._encryption: Encryption | None = None
        if settings.encryption_keys:
            self._encryption = Encryption(settings.encryption_keys, settings.encryption)
        if settings.compress_over_bytes:
            compress(settings.compression, b"")  # so that a missing library is found out at once
        self.active = bool(settings.encryption_keys or settings.compress_over_bytes)

    # -- calls -----------------------------------------------------------------------------------

    def packed(self, message: Message) -> Message:
        """Return a message with its body packed."""
        if not self.active or is_packed(message.content_type):
            return message
        body, content_type = self.pack(message.body, message.content_type, _call(message))
        return message._replace(body=body, content_type=content_type)

    def plain(self, message: Message) -> Message:
        """Return a message with its body as its serializer made it. Raises EncodingError, MissingExtra."""
        if not self.active and not is_packed(message.content_type):
            return message
        body, content_type = message.body, message.content_type
        if content_type.endswith(CLAIM):
            claims = self._settings.claims
            if claims is None:
                raise EncodingError("The body is kept elsewhere, and there is no claims_url here")
            body, content_type = claims.body_of(message), content_type.removesuffix(CLAIM)
        body, content_type = self.unpack(body, content_type, _call(message))
        return message._replace(body=body, content_type=content_type)

    # -- outcomes --------------------------------------------------------------------------------

    def packed_outcome(self, outcome: Outcome) -> Outcome:
        """Return an outcome with its body packed; a failure, which is short, is not compressed."""
        refused = outcome.state is State.REFUSED  # which no store sees
        if not self.active or not outcome.body or refused or is_packed(outcome.content_type):
            return outcome
        whose, squeeze = _end(outcome), outcome.state is State.SUCCESS
        return _with_body(outcome, *self.pack(outcome.body, outcome.content_type, whose, squeeze=squeeze))

    def plain_outcome(self, outcome: Outcome) -> Outcome:
        """Return an outcome with its body as it was before it was packed. Raises EncodingError, MissingExtra."""
        if not outcome.body or not (self.active or is_packed(outcome.content_type)):
            return outcome
        return _with_body(outcome, *self.unpack(outcome.body, outcome.content_type, _end(outcome)))

    def value_of(self, outcome: Outcome) -> Any:
        """Return the value that a task returned. Raises EncodingError, UnknownSerializer, SerializerRefused."""
        plain = self.plain_outcome(outcome)
        return decode(plain.body, plain.content_type, self._settings.accept, self._settings.max_depth)

    def failure_of(self, outcome: Outcome) -> Failure:
        """Return the failure that a task ended with. Raises EncodingError."""
        return Failure.decode(self.plain_outcome(outcome).body)

    # -- bodies ----------------------------------------------------------------------------------

    def pack(self, body: bytes, content_type: str, whose: bytes, *, squeeze: bool = True) -> tuple[bytes, str]:
        """Return a body packed, and its content type then; `whose` body it is, it has to be when it is unpacked."""
        settings = self._settings
        least, most = settings.compress_over_bytes, settings.max_decompressed_bytes
        if squeeze and 0 < least < len(body) <= most:
            smaller = compress(settings.compression, body)
            if len(smaller) < len(body):
                body, content_type = smaller, f"{content_type};{settings.compression}"
        if self._encryption is not None:
            body = self._encryption.encrypt(body, _context(whose, content_type))
            content_type = f"{content_type};{self._encryption.cipher}"
        return body, content_type

    def unpack(self, body: bytes, content_type: str, whose: bytes) -> tuple[bytes, str]:
        """Return a body as its serializer made it, and its content type then. Raises EncodingError, MissingExtra."""
        inner, _, last = content_type.rpartition(";")
        if last in CIPHERS:
            if self._encryption is None:
                raise EncodingError("The body is encrypted, and there are no encryption_keys here")
            body, content_type = self._encryption.decrypt(last, body, _context(whose, inner)), inner
            inner, _, last = content_type.rpartition(";")
        elif self._settings.require_encrypted:
            raise EncodingError("The body is not encrypted, and require_encrypted asks for it")
        if last in CODINGS:
            body, content_type = decompress(last, body, self._settings.max_decompressed_bytes), inner
        return body, content_type


def _call(message: Message) -> bytes:
    return b"call\0" + message.id + message.task.encode()


def _end(outcome: Outcome) -> bytes:
    return b"outcome\0" + outcome.id + str(outcome.state).encode()


def _context(whose: bytes, content_type: str) -> bytes:
    return whose + b"\0" + content_type.encode()


def _with_body(outcome: Outcome, body: bytes, content_type: str) -> Outcome:
    """Return an outcome with another body, for the same caller."""
    changed = outcome._replace(body=body, content_type=content_type)
    changed.reply_to = outcome.reply_to
    return changed
