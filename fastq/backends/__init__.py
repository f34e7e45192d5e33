"""Result backends, one module a system; `open_backend` finds the one for a URL."""

from __future__ import annotations

from fastq.backend import Backend
from fastq.systems import Opener, Registry

_REDIS = Opener("fastq.backends.redis", "RedisBackend", extra="redis")

_registry: Registry[Backend] = Registry(
    kind="backend",
    group="fastq.backends",
    modules={
        "memory": Opener("fastq.backends.memory", "MemoryBackend"),
        "sqlite": Opener("fastq.backends.sql", "SqlBackend"),
        "redis": _REDIS,
        "rediss": _REDIS,
        "redis+unix": _REDIS,
        "redis+sentinel": _REDIS,
        "redis+cluster": _REDIS,
    },
)


def open_backend(url: str, expires_s: float) -> Backend:
    """Return a client for a backend URL whose outcomes expire after `expires_s` seconds.

    Raises UnknownScheme, MissingExtra, BackendUnavailable.
    """
    return _registry.open(url, expires_s=expires_s)
