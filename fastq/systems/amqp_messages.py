"""How deliveries are written as AMQP messages, and read: the body is the frame, the headers are what befell it."""

from __future__ import annotations

import time
from typing import NamedTuple

from fastq._speedups.amqp_values import Field, Properties, Received
from fastq.broker import Delivery

#: Headers. Plain messages have none of them.
FENCE = "x-fastq-fence"  # deliveries before this copy was made
CRASHES = "x-fastq-crashes"  # attempts charged before
BEGAN = "x-fastq-began"  # in a holding queue: 1 if the attempt has begun, else 0
REASON = "x-fastq-reason"  # of a dead letter
DIED = "x-fastq-died"  # of a dead letter: microseconds since the epoch
LETTER = "x-fastq-letter"  # of a dead letter: its name
_DELIVERY_COUNT = "x-delivery-count"  # RabbitMQ's own, on quorum queues
_PERSISTENT = 2


class Parcel(NamedTuple):
    """Something to be published."""

    queue: str
    frame: bytes
    properties: Properties
    due: int = 0  # microseconds since the epoch; 0: at once
    place: str = ""  # the server's name of the queue that is meant, if not the queue's own


def plain(task: str, priority: int) -> Properties:
    """Return the properties of a new message, to be shared by all of a batch that have the same."""
    return Properties(
        delivery_mode=_PERSISTENT, type=task or None, priority=priority or None, timestamp=int(time.time())
    )


def delivery_of(received: Received, queue: str, token: int) -> Delivery:
    """Return a message as a delivery."""
    headers = received.properties.headers
    if headers is None and not received.redelivered:
        return tuple.__new__(Delivery, (received.body, queue, token, 1, 0, False))
    known = headers or {}
    returns = max(int(received.redelivered), _count(known, _DELIVERY_COUNT))
    # With BEGAN it comes from the holding queue of a worker that died.
    return Delivery(
        received.body, queue, token, _count(known, FENCE) + returns + 1, _count(known, CRASHES) + _count(known, BEGAN),
        received.redelivered or BEGAN in known,
    )  # fmt: skip


def again(received: Received, delivery: Delivery, **headers: Field) -> Properties:
    """Return the properties of a copy of what was delivered: as they were, and what befell the message."""
    kept = {
        name: value
        for name, value in (received.properties.headers or {}).items()
        if not name.startswith(("x-", "fastq-"))
    }
    told: dict[str, Field] = {FENCE: delivery.fence, CRASHES: delivery.crashes, **headers}
    return received.properties._replace(
        delivery_mode=_PERSISTENT, expiration=None, user_id=None, headers={**kept, **told}
    )


def fence_of(received: Received) -> int:
    """Return the highest fence that a message had before this copy of it was made; 0 for a new message."""
    return _count(received.properties.headers or {}, FENCE)


def held_as(received: Received, queue: str, token: int) -> tuple[Delivery, bool]:
    """Return what was delivered, by the copy of it in a holding queue, and whether it has begun."""
    headers = received.properties.headers or {}
    delivery = Delivery(received.body, queue, token, _count(headers, FENCE), _count(headers, CRASHES))
    return delivery, _count(headers, BEGAN) > 0


def _count(headers: dict[str, Field], name: str) -> int:
    """Return what a header counts; strangers may have written anything into it."""
    value = headers.get(name, 0)
    return value if isinstance(value, int) and 0 <= value < 1 << 31 else 0
