"""AMQP URLs: where the servers are, who asks, how the connection is protected, and what queues are to be like."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from fastq._speedups.amqp_values import Tls
from fastq.errors import ConfigurationError, did_you_mean
from fastq.systems import mask
from fastq.systems.urls import addresses_of, is_yes, options_of

_PORTS = {"amqp": 5672, "amqps": 5671, "rpc": 5672, "rpcs": 5671}
_OPTIONS = frozenset(
    "queue_type priorities prefix exchange heartbeat timeout consumer_timeout sync_acks management cafile certfile "
    "keyfile verify".split()
)
_QUEUE_TYPES = ("auto", "quorum", "classic")
_PREFIX = re.compile(r"[A-Za-z0-9._:-]{0,64}", re.ASCII)
_MANAGEMENT = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[^/@\s?#:\[\]]+)(:\d{1,5})?(/[^@\s?#]*)?", re.ASCII)


@dataclass(frozen=True)
class AmqpUrl:
    """A RabbitMQ as fastq uses it. The secret is not in its repr."""

    shown: str = field(compare=False)  # the URL without its secret
    addresses: tuple[tuple[str, int], ...]  # of the nodes of one cluster
    vhost: str
    username: str  # "": the certificate says who asks
    password: str = field(repr=False)
    tls: Tls | None
    queue_type: str  # quorum or classic; auto: quorum where the server has them and a queue is not classic already
    priorities: int  # so many quorum queues make up one, each for some priorities; classic queues know them all
    prefix: str  # of every name at the server
    exchange: str  # where messages are published, with the name of their queue as routing key
    heartbeat_s: int  # 0: as the lease says
    timeout_s: float  # for connecting, and for an answer
    consumer_timeout_s: float  # after which the server takes back what was not settled
    sync_acks: bool  # whether settling waits until the server has acted upon it
    management: str  # where the management plugin is; "": it is not asked

    @classmethod
    def parse(cls, url: str) -> AmqpUrl:
        """Read a URL; its form is in docs/rabbitmq.rst. Raises ConfigurationError, UnknownSetting."""
        shown = mask(url)
        scheme, _, rest = url.partition("://")
        scheme = scheme.lower()
        rest, _, query = rest.partition("?")
        login, at, rest = rest.rpartition("@")
        username, colon, password = login.partition(":")
        if at and not colon:
            raise ConfigurationError(f"{shown!r} has a user without a password: it has the form {scheme}://user:pw@")
        place, _, path = rest.partition("/")
        options = options_of(query, _OPTIONS, "AMQP", shown)
        tls = _tls(scheme, options, shown)
        if not at and not (tls and tls.cert):
            username, password = "guest", "guest"  # what every server begins with, for its own host
        queue_type = options.get("queue_type", "auto")
        if queue_type not in _QUEUE_TYPES:
            raise ConfigurationError(f"queue_type={queue_type} in {shown!r}: {did_you_mean(queue_type, _QUEUE_TYPES)}")
        priorities = _priorities(options, queue_type, shown)
        prefix = options.get("prefix", "")
        if not _PREFIX.fullmatch(prefix):
            raise ConfigurationError(f"prefix={prefix!r} in {shown!r}: it takes at most 64 of A-Z a-z 0-9 . _ : -")
        management = options.get("management", "").rstrip("/")
        if management and not _MANAGEMENT.fullmatch(management):
            raise ConfigurationError(f"management={management} in {shown!r}: it has the form http://host:15672")
        return cls(
            shown=shown, addresses=tuple(addresses_of(place or "localhost", _PORTS[scheme], shown)),
            vhost=unquote(path) or "/", username=unquote(username), password=unquote(password), tls=tls,
            queue_type=queue_type, priorities=priorities, prefix=prefix, exchange=options.get("exchange", ""),
            heartbeat_s=round(_number("heartbeat", options, "0", shown)),
            timeout_s=_number("timeout", options, "10", shown) or 10.0,
            consumer_timeout_s=_number("consumer_timeout", options, "1800", shown) or 1800.0,
            sync_acks=is_yes("sync_acks", options, "0", shown), management=management,
        )  # fmt: skip


def _tls(scheme: str, options: Mapping[str, str], shown: str) -> Tls | None:
    if not scheme.endswith("s"):
        if given := [name for name in ("cafile", "certfile", "keyfile", "verify") if name in options]:
            raise ConfigurationError(f"{shown!r} has {given[0]}, which is for TLS: the scheme of that is {scheme}s://")
        return None
    return Tls(
        options.get("cafile"), options.get("certfile"), options.get("keyfile"), is_yes("verify", options, "1", shown)
    )


def _priorities(options: Mapping[str, str], queue_type: str, shown: str) -> int:
    text = options.get("priorities", "1")
    if not re.fullmatch(r"[1-9]|10", text, re.ASCII):
        raise ConfigurationError(f"priorities={text} in {shown!r}: it takes 1 to 10")
    if text != "1" and queue_type != "quorum":
        raise ConfigurationError(
            f"priorities={text} in {shown!r} is for queue_type=quorum; classic queues have all ten"
        )
    return int(text)


def _number(name: str, options: Mapping[str, str], default: str, shown: str) -> float:
    text = options.get(name, default)
    if not re.fullmatch(r"\d{1,8}(\.\d+)?", text, re.ASCII):
        raise ConfigurationError(f"{name}={text} in {shown!r}: it takes a number of seconds")
    return float(text)
