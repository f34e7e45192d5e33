"""What the URLs of servers have in common: options, addresses, and yes or no. `shown` is a URL without its secrets."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from urllib.parse import parse_qsl, unquote

from fastq.errors import ConfigurationError, UnknownSetting, did_you_mean

_YES_NO = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def options_of(query: str, known: Collection[str], kind: str, shown: str) -> Mapping[str, str]:
    """Return the options of a URL of some kind, "Redis" say. Raises UnknownSetting."""
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            hint = did_you_mean(name, known)
            raise UnknownSetting(f"{shown!r} has an option {name!r} that {kind} URLs don't have: {hint}")
        options[name] = value
    return options


def addresses_of(place: str, port: int, shown: str) -> Iterator[tuple[str, int]]:
    """Yield the hosts and ports of ``host,host:port,[::1]:port``; `port` is for those that say none.

    Raises ConfigurationError.
    """
    for address in place.split(","):
        match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::(\d{1,5}))?", address)
        if match is None or int(match[2] or port) not in range(1, 65536):
            raise ConfigurationError(f"{address!r} in {shown!r} is not a host or host:port")
        yield unquote(match[1].strip("[]")), int(match[2] or port)


def is_yes(name: str, options: Mapping[str, str], default: str, shown: str) -> bool:
    """Return what an option says that is yes or no. Raises ConfigurationError."""
    value = options.get(name, default)
    if value.lower() not in _YES_NO:
        raise ConfigurationError(f"{name}={value} in {shown!r}: it takes 0 or 1")
    return _YES_NO[value.lower()]
