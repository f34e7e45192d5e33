"""The broker on RabbitMQ: amqp://user:password@host:port/vhost, and what else docs/rabbitmq.rst has."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastq._speedups.amqp_values import AmqpError, Properties, Received
from fastq.broker import Broker, Capability, DeadLetter, QueueInfo, WorkerInfo
from fastq.diagnosis import Diagnosis, Weakness
from fastq.errors import BrokerUnavailable, NotSupported, ProtocolError
from fastq.message import Message, check_queue, now_us
from fastq.sealing import unsealed
from fastq.systems import amqp_letters
from fastq.systems.amqp_inspect import Inspector
from fastq.systems.amqp_line import Line, Redialing, connect, translated
from fastq.systems.amqp_messages import Parcel, plain
from fastq.systems.amqp_publisher import Publisher
from fastq.systems.amqp_topology import Topology, shown_server
from fastq.systems.amqp_url import AmqpUrl

from .amqp_subscription import AmqpSubscription

if TYPE_CHECKING:
    from fastq._speedups.amqp_link import Link

logger = logging.getLogger(__name__)

_LONGEST_HEARTBEAT_S = 60
_PRUNED_AT_ONCE = 1_000
_CLASSIC = Weakness(
    "queues are classic: of each message there is one copy, on one node",
    "use quorum queues, on three nodes of RabbitMQ 3.10 or later: queue_type=quorum",
)


class AmqpBroker(Broker):
    """A client of one RabbitMQ: a connection to publish, one to look, and one for each subscription."""

    def __init__(self, url: str) -> None:
        self._url = AmqpUrl.parse(url)
        self._topology = Topology(self._url)
        self._publisher = Publisher(self._url, self._topology)
        self._looking = Line(self._url, "fastq looking")
        self._spare: Link | None = None
        self._reported = False
        self._inspector = Inspector(self._url, self._topology) if self._url.management else None
        has_priorities = self._url.queue_type == "classic" or self._url.priorities > 1
        offered = {Capability.PRIORITY: has_priorities, Capability.INSPECT: self._inspector is not None}
        self.capabilities = frozenset(it for it in Capability if offered.get(it, True))

    # -- publishing -----------------------------------------------------------------------------------

    def publish(self, messages: Sequence[Message]) -> None:
        if len(messages) == 1:
            (message,) = messages
            self._publisher.publish([self._parcel(message, plain(message.task, self._priority(message)))])
            return
        properties = {
            (it.task, it.priority): plain(it.task, self._priority(it))
            for it in {(it.task, it.priority): it for it in messages}.values()
        }
        if messages:
            self._publisher.publish([self._parcel(it, properties[it.task, it.priority]) for it in messages])

    def publish_frames(self, queue: str, frames: Sequence[bytes]) -> None:
        check_queue(queue)
        properties = plain("", 0)
        if frames:
            self._publisher.publish([Parcel(queue, bytes(frame), properties) for frame in frames])

    def _parcel(self, message: Message, properties: Properties) -> Parcel:
        return Parcel(message.queue, self.envelope(message), properties, message.eta)

    def _priority(self, message: Message) -> int:
        if message.priority and Capability.PRIORITY not in self.capabilities:
            raise NotSupported(
                f"The task {message.task!r} has priority {message.priority}, and {self._url.shown} offers none: say "
                "queue_type=quorum&priorities=3 there (2 to 10), or queue_type=classic"
            )
        return message.priority

    # -- consuming ------------------------------------------------------------------------------------

    def subscribe(self, queues: Sequence[str], lease_s: float, about: Mapping[str, str]) -> AmqpSubscription:
        for queue in queues:
            check_queue(queue)
        heartbeat_s = self._url.heartbeat_s or max(1, min(_LONGEST_HEARTBEAT_S, round(lease_s / 2)))
        name = "fastq worker {}:{}".format(about.get("host", ""), about.get("pid", os.getpid()))
        with translated(self._url, BrokerUnavailable):
            link, self._spare = self._spare, None
            if link is None or link.fileno() < 0:
                link = connect(self._url, name=name, heartbeat_s=heartbeat_s, worker=about)
            try:
                for queue in dict.fromkeys(queues):
                    self._topology.declare(link, queue)
                self._report(link)
            except BaseException:
                link.close()
                raise
        return AmqpSubscription(
            self._url, link=link, queues=queues, topology=self._topology, publisher=self._publisher,
            redialing=Redialing(self._url, name=name, heartbeat_s=heartbeat_s, worker=about), redialed=self._keep,
            heartbeat_s=heartbeat_s,
        )  # fmt: skip

    def _report(self, link: Link) -> None:
        """Say once what is promised here."""
        if self._reported:
            return
        self._reported = True
        logger.info("%s at %s: %s", shown_server(link), self._url.shown, self._promise(link))

    def _promise(self, link: Link) -> str:
        if self._topology.quorum(link):
            return "quorum queues, so accepted messages survive the loss of a minority of its nodes"
        return "classic queues, so accepted messages survive the end of its process, but there is one copy"

    def _keep(self, link: Link) -> None:
        """Keep the link that showed that the server is there again, for the next subscription."""
        self._topology.forget_all()
        spare, self._spare = self._spare, link
        if spare is not None:
            spare.close()

    # -- what people ask ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _look(self) -> Iterator[Link]:
        with translated(self._url, BrokerUnavailable), self._looking.link() as link:
            yield link

    def diagnose(self) -> Diagnosis:
        with self._look() as link:
            system = f"{shown_server(link)} at {self._url.shown}"
            return Diagnosis(system, self._promise(link), () if self._topology.quorum(link) else (_CLASSIC,))

    def depth(self, queue: str) -> int:
        """Return how many messages of a queue are ready. Those that are delayed can't be counted by queue."""
        return self._of_parts(queue, lambda link, name: link.declare_queue(name, passive=True).messages)

    def oldest_age(self, queue: str) -> float:
        """Return for how many seconds, to the second, the oldest ready message has waited, 0.0 for none.

        It is taken and put back, and counts as a suspect from then on.
        """
        return max(self._oldest_ages(queue), default=0.0)

    def _oldest_ages(self, queue: str) -> Iterator[float]:
        """Yield the age of the first message of each part of a queue that has one."""
        with self._look() as link:
            for name in self._topology.names(queue):
                found: list[Received] = []
                amqp_letters.sift(link, name, found.append, lambda _: None, whole=False, until=found.__len__)
                yield from map(_age_s, found)

    def purge(self, queue: str) -> int:
        """Delete what is ready in a queue, and return how many messages that were; what is delayed is not found."""
        return self._of_parts(queue, lambda link, name: link.purge_queue(name))

    def _of_parts(self, queue: str, ask: Callable[[Link, str], int]) -> int:
        """Return the sum of a number of each part of a queue, which is 0 of one that is not there."""
        count = 0
        with self._look() as link:
            for name in self._topology.names(queue):
                try:
                    count += ask(link, name)
                except AmqpError as error:
                    if error.code != 404:
                        raise
        return count

    def queues(self) -> list[QueueInfo]:
        """Return the queues that hold something, by name, and a row ``fastq.delay`` for what is delayed in all of them.

        What is leased is some seconds old. Of each queue the oldest message is looked at as `oldest_age` does.
        """
        inspector = self._inspected()
        with self._look() as link:
            infos = inspector.queues(link)
        return [it._replace(oldest_age_s=self.oldest_age(it.name)) if it.ready else it for it in infos]

    def workers(self) -> list[WorkerInfo]:
        return self._inspected().workers()

    def _inspected(self) -> Inspector:
        if self._inspector is None:
            raise NotSupported(
                f"AMQP has no words for {Capability.INSPECT.value}: say management=http://host:15672 in the URL of the "
                "broker, where RabbitMQ's management plugin is"
            )
        return self._inspector

    def bury(self, queue: str, frames: Sequence[bytes], reason: str) -> None:
        check_queue(queue)
        place = self._topology.dead_name(queue)
        parcels = [Parcel(queue, bytes(it), amqp_letters.buried_anew(reason), place=place) for it in frames]
        if parcels:
            self._publisher.publish(parcels)

    def dead_letters(self, queue: str, limit: int, after: DeadLetter | None = None) -> list[DeadLetter]:
        """Return the oldest dead letters of a queue, or those that follow one; the server is read from the first on."""
        page = amqp_letters.Page(queue, limit, after)
        with self._look() as link:
            self._sift_dead(link, queue, page.look, until=page.is_full)
        return page.letters

    def prune_dead(self, queue: str, older_than_s: float, most: int) -> int:
        place = self._topology.dead_name(queue)
        before = now_us() - round(older_than_s * 1e6) if older_than_s else 0
        with self._look() as link:
            surplus = _count(link, place) - most if most else 0
            pruning = amqp_letters.Pruning(queue, before, surplus)
            return self._sift_dead(link, queue, pruning.wants, found=_PRUNED_AT_ONCE, until=pruning.is_over)

    def _sift_dead(
        self, link: Link, queue: str, wanted: Callable[[Received], bool],
        carry_out: Callable[[Sequence[Received]], object] = lambda _: None, **ends: Any,
    ) -> int:  # fmt: skip
        place, whole = self._topology.dead_name(queue), self._topology.quorum(link)
        return amqp_letters.sift(link, place, wanted, carry_out, whole=whole, **ends)

    def requeue_dead(self, tokens: Iterable[str]) -> int:
        def put_back(queue: str, letters: Sequence[Received]) -> None:
            if letters:
                self._publisher.publish([amqp_letters.restored(it, queue) for it in letters])

        return self._exhume(tokens, put_back)

    def drop_dead(self, tokens: Iterable[str]) -> int:
        return self._exhume(tokens, lambda _queue, _letters: None)

    def _exhume(self, tokens: Iterable[str], carry_out: Callable[[str, Sequence[Received]], None]) -> int:
        count = 0
        for queue, wanted in amqp_letters.by_queue(tokens).items():
            is_wanted = functools.partial(_is_among, wanted, queue)
            with self._look() as link:
                count += self._sift_dead(link, queue, is_wanted, functools.partial(carry_out, queue), found=len(wanted))
        return count

    # -- exchanges ------------------------------------------------------------------------------------

    def declare_exchange(self, name: str, type: str = "direct") -> None:
        """Declare a durable exchange: direct, topic, fanout or headers. Raises BrokerUnavailable."""
        with self._look() as link:
            link.declare_exchange(name, type)

    def bind(self, queue: str, exchange: str, routing_key: str = "") -> None:
        """Have an exchange put messages with this routing key into a queue, too. Raises BrokerUnavailable.

        Their bodies are to be envelopes of docs/protocol.rst; headers that are not fastq's are left as they are.
        """
        with self._look() as link:
            self._topology.declare(link, queue)
            link.bind_queue(self._topology.name(queue), exchange, routing_key)

    def close(self) -> None:
        self._publisher.close()
        self._looking.close()
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.close()


def _count(link: Link, name: str) -> int:
    """Return how many messages are ready in one of the server's queues, 0 if it is not there."""
    try:
        return link.declare_queue(name, passive=True).messages
    except AmqpError as error:
        if error.code != 404:
            raise
        return 0


def _is_among(tokens: Collection[str], queue: str, letter: Received) -> bool:
    return amqp_letters.letter_of(letter, queue).token in tokens


def _age_s(received: Received) -> float:
    since_us = (received.properties.timestamp or 0) * 1_000_000
    try:
        message = Message.decode(unsealed(received.body))
        since_us = max(message.enqueued_at, message.eta) or since_us
    except ProtocolError:
        pass
    return max(0.0, (now_us() - since_us) / 1e6) if since_us else 0.0
