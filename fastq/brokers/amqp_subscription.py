"""A subscription on RabbitMQ: a connection, and the lease of what was delivered over it."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from fastq import failpoints
from fastq._speedups.amqp_values import Received
from fastq.broker import Action, Decision, Delivery, Subscription
from fastq.errors import BrokerUnavailable, LeaseLost
from fastq.message import check_queue
from fastq.systems import amqp_letters
from fastq.systems.amqp_holding import Held, Holding
from fastq.systems.amqp_intake import Intake
from fastq.systems.amqp_line import ERRORS, Redialing, explain, owner_of
from fastq.systems.amqp_messages import CRASHES, Parcel, again
from fastq.systems.amqp_publisher import Publisher
from fastq.systems.amqp_topology import Topology
from fastq.systems.amqp_url import AmqpUrl

if TYPE_CHECKING:
    from fastq._speedups.amqp_link import Link

logger = logging.getLogger(__name__)

_BEATS = 3  # how often in a heartbeat interval a waiting fetch looks after its link
_SETTLING_S = 0.02  # how long a fetch waits for settlements that make room
_numbers = itertools.count(1)


class AmqpSubscription(Subscription):
    """A connection: what was delivered over it is leased for as long as it lasts.

    `fetch` waits without the lock, on the socket, so that others may settle over the same connection meanwhile.
    """

    def __init__(
        self, url: AmqpUrl, *, link: Link, queues: Sequence[str], topology: Topology, publisher: Publisher,
        redialing: Redialing, redialed: Callable[[Link], None], heartbeat_s: int,
    ) -> None:  # fmt: skip
        self.owner = owner_of(link)
        self._url = url
        self._publisher = publisher
        self._topology = topology
        self._redialing = redialing
        self._redialed = redialed
        self._tick_s = heartbeat_s / _BEATS
        self._lock = threading.RLock()
        self._first = next(_numbers) << 64
        self._intake = Intake(link, topology, queues, self._first)
        self._holding = Holding(
            intake=self._intake, topology=topology, publisher=publisher, owner=self.owner, lock=self._lock,
            timeout_s=url.timeout_s,
        )  # fmt: skip
        self._moved: dict[int, int] = {}  # the present tag of what is held, by the one that it was delivered with
        self._published: set[int] = set()  # tags of those whose copies were published, and that are to be acknowledged
        self._fetching = threading.Lock()
        self._marks: deque[tuple[float, int]] = deque()  # when the highest tag was which
        self._interrupted = False
        self._closed = False
        self._lost = False
        self._reason = ""  # why the connection is gone
        self._bell, self._rope = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    # -- fetching -------------------------------------------------------------------------------------

    def fetch(self, limit: int, deadline: float | None) -> list[Delivery]:
        with self._fetching:
            patient = True
            while not self._take_interrupt():
                try:
                    with self._lock:
                        self._check_alive()
                        late = deadline is not None and time.monotonic() >= deadline
                        taken, roomy = self._intake.fetch(limit, at_once=late or not patient)
                except ERRORS as error:
                    self._break(error)
                    self._await_server(deadline)
                    continue
                if failpoints.on and taken:
                    failpoints.hit("P3")
                if taken or late:
                    return taken
                patient = roomy
                self._doze(deadline, self._tick_s if roomy else _SETTLING_S)
            self._pause()
            return []

    def _take_interrupt(self) -> bool:
        interrupted, self._interrupted = self._interrupted, False
        return interrupted

    def _doze(self, deadline: float | None, longest_s: float) -> None:
        """Wait until the server says something, or somebody rings."""
        wait_s = longest_s if deadline is None else max(0.0, min(longest_s, deadline - time.monotonic()))
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        if (server := self._intake.link.fileno()) >= 0:
            poll.register(server, select.POLLIN)
        if any(descriptor == self._bell for descriptor, _ in poll.poll(math.ceil(wait_s * 1000))):
            with contextlib.suppress(BlockingIOError):
                os.read(self._bell, 4096)

    def _ring(self) -> None:
        with contextlib.suppress(OSError):  # it is full of rings, or closed
            os.write(self._rope, b"\0")

    def interrupt(self) -> None:
        self._interrupted = True
        self._ring()

    def serve(self, queues: Sequence[str]) -> None:
        names = [check_queue(queue) for queue in queues]
        with self._translated(), self._lock:
            if self._intake.link.fileno() >= 0:
                self._intake.serve(names)
        self._ring()

    # -- settling -------------------------------------------------------------------------------------

    def begin(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        with self._lock:
            lost = [it for it in deliveries if not self._tag(it)]
            held = [Held(tag, it, began=True) for it in deliveries if (tag := self._tag(it))]
        try:
            self._hold(held)
        except ERRORS as error:
            self._break(error)
            return list(deliveries)
        return lost

    def settle(self, decisions: Sequence[Decision]) -> list[Delivery]:
        lost: list[Delivery] = []
        tags: dict[int, Decision] = {}
        with self._lock:
            for decision in decisions:
                tag = self._tag(decision.delivery)
                if not tag or tag in tags:
                    lost.append(decision.delivery)
                else:
                    tags[tag] = decision
            copies = {
                tag: self._copy(decision, self._intake.unsettled[tag])
                for tag, decision in tags.items()
                if decision.action is not Action.ACK and tag not in self._published
            }
        if copies:  # over another connection, which may take its time; a repetition does not publish them again
            self._publisher.publish(list(copies.values()))
            self._published.update(copies)
            if failpoints.on:
                failpoints.hit("P15" if any(it.action is Action.DEAD for it in tags.values()) else "P16")
        settled = self._acknowledge(tags.keys())
        if self._interrupted:
            self._pause()
        if len(settled) < len(tags):
            lost += [decision.delivery for tag, decision in tags.items() if tag not in settled]
        return lost

    def _copy(self, decision: Decision, received: Received) -> Parcel:
        """Return what is to be published before the delivery is acknowledged."""
        delivery = decision.delivery
        if decision.action is Action.DEAD:
            properties = amqp_letters.buried(received, delivery, decision.reason)
            place = self._topology.dead_name(delivery.queue)
            return Parcel(delivery.queue, received.body, properties, place=place)
        if decision.action is Action.REJECT:
            properties = again(received, delivery, **{CRASHES: delivery.crashes + 1})
            return Parcel(delivery.queue, received.body, properties)
        return Parcel(delivery.queue, decision.frame or received.body, again(received, delivery), decision.due)

    def _acknowledge(self, tags: AbstractSet[int]) -> AbstractSet[int]:
        """Return those that were still in hand, none if the lease was lost; another thread may hand some back."""
        try:
            with self._lock:
                self._check_alive()
                if self._intake.drain():  # also to hear if the server has taken all of it back
                    self._ring()
                tags = tags & self._intake.unsettled.keys()
                self._intake.forget(tags)
                self._intake.link.flush()
                if self._url.sync_acks:
                    self._intake.link.sync()
                    self._ring()  # it may have read what a fetch waits for
                for first in [first for first, tag in self._moved.items() if tag in tags]:
                    del self._moved[first]
                self._published.difference_update(tags)
        except ERRORS as error:
            self._break(error)
            return frozenset()
        return tags

    def confirm(self) -> bool:
        """Ask the server something else on the same channel: what it answers after, it has seen before.

        Quorum queues settle later than that, by a message among their nodes.
        """
        try:
            with self._lock:
                self._check_alive()
                self._intake.link.sync()
                self._ring()  # it may have read what a fetch waits for
        except ERRORS as error:
            self._break(error)
            return False
        return True

    def release(self, deliveries: Sequence[Delivery]) -> None:
        with self._lock:
            tags = {tag: it for it in deliveries if (tag := self._tag(it))}
            held = {tag: it for tag, it in tags.items() if self._intake.unsettled[tag].tag in self._intake.holding}
        self._publish_unbegun(held)
        with self._translated(), self._lock:
            self._check_alive()
            self._intake.pause([tag for tag in tags if tag not in held and tag in self._intake.unsettled])
            self._intake.link.sync()

    def _publish_unbegun(self, held: Mapping[int, Delivery]) -> None:
        """Bring what is held back to its queue, as if it had not begun."""
        with self._lock:
            present = {tag: received for tag in held if (received := self._intake.unsettled.get(tag))}
        if present:
            copies = [Parcel(held[tag].queue, it.body, again(it, held[tag])) for tag, it in present.items()]
            self._publisher.publish(copies)
            self._acknowledge(present.keys())

    def _tag(self, delivery: Delivery) -> int:
        """Return the tag under which a delivery is held here at present; 0: it is not."""
        token = delivery.token
        if not isinstance(token, int) or self._intake.link.fileno() < 0:
            return 0
        tag = token - self._first
        tag = self._moved.get(tag, tag)
        return tag if tag in self._intake.unsettled else 0

    def _hold(self, batch: Sequence[Held]) -> None:
        """Move deliveries to the holding queue. Raises OSError, BrokerError."""
        moved = self._holding.hold(batch)
        with self._lock:
            first_of = {tag: first for first, tag in self._moved.items()}
            for tag, copy in moved.items():
                self._moved[first_of.get(tag, tag)] = copy
        self._ring()

    # -- the lease ------------------------------------------------------------------------------------

    def renew(self) -> None:
        try:
            with self._lock:
                self._check_alive()
                if self._intake.drain():
                    self._ring()
                old = self._overdue(time.monotonic())
            if old:
                self._hold(old)
        except ERRORS as error:
            self._break(error)
            self._look_for_server()
        if self._interrupted:
            self._pause()

    def _overdue(self, now: float) -> list[Held]:
        """Return what has been held for so long that the server may take it back before long."""
        unsettled = self._intake.unsettled
        self._marks.append((now, next(reversed(unsettled), 0)))
        highest = 0
        while self._marks and self._marks[0][0] < now - self._url.consumer_timeout_s / 2:
            highest = max(highest, self._marks.popleft()[1])
        if not unsettled or next(iter(unsettled)) > highest:
            return []
        self._intake.pause()
        old = [received for tag, received in unsettled.items() if tag <= highest]
        return [Held(it.delivery_tag, *self._intake.known_as(it)) for it in old]

    def _check_alive(self) -> None:
        if self._intake.link.fileno() < 0:
            raise ConnectionError("the connection is closed")

    def _break(self, error: OSError) -> None:
        """Let go of the connection, and with it of all that is in hand: the server gives it to others."""
        with self._lock:
            if self._intake.link.fileno() >= 0 or self._reason == "":
                self._reason = explain(self._url, error)
                if not self._closed:
                    logger.warning("A worker's connection was lost: %s", self._reason)
            self._intake.link.close()
        self._ring()

    def _await_server(self, deadline: float | None) -> None:
        """Wait until the server is there again, an interrupt comes or the deadline passes.

        Raises LeaseLost, BrokerUnavailable.
        """
        while not self._interrupted:
            try:
                self._look_for_server()
            except LeaseLost:
                raise
            except BrokerUnavailable:
                if deadline is not None and time.monotonic() >= deadline:
                    raise
            self._doze(deadline, self._redialing.wait_s + 0.001)

    def _look_for_server(self) -> None:
        """Raise LeaseLost if the server is there, so that another lease can begin, and else BrokerUnavailable."""
        if not self._closed and not self._lost:
            self._redialed(self._redialing.dial())
            self._lost = True
        raise LeaseLost(f"The lease {self.owner} has ended: {self._reason or 'it was closed'}")

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Pass over the loss of the connection: then nothing is held, and nothing is to be done."""
        try:
            yield
        except ERRORS as error:
            self._break(error)

    def _pause(self) -> None:
        """Have nothing pushed to a worker that does not fetch."""
        with self._translated(), self._lock:
            if self._intake.link.fileno() >= 0:
                self._intake.pause()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            with self._lock:
                held = {
                    it.delivery_tag: self._intake.known_as(it)[0]
                    for it in self._intake.unsettled.values()
                    if it.tag in self._intake.holding and self._intake.link.fileno() >= 0
                }
            self._publish_unbegun(held)
            with self._translated(), self._lock:
                if self._intake.link.fileno() >= 0:
                    self._holding.end()
        finally:
            with self._lock:
                self._intake.link.close()
            self._ring()
            if self._fetching.acquire(timeout=1):
                for end in (self._bell, self._rope):
                    os.close(end)
                self._bell = self._rope = -1
                self._fetching.release()
