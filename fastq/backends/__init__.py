"""Result backends, one module a system; `open_backend` finds the one for a URL."""

from __future__ import annotations

from fastq.backend import Backend
from fastq.systems import REDIS_KINDS, Opener, Registry

_REDIS = Opener("fastq.backends.redis", "RedisBackend", extra="redis")
_AMQP = Opener("fastq.backends.amqp", "AmqpBackend", extra="amqp")
_PUSHING = ("rpc://", "rpcs://", "amqp://", "amqps://")

_registry: Registry[Backend] = Registry(
    kind="backend",
    group="fastq.backends",
    modules={
        "memory": Opener("fastq.backends.memory", "MemoryBackend"),
        "sqlite": Opener("fastq.backends.sql", "SqlBackend"),
        **dict.fromkeys(REDIS_KINDS, _REDIS),
        "rpc": _AMQP,
        "rpcs": _AMQP,
        "amqp": _AMQP,  # where a broker's URL is the backend's, too
        "amqps": _AMQP,
    },
)


def open_backend(url: str, expires_s: float) -> Backend:
    """Return a client for a backend URL whose outcomes expire after `expires_s` seconds.

    Raises UnknownScheme, MissingExtra, BackendUnavailable.
    """
    return _registry.open(url, expires_s=expires_s)


def pushes(url: str) -> bool:
    """Return whether a backend pushes outcomes to the process that made the call: see `Backend.reply_to`."""
    return url.startswith(_PUSHING)
