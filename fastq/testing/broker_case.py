"""What the parts of the broker suite share: its fixtures, and short words for what tests do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from fastq._speedups import new_id
from fastq.broker import Broker, Capability, Delivery, Subscription
from fastq.message import Message
from fastq.testing.clocks import Clock, RealClock

#: Long enough for any broker to answer, and never waited for in full when all is well.
SOON_S = 20.0

HOSTILE = [
    b"", b"\0", b"\xff" * 3, b"{", b'{"task":1}', b"'; DROP TABLE messages; --", b"\r\n$-1\r\n", "ü\u2028".encode(),
    bytes(range(256)) * 40, b"x" * 300_000,
]  # fmt: skip

Subscribe = Callable[..., Subscription]


def call(queue: str = "q", *, body: bytes = b"[[],{}]", priority: int = 0, eta: int = 0) -> Message:
    """Return a message."""
    return Message(new_id(), "shop.add", queue, body, priority=priority, eta=eta)


def numbered(count: int, **fields: int | str) -> list[Message]:
    """Return messages whose bodies are 0, 1, …"""
    return [call(body=b"%d" % number, **fields) for number in range(count)]  # type: ignore[arg-type]


def bodies(deliveries: Sequence[Delivery]) -> list[bytes]:
    """Return the bodies of what was delivered."""
    return [Message.decode(delivery.frame).body for delivery in deliveries]


def at_once(subscription: Subscription, limit: int = 1000) -> list[Delivery]:
    """Fetch what is there now, in several batches if need be: what a server pushes may come bit by bit."""
    fetched: list[Delivery] = []
    while len(fetched) < limit and (more := subscription.fetch(limit - len(fetched), time.monotonic())):
        fetched += more
    return fetched


def soon(subscription: Subscription, limit: int = 1000) -> list[Delivery]:
    """Fetch what is there, waiting for the first."""
    first = subscription.fetch(limit, time.monotonic() + SOON_S)
    return first + at_once(subscription, limit - len(first)) if first else []


def together(subscription: Subscription, count: int) -> list[Delivery]:
    """Fetch so many, waiting for all of them."""
    fetched: list[Delivery] = []
    give_up = time.monotonic() + SOON_S
    while len(fetched) < count and time.monotonic() < give_up:
        fetched += subscription.fetch(count - len(fetched), give_up)
    return fetched


class BrokerCase:
    """The fixtures: a subclass overrides `broker`, and `clock` where it can."""

    #: The lease in the tests that wait for its end. With a clock moved by hand it may be long.
    lease_s = 0.2
    #: Whether a message that was handed back can be told from one whose worker died.
    tells_release_from_death = True
    #: Whether depth and purge find what is delayed.
    finds_delayed = True

    @pytest.fixture
    def broker(self) -> Broker:
        """Override: an open broker with nothing in it."""
        raise NotImplementedError("a subclass gives the broker")

    @pytest.fixture
    def clock(self) -> Clock:
        """Override if the broker's clock can be moved by hand."""
        return RealClock()

    @pytest.fixture
    def subscribe(self, broker: Broker) -> Iterator[Subscribe]:
        """Subscribe; what is still open is closed after the test."""
        opened = []

        def subscribe(*queues: str, lease_s: float = 60.0, **about: str) -> Subscription:
            opened.append(broker.subscribe(queues or ["q"], lease_s, about))
            return opened[-1]

        yield subscribe
        for subscription in opened:
            subscription.close()

    def needs(self, broker: Broker, capability: Capability) -> None:
        """Skip a test of what the broker declares it can't do."""
        if capability not in broker.capabilities:
            pytest.skip(f"{type(broker).__name__} does not declare {capability.value}")
