"""Results over RabbitMQ: rpc://user:password@host:port/vhost pushes each to the process that made the call."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence

from fastq._speedups.amqp_values import AmqpError, Outgoing, Properties, Unconfirmed
from fastq.backends.memory import MemoryBackend
from fastq.errors import BackendError, BackendUnavailable
from fastq.outcome import Outcome
from fastq.systems.amqp_line import Line, explain, translated
from fastq.systems.amqp_replies import Replies, place_of
from fastq.systems.amqp_url import AmqpUrl
from fastq.systems.memory import MemorySystem

_TRANSIENT = Properties(delivery_mode=1)
_PRECONDITION_FAILED = 406


class AmqpBackend(MemoryBackend):
    """What was pushed to this process is kept in its memory until it expires; of other tasks it knows nothing.

    Nothing is pushed before `reply_to` was asked for, which is what callers put into their messages. An outcome for
    which nobody waits is kept nowhere.
    """

    def __init__(self, url: str, *, expires_s: float) -> None:
        self._url = AmqpUrl.parse(url)
        super().__init__(expires_s=expires_s, system=MemorySystem())
        self._line = Line(self._url, "fastq results")
        self._replies: Replies | None = None
        self._opening = threading.Lock()
        _backends.add(self)

    @property
    def reply_to(self) -> int:  # type: ignore[override]  # a contract's plain attribute
        """The number of the queue that this process listens to, from now on. Raises BackendUnavailable."""
        if self._replies is None:
            with self._opening, translated(self._url, BackendUnavailable):
                if self._replies is None:
                    self._replies = Replies(self._url, self._take_in)
        return self._replies.number

    def store(self, outcomes: Sequence[Outcome]) -> None:
        batch = [
            Outgoing("", place_of(self._url, it.reply_to), it.encode(), _TRANSIENT, mandatory=False)
            for it in outcomes
            if it.reply_to
        ]
        if not batch:
            return
        try:
            with translated(self._url, BackendUnavailable), self._line.link() as link:
                refused = link.publish(batch)
        except BackendUnavailable as error:
            if _is_too_large(error.__cause__):  # one of them, which it will be whenever it is tried again
                raise BackendError(str(error)) from error
            raise
        if refused:
            raise BackendUnavailable(explain(self._url, ConnectionError(refused[0][1])))

    def _take_in(self, outcomes: Sequence[Outcome]) -> None:
        self.system.store(outcomes, self.expires_s)

    def close(self) -> None:
        with self._opening:
            replies, self._replies = self._replies, None
        if replies is not None:
            replies.close()
        self._line.close()

    def _begin_anew(self) -> None:
        """Forget what belongs to the parent process, after a fork."""
        self._opening = threading.Lock()
        self._replies = None
        self.system = MemorySystem()


def _is_too_large(error: BaseException | None) -> bool:
    """Whether the server has refused a message because of its size."""
    cause = error.__cause__ if isinstance(error, Unconfirmed) else None
    return isinstance(cause, AmqpError) and cause.code == _PRECONDITION_FAILED


_backends: weakref.WeakSet[AmqpBackend] = weakref.WeakSet()


def _after_fork() -> None:
    for backend in list(_backends):
        backend._begin_anew()  # noqa: SLF001 - of this module


os.register_at_fork(after_in_child=_after_fork)
