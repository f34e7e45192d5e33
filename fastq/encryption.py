"""Encryption of bodies: AES-256-GCM or ChaCha20-Poly1305, with keys that have names, so that they can be changed."""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable
from typing import Any

from .errors import EncodingError, MissingExtra
from .keyring import checked_length, secret_of
from .message import CIPHERS

_SETTING = "encryption_keys"
_NONCE_BYTES = 12


class Encryption:
    """Encrypts with the first of its keys, and decrypts with any.

    The secret of a key has any form: the key proper is the HMAC-SHA256, by the secret, of ``fastq`` and the cipher. An
    encrypted body is the length of the key's name (1 byte), the name, a nonce (12 bytes, at random), and what the
    cipher made of the rest, its tag last.
    """

    def __init__(self, keys: Iterable[tuple[str, str]], cipher: str) -> None:
        self.cipher = cipher
        self._secrets = {name: checked_length(_SETTING, name, secret_of(_SETTING, name, said)) for name, said in keys}
        self._ciphers: dict[tuple[str, str], Any] = {}
        self._name = next(iter(self._secrets))
        self._cipher(self._name, cipher)  # so that a missing library is found out at once

    def encrypt(self, data: bytes, context: bytes) -> bytes:
        """Return data encrypted; it can be read in the same context alone."""
        head = bytes((len(self._name),)) + self._name.encode()
        nonce = os.urandom(_NONCE_BYTES)
        sealed: bytes = self._cipher(self._name, self.cipher).encrypt(nonce, data, head + context)
        return head + nonce + sealed

    def decrypt(self, cipher: str, body: bytes, context: bytes) -> bytes:
        """Return what was encrypted. Raises EncodingError for what no key of ours has made for this context."""
        from cryptography.exceptions import InvalidTag

        nonce_at = 1 + body[0] if body else 0
        head, nonce = body[:nonce_at], body[nonce_at : nonce_at + _NONCE_BYTES]
        name = head[1:].decode("utf-8", "replace")
        if len(nonce) < _NONCE_BYTES:
            raise EncodingError(f"{len(body)} bytes are not valid {cipher}: they are cut short")
        if name not in self._secrets:
            raise EncodingError(f"The body is encrypted with the key {name!r}, which is not among the encryption_keys")
        try:
            plain: bytes = self._cipher(name, cipher).decrypt(nonce, body[nonce_at + _NONCE_BYTES :], head + context)
        except InvalidTag as error:
            raise EncodingError(
                f"The body was not encrypted with the key {name!r}, or not for this task, or it was changed since"
            ) from error
        return plain

    def _cipher(self, name: str, cipher: str) -> Any:
        made = self._ciphers.get((name, cipher))
        if made is None:
            key = hmac.digest(self._secrets[name], b"fastq " + cipher.encode(), "sha256")
            made = self._ciphers[name, cipher] = _kinds()[cipher](key)
        return made


def _kinds() -> dict[str, Any]:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
    except ModuleNotFoundError as error:
        raise MissingExtra("encryption_keys needs a library: pip install 'fastq-worker[security]'") from error
    return dict(zip(CIPHERS, (AESGCM, ChaCha20Poly1305), strict=True))
