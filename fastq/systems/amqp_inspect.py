"""What people ask of RabbitMQ and AMQP has no words for: which queues there are, what is leased, and who is connected.

RabbitMQ's management plugin tells, over HTTP. What it tells is some seconds old, so what waits is counted by AMQP.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from fastq._speedups.amqp_values import Tls
from fastq.broker import QueueInfo, WorkerInfo
from fastq.errors import BrokerUnavailable
from fastq.systems.amqp_topology import Topology
from fastq.systems.amqp_url import AmqpUrl

if TYPE_CHECKING:
    from http.client import HTTPConnection

    from fastq._speedups.amqp_link import Link

_DELAYED, _ASTRAY = "fastq.delay", "fastq.astray"  # what is delayed, of all queues, has a row of its own
_DEAD = ".dead"
_HELD = re.compile(r"(.+)\.held\.[0-9a-f-]{36}")
_BEATS = 2  # heartbeats that may be missed before a connection is given up


class Inspector:
    """Asks the management plugin, as the user of the URL, who needs its tag `monitoring` to see all workers."""

    def __init__(self, url: AmqpUrl, topology: Topology) -> None:
        self._url = url
        self._topology = topology

    def queues(self, link: Link) -> list[QueueInfo]:
        """Return the queues that hold something, by name; their oldest age is 0.0. Raises BrokerUnavailable, OSError.

        Queues of others are told by having no queue of dead letters.
        """
        unacked = dict(self._unacked())
        held = _by_place(unacked)

        def ready(name: str) -> int:
            return link.declare_queue(self._url.prefix + name, passive=True).messages if name in unacked else 0

        delayed = sum(ready(name) for name in unacked if name.startswith(f"{_DELAYED}."))
        infos = [QueueInfo(_DELAYED, 0, delayed, 0, 0, 0.0), QueueInfo(_ASTRAY, ready(_ASTRAY), 0, 0, 0, 0.0)]
        for queue in [name.removesuffix(_DEAD) for name in unacked if name.endswith(_DEAD)]:
            parts = [name.removeprefix(self._url.prefix) for name in self._topology.names(queue)]
            leased = sum(unacked.get(part, 0) + held.get(part, 0) for part in parts)
            infos.append(QueueInfo(queue, sum(map(ready, parts)), 0, leased, ready(queue + _DEAD), 0.0))
        return sorted(info for info in infos if any(info[1:]))

    def workers(self) -> list[WorkerInfo]:
        """Return the workers that are connected. Raises BrokerUnavailable."""
        rows = self._get(f"vhosts/{self._vhost}/connections?columns=client_properties,timeout")
        return list(self._of_workers(rows))

    def _of_workers(self, rows: Any) -> Iterator[WorkerInfo]:
        for row in rows:
            told = row.get("client_properties", {}).get("fastq")
            if isinstance(told, dict) and told.get("prefix") == self._url.prefix:
                yield WorkerInfo(str(told.get("owner")), _BEATS * row.get("timeout", 0), told.get("about") or {})

    def _unacked(self) -> Iterator[tuple[str, int]]:
        """Yield the names of all queues, without the prefix, and how many messages of each are in somebody's hands."""
        for row in self._get(f"queues/{self._vhost}?columns=name,messages_unacknowledged"):
            if row["name"].startswith(self._url.prefix):
                yield row["name"].removeprefix(self._url.prefix), row.get("messages_unacknowledged", 0)

    # -- HTTP -----------------------------------------------------------------------------------------

    @property
    def _vhost(self) -> str:
        return quote(self._url.vhost, safe="")

    def _get(self, path: str) -> Any:
        import http.client  # only those who ask pay for it

        where = urlsplit(self._url.management)
        login = base64.b64encode(f"{self._url.username}:{self._url.password}".encode()).decode()
        try:
            with contextlib.closing(self._connection(where.scheme, where.hostname or "", where.port)) as connection:
                connection.request("GET", f"{where.path}/api/{path}", headers={"Authorization": f"Basic {login}"})
                answer = connection.getresponse()
                body = answer.read()
            if answer.status == http.client.OK:
                return json.loads(body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise BrokerUnavailable(
                f"RabbitMQ's management plugin can't be asked at {self._url.management}: {error}"
            ) from error
        raise BrokerUnavailable(
            f"RabbitMQ's management plugin at {self._url.management} answers {answer.status} {answer.reason}; the user "
            "needs its tag, see docs/rabbitmq.rst"
        )

    def _connection(self, scheme: str, host: str, port: int | None) -> HTTPConnection:
        from http.client import HTTPConnection, HTTPSConnection

        if scheme == "http":
            return HTTPConnection(host, port, timeout=self._url.timeout_s)
        from fastq._speedups.amqp_wire import tls_context

        return HTTPSConnection(host, port, timeout=self._url.timeout_s, context=tls_context(self._url.tls or Tls()))


def _by_place(unacked: Mapping[str, int]) -> dict[str, int]:
    """Return how many messages are in holding queues, by what they are held from."""
    held: dict[str, int] = {}
    for name, count in unacked.items():
        if match := _HELD.fullmatch(name):
            held[match[1]] = held.get(match[1], 0) + count
    return held
