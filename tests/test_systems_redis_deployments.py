"""Redis behind TLS, as a cluster, with sentinels, on a socket: real servers, started here."""

from __future__ import annotations

import logging
import shutil
import ssl
import subprocess
import threading
import time
import uuid
from pathlib import Path

import pytest

from fastq.backends import open_backend
from fastq.broker import Decision
from fastq.brokers import open_broker
from fastq.errors import BrokerUnavailable
from fastq.states import open_state
from fastq.systems.redis_durability import durability
from fastq.systems.redis_nodes import slot_of
from fastq.testing.backends import BackendConformance, success
from fastq.testing.broker_case import at_once, bodies, call, numbered, soon
from fastq.testing.brokers import BrokerConformance
from fastq.testing.completion import CompletionConformance
from fastq.testing.state import StateConformance
from tests.conftest import require_service
from tests.redis_server import RedisServer, free_port, has_redis


@pytest.fixture(scope="module", autouse=True)
def redis_is_here():
    require_service("Redis", has_redis)


@pytest.fixture(autouse=True)
def servers_end_with_their_test(redis_is_here, nothing_left_behind):
    before = set(RedisServer.running)
    yield
    for server in RedisServer.running - before:
        server.kill()


def goes_round(url: str) -> None:
    """Send a message, its outcome and some shared state through a deployment."""
    broker, backend, state = open_broker(url), open_backend(url, 60.0), open_state(url)
    subscription = broker.subscribe(["q"], 60.0, {})
    broker.publish([call()])
    (delivery,) = soon(subscription)
    outcome = success()
    backend.store([outcome])
    assert list(backend.wait([outcome.id], time.monotonic() + 20)) == [outcome]
    assert subscription.settle([Decision(delivery)]) == []
    subscription.close()
    state.put("f", {"a": b"1"}, 60.0)
    assert state.find("f") == {"a": b"1"}
    follower = state.follow("log")
    assert follower.read(time.monotonic() + 0.01) == []
    state.append("log", [b"1"], 10, 60.0)
    assert follower.read(time.monotonic() + 20) == [b"1"]
    for each in (follower, broker, backend, state):
        each.close()


# -- a cluster ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    options = ("cluster-enabled yes", "cluster-node-timeout 2000", "cluster-require-full-coverage no")
    nodes = [RedisServer(folder / str(at), *options).start() for at in range(3)]
    for at, node in enumerate(nodes):
        node.command("CLUSTER", "ADDSLOTSRANGE", at * 5462, min(at * 5462 + 5461, 16383))
        node.command("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
    give_up = time.monotonic() + 30
    while not all(b"cluster_state:ok" in node.command("CLUSTER", "INFO") and len(node.command("CLUSTER", "SLOTS")) == 3
                  for node in nodes):  # fmt: skip
        assert time.monotonic() < give_up
        time.sleep(0.05)
    yield nodes
    for node in nodes:
        node.kill()


@pytest.fixture
def cluster_url(cluster):
    places = ",".join(f"127.0.0.1:{node.port}" for node in cluster[:2])
    return f"redis+cluster://{places}?prefix=t{uuid.uuid4().hex}"


class TestClusterBroker(BrokerConformance):
    @pytest.fixture
    def broker(self, cluster_url):
        broker = open_broker(cluster_url)
        yield broker
        broker.close()

    def test_one_batch_may_come_from_several_queues(self, broker, subscribe):
        super().test_one_batch_may_come_from_several_queues(broker, subscribe)
        slots = {slot_of(broker._redis.base(queue)) for queue in "ab"}
        assert len(slots) == 2

    def test_what_moved_to_another_node_is_found_there(self, cluster, broker, subscribe):
        broker.publish(numbered(2))
        broker._redis.nodes._slots = [(0, 16383, ("127.0.0.1", cluster[at].port)) for at in (0,)]
        broker.publish([call(body=b"2")])
        broker._redis.nodes._slots = [(0, 16383, ("127.0.0.1", cluster[at].port)) for at in (1,)]
        assert bodies(soon(subscribe())) == [b"0", b"1", b"2"]


class TestClusterBackend(BackendConformance):
    @pytest.fixture
    def backend(self, cluster_url):
        backend = open_backend(cluster_url, self.expires_s)
        yield backend
        backend.close()


class TestClusterCompletion(CompletionConformance):
    @pytest.fixture
    def broker(self, cluster_url):
        broker = open_broker(cluster_url)
        yield broker
        broker.close()

    @pytest.fixture
    def backend(self, cluster_url):
        backend = open_backend(cluster_url, 60.0)
        yield backend
        backend.close()


class TestClusterState(StateConformance):
    @pytest.fixture
    def state(self, cluster_url):
        state = open_state(cluster_url)
        yield state
        state.close()

    @pytest.fixture
    def other(self, state, cluster_url):
        other = open_state(cluster_url)
        yield other
        other.close()


# -- sentinels ----------------------------------------------------------------------------------------


def test_after_a_failover_the_new_master_is_found(tmp_path):
    """Row 28."""
    master = RedisServer(tmp_path / "master").start()
    replica = RedisServer(tmp_path / "replica", f"replicaof 127.0.0.1 {master.port}").start()
    watch = (
        f"sentinel monitor mymaster 127.0.0.1 {master.port} 1",
        "sentinel down-after-milliseconds mymaster 500",
        "sentinel failover-timeout mymaster 2000",
    )
    sentinel = RedisServer(tmp_path / "sentinel", *watch, sentinel=True).start()
    try:
        url = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}/mymaster/0"
        broker = open_broker(url)
        subscription = broker.subscribe(["q"], 60.0, {})
        broker.publish(numbered(1))
        give_up = time.monotonic() + 30
        while master.command("WAIT", 1, 100) != 1 or not sentinel.command("SENTINEL", "REPLICAS", "mymaster"):
            assert time.monotonic() < give_up
        master.kill()
        while True:
            try:
                broker.publish([call(body=b"after")])
                break
            except BrokerUnavailable:
                assert time.monotonic() < give_up
                time.sleep(0.1)
        assert bodies(soon(subscription)) == [b"0", b"after"]
        subscription.close()
        broker.close()
    finally:
        for server in (sentinel, replica, master):
            server.kill()


def test_a_service_that_no_sentinel_knows_is_reported(tmp_path):
    sentinel = RedisServer(tmp_path / "sentinel", sentinel=True).start()
    broker = open_broker(f"redis+sentinel://127.0.0.1:{sentinel.port}/nobody")
    with pytest.raises(BrokerUnavailable, match="nobody"):
        broker.publish([call()])
    broker.close()
    sentinel.kill()


# -- TLS ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not in PATH")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    options = (f"tls-cert-file {folder}/cert.pem", f"tls-key-file {folder}/key.pem", "tls-auth-clients no")
    server = RedisServer(folder / "server", *options, "requirepass s3cret").start(tls=True)
    context = ssl.create_default_context(cafile=f"{folder}/cert.pem")
    give_up = time.monotonic() + 20
    while True:
        try:
            import socket

            with socket.create_connection(("127.0.0.1", server.port), 1) as sock:
                context.wrap_socket(sock, server_hostname="localhost").close()
            break
        except OSError:
            assert time.monotonic() < give_up
            time.sleep(0.02)
    yield server, folder / "cert.pem"
    server.kill()


def test_messages_go_through_tls(tls):
    server, certificate = tls
    goes_round(f"rediss://:s3cret@localhost:{server.port}?ssl_ca_certs={certificate}")


def test_a_waiting_fetch_is_woken_through_tls(tls):
    server, certificate = tls
    broker = open_broker(f"rediss://:s3cret@localhost:{server.port}?ssl_ca_certs={certificate}&prefix=woken")
    subscription = broker.subscribe(["q"], 60.0, {})
    threading.Timer(0.1, broker.publish, [[call()]]).start()
    started = time.monotonic()
    assert len(soon(subscription)) == 1
    assert time.monotonic() - started < 2
    subscription.close()
    broker.close()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("rediss://:s3cret@localhost:{port}", "ssl_ca_certs"),
        ("rediss://:s3cret@127.0.0.1:{port}?ssl_ca_certs={certificate}", "ssl_ca_certs|not valid for"),
        ("redis://:s3cret@localhost:{port}", "rediss://"),
    ],
)
def test_a_connection_that_can_not_be_trusted_is_refused(tls, url, reason):
    server, certificate = tls
    broker = open_broker(url.format(port=server.port, certificate=certificate))
    with pytest.raises(BrokerUnavailable, match=reason) as failure:
        broker.publish([call()])
    assert "s3cret" not in str(failure.value)
    broker.close()


def test_tls_to_a_server_that_does_not_speak_it_is_reported(tmp_path):
    server = RedisServer(tmp_path / "plain").start()
    broker = open_broker(f"rediss://localhost:{server.port}?timeout=2")
    with pytest.raises(BrokerUnavailable, match="redis://"):
        broker.publish([call()])
    broker.close()
    server.kill()


def test_insecure_tls_is_warned_of(tls, caplog):
    server, _ = tls
    with caplog.at_level(logging.WARNING):
        goes_round(f"rediss://:s3cret@localhost:{server.port}?insecure=1")
    assert "insecure=1" in caplog.text
    assert "s3cret" not in caplog.text


# -- a socket, and what is said at the start ----------------------------------------------------------


def test_messages_go_through_a_socket(tmp_path):
    server = RedisServer(tmp_path / "redis", f"unixsocket {tmp_path}/redis.sock").start()
    goes_round(f"redis+unix://{tmp_path}/redis.sock")
    server.kill()


def test_a_worker_says_what_its_deployment_promises_and_warns_of_eviction(tmp_path, caplog):
    """Row 27."""
    server = RedisServer(tmp_path / "redis", "maxmemory-policy allkeys-lru", "appendonly yes").start()
    with caplog.at_level(logging.INFO):
        broker = open_broker(server.url)
        for _ in range(2):
            broker.subscribe(["q"], 60.0, {}).close()
        broker.close()
    server.kill()
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert "appendonly with fsync everysec" in line
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "noeviction" in warning


@pytest.mark.parametrize(
    ("info", "settings", "said"),
    [
        ({"aof_enabled": "1"}, {"appendfsync": "always"}, "fsync always"),
        ({"aof_enabled": "1"}, {"appendfsync": "no"}, "without fsync"),
        ({"aof_enabled": "1"}, {}, "unknown frequency"),
        ({"aof_enabled": "0"}, {"save": "3600 1"}, "snapshots only"),
        ({"aof_enabled": "0"}, {"save": ""}, "no persistence"),
        ({"aof_enabled": "0"}, {}, "if there is any"),
    ],
)
def test_each_kind_of_persistence_has_its_words(info, settings, said):
    assert said in durability(info, settings)


def test_the_permissions_in_the_documentation_are_enough(tmp_path, caplog):
    page = (Path(__file__).parents[1] / "docs/redis.rst").read_text()
    rules = page.partition("access is limited (``ACL``)::")[2].partition("Without")[0].split()
    server = RedisServer(tmp_path / "redis").start()
    assert server.command("ACL", "SETUSER", "worker", "on", ">pw", *rules) == b"OK"
    with caplog.at_level(logging.INFO):
        goes_round(f"redis://worker:pw@127.0.0.1:{server.port}")
    assert "no persistence, so a restart loses all messages" in caplog.text
    broker = open_broker(f"redis://worker:pw@127.0.0.1:{server.port}?prefix=other")
    with pytest.raises(BrokerUnavailable, match="permission"):
        broker.publish([call()])
    broker.close()
    assert server.command("ACL", "SETUSER", "worker", "-client|unblock", "-info", "-config") == b"OK"
    goes_round(f"redis://worker:pw@127.0.0.1:{server.port}")
    server.kill()


def test_nothing_is_taken_by_who_was_interrupted(tmp_path):
    server = RedisServer(tmp_path / "redis").start()
    broker = open_broker(server.url)
    idle, other = broker.subscribe(["q"], 60.0, {}), broker.subscribe(["q"], 60.0, {})
    threading.Timer(0.1, idle.interrupt).start()
    assert idle.fetch(1, None) == []
    threading.Timer(0.1, broker.publish, [[call()]]).start()
    started = time.monotonic()
    assert len(soon(other)) == 1
    assert time.monotonic() - started < 2
    assert at_once(idle) == []
    for each in (idle, other, broker):
        each.close()
    server.kill()
