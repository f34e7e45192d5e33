"""Redis URLs: where the servers are, who asks, and how the connection is protected."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

from fastq.errors import ConfigurationError, UnknownSetting, did_you_mean
from fastq.systems import mask

_KINDS = {
    "redis": "single",
    "rediss": "single",
    "redis+unix": "unix",
    "redis+sentinel": "sentinel",
    "redis+cluster": "cluster",
}
_PORTS = {"single": 6379, "sentinel": 26379, "cluster": 6379}
_OPTIONS = frozenset(
    "db prefix timeout tls insecure ssl_ca_certs ssl_certfile ssl_keyfile sentinel_username sentinel_password".split()
)
_PREFIX = re.compile(r"[A-Za-z0-9._:-]{1,64}", re.ASCII)
_YES_NO = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True)
class RedisUrl:
    """A deployment of Redis, and the names under which fastq keeps its keys there. Secrets are not in its repr."""

    kind: str  # single, unix, sentinel, cluster
    shown: str = field(compare=False)  # the URL without its secrets
    addresses: tuple[tuple[str, int], ...] = ()  # of the server, the sentinels or some nodes; (path, 0) of a socket
    service: str = ""  # the name by which sentinels know the master
    db: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    sentinel_username: str = ""
    sentinel_password: str = field(default="", repr=False)
    prefix: str = "fastq"
    timeout_s: float = 10.0  # for connecting, and for an answer
    tls: bool = False
    insecure: bool = False  # TLS without checking who is there
    ca_certs: str = ""
    certfile: str = ""
    keyfile: str = ""

    @classmethod
    def parse(cls, url: str) -> RedisUrl:
        """Read a URL; the forms are in docs/redis.rst. Raises ConfigurationError, UnknownSetting."""
        shown = _shown(url)
        scheme, _, rest = url.partition("://")
        kind = _KINDS[scheme.lower()]
        rest, _, query = rest.partition("?")
        login, at, rest = rest.rpartition("@")
        username, colon, password = login.partition(":")
        if at and not colon:
            raise ConfigurationError(f"{shown!r} has a user without a password: it has the form redis://user:password@")
        place, _, path = rest.partition("/")
        options = _options(query, shown)
        if kind == "unix":
            addresses: tuple[tuple[str, int], ...] = ((unquote(f"/{path}"), 0),)
            if place or not path:
                raise ConfigurationError(f"{shown!r} names no socket: it has the form redis+unix:///run/redis.sock")
            path = ""
        else:
            addresses = tuple(_addresses(place or "localhost", _PORTS[kind], shown))
        service = ""
        if kind == "sentinel":
            service, _, path = path.partition("/")
            if not service:
                raise ConfigurationError(
                    f"{shown!r} names no service: it has the form redis+sentinel://host:26379,host:26379/mymaster/0"
                )
        db = _number("database", path or options.get("db", "0"), shown)
        if kind == "cluster" and db:
            raise ConfigurationError(f"{shown!r} names database {db}: a Redis Cluster has number 0 only")
        prefix = options.get("prefix", "fastq")
        if not _PREFIX.fullmatch(prefix):
            raise ConfigurationError(f"prefix={prefix!r} in {shown!r}: it takes 1 to 64 of A-Z a-z 0-9 . _ : -")
        return cls(
            kind=kind, shown=shown, addresses=addresses, service=unquote(service), db=int(db), prefix=prefix,
            username=unquote(username), password=unquote(password),
            sentinel_username=options.get("sentinel_username", ""),
            sentinel_password=options.get("sentinel_password", ""),
            timeout_s=_number("timeout", options.get("timeout", "10"), shown) or 10.0,
            tls=scheme.lower() == "rediss" or _yes("tls", options, shown), insecure=_yes("insecure", options, shown),
            ca_certs=options.get("ssl_ca_certs", ""), certfile=options.get("ssl_certfile", ""),
            keyfile=options.get("ssl_keyfile", ""),
        )  # fmt: skip


def _shown(url: str) -> str:
    return re.sub(r"(sentinel_password=)[^&\s]*", r"\1***", mask(url))


def _options(query: str, shown: str) -> Mapping[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS:
            hint = did_you_mean(name, _OPTIONS)
            raise UnknownSetting(f"{shown!r} has an option {name!r} that Redis URLs don't have: {hint}")
        options[name] = value
    return options


def _addresses(place: str, port: int, shown: str) -> Iterator[tuple[str, int]]:
    for address in place.split(","):
        match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::(\d{1,5}))?", address)
        if match is None or int(match[2] or port) not in range(1, 65536):
            raise ConfigurationError(f"{address!r} in {shown!r} is not a host or host:port")
        yield unquote(match[1].strip("[]")), int(match[2] or port)


def _number(what: str, text: str, shown: str) -> float:
    if not re.fullmatch(r"\d{1,9}" if what == "database" else r"\d{1,6}(\.\d+)?", text, re.ASCII):
        raise ConfigurationError(f"{what} {text!r} in {shown!r}: it takes a number")
    return float(text)


def _yes(name: str, options: Mapping[str, str], shown: str) -> bool:
    value = options.get(name, "0")
    if value.lower() not in _YES_NO:
        raise ConfigurationError(f"{name}={value} in {shown!r}: it takes 0 or 1")
    return _YES_NO[value.lower()]
