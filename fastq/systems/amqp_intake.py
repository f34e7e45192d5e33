"""What RabbitMQ pushes to one subscription: the consumers, as many messages as are wanted, and what is unsettled."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from fastq._speedups.amqp_values import AmqpError, Received
from fastq.broker import Delivery
from fastq.systems.amqp_messages import delivery_of, held_as
from fastq.systems.amqp_topology import Topology
from fastq.systems.turns import Turns

if TYPE_CHECKING:
    from fastq._speedups.amqp_link import Link

logger = logging.getLogger(__name__)

_FEW = 16  # up to here, exactly as many are prefetched as were asked for
_FALLEN = 3  # so many times in a row must fewer be wanted before fewer are prefetched
_AT_ONCE = 100_000  # deliveries to read in one go
_PUSHED_S = 0.05  # how long to wait for what the server is about to push


class Place(NamedTuple):
    """A queue of the server, and the queue that it is or that it is a part of."""

    name: str
    queue: str


class Intake:
    """Owns the consumers of a link, and every delivery of the link until it is settled. One thread at a time.

    Tokens are delivery tags over `first`, which no other subscription of this process has.
    """

    def __init__(self, link: Link, topology: Topology, queues: Sequence[str], first: int) -> None:
        self.link = link
        self.unsettled: dict[int, Received] = {}  # by tag, in ascending order: handed out, waiting or held
        self._topology = topology
        self._first = first
        self._turns = Turns(queues)
        self._places = self._places_of(self._turns.queues)
        self._waiting: dict[Place, deque[Received]] = {}  # pushed, and not asked for yet
        self._consumers: dict[str, Place] = {}  # those that are open, by tag
        self._place_of: dict[str, Place] = {}  # those that ever were
        self._number = 0
        self._prefetch = 0
        self._wanted: list[int] = []  # while less is wanted than is prefetched
        self.holding: dict[str, str] = {}  # consumers of holding queues: the queue that is meant, by tag
        self.arrived: dict[str, Received] = {}  # from these, by message id

    # -- demand -------------------------------------------------------------------------------------

    def serve(self, queues: Sequence[str]) -> None:
        """Take from other queues from now on."""
        self._turns = Turns(queues)
        self._places = self._places_of(self._turns.queues)
        for queue in self._turns.queues:
            self._topology.declare(self.link, queue)
        self.pause()

    def _places_of(self, queues: Sequence[str]) -> dict[str, list[Place]]:
        """Return the places of queues, by queue, each in the order in which they are to be emptied."""
        return {queue: [Place(name, queue) for name in self._topology.names(queue)] for queue in queues}

    def _all_places(self) -> list[Place]:
        return [place for places in self._places.values() for place in places]

    def fetch(self, limit: int, *, at_once: bool) -> tuple[list[Delivery], bool]:
        """Return up to `limit` messages, and whether more may be pushed when they come.

        If everything that may be is in hand, room may be made by a settlement that is under way. With `at_once` it is
        not waited for, and nothing that is ready now is missed.
        """
        if limit <= _FEW and len(self._all_places()) > 1:
            taken = self._pull(limit)
            if not taken and not at_once and not self._consumers:
                self._consume(1)
                taken = self._take(limit)
            return taken, True
        roomy = self._want(limit, at_once=at_once) if self._places else True
        self.drain()
        taken = self._take(limit)
        if at_once and not taken:
            self._exhaust(limit)
            taken = self._take(limit)
        return taken, roomy

    def _want(self, limit: int, *, at_once: bool) -> bool:
        """See to it that up to `limit` more are pushed when they come. Return whether they may."""
        in_hand = len(self.unsettled) - sum(map(len, self._waiting.values()))
        needed = max(1, limit + in_hand)
        if not self._consumers or needed > 2 * self._prefetch:
            self._consume(needed)
        elif in_hand >= self._prefetch:
            if not at_once:
                return False
            self._consume(needed)
        elif needed < self._prefetch and (self._prefetch <= _FEW or needed * 4 < self._prefetch):
            self._wanted.append(needed)
            if len(self._wanted) >= _FALLEN:
                self._consume(max(self._wanted))
        else:
            self._wanted.clear()
        return True

    def _consume(self, needed: int) -> None:
        """Begin to consume, with another prefetch."""
        self.stop()
        self._wanted.clear()
        self._prefetch = needed if needed <= _FEW else min(1 << (needed - 1).bit_length(), 65_535)
        self._number += 1
        self.link.qos(self._prefetch)
        for place in self._all_places():
            self._begin(place)
        if any(len(places) > 1 for places in self._places.values()):
            self._exhaust(needed)  # or else who is pushed first would be taken first, whatever their priorities

    def _begin(self, place: Place) -> None:
        tag = f"{self._number}.{place.name}"
        self._place_of[tag] = place
        self._topology.declare(self.link, place.queue)
        try:
            self.link.consume(place.name, tag)
        except AmqpError as error:
            if error.code == 404:  # it was deleted since it was declared
                self._topology.forget(place.queue)
            raise
        self._consumers[tag] = place

    def stop(self) -> None:
        """Have nothing more pushed."""
        if self._consumers:
            for tag in self._consumers:
                self.link.cancel(tag)
            self._consumers.clear()
            self.link.sync()  # what was under way has been pushed by now
        self._prefetch = 0

    def pause(self, others: Iterable[int] = ()) -> None:
        """Have nothing more pushed until something is wanted again; give back what nobody asked for, and others."""
        self.stop()
        self.drain()
        unwanted = [received.delivery_tag for waiting in self._waiting.values() for received in waiting]
        self._waiting.clear()
        for tag in sorted([*unwanted, *others]):
            del self.unsettled[tag]
            self.link.nack(tag, requeue=True)
        self.link.flush()

    # -- deliveries ---------------------------------------------------------------------------------

    def drain(self, wait_s: float = 0.0) -> bool:
        """Take in what was pushed, waiting for it if need be. Return whether there was something."""
        found = self.link.receive(_AT_ONCE, time.monotonic() + wait_s)
        for received in found:
            self.unsettled[received.delivery_tag] = received
            if received.tag in self.holding:
                self.arrived[received.properties.message_id or ""] = received
            else:
                self._waiting.setdefault(self._place_of[received.tag], deque()).append(received)
        for tag in self.link.cancelled():
            self._renew(tag)
        return bool(found)

    def _renew(self, tag: str) -> None:
        """Consume once more from a queue that was deleted and is declared anew."""
        place = self._consumers.pop(tag, None)
        if place is not None:
            logger.warning("The queue %r was deleted, with what was in it; it is declared anew", place.name)
            self._topology.forget(place.queue)
            self._number += 1
            self._begin(place)

    def _exhaust(self, limit: int) -> None:
        """See to it that whatever is ready, up to `limit`, was pushed and taken in. It takes round trips."""
        give_up = time.monotonic() + 1
        while sum(map(len, self._waiting.values())) < limit and len(self.unsettled) < self._prefetch:
            ready = sum(self.link.declare_queue(it.name, passive=True).messages for it in self._all_places())
            self.link.sync()
            if not self.drain(_PUSHED_S if ready else 0.0) and (not ready or time.monotonic() > give_up):
                return

    def _take(self, limit: int) -> list[Delivery]:
        """Return up to `limit` of what was pushed."""
        taken: list[Delivery] = []
        if not any(self._waiting.values()):
            return taken
        due = [place for queue in self._turns.take() for place in self._places[queue]]
        for place in dict.fromkeys([*due, *self._waiting]):
            waiting = self._waiting.get(place)
            while waiting and len(taken) < limit:
                taken.append(self._handed_out(waiting.popleft(), place.queue))
        return taken

    def _pull(self, limit: int) -> list[Delivery]:
        """Return up to `limit` messages, asked for one by one.

        A prefetch holds for each queue by itself. Were few messages wanted, and pushed from each of many queues, most
        of them would wait here while others could run them.
        """
        self.stop()
        self.drain()
        taken: list[Delivery] = []
        for place in [place for queue in self._turns.take() for place in self._places[queue]]:
            waiting = self._waiting.get(place, ())
            while len(taken) < limit:
                received = waiting.popleft() if waiting else self._get(place)
                if received is None:
                    break
                taken.append(self._handed_out(received, place.queue))
        if any(self._waiting.values()):
            self.pause()
        return taken

    def _get(self, place: Place) -> Received | None:
        found = self.link.get(place.name)
        if found is None:
            return None
        self.drain()  # what has come before has lower tags
        tag = f"0.{place.name}"
        self._place_of[tag] = place
        self.unsettled[found.delivery_tag] = received = found._replace(tag=tag)
        return received

    def _handed_out(self, received: Received, queue: str) -> Delivery:
        return delivery_of(received, queue, self._first + received.delivery_tag)

    def known_as(self, received: Received) -> tuple[Delivery, bool]:
        """Return an unsettled message as it was delivered, and whether it has begun."""
        token = self._first + received.delivery_tag
        queue = self.holding.get(received.tag)
        if queue is None:
            return delivery_of(received, self._place_of[received.tag].queue, token), False
        return held_as(received, queue, token)

    # -- settling -----------------------------------------------------------------------------------

    def forget(self, tags: Iterable[int]) -> None:
        """Acknowledge deliveries: those at the beginning in one go, and the others one by one."""
        left = set(tags)
        last, count = 0, 0
        for tag in self.unsettled:
            if tag not in left:
                break
            last, count = tag, count + 1
        if count > 1:
            self.link.ack(last, multiple=True)
            some = [tag for tag in left if tag > last]
        else:
            some = list(left)
        if some:
            some.sort()
            self.link.ack_all(some)
        for tag in left:
            del self.unsettled[tag]
