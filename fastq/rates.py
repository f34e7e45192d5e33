"""Rates and other limits as people write them: "100/m", and "4" for so many at once; pure."""

from __future__ import annotations

import re

from .errors import ConfigurationError

_RATE = re.compile(r"(\d{1,9})(?:/([smhd]))?", re.ASCII)
_PERIODS_S = {None: 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_MOST_AT_ONCE = 1_000_000


def parse_rate(text: str, what: str = "rate_limit") -> tuple[int, float]:
    """Return how many, in how many seconds, a rate such as "100/m" allows. Raises ConfigurationError."""
    match = _RATE.fullmatch(str(text).replace(" ", ""))
    if match is None or not int(match[1]):
        raise ConfigurationError(
            f"{what} is {text!r:.60}; it takes a number, a slash and a unit: '10/s', '100/m', '1000/h' or '5/d'"
        )
    return int(match[1]), _PERIODS_S[match[2]]


def at_once(number: object, what: str = "max_concurrency") -> int:
    """Return how many may run at once. Raises ConfigurationError."""
    if type(number) is not int or not 1 <= number <= _MOST_AT_ONCE:
        raise ConfigurationError(f"{what} is {number!r}; it takes 1 to {_MOST_AT_ONCE:,}")
    return number


def parse_limit(text: str, what: str) -> tuple[int, float]:
    """Return what `parse_rate` does or, for a mere number, how many at once and 0.0. Raises ConfigurationError."""
    if text.isascii() and text.isdigit():
        return at_once(int(text[:20]), what), 0.0
    return parse_rate(text, what)
