"""Batch: calls that are collected, and sent in few round trips."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING

from .errors import ConfigurationError, PublishUnknown
from .message import Message

if TYPE_CHECKING:
    from .app import FastQ

logger = logging.getLogger("fastq.batch")

#: How many messages go out at once, and how long their bodies are together at the most, or little more.
SIZE, _MOST_BYTES = 1_000, 8_000_000


class Batch:
    """Made by `FastQ.batch`. What is called within it, in this context, goes out at its end, or when `size` calls are
    together; then the results can be used. Contexts are those of `contextvars`: a thread is not in the batch of
    another, a coroutine is in that of whoever started it. A batch in a batch is one of its own, and goes out at its
    own end.

    When the block ends with an exception, what has not gone out by then never does: `sent` says how many calls have,
    `unsent` which have not, and `doubtful` of which the broker did not say.
    """

    def __init__(self, app: FastQ, size: int = SIZE) -> None:
        if type(size) is not int or size < 1:
            raise ConfigurationError(f"The size of a batch is {size!r}; it takes 1 or more messages")
        self.sent = 0  # how many messages the broker has accepted
        self.doubtful: list[str] = []  # the ids of the tasks whose calls may have been sent, after PublishUnknown
        self._app = app
        self._size = size
        self._waiting: list[Message] = []
        self._bytes = 0
        self._lock = threading.Lock()
        self._outer: Batch | None = None
        self._open = False

    @property
    def unsent(self) -> list[str]:
        """The ids of the tasks whose calls are not sent, in order."""
        with self._lock:
            return [message.uuid for message in self._waiting]

    def __enter__(self) -> Batch:  # noqa: PYI034 - Self is in typing from Python 3.11 on
        self._outer = _innermost.get()
        self._open = True
        _innermost.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        _innermost.set(self._outer)
        with self._lock:
            self._open = False
            if kind is None:
                self._send()
            elif self._waiting:
                logger.warning(
                    "A batch was broken off by %s: %d calls were sent, and %d are not",
                    kind.__name__, self.sent, len(self._waiting),
                )  # fmt: skip

    def __repr__(self) -> str:
        return f"<Batch with {self.sent} calls sent and {len(self._waiting)} waiting>"

    def add(self, messages: Sequence[Message]) -> bool:
        """Collect messages, and send what is there if that is enough; False if the batch has ended."""
        with self._lock:
            if not self._open:
                return False
            self._waiting += messages
            for message in messages:
                self._bytes += len(message.body)
            if len(self._waiting) >= self._size or self._bytes >= _MOST_BYTES:
                self._send()
            return True

    def why_unsent(self, id: bytes) -> str:
        """Return why the call of a task is not sent, "" if it is."""
        with self._lock:
            if not any(message.id == id for message in self._waiting):
                return ""
        return "is in a batch, and not sent yet" if self._open else "was in a batch that ended before it was sent"

    def _send(self) -> None:
        """Publish what waits, under the lock; what the broker refuses goes on waiting."""
        while part := self._waiting[: self._size]:
            try:
                self._app._publish_now(part)  # noqa: SLF001 - the app and its batches are one
            except PublishUnknown:
                self.doubtful += [message.uuid for message in part]  # and so not to be sent again by the next call
                del self._waiting[: self._size]
                raise
            self.sent += len(part)
            del self._waiting[: self._size]
        self._bytes = 0


_innermost: ContextVar[Batch | None] = ContextVar("fastq_batch", default=None)


def collected(app: FastQ, messages: Sequence[Message]) -> Batch | None:
    """Leave messages to the batch of the app that is open here; None if there is none."""
    batch = _innermost.get()
    while batch is not None and (batch._app is not app or not batch.add(messages)):  # noqa: SLF001 - a batch of ours
        batch = batch._outer  # noqa: SLF001
    return batch
