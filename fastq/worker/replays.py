"""Replays: signed messages that have ended here, so that a copy that somebody kept of one is not run again."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from fastq.sealing import is_sealed, nonce_of

_REMEMBERED = 100_000


class Replays:
    """Remembers the nonces of the messages that ended last. What ends on other workers it does not know.

    A message that is delivered once more because its end could not be settled is not among them.
    """

    def __init__(self, most: int = _REMEMBERED) -> None:
        self._most = most
        self._nonces: dict[bytes, None] = {}
        self._changing = threading.Lock()

    def ended(self, frames: Iterable[bytes]) -> None:
        """Remember messages, by the bytes that the broker had, whose end is settled."""
        with self._changing:
            self._nonces.update((nonce_of(frame), None) for frame in frames if is_sealed(frame))
            while len(self._nonces) > self._most:
                del self._nonces[next(iter(self._nonces))]

    def has(self, frame: bytes) -> bool:
        """Return whether a message has ended here."""
        return bool(self._nonces) and is_sealed(frame) and nonce_of(frame) in self._nonces
