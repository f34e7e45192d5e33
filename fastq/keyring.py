"""Keys that settings name: their secrets stand there, in files, or in the environment, and are never shown."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .errors import ConfigurationError

LEAST_BYTES = 32  # of a secret

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_MAKE_ONE = "python -c 'import secrets; print(secrets.token_urlsafe(32))' makes one"


def check_key_name(setting: str, name: str) -> None:
    """Raise ConfigurationError for what can't name a key: 1 to 64 of ``A-Z a-z 0-9 . _ -`` can."""
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"{setting}: {name!r:.100} is not a key's name: 1 to 64 of A-Z a-z 0-9 . _ - are")


def secret_of(setting: str, name: str, said: str) -> bytes:
    """Return the secret of a key: what is in ``file:/path`` or in the variable ``env:NAME``, or the text itself.

    White space around it is left out. Raises ConfigurationError, which does not quote it.
    """
    where, _, place = said.partition(":")
    if (path := file_of(said)) is not None:
        try:
            secret = path.read_bytes()
        except OSError as error:
            raise ConfigurationError(f"{setting}: the file of the key {name!r} can't be read: {error}") from error
    elif where == "env":
        secret = os.environ.get(place, "").encode("utf-8", "surrogateescape")
        if not secret:
            raise ConfigurationError(f"{setting}: the environment has no {place!r}, which is to hold the key {name!r}")
    else:
        secret = said.encode()
    return secret.strip()


def file_of(said: str) -> Path | None:
    """Return the file that has a key's secret, if one has."""
    where, _, place = said.partition(":")
    return Path(place) if where == "file" else None


def checked_length(setting: str, name: str, secret: bytes) -> bytes:
    """Return a secret that is long enough. Raises ConfigurationError."""
    if len(secret) < LEAST_BYTES:
        raise ConfigurationError(
            f"{setting}: the secret of the key {name!r} has {len(secret)} bytes; it takes {LEAST_BYTES} or more, at "
            f"random: {_MAKE_ONE}"
        )
    return secret
