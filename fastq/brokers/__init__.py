"""Brokers, one module a system; `open_broker` finds the one for a URL."""

from __future__ import annotations

from collections.abc import Callable

from fastq.broker import Broker
from fastq.message import Message
from fastq.systems import REDIS_KINDS, Opener, Registry

_REDIS = Opener("fastq.brokers.redis", "RedisBroker", extra="redis")
_AMQP = Opener("fastq.brokers.amqp", "AmqpBroker", extra="amqp")

_registry: Registry[Broker] = Registry(
    kind="broker",
    group="fastq.brokers",
    modules={
        "memory": Opener("fastq.brokers.memory", "MemoryBroker"),
        "sqlite": Opener("fastq.brokers.sql", "SqlBroker"),
        **dict.fromkeys(REDIS_KINDS, _REDIS),
        "amqp": _AMQP,
        "amqps": _AMQP,
    },
)


def open_broker(url: str, envelope: Callable[[Message], bytes] = Message.encode) -> Broker:
    """Return a client for a broker URL, which publishes messages in this envelope.

    Raises UnknownScheme, MissingExtra, BrokerUnavailable.
    """
    broker = _registry.open(url)
    broker.envelope = envelope
    return broker


def import_broker(url: str) -> None:
    """Import what `open_broker` will need for a URL. Raises UnknownScheme, MissingExtra."""
    _registry.find(url)
