"""Holding what must not be lost track of: deliveries that are moved to a queue of the subscription's own.

RabbitMQ can't write on a message that it has handed out. So a copy is published to a queue that only this subscription
consumes, and the original acknowledged; the copy says what is to be known if the subscription dies, when it expires
and goes back into its old queue.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from fastq._speedups.amqp_values import Received
from fastq.broker import Delivery
from fastq.systems.amqp_intake import Intake
from fastq.systems.amqp_messages import BEGAN, Parcel, again
from fastq.systems.amqp_publisher import Publisher
from fastq.systems.amqp_topology import Topology

if TYPE_CHECKING:
    from fastq._speedups.amqp_link import Link


class Held(NamedTuple):
    """A delivery to be held."""

    tag: int  # of the present copy
    delivery: Delivery
    began: bool


class Holding:
    """Owns the holding queues of a subscription. `lock` is that of its intake, and is not held by the caller."""

    def __init__(
        self, *, intake: Intake, topology: Topology, publisher: Publisher, owner: str, lock: threading.RLock,
        timeout_s: float,
    ) -> None:  # fmt: skip
        self._intake = intake
        self._topology = topology
        self._publisher = publisher
        self._owner = owner
        self._lock = lock
        self._timeout_s = timeout_s
        self._queues: dict[str, str] = {}  # the names of holding queues, by those of what they hold from
        self._number = 0

    def hold(self, batch: Sequence[Held]) -> dict[int, int]:
        """Move deliveries; return the tags of the copies by those of what they were copied from.

        What was settled meanwhile is not among them. Raises BrokerError, when nothing was moved, and OSError.
        """
        parcels: list[Parcel] = []
        waited: dict[str, Held] = {}
        with self._lock:
            link = self._intake.link
            for held in batch:
                received = self._intake.unsettled.get(held.tag)
                if received is None:
                    continue
                self._number += 1
                name = str(self._number)
                waited[name] = held
                properties = again(received, held.delivery, **{BEGAN: int(held.began)})._replace(message_id=name)
                place = self._queue(link, held.delivery.queue, properties.priority or 0)
                parcels.append(Parcel(held.delivery.queue, received.body, properties, place=place))
        if parcels:
            self._publisher.publish(parcels)
        return self._swap(waited)

    def _queue(self, link: Link, queue: str, priority: int) -> str:
        """Return the name of the holding queue of a queue, which is consumed from then on."""
        place = self._topology.name(queue, priority)
        if place not in self._queues:
            name = self._topology.hold(link, place, self._owner)
            tag = f"held.{len(self._queues)}"
            self._intake.holding[tag] = queue
            link.qos(0)
            link.consume(name, tag, exclusive=True)
            self._queues[place] = name
        return self._queues[place]

    def _swap(self, waited: dict[str, Held]) -> dict[int, int]:
        """Wait for the copies, and acknowledge the originals."""
        moved: dict[int, int] = {}
        give_up = time.monotonic() + self._timeout_s
        with self._lock:
            arrived = self._intake.arrived
            while not arrived.keys() >= waited.keys():
                if time.monotonic() > give_up:
                    self._intake.link.close()
                    raise TimeoutError("what was to be held did not come back in time")
                self._intake.drain(0.05)
            copies = {name: arrived.pop(name) for name in waited}
            for name, held in waited.items():
                if held.tag in self._intake.unsettled:
                    moved[held.tag] = copies[name].delivery_tag
                else:  # it was settled while its copy was on the way
                    self._drop(copies[name])
            self._intake.forget(moved)
            self._intake.link.flush()
        return moved

    def _drop(self, copy: Received) -> None:
        self._intake.forget([copy.delivery_tag])

    def end(self) -> None:
        """Delete the holding queues; nothing is held any more, and the lock is held."""
        for name in self._queues.values():
            self._intake.link.delete_queue(name)
        self._queues.clear()
