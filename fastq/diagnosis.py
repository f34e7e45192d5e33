"""Diagnosis: what a system really promises, and what is weak about it; values."""

from __future__ import annotations

from typing import NamedTuple


class Weakness(NamedTuple):
    """Something that may cost messages or results one day."""

    what: str
    remedy: str


class Diagnosis(NamedTuple):
    """What a system says of itself."""

    system: str  # its product, version and address, without secrets
    promise: str  # what becomes of what it has accepted when its process or its host dies
    weaknesses: tuple[Weakness, ...] = ()
    clock_us: int = 0  # its clock, microseconds since the epoch; 0: unknown, or this host's own
