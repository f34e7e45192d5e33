"""The SQL system: one database that is broker and backend, opened once a process and shared by both faces."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence

from sqlalchemy import Connection

from fastq import failpoints
from fastq.backend import Backend
from fastq.broker import Delivery, Subscription
from fastq.completion import Completed, Completion
from fastq.errors import BrokerUnavailable, FastQError
from fastq.outcome import Outcome
from fastq.systems import sql_messages, sql_results
from fastq.systems.bells import Bell
from fastq.systems.sql_schema import metadata
from fastq.systems.sqlite import ERRORS, Sqlite, SqliteUrl

logger = logging.getLogger(__name__)

WORKERS, CALLERS = "worker", "caller"  # kinds of bells: who waits for messages, who for outcomes

#: How long a waiter sleeps at most: the backstop for a bell that could not be rung.
LOOK_AGAIN_S = 1.0

_EXPIRE_EVERY, _EXPIRE_AFTER_US = 500, 5_000_000  # outcomes stored, or time, between two deletions of expired ones


class SqlSystem:
    """A database as this process uses it.

    Rules: whoever opens it closes it. A transaction is short and runs no one else's code. Whoever commits
    what others wait for rings their bells afterwards. Nothing of it crosses a fork: the connections are
    closed before one, because SQLite would believe in the child that it still holds the parent's locks.
    """

    def __init__(self, server: Sqlite) -> None:
        self.server = server
        self._users = 0
        self._gate = _Gate()
        self._stored = 0  # outcomes since expired ones were deleted, and when that was
        self._expired_at = 0

    @classmethod
    def open(cls, url: str, unavailable: type[FastQError]) -> SqlSystem:
        """Return the system of a URL; each call is to be answered by one of `close`."""
        key = SqliteUrl.parse(url)
        with _opening:
            system = _systems.get(key)
            if system is None:
                system = cls(Sqlite(key))
                system.prepare(unavailable)
                _systems[key] = system
            system._users += 1
            return system

    def prepare(self, unavailable: type[FastQError]) -> None:
        """Make what is missing of the tables."""
        with self._translated(unavailable), self.server.write(durable=True) as connection:
            metadata.create_all(connection)
        self.server.remember()

    def close(self) -> None:
        """Let go; the last user closes the connections."""
        with _opening:
            self._users -= 1
            if self._users == 0:
                _systems.pop(self.server.url, None)
                with self._gate.shut():
                    self.server.close()

    def now(self) -> int:
        """Return the server's time in microseconds since the epoch."""
        return self.server.clock()

    @contextlib.contextmanager
    def write(self, unavailable: type[FastQError], *, durable: bool = True) -> Iterator[Connection]:
        """Give a write transaction; the server's errors become `unavailable`. See Sqlite for `durable`."""
        self._look_for(unavailable)
        with self._translated(unavailable), self._gate, self.server.write(durable=durable) as connection:
            yield connection

    @contextlib.contextmanager
    def read(self, unavailable: type[FastQError]) -> Iterator[Connection]:
        """Give a read transaction; the server's errors become `unavailable`."""
        self._look_for(unavailable)
        with self._translated(unavailable), self._gate, self.server.read() as connection:
            yield connection

    def _look_for(self, unavailable: type[FastQError]) -> None:
        """Go over to the new database if ours was taken away: on the old one we would be alone without noticing."""
        if self.server.is_there():
            return
        with self._gate.shut():
            if not self.server.is_there():  # no other thread was quicker
                logger.warning("%s was removed or replaced: going on with what is there now", self.server.url.path)
                self.server.disconnect()
                self.prepare(unavailable)

    @contextlib.contextmanager
    def _translated(self, unavailable: type[FastQError]) -> Iterator[None]:
        try:
            yield
        except ERRORS as error:
            raise unavailable(self.server.explain(error)) from error

    def store(self, connection: Connection, outcomes: Sequence[Outcome], expires_s: float) -> None:
        """Keep outcomes, and now and then delete expired ones: more of them than have come in the meantime."""
        now = self.now()
        sql_results.store(connection, outcomes, now, now + round(expires_s * 1e6))
        self._stored += len(outcomes)
        if self._stored >= _EXPIRE_EVERY or now - self._expired_at > _EXPIRE_AFTER_US:
            sql_results.expire(connection, now, 2 * self._stored + _EXPIRE_EVERY)
            self._stored, self._expired_at = 0, now

    def bell(self, kind: str) -> Bell:
        """Return a new bell for a waiter of this process."""
        return self.server.bells.hang(kind)

    def ring(self, kind: str) -> None:
        """Wake all waiters of a kind, in all processes."""
        self.server.bells.ring(kind)

    def completion(self, subscription: Subscription, backend: Backend) -> Completion:
        """Return the completion that settles and stores in one transaction."""
        # Both are of this system, so the subscription is an SqlSubscription.
        return _OneTransaction(self, subscription.lease, backend.expires_s)  # type: ignore[attr-defined]

    def before_fork(self) -> None:
        """Wait for the transactions of all threads, and close the connections."""
        self._gate.close()
        self.server.disconnect()

    def after_fork(self, *, child: bool) -> None:
        """Let transactions begin again, on new connections."""
        if child:
            self.server.abandon()
            self._gate = _Gate()
        else:
            self._gate.open()


class _OneTransaction(Completion):
    def __init__(self, system: SqlSystem, owner: int, expires_s: float) -> None:
        self._system = system
        self._owner = owner
        self._expires_s = expires_s

    def complete(self, batch: Sequence[Completed]) -> list[Delivery]:
        decisions = [completed.decision for completed in batch if completed.decision is not None]
        with self._system.write(BrokerUnavailable) as connection:
            lost = sql_messages.settle(connection, self._owner, decisions, self._system.now()) if decisions else []
            outcomes = list(_of_those_settled(batch, lost))
            if outcomes:
                self._system.store(connection, outcomes, self._expires_s)
                if failpoints.on:
                    failpoints.hit("P11")
        if sql_messages.makes_ready(decisions):
            self._system.ring(WORKERS)
        if outcomes:
            self._system.ring(CALLERS)
        return lost


def _of_those_settled(batch: Sequence[Completed], lost: Sequence[Delivery]) -> Iterator[Outcome]:
    left = {id(delivery) for delivery in lost}
    for decision, outcome, _ in batch:
        if outcome is not None and (decision is None or id(decision.delivery) not in left):
            yield outcome


class _Gate:
    """Many may be inside, or it is shut and none is."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._inside = 0
        self._is_shut = False

    def __enter__(self) -> None:
        with self._changed:
            while self._is_shut:
                self._changed.wait()
            self._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._changed:
            self._inside -= 1
            if not self._inside:
                self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            while self._is_shut:
                self._changed.wait()
            self._is_shut = True
            while self._inside:
                self._changed.wait()

    def open(self) -> None:
        with self._changed:
            self._is_shut = False
            self._changed.notify_all()

    @contextlib.contextmanager
    def shut(self) -> Iterator[None]:
        self.close()
        try:
            yield
        finally:
            self.open()


_systems: dict[SqliteUrl, SqlSystem] = {}
_opening = threading.Lock()


def _before_fork() -> None:
    _opening.acquire()
    for system in _systems.values():
        system.before_fork()


def _after_fork(*, child: bool) -> Callable[[], None]:
    def after() -> None:
        for system in _systems.values():
            system.after_fork(child=child)
        _opening.release()

    return after


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork(child=False), after_in_child=_after_fork(child=True)
)
