"""Shared state, one module a system; `open_state` finds the one for a URL."""

from __future__ import annotations

from fastq.errors import NotSupported, UnknownScheme
from fastq.state import SharedState
from fastq.systems import REDIS_KINDS, Opener, Registry, mask

_REDIS = Opener("fastq.states.redis", "RedisState", extra="redis")

_registry: Registry[SharedState] = Registry(
    kind="shared state",
    group="fastq.states",
    modules={
        "memory": Opener("fastq.states.memory", "MemoryState"),
        "sqlite": Opener("fastq.states.sql", "SqlState"),
        **dict.fromkeys(REDIS_KINDS, _REDIS),
    },
)


def open_state(*urls: str) -> SharedState:
    """Return a client for the first of these URLs whose system can keep shared state.

    Raises NotSupported if none can, MissingExtra, StateUnavailable.
    """
    for url in urls:
        try:
            make = _registry.find(url)
        except UnknownScheme:
            continue
        return make(url)
    asked = " nor ".join(repr(mask(url)) for url in dict.fromkeys(urls))
    raise NotSupported(f"Shared state can be kept by neither {asked}: name a system that can, as in state='redis://…'")
