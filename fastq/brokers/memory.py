"""The broker inside one process: memory:// or memory://name."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence

from fastq.broker import (
    Broker,
    Capability,
    DeadLetter,
    Decision,
    Delivery,
    QueueInfo,
    Subscription,
    WorkerInfo,
)  # fmt: skip
from fastq.diagnosis import Diagnosis
from fastq.message import Message, check_queue
from fastq.systems.memory import MemorySystem, lease_lost, memory_system
from fastq.systems.memory_queues import Lease
from fastq.systems.turns import Turns


class MemoryBroker(Broker):
    """A face on the MemorySystem of the URL, or on the one that is given."""

    capabilities = frozenset(Capability)

    def __init__(self, url: str = "memory://", *, system: MemorySystem | None = None) -> None:
        self.system: MemorySystem = system or memory_system(url)

    def publish(self, messages: Sequence[Message]) -> None:
        ready = [(message.queue, self.envelope(message), 9 - message.priority, message.eta) for message in messages]
        with self.system.held() as now:
            for queue, frame, rank, due in ready:
                self.system.queues.publish(queue, frame, rank, due, now)
            self.system.arrived.notify_all()

    def publish_frames(self, queue: str, frames: Sequence[bytes]) -> None:
        check_queue(queue)
        with self.system.held() as now:
            for frame in frames:
                self.system.queues.publish(queue, bytes(frame), 9, now, now)
            self.system.arrived.notify_all()

    def subscribe(self, queues: Sequence[str], lease_s: float, about: Mapping[str, str]) -> MemorySubscription:
        return MemorySubscription(self.system, [check_queue(queue) for queue in queues], lease_s, about)

    def depth(self, queue: str) -> int:
        with self.system.held():
            return self.system.queues.depth(queue)

    def oldest_age(self, queue: str) -> float:
        with self.system.held() as now:
            return self.system.queues.oldest_us(queue, now) / 1e6

    def purge(self, queue: str) -> int:
        with self.system.held():
            return self.system.queues.purge(queue)

    def queues(self) -> list[QueueInfo]:
        with self.system.held() as now:
            return self.system.queues.infos(now)

    def workers(self) -> list[WorkerInfo]:
        with self.system.held() as now:
            leases = self.system.queues.leases.values()
            return [WorkerInfo(it.owner, (it.until - now) / 1e6, it.about) for it in leases if it.until >= now]

    def bury(self, queue: str, frames: Sequence[bytes], reason: str) -> None:
        check_queue(queue)
        with self.system.held() as now:
            for frame in frames:
                self.system.queues.bury(queue, bytes(frame), reason, now)

    def dead_letters(self, queue: str, limit: int, after: DeadLetter | None = None) -> list[DeadLetter]:
        with self.system.held():
            return self.system.queues.dead_letters(queue, limit, int(after.token) if after else 0)

    def prune_dead(self, queue: str, older_than_s: float, most: int) -> int:
        with self.system.held() as now:
            before = now - round(older_than_s * 1e6) if older_than_s else 0
            return self.system.queues.prune_dead(queue, before, most)

    def requeue_dead(self, tokens: Iterable[str]) -> int:
        with self.system.held() as now:
            count = self.system.queues.requeue_dead(tokens, now)
            self.system.arrived.notify_all()
            return count

    def drop_dead(self, tokens: Iterable[str]) -> int:
        with self.system.held():
            return self.system.queues.drop_dead(tokens)

    def diagnose(self) -> Diagnosis:
        return Diagnosis("memory, inside this process", "nothing survives the process, and no other can use it")

    def close(self) -> None:
        """Nothing is to be let go of: the state is kept for whoever opens the URL next."""


class MemorySubscription(Subscription):
    """A lease in a MemorySystem."""

    def __init__(self, system: MemorySystem, queues: Sequence[str], lease_s: float, about: Mapping[str, str]) -> None:
        self.owner = str(uuid.uuid4())
        self._system = system
        self._turns = Turns(queues)
        self._interrupted = False
        with system.held() as now:
            lease_us = round(lease_s * 1e6)
            self.lease = Lease(self.owner, lease_us, dict(about), now + lease_us)
            system.queues.leases[self.owner] = self.lease

    def fetch(self, limit: int, deadline: float | None) -> list[Delivery]:
        queues = self._system.queues
        with self._system.held():
            while True:
                now = self._system.clock()
                if self._interrupted:
                    self._interrupted = False
                    return []
                if self.owner not in queues.leases:
                    raise lease_lost(self.owner)
                if deliveries := self._claim(limit, now):
                    return deliveries
                if queues.sweep(now, self.lease):
                    continue
                if not self._system.wait(deadline, queues.next_due(self._turns.queues, self.lease)):
                    return []

    def _claim(self, limit: int, now: int) -> list[Delivery]:
        deliveries: list[Delivery] = []
        for queue in self._turns.take():
            deliveries += self._system.queues.claim(self.lease, queue, limit - len(deliveries), now)
        return deliveries

    def serve(self, queues: Sequence[str]) -> None:
        turns = Turns(check_queue(queue) for queue in queues)
        with self._system.held():
            self._turns = turns
            self._system.arrived.notify_all()

    def begin(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        lost = []
        with self._system.held():
            for delivery in deliveries:
                stored = self._system.queues.holds(self.lease, delivery)
                if stored is None:
                    lost.append(delivery)
                else:
                    stored.began = True
        return lost

    def settle(self, decisions: Sequence[Decision]) -> list[Delivery]:
        return self._system.settle(self.lease, decisions)

    def release(self, deliveries: Sequence[Delivery]) -> None:
        with self._system.held() as now:
            self._system.queues.release(self.lease, deliveries, now)
            self._system.arrived.notify_all()

    def renew(self) -> None:
        with self._system.held() as now:
            if self.owner not in self._system.queues.leases:
                raise lease_lost(self.owner)
            self.lease.until = now + self.lease.lease_us
            if self._system.queues.sweep(now, self.lease):
                self._system.arrived.notify_all()

    def interrupt(self) -> None:
        with self._system.held():
            self._interrupted = True
            self._system.arrived.notify_all()

    def close(self) -> None:
        with self._system.held() as now:
            self._system.queues.end(self.lease, now, died=False)
            self._system.arrived.notify_all()
