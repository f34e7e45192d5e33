"""What fastq declares at RabbitMQ: queues with their dead letters, the ladder of delays, holding queues."""

from __future__ import annotations

import logging
import math
import re
from typing import TYPE_CHECKING

from fastq._speedups.amqp_values import AmqpError, Field, Table
from fastq.errors import BrokerUnavailable, ConfigurationError
from fastq.message import check_queue
from fastq.systems.amqp_url import AmqpUrl

if TYPE_CHECKING:
    from fastq._speedups.amqp_link import Link

logger = logging.getLogger(__name__)

_OLDEST_QUORUM = (3, 10)  # from here on quorum queues know message-ttl and dead-letter without loss
_LONGEST_NAME = 200  # of queues, so that there is room for what is derived from them
_NEVER_REACHED = 2**31 - 1
_HOLDING_TTL_MS = 3000  # how long after a worker's death what it was about to run is in its queue again
_HOLDING_EXPIRES_MS = 3_600_000
PRIORITIES = 9

#: The ladder: a level for each binary digit of a delay in milliseconds.
LOWEST, HIGHEST = 3, 31  # RabbitMQ knows no longer time than 2**32 ms
_MOST_MS = (1 << HIGHEST + 1) - (1 << LOWEST)
_COARSEST = 8  # delays are never rounded up by more than 2**8 ms
_DIGITS = 10  # nor by more than one part in 2**9, unless it is the lowest level


def levels(delay_us: int) -> list[int]:
    """Return the levels that make up a delay, the highest first: never less than the delay, unless it is over 49 days.

    What is delayed for longer is looked at after that time, and delayed again.
    """
    delay_ms = math.ceil(delay_us / 1000)
    digit = max(LOWEST, min(_COARSEST, delay_ms.bit_length() - _DIGITS))
    rounded = min(math.ceil(delay_ms / (1 << digit)) << digit, _MOST_MS)
    return [level for level in range(HIGHEST, LOWEST - 1, -1) if rounded >> level & 1]


def steps(delay_us: int) -> dict[str, Field]:
    """Return the headers by which a message finds its way down the ladder."""
    return {_step(level): True for level in levels(delay_us)}


def _step(level: int) -> str:
    return f"fastq-delay-{level}"  # exchanges pass over headers that begin with x-


class Topology:
    """Declares what is needed when it is first needed, and remembers it. Any thread may use it, with its own link.

    What the server has already is left as it is: with queue_type=auto, a queue may differ from what fastq would have.
    """

    def __init__(self, url: AmqpUrl) -> None:
        self._url = url
        self._declared: set[str] = set()
        self._delayable: set[str] = set()
        self._highest = LOWEST - 1  # the ladder stands up to here
        self._with_quorum: bool | None = None

    # -- names ----------------------------------------------------------------------------------------

    def name(self, queue: str, priority: int = 0) -> str:
        """Return the server's name of a queue, or of that part of it which has the messages of a priority.

        Raises ProtocolError, ConfigurationError.
        """
        name = self._url.prefix + check_queue(queue)
        if len(name) > _LONGEST_NAME:
            raise ConfigurationError(f"The queue {name!r} has a name of over {_LONGEST_NAME} characters")
        part = min(priority, PRIORITIES) * self._url.priorities // (PRIORITIES + 1)
        return f"{name}.priority.{part}" if part else name

    def names(self, queue: str) -> list[str]:
        """Return the server's names of all parts of a queue, which mostly has but one, the highest priority first."""
        return list(dict.fromkeys(self.name(queue, priority) for priority in range(PRIORITIES, -1, -1)))

    def dead_name(self, queue: str) -> str:
        """Return the server's name of the queue of a queue's dead letters."""
        return f"{self.name(queue)}.dead"

    def _own(self, name: str) -> str:
        return f"{self._url.prefix}fastq.{name}"

    # -- queues ---------------------------------------------------------------------------------------

    def declare(self, link: Link, queue: str) -> None:
        """See to it that a queue and its dead letters are there. Raises OSError, ConfigurationError."""
        if queue in self._declared:
            return
        dead = self.dead_name(queue)
        self._declare(link, dead, self._end_arguments(link))
        arguments = {**self._end_arguments(link), "x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}
        if self.quorum(link):  # whatever policies and limits would drop is a dead letter, and none gets lost
            arguments.update({"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"})
        else:
            arguments["x-max-priority"] = PRIORITIES
        for name in self.names(queue):
            self._declare(link, name, arguments)
            if self._url.exchange:
                self._declare_exchange(link, self._url.exchange)
                link.bind_queue(name, self._url.exchange, name)
        self._declared.add(queue)

    def forget(self, queue: str) -> None:
        """Note that a queue is not there any more."""
        self._declared.discard(queue)
        self._delayable.discard(queue)

    def forget_all(self) -> None:
        """Note that nothing is certain: the server may be another one."""
        self._declared.clear()
        self._delayable.clear()
        self._highest = LOWEST - 1
        self._with_quorum = None

    def quorum(self, link: Link) -> bool:
        """Return whether queues are to be quorum queues."""
        if self._with_quorum is None:
            can = link.server.get("product") == "RabbitMQ" and version_of(link) >= _OLDEST_QUORUM
            if self._url.queue_type == "quorum" and not can:
                raise BrokerUnavailable(
                    f"{self._url.shown} asks for quorum queues, which fastq uses from RabbitMQ 3.10 on, and this is "
                    f"{shown_server(link)}: say queue_type=classic"
                )
            self._with_quorum = can and self._url.queue_type != "classic"
        return self._with_quorum

    def _end_arguments(self, link: Link) -> dict[str, Field]:
        """Return the arguments of a queue from which nothing goes on by itself."""
        if not self.quorum(link):
            return {}
        # Only a crash that is charged counts, and fastq counts those. Without any limit, what is handed back would go
        # to the end of the queue, and not to its beginning; from 4.0 on there would be one of 20.
        return {"x-queue-type": "quorum", "x-delivery-limit": _NEVER_REACHED}

    def _declare(self, link: Link, name: str, arguments: Table) -> None:
        try:
            link.declare_queue(name, arguments=arguments)
        except AmqpError as error:
            if error.code != 406:
                raise
            wanted = ", ".join(f"{key}={value!r}" for key, value in arguments.items()) or "none"
            if self._url.queue_type != "auto":
                raise ConfigurationError(
                    f"The queue {name!r} is there already and differs: {error.text}. fastq wants these arguments: "
                    f"{wanted}. Delete the queue, or say queue_type=auto to use it as it is"
                ) from error
            if "x-" not in error.text:  # its durability, or whose it is
                raise
            logger.warning("The queue %r is used as it is, though it differs: %s; wanted: %s", name, error.text, wanted)

    # -- delays ---------------------------------------------------------------------------------------

    def delay(self, link: Link, queue: str, delay_us: int) -> tuple[str, dict[str, Field]]:
        """Return the exchange and the headers that bring a message into a queue after a delay.

        Each level is a queue whose messages expire after 2**level ms, and go on to the next lower level. A level's
        exchange puts messages with its header into its queue, and the others are passed on to the level below.
        """
        headers = steps(delay_us)
        top = levels(delay_us)[0]
        self._build(link, top)
        if queue not in self._delayable:
            self.declare(link, queue)
            for name in self.names(queue):
                link.bind_queue(name, self._own("due"), name)
            self._delayable.add(queue)
        return self._level(link, top), headers

    def _level(self, link: Link, level: int) -> str:
        """Return the name of a level's queue and of its exchange."""
        if level < LOWEST:
            return self._own("due")
        return self._own(f"delay.{'quorum' if self.quorum(link) else 'classic'}.{level}")

    def _build(self, link: Link, top: int) -> None:
        """Declare the ladder up to a level."""
        if top <= self._highest:
            return
        if self._highest < LOWEST:
            astray = self._own("astray")  # where delayed messages go whose queue was deleted meanwhile
            self._declare(link, astray, self._end_arguments(link))
            link.declare_exchange(astray, "fanout")
            link.bind_queue(astray, astray, "")
            link.declare_exchange(self._own("due"), "direct", arguments={"alternate-exchange": astray})
        for level in range(max(LOWEST, self._highest + 1), top + 1):
            name, below = self._level(link, level), self._level(link, level - 1)
            arguments = {
                **self._end_arguments(link),
                "x-message-ttl": 1 << level,
                "x-dead-letter-exchange": below,
            }
            if self.quorum(link):
                arguments.update({"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"})
            self._declare(link, name, arguments)
            link.declare_exchange(name, "headers", arguments={"alternate-exchange": below})
            link.bind_queue(name, name, "", {"x-match": "all", _step(level): True})
        self._highest = top

    # -- holding --------------------------------------------------------------------------------------

    def hold(self, link: Link, place: str, owner: str) -> str:
        """Declare the holding queue of a subscription for what the server calls `place`, and return its name.

        What its one consumer holds is the consumer's; when the consumer dies, it expires and is back in its place.
        """
        name = f"{place}.held.{owner}"
        arguments = {
            **self._end_arguments(link),
            "x-message-ttl": _HOLDING_TTL_MS,
            "x-expires": _HOLDING_EXPIRES_MS,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": place,
        }
        if self.quorum(link):
            arguments.update({"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"})
        link.declare_queue(name, arguments=arguments)
        return name

    # -- exchanges ------------------------------------------------------------------------------------

    def _declare_exchange(self, link: Link, name: str) -> None:
        """See to it that a user's exchange is there, of whatever type."""
        try:
            link.declare_exchange(name, passive=True)
        except AmqpError as error:
            if error.code != 404:
                raise
            link.declare_exchange(name, "direct")


def version_of(link: Link) -> tuple[int, ...]:
    """Return the server's version."""
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", str(link.server.get("version", "")))
    return tuple(int(part) for part in found.groups("0")) if found else (0,)


def shown_server(link: Link) -> str:
    """Return the server's name and version."""
    return " ".join(str(link.server.get(key, "")) for key in ("product", "version")).strip() or "a server"
