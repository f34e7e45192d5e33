"""Redis URLs: where the servers are, who asks, and how the connection is protected."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote

from fastq.errors import ConfigurationError
from fastq.systems import REDIS_KINDS, mask
from fastq.systems.urls import addresses_of, is_yes, options_of

_PORTS = {"single": 6379, "sentinel": 26379, "cluster": 6379}
_OPTIONS = frozenset(
    "db prefix timeout tls insecure ssl_ca_certs ssl_certfile ssl_keyfile sentinel_username sentinel_password".split()
)
_PREFIX = re.compile(r"[A-Za-z0-9._:-]{1,64}", re.ASCII)


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
        kind = REDIS_KINDS[scheme.lower()]
        rest, _, query = rest.partition("?")
        login, at, rest = rest.rpartition("@")
        username, colon, password = login.partition(":")
        if at and not colon:
            raise ConfigurationError(f"{shown!r} has a user without a password: it has the form redis://user:password@")
        place, _, path = rest.partition("/")
        options = options_of(query, _OPTIONS, "Redis", shown)
        if kind == "unix":
            addresses: tuple[tuple[str, int], ...] = ((unquote(f"/{path}"), 0),)
            if place or not path:
                raise ConfigurationError(f"{shown!r} names no socket: it has the form redis+unix:///run/redis.sock")
            path = ""
        else:
            addresses = tuple(addresses_of(place or "localhost", _PORTS[kind], shown))
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
            tls=scheme.lower() == "rediss" or is_yes("tls", options, "0", shown),
            insecure=is_yes("insecure", options, "0", shown),
            ca_certs=options.get("ssl_ca_certs", ""), certfile=options.get("ssl_certfile", ""),
            keyfile=options.get("ssl_keyfile", ""),
        )  # fmt: skip


def _shown(url: str) -> str:
    return re.sub(r"(sentinel_password=)[^&\s]*", r"\1***", mask(url))


def _number(what: str, text: str, shown: str) -> float:
    if not re.fullmatch(r"\d{1,9}" if what == "database" else r"\d{1,6}(\.\d+)?", text, re.ASCII):
        raise ConfigurationError(f"{what} {text!r} in {shown!r}: it takes a number")
    return float(text)
