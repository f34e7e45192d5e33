"""Publishing to RabbitMQ: confirmed, mandatory, to queues that are declared when they are missing."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastq._speedups.amqp_values import AmqpError, Outgoing, Properties, Unconfirmed
from fastq.errors import BrokerError, BrokerFull, BrokerUnavailable, PublishUnknown
from fastq.message import now_us
from fastq.systems.amqp_line import ERRORS, Line, explain
from fastq.systems.amqp_messages import Parcel
from fastq.systems.amqp_topology import Topology
from fastq.systems.amqp_url import AmqpUrl

if TYPE_CHECKING:
    from fastq._speedups.amqp_link import Link

logger = logging.getLogger(__name__)

_BEFORE_ANEW_S = 0.5
_NOWHERE = "fastq.nowhere"  # the name of no queue: what is sent there is dropped, and confirmed


class Publisher:
    """Publishes over a connection of its own, as RabbitMQ stops reading from those that publish when it runs full."""

    def __init__(self, url: AmqpUrl, topology: Topology) -> None:
        self._url = url
        self._topology = topology
        self._line = Line(url, "fastq publishing")
        self._was_blocked = False  # the last time

    def publish(self, parcels: Sequence[Parcel]) -> None:
        """Return when the server has taken responsibility for all of them.

        Raises PublishUnknown if they may or may not have arrived, or a part of them has; whatever else is raised,
        they have not: BrokerUnavailable, BrokerFull, BrokerError.
        """
        failed = self._publish(parcels)
        if not failed:
            return
        # A queue that was deleted since it was declared is declared anew, once. Not at once: of a quorum queue that is
        # there again within some 20 ms, RabbitMQ would not tell the consumers, who would get nothing any more.
        time.sleep(_BEFORE_ANEW_S)
        again = [parcels[index] for index, _ in failed]
        for parcel in again:
            self._topology.forget(parcel.queue)
        try:
            failed = self._publish(again)
        except BrokerError as error:
            if len(again) == len(parcels):
                raise
            raise self._refused(len(parcels), len(parcels) - len(again), str(error)) from error
        if failed:
            raise self._refused(len(parcels), len(parcels) - len(failed), failed[0][1])

    def close(self) -> None:
        """Close the connection; the next publish opens another."""
        self._line.close()

    # -- steps ----------------------------------------------------------------------------------------

    def _publish(self, parcels: Sequence[Parcel]) -> list[tuple[int, str]]:
        """Publish, and return (index, reason) of what was not taken."""
        while True:
            try:
                with self._line.link() as link:
                    if self._was_blocked:
                        self._prove_unblocked(link)
                    failed = link.publish([self._outgoing(link, parcel) for parcel in parcels])
                    if failed:  # RabbitMQ 3.10 may refuse what comes over a channel from before a queue's leader died
                        link.close()
                    return failed
            except Unconfirmed as error:
                raise self._not_published(error) from error
            except ERRORS as error:  # nothing was published yet
                if self._line.is_fresh or isinstance(error, AmqpError):
                    raise BrokerUnavailable(explain(self._url, error)) from error

    def _outgoing(self, link: Link, parcel: Parcel) -> Outgoing:
        queue, frame, properties, due, place = parcel
        name = self._topology.name(queue, properties.priority or 0)
        if due and (delay_us := due - now_us()) > 0:
            exchange, steps = self._topology.delay(link, queue, delay_us)
            properties = properties._replace(headers={**(properties.headers or {}), **steps})
            return Outgoing(exchange, name, frame, properties)
        self._topology.declare(link, queue)
        if place:
            return Outgoing("", place, frame, properties)
        return Outgoing(self._url.exchange, name, frame, properties)

    def _prove_unblocked(self, link: Link) -> None:
        """Publish something of no use: a server that takes no messages says so, or doesn't confirm it."""
        try:
            link.publish([Outgoing("", _NOWHERE, b"", Properties(), mandatory=False)])
        except Unconfirmed as error:
            raise BrokerFull(f"{explain(self._url, error)}; nothing was published") from error
        self._was_blocked = False

    # -- what went wrong ------------------------------------------------------------------------------

    def _not_published(self, error: Unconfirmed) -> BrokerError:
        text = explain(self._url, error)
        cause = error.__cause__
        self._was_blocked = isinstance(cause, TimeoutError)
        if not error.sent:
            return BrokerFull(f"{text}; nothing was published") if self._was_blocked else BrokerUnavailable(text)
        if error.sent == 1 and isinstance(cause, AmqpError):
            return BrokerError(text)
        return PublishUnknown(f"{text}; {error}; the others may or may not be in their queues")

    def _refused(self, count: int, taken: int, reason: str) -> BrokerError:
        text = f"RabbitMQ at {self._url.shown} did not take {count - taken} of {count} messages: {reason}"
        return PublishUnknown(f"{text}; it took the others") if taken else BrokerFull(text)
