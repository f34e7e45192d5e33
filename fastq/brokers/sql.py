"""The broker in a database: sqlite:///fastq.db."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fastq import failpoints
from fastq.broker import (
    Broker,
    Capability,
    DeadLetter,
    Decision,
    Delivery,
    QueueInfo,
    Subscription,
    WorkerInfo,
)
from fastq.diagnosis import Diagnosis
from fastq.errors import BrokerFull, BrokerUnavailable, LeaseLost, PublishUnknown
from fastq.message import Message, check_queue
from fastq.systems import sql_inspect, sql_messages
from fastq.systems.sql import LOOK_AGAIN_S, WORKERS, SqlSystem
from fastq.systems.sql_messages import New
from fastq.systems.turns import Turns

if TYPE_CHECKING:
    from sqlalchemy import Connection

_PURGES_A_TRANSACTION = 8


class SqlBroker(Broker):
    """A face on the SqlSystem of the URL."""

    capabilities = frozenset(Capability)

    def __init__(self, url: str) -> None:
        self.system: SqlSystem = SqlSystem.open(url, BrokerUnavailable)
        self._close: Callable[[], None] | None = self.system.close

    def publish(self, messages: Sequence[Message]) -> None:
        self._publish([New(it.queue, self.envelope(it), 9 - it.priority, it.eta) for it in messages])

    def publish_frames(self, queue: str, frames: Sequence[bytes]) -> None:
        check_queue(queue)
        self._publish([New(queue, frame, 9, 0) for frame in frames])

    def _publish(self, news: Sequence[New]) -> None:
        if not news:
            return
        with self._adding() as connection:
            sql_messages.publish(connection, news, self.system.now())
            if failpoints.on:
                failpoints.hit("P1")
        self.system.ring(WORKERS)

    @contextmanager
    def _adding(self) -> Iterator[Connection]:
        """Give a transaction that adds something. Raises BrokerFull, PublishUnknown, BrokerUnavailable."""
        committing = False
        try:
            with self.system.write(BrokerUnavailable) as connection:
                yield connection
                committing = True
        except BrokerUnavailable as error:
            cause = error.__cause__ or error
            if self.system.server.is_full(cause):
                raise BrokerFull(str(error)) from cause
            if committing and self.system.server.leaves_doubt(cause):
                raise PublishUnknown(str(error)) from cause
            raise

    def diagnose(self) -> Diagnosis:
        with self.system.read(BrokerUnavailable):
            return self.system.server.diagnose()

    def subscribe(self, queues: Sequence[str], lease_s: float, about: Mapping[str, str]) -> SqlSubscription:
        self.system.server.warn_of_known_defects()
        return SqlSubscription(self.system, [check_queue(queue) for queue in queues], lease_s, about)

    def depth(self, queue: str) -> int:
        with self.system.read(BrokerUnavailable) as connection:
            return sql_inspect.depth(connection, queue)

    def oldest_age(self, queue: str) -> float:
        with self.system.read(BrokerUnavailable) as connection:
            return sql_inspect.oldest_us(connection, queue, self.system.now()) / 1e6

    def purge(self, queue: str) -> int:
        with self.system.read(BrokerUnavailable) as connection:
            up_to = sql_inspect.newest(connection)
        purged = 0
        while True:  # in several transactions, so that others get their turn
            with self.system.write(BrokerUnavailable) as connection:
                counts = [sql_inspect.purge(connection, queue, up_to) for _ in range(_PURGES_A_TRANSACTION)]
            purged += sum(counts)
            if not counts[-1]:
                return purged

    def queues(self) -> list[QueueInfo]:
        with self.system.read(BrokerUnavailable) as connection:
            return sql_inspect.queues(connection, self.system.now())

    def workers(self) -> list[WorkerInfo]:
        with self.system.read(BrokerUnavailable) as connection:
            return sql_inspect.workers(connection, self.system.now())

    def bury(self, queue: str, frames: Sequence[bytes], reason: str) -> None:
        check_queue(queue)
        if frames:
            with self._adding() as connection:
                sql_inspect.bury(connection, queue, frames, reason, self.system.now())

    def dead_letters(self, queue: str, limit: int, after: DeadLetter | None = None) -> list[DeadLetter]:
        with self.system.read(BrokerUnavailable) as connection:
            return sql_inspect.dead_letters(connection, queue, limit, int(after.token) if after else 0)

    def prune_dead(self, queue: str, older_than_s: float, most: int) -> int:
        with self.system.write(BrokerUnavailable) as connection:
            before = self.system.now() - round(older_than_s * 1e6) if older_than_s else 0
            return sql_inspect.prune_dead(connection, queue, before, most)

    def requeue_dead(self, tokens: Iterable[str]) -> int:
        with self.system.write(BrokerUnavailable) as connection:
            count = sql_inspect.requeue_dead(connection, tokens, self.system.now())
        self.system.ring(WORKERS)
        return count

    def drop_dead(self, tokens: Iterable[str]) -> int:
        with self.system.write(BrokerUnavailable) as connection:
            return sql_inspect.drop_dead(connection, tokens)

    def close(self) -> None:
        close, self._close = self._close, None
        if close is not None:
            close()


class SqlSubscription(Subscription):
    """A lease in a database. `lease` is the number of its row."""

    def __init__(self, system: SqlSystem, queues: Sequence[str], lease_s: float, about: Mapping[str, str]) -> None:
        self.owner = str(uuid.uuid4())
        self._system = system
        self._turns = Turns(queues)
        self._lease_us = round(lease_s * 1e6)
        self._interrupted = False
        self._closed = False
        with system.write(BrokerUnavailable, durable=False) as connection:
            until = system.now() + self._lease_us
            self.lease = sql_messages.lease(connection, self.owner, until, json.dumps(dict(about)))
        self._bell = system.bell(WORKERS)

    def fetch(self, limit: int, deadline: float | None) -> list[Delivery]:
        while not self._take_interrupt():
            self._bell.drain()
            claimed, sleep_s = self._claim(limit)
            if claimed:
                return claimed
            if deadline is not None:
                sleep_s = min(sleep_s, deadline - time.monotonic())
                if sleep_s <= 0 and time.monotonic() >= deadline:
                    return []
            if not self._interrupted:
                self._bell.wait(max(sleep_s, 0))
        return []

    def _take_interrupt(self) -> bool:
        interrupted, self._interrupted = self._interrupted, False
        return interrupted

    def _claim(self, limit: int) -> tuple[list[Delivery], float]:
        """Return what could be leased, or else for how many seconds there can be nothing unless a bell rings."""
        freed = 0
        with self._system.write(BrokerUnavailable, durable=False) as connection:
            queues = self._turns.take()  # in the turn to write: a message published after `serve` finds it obeyed
            now = self._system.now()
            ahead = sql_messages.look(connection, self.lease)
            if ahead is None:
                raise self._lost()
            if 0 < ahead.next_due <= now:
                sql_messages.promote(connection, now)
            claimed = sql_messages.claim(connection, self.lease, queues, limit)
            if not claimed and 0 < ahead.next_end < now:
                freed = sql_messages.sweep(connection, self.lease, now)
                claimed = sql_messages.claim(connection, self.lease, queues, limit)
            if failpoints.on and claimed:
                failpoints.hit("P3")
        if freed > len(claimed):
            self._system.ring(WORKERS)
        # A lease is over when its last moment has passed, hence the microsecond more.
        ahead_us = [it - now for it in (ahead.next_due, ahead.next_end + 1) if it > now]
        return claimed, min([LOOK_AGAIN_S, *(it / 1e6 for it in ahead_us)])

    def serve(self, queues: Sequence[str]) -> None:
        self._turns = Turns(check_queue(queue) for queue in queues)
        self._bell.ring()

    def begin(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        # Durable, unlike a claim: a message that crashes the whole host is to be charged for it.
        with self._system.write(BrokerUnavailable) as connection:
            return sql_messages.begin(connection, self.lease, deliveries)

    def settle(self, decisions: Sequence[Decision]) -> list[Delivery]:
        with self._system.write(BrokerUnavailable) as connection:
            lost = sql_messages.settle(connection, self.lease, decisions, self._system.now())
        if sql_messages.makes_ready(decisions):
            self._system.ring(WORKERS)
        return lost

    def release(self, deliveries: Sequence[Delivery]) -> None:
        with self._system.write(BrokerUnavailable, durable=False) as connection:
            sql_messages.release(connection, self.lease, deliveries)
        self._system.ring(WORKERS)

    def renew(self) -> None:
        with self._system.write(BrokerUnavailable, durable=False) as connection:
            now = self._system.now()
            if not sql_messages.renew(connection, self.lease, now + self._lease_us):
                raise self._lost()
            freed = sql_messages.sweep(connection, self.lease, now)
        if freed:
            self._system.ring(WORKERS)

    def interrupt(self) -> None:
        self._interrupted = True
        self._bell.ring()

    def close(self) -> None:
        if self._closed:
            return
        self.interrupt()
        with self._system.write(BrokerUnavailable) as connection:
            freed = sql_messages.end(connection, self.lease)
        self._closed = True
        self._bell.close()
        if freed:
            self._system.ring(WORKERS)

    def _lost(self) -> LeaseLost:
        return LeaseLost(f"The lease of {self.owner} has ended, and its messages may be in other hands: subscribe anew")
