"""Dead letters in RabbitMQ: a queue that is read by taking its messages, and putting them back."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fastq._speedups.amqp_values import AmqpError, Field, Properties, Received
from fastq.broker import DeadLetter, Delivery
from fastq.message import now_us
from fastq.systems.amqp_messages import DIED, LETTER, REASON, Parcel, again, fence_of

if TYPE_CHECKING:
    from fastq._speedups.amqp_link import Link

_LONGEST_REASON = 30_000  # characters: headers have to fit into a frame


def buried(received: Received, delivery: Delivery, reason: str) -> Properties:
    """Return the properties of a delivery as a dead letter."""
    told: dict[str, Field] = {REASON: reason[:_LONGEST_REASON], DIED: now_us(), LETTER: uuid.uuid4().hex}
    return again(received, delivery, **told)


def letter_of(received: Received, queue: str) -> DeadLetter:
    """Return a message among the dead letters; the server may have put it there, too."""
    headers: dict[str, Any] = received.properties.headers or {}
    deaths = headers.get("x-death")
    death: dict[str, Any] = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}
    reason = headers.get(REASON)
    if not isinstance(reason, str):
        reason = f"RabbitMQ gave it up: {death.get('reason', 'no reason is known')}"
    died_at = headers.get(DIED)
    if not isinstance(died_at, int):
        time = death.get("time")
        died_at = round(time.timestamp() * 1e6) if isinstance(time, datetime) else 0
    name = headers.get(LETTER)
    if not isinstance(name, str) or not re.fullmatch("[0-9a-f]{32}", name):
        name = hashlib.blake2b(received.body + str(died_at).encode(), digest_size=16).hexdigest()
    return DeadLetter(f"{queue}/{name}", queue, reason, died_at, received.body)


def sift(
    link: Link, place: str, wanted: Callable[[Received], bool], carry_out: Callable[[Sequence[Received]], object],
    *, seen: int | None = None, found: int | None = None,
) -> int:  # fmt: skip
    """Take what is wanted out of a queue when `carry_out` has returned; return how many messages that were.

    The others are put back into their places. It ends at the end of the queue, or when so many were seen or found.
    """
    taken: list[Received] = []
    kept: list[int] = []
    try:
        while (seen is None or len(taken) + len(kept) < seen) and (found is None or len(taken) < found):
            received = link.get(place)
            if received is None:
                break
            if wanted(received):
                taken.append(received)
            else:
                kept.append(received.delivery_tag)
        carry_out(taken)
        link.ack_all([received.delivery_tag for received in taken])
    except AmqpError as error:
        if error.code != 404:
            raise
        return 0  # there never was a dead letter
    except BaseException:
        kept += [received.delivery_tag for received in taken]
        raise
    finally:
        if link.fileno() >= 0:
            for tag in sorted(kept):
                link.nack(tag, requeue=True)
            link.sync()
    return len(taken)


def restored(received: Received, queue: str) -> Parcel:
    """Return a dead letter as the message that it was, with its crashes forgotten."""
    delivery = Delivery(received.body, queue, 0, fence_of(received))
    return Parcel(queue, received.body, again(received, delivery))


def by_queue(tokens: Iterable[str]) -> dict[str, set[str]]:
    """Return tokens by the queues that they name; those of nobody are left out."""
    found: dict[str, set[str]] = {}
    for token in tokens:
        match = re.fullmatch(r"([A-Za-z0-9._:-]{1,200})/[0-9a-f]{32}", token, re.ASCII)
        if match:
            found.setdefault(match[1], set()).add(token)
    return found
