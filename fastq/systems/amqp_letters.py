"""Dead letters in RabbitMQ: a queue that is read by taking its messages, and putting them back."""

from __future__ import annotations

import hashlib
import re
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fastq._speedups.amqp_values import AmqpError, Field, Properties, Received
from fastq.broker import DeadLetter, Delivery
from fastq.message import now_us
from fastq.systems.amqp_messages import DIED, LETTER, REASON, Parcel, again, fence_of, plain

if TYPE_CHECKING:
    from fastq._speedups.amqp_link import Link

_RETURN_S = 1.0
_LONGEST_REASON = 30_000  # characters: headers have to fit into a frame


def buried(received: Received, delivery: Delivery, reason: str) -> Properties:
    """Return the properties of a delivery as a dead letter."""
    return again(received, delivery, **_told(reason))


def buried_anew(reason: str) -> Properties:
    """Return the properties of a dead letter that is nobody's delivery."""
    return plain("", 0)._replace(headers=_told(reason))


def _told(reason: str) -> dict[str, Field]:
    return {REASON: reason[:_LONGEST_REASON], DIED: now_us(), LETTER: uuid.uuid4().hex}


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


class Page:
    """Up to `limit` letters that follow one, or else the oldest, as `sift` comes by them."""

    def __init__(self, queue: str, limit: int, after: DeadLetter | None) -> None:
        self.letters: list[DeadLetter] = []
        self._queue = queue
        self._limit = limit
        self._after = after

    def look(self, received: Received) -> bool:
        """Look at a message, which is not to be taken."""
        letter, after = letter_of(received, self._queue), self._after
        if after is not None and letter.token != after.token and letter.died_at <= after.died_at:
            return False
        self._after = None
        if after is None or letter.token != after.token:
            self.letters.append(letter)
        return False

    def is_full(self) -> bool:
        """Whether these are enough."""
        return len(self.letters) >= self._limit


class Pruning:
    """What is too old, or too many, at the head of a queue, as `sift` comes by it."""

    def __init__(self, queue: str, before: int, surplus: int) -> None:
        self._queue = queue
        self._before = before
        self._surplus = surplus
        self._over = False

    def wants(self, received: Received) -> bool:
        """Whether a letter is to go; after the first that is not, none is."""
        self._over = self._surplus <= 0 and not 0 < letter_of(received, self._queue).died_at < self._before
        self._surplus -= 1
        return not self._over

    def is_over(self) -> bool:
        """Whether all that are to go were seen."""
        return self._over


def sift(
    link: Link, place: str, wanted: Callable[[Received], object], carry_out: Callable[[Sequence[Received]], object],
    *, whole: bool, found: int | None = None, until: Callable[[], object] = lambda: False,
) -> int:  # fmt: skip
    """Take what is wanted out of a queue when `carry_out` has returned; return how many messages that were.

    The others are put back into their places. It ends at the end of the queue, when so many were found, or when `until`
    says so. With `whole`, what is left then is read all the same: a quorum queue puts what comes back behind what came
    back before, so only what is read from end to end keeps its order.
    """
    taken: list[Received] = []
    kept: list[int] = []
    try:
        is_over = False
        while True:
            is_over = is_over or len(taken) == found or bool(until())
            if (is_over and not whole) or (received := link.get(place)) is None:
                break
            if not is_over and wanted(received):
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
            if whole and kept:
                _await_return(link, place, len(kept))
    return len(taken)


def _await_return(link: Link, place: str, count: int) -> None:
    """Wait until so many messages are counted: a quorum queue does not count at once what it has already taken back."""
    give_up = time.monotonic() + _RETURN_S
    while link.declare_queue(place, passive=True).messages < count and time.monotonic() < give_up:
        time.sleep(0.005)


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
