"""The broker in Redis: redis://host:port/db, and the other URLs of docs/redis.rst."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import hiredis

from fastq import failpoints
from fastq.broker import Broker, Capability, DeadLetter, Decision, Delivery, QueueInfo, Subscription, WorkerInfo
from fastq.completion import Completed
from fastq.diagnosis import Diagnosis
from fastq.errors import BrokerError, BrokerFull, BrokerUnavailable, LeaseLost, PublishUnknown
from fastq.message import Message, check_queue
from fastq.systems import redis_inspect, redis_scripts
from fastq.systems.redis import Call, RedisSystem
from fastq.systems.redis_doze import Doze
from fastq.systems.redis_durability import diagnose, report
from fastq.systems.redis_results import COMPLETE, completed_arguments
from fastq.systems.redis_scripts import FIELD, HEADER, Script
from fastq.systems.redis_wire import ERRORS, Unanswered, explain, is_full, pack
from fastq.systems.turns import Turns


class RedisBroker(Broker):
    """A face on the RedisSystem of the URL."""

    capabilities = frozenset(Capability)

    def __init__(self, url: str) -> None:
        self._redis = RedisSystem.open(url)
        self.system = None if self._redis.is_cluster else self._redis
        self._close: Callable[[], None] | None = self._redis.close

    # -- publishing -----------------------------------------------------------------------------------

    def publish(self, messages: Sequence[Message]) -> None:
        if len(messages) == 1:
            self._publish({messages[0].queue: self._arguments(messages)})
            return
        by_queue: dict[str, list[Message]] = {}
        for message in messages:
            by_queue.setdefault(message.queue, []).append(message)
        self._publish({queue: self._arguments(items) for queue, items in by_queue.items()})

    def publish_frames(self, queue: str, frames: Sequence[bytes]) -> None:
        check_queue(queue)
        if frames:
            self._publish({queue: [self._redis.clock(), len(frames), *frames]})

    def _arguments(self, messages: Sequence[Message]) -> list[bytes | str | int]:
        plain: list[bytes | str | int] = []
        others: list[bytes | str | int] = []
        envelope = self.envelope
        for message in messages:
            if message.priority or message.eta:
                others += (9 - message.priority, message.eta, envelope(message))
            else:
                plain.append(envelope(message))
        return [self._redis.clock(), len(plain), *plain, *others]

    def _publish(self, by_queue: Mapping[str, Sequence[bytes | str | int]]) -> None:
        if not by_queue:
            return
        calls = [Call(redis_scripts.PUBLISH, [self._redis.base(it)], by_queue[it]) for it in by_queue]
        try:
            self._redis.list_queues(by_queue)
        except ERRORS as error:  # nothing is published yet
            raise BrokerUnavailable(explain(self._redis.url, error)) from error
        # On a cluster a script a queue, one after the other; else all of them or none.
        batches = [[call] for call in calls] if self._redis.is_cluster else [calls]
        for done, batch in enumerate(batches):
            try:
                self._redis.call_all(batch)
            except ERRORS as error:
                raise self._not_published(error, in_doubt=done > 0) from error

    def _not_published(self, error: Exception, *, in_doubt: bool) -> BrokerError:
        text = explain(self._redis.url, error)
        if in_doubt or isinstance(error, (Unanswered, hiredis.ProtocolError)):
            return PublishUnknown(f"{text}; the messages may or may not be in their queues")
        return BrokerFull(text) if is_full(error) else BrokerUnavailable(text)

    # -- consuming ------------------------------------------------------------------------------------

    def subscribe(self, queues: Sequence[str], lease_s: float, about: Mapping[str, str]) -> RedisSubscription:
        names = [check_queue(queue) for queue in queues]
        with self._redis.translated(BrokerUnavailable):
            if not self._redis.reported:
                with self._redis.nodes.wire(self._redis.base("")) as wire:
                    report(self._redis.url, wire)
                self._redis.reported = True
            return RedisSubscription(self._redis, names, lease_s, about)

    # -- what people ask ------------------------------------------------------------------------------

    def diagnose(self) -> Diagnosis:
        with self._redis.translated(BrokerUnavailable), self._redis.nodes.wire(self._redis.base("")) as wire:
            return diagnose(self._redis.url, wire)

    def depth(self, queue: str) -> int:
        return int(self._ask(redis_inspect.DEPTH, queue))

    def oldest_age(self, queue: str) -> float:
        return self._numbers(queue).oldest_age_s

    def purge(self, queue: str) -> int:
        return int(self._ask(redis_inspect.PURGE, queue))

    def queues(self) -> list[QueueInfo]:
        infos = [self._numbers(name) for name in self._queue_names()]
        return [info for info in infos if info.ready or info.delayed or info.leased or info.dead]

    def _numbers(self, queue: str) -> QueueInfo:
        ready, delayed, leased, dead, oldest_us = self._ask(redis_inspect.NUMBERS, queue, self._redis.clock())
        return QueueInfo(queue, ready, delayed, leased, dead, max(0.0, oldest_us / 1e6))

    def workers(self) -> list[WorkerInfo]:
        found: dict[str, WorkerInfo] = {}
        for name in self._queue_names():
            reply = self._ask(redis_inspect.WORKERS, name, self._redis.clock())
            for owner, left_us, about in zip(reply[::3], reply[1::3], reply[2::3], strict=True):
                found[owner] = WorkerInfo(owner.decode(), left_us / 1e6, json.loads(about))
        return list(found.values())

    def _queue_names(self) -> list[str]:
        with self._redis.translated(BrokerUnavailable):
            return self._redis.queue_names()

    def bury(self, queue: str, frames: Sequence[bytes], reason: str) -> None:
        check_queue(queue)
        if not frames:
            return
        try:
            self._redis.list_queues([queue])
        except ERRORS as error:  # nothing is buried yet
            raise BrokerUnavailable(explain(self._redis.url, error)) from error
        try:
            self._redis.call(redis_inspect.BURY, [self._redis.base(queue)], self._redis.clock(), reason, *frames)
        except ERRORS as error:
            raise self._not_published(error, in_doubt=False) from error

    def dead_letters(self, queue: str, limit: int, after: DeadLetter | None = None) -> list[DeadLetter]:
        place = redis_inspect.place_of(after)
        reply = self._ask(redis_inspect.LETTERS, queue, limit, *place) if limit > 0 else []
        pairs = zip(reply[::2], reply[1::2], strict=True)
        return [redis_inspect.letter_of(queue, token, letter) for token, letter in pairs if letter]

    def prune_dead(self, queue: str, older_than_s: float, most: int) -> int:
        return int(self._ask(redis_inspect.PRUNE, queue, self._redis.clock(), round(older_than_s * 1e6), most))

    def requeue_dead(self, tokens: Iterable[str]) -> int:
        return self._exhume(tokens, 1)

    def drop_dead(self, tokens: Iterable[str]) -> int:
        return self._exhume(tokens, 0)

    def _exhume(self, tokens: Iterable[str], put_back: int) -> int:
        by_queue: dict[str, list[str]] = {}
        for queue, name in filter(None, map(redis_inspect.split_token, tokens)):
            by_queue.setdefault(queue, []).append(name)
        clock = self._redis.clock
        return sum(
            self._ask(redis_inspect.EXHUME, queue, clock(), put_back, *names) for queue, names in by_queue.items()
        )

    def _ask(self, script: Script, queue: str, *arguments: bytes | str | int) -> Any:
        with self._redis.translated(BrokerUnavailable):
            return self._redis.call(script, [self._redis.base(queue)], *arguments)

    def close(self) -> None:
        close, self._close = self._close, None
        if close is not None:
            close()


class RedisSubscription(Subscription):
    """A lease in Redis: a line among the owners of each queue that was ever served, and a hash of what is held there.

    It knows the names of what it was handed, so that it can give back what it was handed in an answer that never came.
    """

    def __init__(self, redis: RedisSystem, queues: Sequence[str], lease_s: float, about: Mapping[str, str]) -> None:
        self.owner = str(uuid.uuid4())
        self._redis = redis
        self._lease_us = round(lease_s * 1e6)
        self._about = json.dumps({**about})
        self._turns = Turns(queues)
        self._leased: list[str] = []  # queues
        self._held: dict[str, set[bytes]] = {}
        self._in_doubt = False
        self._interrupted = False
        self._closed = False
        self._fetching = threading.Lock()
        self._serving = threading.Lock()
        self._lease(self._turns.queues)
        self._doze = Doze(redis.nodes, self._wakes(self._turns.queues))

    def _bases(self, queues: Sequence[str]) -> list[list[str]]:
        return [[self._redis.base(queue) for queue in group] for group in self._redis.groups(queues)]

    def _wakes(self, queues: Sequence[str]) -> list[list[str]]:
        return [[f"{base}:wake" for base in bases] for bases in self._bases(queues)]

    def serve(self, queues: Sequence[str]) -> None:
        turns = Turns(check_queue(queue) for queue in queues)
        with self._serving, self._redis.translated(BrokerUnavailable):
            if not self._closed:
                self._lease(turns.queues)
                self._turns = turns
                self._doze.watch(self._wakes(turns.queues))

    def _lease(self, queues: Sequence[str]) -> None:
        """Begin the lease on messages of those queues where it has not begun."""
        new = [queue for queue in queues if queue not in self._held]
        if not new:
            return
        self._redis.list_queues(new)
        for group in self._redis.groups(new):
            bases = [self._redis.base(queue) for queue in group]
            clock = self._redis.clock
            self._redis.call(redis_scripts.SUBSCRIBE, bases, clock(), self.owner, self._lease_us, self._about)
            self._held.update({queue: set() for queue in group})
            self._leased = [*self._leased, *group]  # another, lest it changes in the hands of other threads

    # -- fetching -------------------------------------------------------------------------------------

    def fetch(self, limit: int, deadline: float | None) -> list[Delivery]:
        with self._fetching, self._redis.translated(BrokerUnavailable):
            while not self._take_interrupt():
                claimed, ahead_s = self._claim(limit)
                if claimed:
                    return claimed
                if deadline is not None:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        return []
                    ahead_s = min(ahead_s, left)
                if not self._interrupted:
                    self._doze.wait(ahead_s)
            return []

    def _take_interrupt(self) -> bool:
        interrupted, self._interrupted = self._interrupted, False
        return interrupted

    def _claim(self, limit: int) -> tuple[list[Delivery], float]:
        """Return what could be leased, or else for how many seconds there can be nothing unless a token comes."""
        if self._in_doubt:
            self._give_back_unknown()
        claimed: list[Delivery] = []
        ahead_us = redis_scripts.LOOK_AGAIN_US
        for queues, served in self._askable(self._turns.take()):
            if limit > len(claimed):
                ahead_us = min(ahead_us, self._claim_from(queues, served, limit - len(claimed), claimed))
        return claimed, ahead_us / 1e6

    def _askable(self, queues: list[str]) -> list[tuple[list[str], int]]:
        """Return the queues of each call, the first so many to be claimed from, the others to be swept."""
        if self._redis.is_cluster:
            return [([queue], 1) for queue in queues]
        if len(queues) == len(self._leased):
            return [(queues, len(queues))] if queues else []
        return [([*queues, *(queue for queue in self._leased if queue not in queues)], len(queues))]

    def _claim_from(self, queues: Sequence[str], served: int, limit: int, claimed: list[Delivery]) -> int:
        bases = [self._redis.base(queue) for queue in queues]
        try:
            reply = self._redis.call(redis_scripts.FETCH, bases, self._redis.clock(), self.owner, limit, served)
        except Unanswered:
            self._in_doubt = True
            if claimed:
                return 1
            raise
        if reply is None:
            raise self._lost()
        ahead_us, *found = reply
        if failpoints.on and found:
            failpoints.hit("P3")
        new = tuple.__new__  # Delivery's own constructor, which NamedTuple writes in Python, takes three times as long
        for place, records in zip(found[::2], found[1::2], strict=True):
            queue = queues[place - 1]
            held = self._held[queue]
            for record in records:
                _, _, _, fence, crashes, flags = HEADER.unpack_from(record)
                name = record[FIELD]
                held.add(name)
                claimed.append(new(Delivery, (record[HEADER.size :], queue, name, fence + 1, crashes, flags & 1 == 1)))
        return int(ahead_us)

    def _give_back_unknown(self) -> None:
        """Release what is held without our knowing: it was on its way in an answer that never came."""
        for queue, known in list(self._held.items()):
            key = f"{self._redis.base(queue)}:held:{self.owner}"
            if unknown := set(self._redis.command(key, pack(("HKEYS", key)))) - known:
                self._release(queue, list(unknown))
        self._in_doubt = False

    # -- settling -------------------------------------------------------------------------------------

    def begin(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        lost: list[Delivery] = []
        with self._redis.translated(BrokerUnavailable):
            for queue, held in _by_queue(deliveries).items():
                places = self._redis.call(redis_scripts.BEGIN, [self._redis.base(queue)], self.owner, *_names(held))
                lost += [held[place - 1] for place in places]
        return lost

    def settle(self, decisions: Sequence[Decision]) -> list[Delivery]:
        return self.complete([Completed(decision, None) for decision in decisions], 0)

    def complete(self, batch: Sequence[Completed], expires_s: float) -> list[Delivery]:
        """Carry out decisions, and store the outcomes of those that were held; return the other deliveries."""
        by_queue: dict[str, list[Completed]] = {}
        for each in batch:
            assert each.decision is not None
            by_queue.setdefault(each.decision.delivery.queue, []).append(each)
        if not by_queue:
            return []
        first = (*self._redis.storing(expires_s), self._redis.clock(), self.owner)
        calls = [
            Call(COMPLETE, [self._redis.base(queue)], [*first, *completed_arguments(items)])
            for queue, items in by_queue.items()
        ]
        with self._redis.translated(BrokerUnavailable):
            replies = self._redis.call_all(calls)
        lost: list[Delivery] = []
        for (queue, items), places in zip(by_queue.items(), replies, strict=True):
            deliveries = [each.decision.delivery for each in items if each.decision is not None]
            self._held[queue].difference_update(_names(deliveries))
            lost += [deliveries[place - 1] for place in places]
        return lost

    def release(self, deliveries: Sequence[Delivery]) -> None:
        with self._redis.translated(BrokerUnavailable):
            for queue, held in _by_queue(deliveries).items():
                self._release(queue, _names(held))

    def _release(self, queue: str, names: Sequence[bytes]) -> None:
        base = self._redis.base(queue)
        self._redis.call(redis_scripts.RELEASE, [base], self._redis.clock(), self.owner, *names)
        self._held[queue].difference_update(names)

    # -- the lease ------------------------------------------------------------------------------------

    def renew(self) -> None:
        with self._redis.translated(BrokerUnavailable):
            for bases in self._bases(leased := self._leased):
                clock = self._redis.clock
                if self._redis.call(redis_scripts.RENEW, bases, clock(), self.owner, self._lease_us) is None:
                    raise self._lost()
            self._redis.list_queues(leased)

    def interrupt(self) -> None:
        self._interrupted = True
        self._doze.interrupt()

    def close(self) -> None:
        if self._closed:
            return
        self.interrupt()
        with self._serving, self._redis.translated(BrokerUnavailable):
            if self._fetching.acquire(timeout=1.0):  # else its server is hung, and it lets go by itself
                self._doze.close()
                self._fetching.release()
            for bases in self._bases(self._leased):
                self._redis.call(redis_scripts.END, bases, self._redis.clock(), self.owner)
            self._closed = True

    def _lost(self) -> LeaseLost:
        return LeaseLost(f"The lease of {self.owner} has ended, and its messages may be in other hands: subscribe anew")


def _by_queue(deliveries: Sequence[Delivery]) -> dict[str, list[Delivery]]:
    by_queue: dict[str, list[Delivery]] = {}
    for delivery in deliveries:
        by_queue.setdefault(delivery.queue, []).append(delivery)
    return by_queue


def _names(deliveries: Sequence[Delivery]) -> list[bytes]:
    return [delivery.token for delivery in deliveries]  # type: ignore[misc]  # the token is ours: the record's name
