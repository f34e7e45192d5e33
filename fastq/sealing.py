"""Seals: the signed envelope around messages, flows and commands. ``docs/protocol.rst`` has it byte by byte.

What is sealed is signed whole, with what it is for, until when, and a number that is used once. Nothing of it is
outside of the signature, and nothing is taken apart before the signature is found to be good.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

from .errors import ConfigurationError, SealBroken
from .message import Message, now_us

if TYPE_CHECKING:
    from .claims import Claims
    from .packing import Packing
    from .settings import Settings
    from .signing import Key

_MAGIC = b"\xf5S"
_VERSION = 1
#: Magic, version, algorithm, the key's length, reserved, the subject's length, signed at, expires, nonce.
_HEADER = struct.Struct("<2sBBBBHQQ16s")
_NONCE = slice(_HEADER.size - 16, _HEADER.size)


class Opened(NamedTuple):
    """What was in a seal that is good, or what was not sealed and need not be."""

    inner: bytes
    key: str = ""  # the name of the key that signed it; empty: it was not sealed
    expired: bool = False


class _Seal(NamedTuple):
    """A seal, read and not verified."""

    algorithm: int
    key: str
    subject: str
    expires: int
    inner: bytes
    signed: bytes
    signature: bytes


def is_sealed(frame: bytes) -> bool:
    """Return whether bytes begin like a seal."""
    return frame[:2] == _MAGIC


def nonce_of(frame: bytes) -> bytes:
    """Return the number that this seal has and no other."""
    return frame[_NONCE]


def unsealed(frame: bytes) -> bytes:
    """Return what is in a seal, be it good or not, for showing; bytes that are no seal are returned as they are."""
    if not is_sealed(frame):
        return frame
    try:
        return _read(frame).inner
    except SealBroken:
        return frame


def of_queue(queue: str) -> str:
    """Return what a message of a queue is sealed for."""
    return f"queue:{queue}"


def of_flow(flow: bytes) -> str:
    """Return what the continuation of a workflow's step is sealed for."""
    return f"flow:{flow.hex()}"


class Seals:
    """Seals what leaves a process, and opens what comes in. Without keys, nothing is sealed, and no seal is good.

    `keys` are by name: the first that can sign does, and all verify. What is not sealed is opened unless seals are
    `required`. Messages' seals last for `lasts_s` seconds from when they are due. `may_call` has, by key, the patterns
    of the tasks that may be called with it; with a key that is not there, all may. `active` says if there are keys.
    """

    def __init__(
        self, keys: Mapping[str, Key], *, required: bool = False, lasts_s: float = 0.0,
        may_call: Mapping[str, Sequence[str]] | None = None,
    ) -> None:  # fmt: skip
        self.active = bool(keys)
        self._keys = dict(keys)
        self._required = required
        self._lasts_us = round(lasts_s * 1e6)
        self._may_call = dict(may_call or {})
        self._name = next((name for name, key in self._keys.items() if key.signs), "")
        if self._keys and not self._name:
            raise ConfigurationError("signing_keys has no key that signs: all of them are public keys")

    @classmethod
    def of(cls, settings: Settings) -> Seals:
        """Return the seals of an app. Raises ConfigurationError, among them MissingExtra."""
        if not settings.signing_keys:
            return cls({})
        from .signing import key_of

        may_call: dict[str, list[str]] = {}
        for name, pattern in settings.signing_grants:
            may_call.setdefault(name, []).append(pattern)
        return cls(
            {name: key_of(name, said) for name, said in settings.signing_keys}, required=settings.require_signed,
            lasts_s=settings.signature_expires_s, may_call=may_call,
        )  # fmt: skip

    # -- sealing ---------------------------------------------------------------------------------

    def seal(self, inner: bytes, subject: str, expires: int = 0) -> bytes:
        """Return bytes in a seal for a subject, which expires then, in microseconds since the epoch; 0: never."""
        if not self._keys:
            return inner
        key, name, what = self._keys[self._name], self._name.encode(), subject.encode()
        head = _HEADER.pack(_MAGIC, _VERSION, key.algorithm, len(name), 0, len(what), now_us(), expires, os.urandom(16))
        signed = b"".join((head, name, what, inner))
        return signed + key.sign(signed)

    def sealed_call(self, message: Message) -> bytes:
        """Return the frame of a message in a seal for its queue."""
        expires = max(now_us(), message.eta) + self._lasts_us if self._lasts_us else 0
        return self.seal(message.encode(), of_queue(message.queue), expires)

    # -- opening ---------------------------------------------------------------------------------

    def open(self, frame: bytes, subject: str) -> Opened:
        """Return what is in a seal that is good, and for this subject. Raises SealBroken.

        Whether it is too old is for the caller to see.
        """
        if not is_sealed(frame):
            if self._required:
                raise SealBroken("it is not signed, and require_signed asks for it")
            return Opened(frame)
        seal = _read(frame)
        key = self._keys.get(seal.key)
        if key is None:
            raise SealBroken(f"it is signed with the key {seal.key!r}, which is not among the signing_keys here")
        if seal.algorithm != key.algorithm or not key.verifies(seal.signed, seal.signature):
            raise SealBroken(f"its signature is not that of the key {seal.key!r}")
        if seal.subject != subject:
            raise SealBroken(f"it was signed for {seal.subject!r}, and came as {subject!r}")
        return Opened(seal.inner, seal.key, 0 < seal.expires <= now_us())

    def check_call(self, opened: Opened, message: Message, queue: str) -> None:
        """Raise SealBroken unless the message in a seal may come through a queue, and be called with its key."""
        if not opened.key:
            return
        if message.queue != queue:
            raise SealBroken(f"it was signed for the queue {message.queue!r}, and came through {queue!r}")
        self.check_task(opened, message.task)

    def check_task(self, opened: Opened, task: str) -> None:
        """Raise SealBroken unless a task may be called with the key of a seal."""
        patterns = self._may_call.get(opened.key)
        if patterns is not None and not any(fnmatchcase(task, pattern) for pattern in patterns):
            raise SealBroken(f"the key {opened.key!r} may not call {task!r}: signing_grants has {patterns}")


class Envelope:
    """What messages are published in: their bodies packed, those that are large kept aside, and their frames sealed."""

    def __init__(self, packing: Packing, claims: Claims | None, seals: Seals) -> None:
        self._packing = packing
        self._claims = claims
        self._seals = seals

    def __call__(self, message: Message) -> bytes:
        """Return the bytes to be published. Raises ProtocolError for a message that has no frame.

        Raises BrokerUnavailable, BrokerFull for a body that can't be kept aside.
        """
        message = self._packing.packed(message)
        if self._claims is not None:
            message = self._claims.laid_aside(message)
        return self._seals.sealed_call(message)

    def again(self, message: Message) -> bytes:
        """Return the bytes that take the place of a message that was published; its body stays where it is."""
        return self._seals.sealed_call(self._packing.packed(message))


def _read(frame: bytes) -> _Seal:
    """Take a seal apart. Raises SealBroken for bytes that can't be one."""
    from .signing import SIZES

    if len(frame) < _HEADER.size:
        raise SealBroken(f"a seal has at least {_HEADER.size} bytes, not {len(frame)}")
    _, version, algorithm, key_size, reserved, subject_size, _, expires, _ = _HEADER.unpack_from(frame)
    if version != _VERSION or reserved or algorithm not in SIZES:
        raise SealBroken(f"its seal is of version {version} and algorithm {algorithm}, which are not known here")
    subject_at = _HEADER.size + key_size
    inner_at, end = subject_at + subject_size, len(frame) - SIZES[algorithm]
    if inner_at > end:
        raise SealBroken("its seal is cut short")
    try:
        key, subject = frame[_HEADER.size : subject_at].decode(), frame[subject_at:inner_at].decode()
    except UnicodeDecodeError:
        raise SealBroken("its seal names a key, or what it is for, in bytes that are not UTF-8") from None
    return _Seal(algorithm, key, subject, expires, frame[inner_at:end], frame[:end], frame[end:])
