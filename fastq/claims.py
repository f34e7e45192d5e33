"""Claims: bodies too large for a broker, kept in a folder that callers and workers share, while messages say where."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from .errors import BrokerFull, BrokerUnavailable, ConfigurationError, EncodingError
from .message import CLAIM, Message

T = TypeVar("T")

_SCHEME = "file://"
_DIGEST_BYTES = 32  # of SHA-256


class Claims:
    """A folder with a file for each such body, named by the id of its task, which only its owner may read.

    The message carries the SHA-256 of its body in its place. A claim goes when its task has ended, or when it is older
    than `expires_s` seconds.
    """

    def __init__(self, url: str, *, over_bytes: int, expires_s: float) -> None:
        if not url.startswith(f"{_SCHEME}/"):
            raise ConfigurationError(f"claims_url is {url!r}; it takes a folder, as in file:///var/lib/shop/claims")
        self._folder = url.removeprefix(_SCHEME)
        self._over_bytes = over_bytes
        self._expires_s = expires_s

    def laid_aside(self, message: Message) -> Message:
        """Return a message whose body is kept here if it is large. Raises BrokerUnavailable, BrokerFull."""
        if len(message.body) <= self._over_bytes or message.content_type.endswith(CLAIM):
            return message
        try:
            self._within(lambda folder: _write(folder, _name(message.id), message.body))
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            kind = BrokerFull if full else BrokerUnavailable
            raise kind(f"The body of {message.task} can't be kept in {self._folder}: {error}") from error
        return message._replace(
            body=hashlib.sha256(message.body).digest(), content_type=message.content_type + CLAIM
        )  # fmt: skip

    def body_of(self, message: Message) -> bytes:
        """Return the body that a message stands for. Raises EncodingError if it is not here, or not the same."""
        try:
            body = self._within(lambda folder: _read(folder, _name(message.id)))
        except OSError as error:
            raise EncodingError(f"The body is not in {self._folder}, where it was kept: {error}") from error
        if len(message.body) != _DIGEST_BYTES or hashlib.sha256(body).digest() != message.body:
            raise EncodingError(f"The body in {self._folder} is not the one that was sent")
        return body

    def drop(self, ids: Iterable[bytes]) -> None:
        """Delete what is kept for tasks, as far as it is there."""
        for name in map(_name, ids):
            with suppress(OSError):
                self._within(partial(_unlink, name))

    def sweep(self) -> int:
        """Delete what is too old, and return how much that was."""
        oldest, swept = time.time() - self._expires_s, 0

        def look(folder: int) -> None:
            nonlocal swept
            for entry in os.scandir(folder):
                with suppress(OSError):
                    if entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_mtime < oldest:
                        _unlink(entry.name, folder)
                        swept += 1

        with suppress(OSError):
            self._within(look)
        return swept

    def _within(self, do: Callable[[int], T]) -> T:
        """Do something in the folder, which is made if it is not there."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            folder = os.open(self._folder, flags)
        except FileNotFoundError:
            Path(self._folder).mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = os.open(self._folder, flags)
        try:
            return do(folder)
        finally:
            os.close(folder)


def _name(id: bytes) -> str:
    return f"{id.hex()}.claim"


def _unlink(name: str, folder: int) -> None:
    os.unlink(name, dir_fd=folder)


def _write(folder: int, name: str, body: bytes) -> None:
    """Write a file so that it is there whole or not at all, and on the disk."""
    unfinished = f".{name}.{os.urandom(6).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(unfinished, flags, 0o600, dir_fd=folder)
    try:
        try:
            left = memoryview(body)
            while left:
                left = left[os.write(file, left) :]
            os.fsync(file)
        finally:
            os.close(file)
        os.rename(unfinished, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(unfinished, dir_fd=folder)
        raise
    os.fsync(folder)


def _read(folder: int, name: str) -> bytes:
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with os.fdopen(file, "rb") as opened:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", name)
        return opened.read()
