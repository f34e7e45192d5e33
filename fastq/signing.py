"""Keys that sign: a secret that all share (HMAC-SHA256), or a pair of which one half only signs (Ed25519)."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Protocol

from .errors import ConfigurationError, MissingExtra
from .keyring import checked_length, secret_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_SETTING = "signing_keys"
_PEM = b"-----BEGIN "


class Key(Protocol):
    """What signs and verifies."""

    @property
    def algorithm(self) -> int:
        """Its code in a seal."""

    @property
    def signs(self) -> bool:
        """Whether it can sign; a public key verifies alone."""

    def sign(self, data: bytes) -> bytes:
        """Return the signature of some bytes."""

    def verifies(self, data: bytes, signature: bytes) -> bool:
        """Return whether a signature is that of these bytes."""


class HmacKey:
    """HMAC-SHA256 (RFC 2104): who can verify can sign."""

    algorithm = 1
    signs = True

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def sign(self, data: bytes) -> bytes:
        """Return the signature of some bytes."""
        return hmac.digest(self._secret, data, "sha256")

    def verifies(self, data: bytes, signature: bytes) -> bool:
        """Return whether a signature is that of these bytes; the time it takes says nothing of them."""
        return hmac.compare_digest(self.sign(data), signature)


class Ed25519Key:
    """Ed25519 (RFC 8032): the private key signs, and the public one verifies."""

    algorithm = 2

    def __init__(self, public: Ed25519PublicKey, private: Ed25519PrivateKey | None) -> None:
        self._public = public
        self._private = private

    @property
    def signs(self) -> bool:
        """Whether it is the private key."""
        return self._private is not None

    def sign(self, data: bytes) -> bytes:
        """Return the signature of some bytes."""
        assert self._private is not None
        return self._private.sign(data)

    def verifies(self, data: bytes, signature: bytes) -> bool:
        """Return whether a signature is that of these bytes."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._public.verify(signature, data)
        except InvalidSignature:
            return False
        return True


#: How many bytes a signature has, by algorithm.
SIZES = {HmacKey.algorithm: 32, Ed25519Key.algorithm: 64}


def key_of(name: str, said: str) -> Key:
    """Return the key that a setting describes: a PEM text is a key for Ed25519, and any other secret for HMAC.

    Raises ConfigurationError, among them MissingExtra.
    """
    secret = secret_of(_SETTING, name, said)
    return _ed25519(name, secret) if secret.startswith(_PEM) else HmacKey(checked_length(_SETTING, name, secret))


def _ed25519(name: str, pem: bytes) -> Ed25519Key:
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"The key {name!r} is for Ed25519, which needs a library: pip install 'fastq-worker[security]'"
        ) from error
    try:
        if b"PRIVATE KEY" in pem.partition(b"\n")[0]:
            private = load_pem_private_key(pem, None)
            if isinstance(private, Ed25519PrivateKey):
                return Ed25519Key(private.public_key(), private)
        else:
            public = load_pem_public_key(pem)
            if isinstance(public, Ed25519PublicKey):
                return Ed25519Key(public, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # none of them quotes the key
        raise ConfigurationError(f"{_SETTING}: the PEM text of the key {name!r} can't be read: {error}") from error
    raise ConfigurationError(f"{_SETTING}: the PEM text of the key {name!r} holds no Ed25519 key")
