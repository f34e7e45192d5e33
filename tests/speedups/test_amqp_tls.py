"""The AMQP link over TLS: who is trusted, and large batches both ways."""

from __future__ import annotations

import os
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastq._speedups.amqp_link import Link
from fastq._speedups.amqp_values import Outgoing, Tls

from . import amqp_server as fake
from .amqp_bodies import link_class, open_link
from .amqp_server import FakeServer, Peer, certificate, to_rabbitmq


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server's certificate and key are."""
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def context(folder: Path) -> ssl.SSLContext:
    return certificate(folder)


@pytest.fixture
def proxy(kind: str, context: ssl.SSLContext) -> Iterator[FakeServer]:
    open_link(kind).close()
    with FakeServer(to_rabbitmq, context) as server:
        yield server


def soon() -> float:
    return time.monotonic() + 20


def test_messages_go_both_ways_over_tls(kind: str, folder: Path, proxy: FakeServer) -> None:
    link = open_link(kind, host="localhost", port=proxy.port, tls=Tls(ca=str(folder / "cert.pem")), heartbeat_s=0)
    try:
        queue = link.declare_queue("", durable=False, exclusive=True).name
        batch = [Outgoing("", queue, os.urandom(20_000)) for _ in range(100)]
        assert link.publish(batch, soon()) == []
        link.consume(queue)
        bodies: list[bytes] = []
        while len(bodies) < 100:
            more = link.receive(100, soon())
            assert more
            bodies += [message.body for message in more]
        assert bodies == [message.body for message in batch]
    finally:
        link.close()


@pytest.mark.parametrize(
    ("host", "tls", "why"),
    [
        ("localhost", Tls(), "certificate"),
        ("127.0.0.1", Tls(ca="{folder}/cert.pem"), "not valid for '127.0.0.1'"),
        ("127.0.0.1", Tls(ca="{folder}/cert.pem", server_name="elsewhere"), "Hostname mismatch|doesn't match"),
    ],
    ids=["unknown authority", "another name", "a name that was told"],
)
def test_a_server_that_can_not_show_who_it_is_is_refused(
    kind: str, folder: Path, context: ssl.SSLContext, host: str, tls: Tls, why: str
) -> None:
    tls = tls._replace(ca=tls.ca and tls.ca.format(folder=folder))
    with FakeServer(Peer.welcome, context) as server, pytest.raises(ConnectionError, match=why):
        link_class(kind)(host=host, port=server.port, tls=tls, timeout_s=10)


@pytest.mark.parametrize(
    ("host", "tls"),
    [
        ("127.0.0.1", Tls(verify=False)),
        ("127.0.0.1", Tls(ca="{folder}/cert.pem", server_name="localhost")),
        ("localhost", Tls(ca="{folder}/cert.pem", cert="{folder}/cert.pem", key="{folder}/key.pem")),
    ],
    ids=["unverified", "a name that was told", "with a certificate of its own"],
)
def test_a_server_that_is_trusted_is_spoken_to(
    kind: str, folder: Path, context: ssl.SSLContext, host: str, tls: Tls
) -> None:
    given = Tls(*(part.format(folder=folder) if isinstance(part, str) else part for part in tls))
    with FakeServer(lambda peer: peer.welcome().stay(), context) as server:
        link = link_class(kind)(host=host, port=server.port, tls=given, timeout_s=10)
        link.close()


def test_a_login_may_be_left_to_the_certificate(kind: str, context: ssl.SSLContext) -> None:
    seen: list[bytes] = []

    def script(peer: Peer) -> None:
        peer.sock.recv(8)
        peer.send(fake.method(10, 10, b"\0\x09" + fake.long(b"") + fake.long(b"PLAIN EXTERNAL") + fake.long(b"en_US")))
        seen.append(peer.read_until(10, 11))
        peer.send(fake.close(403, "ACCESS_REFUSED - who is this?"))

    with FakeServer(script, context) as server, pytest.raises(PermissionError, match="who is this"):
        link_class(kind)(port=server.port, tls=Tls(verify=False), login=None, timeout_s=10)
    assert seen[0].endswith(fake.short("EXTERNAL") + fake.long(b"") + fake.short("en_US"))


def test_tls_with_a_server_that_has_none_is_a_connection_error(kind: str) -> None:
    with FakeServer(lambda peer: peer.send(b"no TLS here")) as server, pytest.raises(ConnectionError, match="TLS with"):
        link_class(kind)(port=server.port, tls=Tls(verify=False), timeout_s=10)


def test_a_server_that_hangs_in_the_handshake_is_a_timeout(kind: str) -> None:
    with FakeServer(Peer.hang) as server, pytest.raises(TimeoutError):
        link_class(kind)(port=server.port, tls=Tls(verify=False), timeout_s=0.2)


def test_files_that_are_not_there_are_a_value_error(kind: str) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.pem"):
        link_class(kind)(port=1, tls=Tls(ca="/nowhere.pem"))


def test_an_interrupt_ends_a_receive_over_tls(kind: str, folder: Path, context: ssl.SSLContext) -> None:
    with FakeServer(lambda peer: peer.welcome().stay(), context) as server:
        link: Link = link_class(kind)(host="localhost", port=server.port, tls=Tls(ca=str(folder / "cert.pem")))
        thread = threading.Timer(0.05, link.interrupt)
        thread.start()
        assert link.receive(1) == []
        thread.join()
        link.close()
