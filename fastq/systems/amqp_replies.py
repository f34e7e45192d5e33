"""Results that RabbitMQ pushes to this process: a queue of its own, and the thread that reads it."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fastq._speedups.amqp_values import Received
from fastq.errors import BrokerUnavailable, ProtocolError
from fastq.outcome import Outcome
from fastq.systems.amqp_line import Redialing, connect, explain
from fastq.systems.amqp_url import AmqpUrl

if TYPE_CHECKING:
    from fastq._speedups.amqp_link import Link

logger = logging.getLogger(__name__)

_HEARTBEAT_S = 30
_UNUSED_MS = 600_000  # how long the queue outlives its reader, who may come back
_BATCH = 10_000


def place_of(url: AmqpUrl, number: int) -> str:
    """Return the name of the queue that is named by a number in messages."""
    return f"{url.prefix}fastq.reply.{number:016x}"


class Replies:
    """Owns the queue and its thread. `deliver` is given what comes, in that thread.

    The queue is durable and not exclusive, so that no result is missed while a connection is lost; its messages are
    not on disk.
    """

    def __init__(self, url: AmqpUrl, deliver: Callable[[Sequence[Outcome]], None]) -> None:
        """Begin to listen. Raises OSError."""
        self.number = secrets.randbits(63) + 1
        self._url = url
        self._deliver = deliver
        self._redialing = Redialing(url, name="fastq replies", heartbeat_s=_HEARTBEAT_S)
        self._closed = threading.Event()
        self._link = connect(url, name="fastq replies", heartbeat_s=_HEARTBEAT_S)
        try:
            self._listen_on(self._link)
        except BaseException:
            self._link.close()
            raise
        self._thread = threading.Thread(target=self._run, name="fastq-replies", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no more, and delete the queue."""
        self._closed.set()
        self._link.interrupt()
        self._thread.join()

    def _listen_on(self, link: Link) -> None:
        place = place_of(self._url, self.number)
        link.declare_queue(place, arguments={"x-expires": _UNUSED_MS})
        link.consume(place, no_ack=True)

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                received = self._link.receive(_BATCH)
                if self._link.cancelled():
                    self._listen_on(self._link)
            except OSError as error:
                self._link.close()
                logger.warning("Results can't be heard of: %s", explain(self._url, error))
                self._reconnect()
            else:
                self._deliver([outcome for each in received if (outcome := _read(each)) is not None])
        try:
            self._link.delete_queue(place_of(self._url, self.number))
        except OSError:
            logger.debug("A queue of results is left to expire")
        self._link.close()

    def _reconnect(self) -> None:
        while not self._closed.wait(self._redialing.wait_s):
            try:
                link = self._redialing.dial()
                self._listen_on(link)
            except (OSError, BrokerUnavailable):
                continue
            self._link = link
            logger.info("Results are heard of again")
            return


def _read(received: Received) -> Outcome | None:
    try:
        return Outcome.decode(received.body)
    except ProtocolError as error:
        logger.warning("What came as a result can't be read: %s", error)
        return None
