"""RabbitMQ behind TLS, as several nodes, with priorities on quorum queues, and as its management plugin shows it."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fastq.backends import open_backend
from fastq.broker import Action, Capability, Decision, QueueInfo
from fastq.brokers import open_broker
from fastq.errors import BrokerUnavailable, ConfigurationError, LeaseLost, NotSupported, PublishUnknown
from fastq.message import now_us
from fastq.systems.amqp_url import AmqpUrl
from fastq.testing.backends import success
from fastq.testing.broker_case import SOON_S, at_once, bodies, call, numbered, together
from fastq.testing.faults import Proxy
from tests import rabbit_server
from tests.speedups import amqp_server as fake
from tests.speedups.amqp_server import FakeServer, certificate, to_rabbitmq
from tests.speedups.test_amqp_faults import NONSENSE, saying


@pytest.fixture(scope="module")
def vhost():
    with rabbit_server.own_vhost() as name:
        yield name


@pytest.fixture
def where(request, vhost):
    """The virtual host and the first options of a URL whose queues are this test's alone, and end with it."""
    with rabbit_server.queues_deleted(vhost):
        yield f"{vhost}?prefix={rabbit_server.prefix_of(request.node.name)}"


@pytest.fixture
def open_at():
    """Open brokers; close them after the test."""
    opened = []

    def open_at(url):
        opened.append(open_broker(url))
        return opened[-1]

    yield open_at
    for broker in opened:
        broker.close()


@pytest.fixture
def url(where):
    return f"amqp://guest:guest@127.0.0.1:{rabbit_server.PORT}/{where}"


def port_of(subscription) -> int:
    return subscription._intake.link._wire._socket.getpeername()[1]


def sever(subscription) -> None:
    subscription._intake.link._wire._socket.shutdown(socket.SHUT_RDWR)


def ended(subscription) -> None:
    """Wait until a subscription says that its lease has ended."""
    give_up = time.monotonic() + SOON_S
    with pytest.raises(LeaseLost):
        while time.monotonic() < give_up:
            subscription.fetch(1, time.monotonic() + 0.05)
    subscription.close()


# -- what a URL may say ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("priorities=3", "is for queue_type=quorum"),
        ("queue_type=classic&priorities=3", "is for queue_type=quorum"),
        ("queue_type=quorum&priorities=11", "takes 1 to 10"),
        ("queue_type=quorum&priorities=many", "takes 1 to 10"),
        ("management=host:15672", "has the form http://host:15672"),
        ("management=http://me:secret@host:15672", "has the form http://host:15672"),
        ("queue_type=quorom", "did you mean 'quorum'"),
        ("priority=3", "did you mean 'priorities'"),
    ],
)
def test_an_option_that_can_not_be_is_explained(options: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        AmqpUrl.parse(f"amqp://h/v?{options}")


# -- TLS ------------------------------------------------------------------------------------------------


def test_messages_and_results_go_round_over_tls(where, tmp_path, open_at):
    with FakeServer(to_rabbitmq, certificate(tmp_path)) as server:
        place = f"guest:guest@localhost:{server.port}/{where}&cafile={tmp_path}/cert.pem"
        broker, backend = open_at(f"amqps://{place}&queue_type=classic"), open_backend(f"rpcs://{place}", 60.0)
        subscription = broker.subscribe(["q"], 60.0, {})
        broker.publish([call(body=bytes(200_000)), *numbered(3)])
        taken = together(subscription, 4)
        assert [len(body) for body in bodies(taken)] == [200_000, 1, 1, 1]
        outcome = success()
        outcome.reply_to = backend.reply_to
        backend.store([outcome])
        assert list(backend.wait([outcome.id], time.monotonic() + SOON_S)) == [outcome]
        assert subscription.settle([Decision(it) for it in taken]) == []
        subscription.close()
        backend.close()
        assert broker.depth("q") == 0
        broker.close()


def test_a_server_whose_certificate_nobody_vouches_for_is_not_used(where, tmp_path, open_at):
    with FakeServer(to_rabbitmq, certificate(tmp_path)) as server:
        broker = open_at(f"amqps://guest:guest@localhost:{server.port}/{where}")
        with pytest.raises(BrokerUnavailable, match=r"(?s)TLS with localhost.*certificate"):
            broker.publish([call()])
        unread = open_at(f"amqps://guest:guest@localhost:{server.port}/{where}&cafile={tmp_path}/none.pem")
        with pytest.raises(BrokerUnavailable, match="none.pem"):
            unread.publish([call()])


# -- several nodes --------------------------------------------------------------------------------------


def test_who_loses_a_node_goes_on_with_another(where, open_at):
    nodes = [Proxy(rabbit_server.PORT), Proxy(rabbit_server.PORT)]
    try:
        places = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        broker = open_at(f"amqp://guest:guest@{places}/{where}&queue_type=classic")
        subscription = broker.subscribe(["q"], 60.0, {})
        broker.publish(numbered(2))
        held = together(subscription, 2)
        lost = next(node for node in nodes if node.port == port_of(subscription))
        lost.close()
        ended(subscription)
        assert subscription.settle([Decision(it) for it in held]) == held
        broker.publish([call(body=b"2")])
        again = broker.subscribe(["q"], 60.0, {})
        assert port_of(again) in {node.port for node in nodes if node is not lost}
        taken = together(again, 3)
        assert sorted(bodies(taken)) == [b"0", b"1", b"2"]
        assert {it.suspect for it in taken if bodies([it]) != [b"2"]} == {True}
        assert again.settle([Decision(it) for it in taken]) == []
        again.close()
    finally:
        for node in nodes:
            node.close()


# -- lies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_a_server_that_talks_nonsense_is_unavailable(open_at, nonsense):
    with FakeServer(saying(NONSENSE[nonsense])) as server:
        broker = open_at(f"amqp://guest:guest@127.0.0.1:{server.port}/?timeout=5")
        with pytest.raises(BrokerUnavailable, match="the server"):
            broker.depth("q")
        broker.close()


def test_a_lease_ends_where_the_server_begins_to_talk_nonsense(where, url, open_at, caplog):
    lies: list[bytes] = []
    with FakeServer(lambda peer: to_rabbitmq(peer, lies)) as server:
        broker = open_at(f"amqp://guest:guest@127.0.0.1:{server.port}/{where}&queue_type=classic")
        open_at(f"{url}&queue_type=classic").publish(numbered(2))
        subscription = broker.subscribe(["q"], 60.0, {})
        held = together(subscription, 2)
        lies.append(fake.frame(7, 0, b""))
        ended(subscription)
        assert "connection was lost" in caplog.text
        assert subscription.settle([Decision(it) for it in held]) == held
        again = broker.subscribe(["q"], 60.0, {})
        assert [(bodies([it]), it.suspect) for it in together(again, 2)] == [([b"0"], True), ([b"1"], True)]
        again.close()
        broker.close()


def test_of_what_was_published_to_a_server_that_talks_nonsense_nothing_is_known(open_at):
    def script(peer):
        peer.welcome()
        for _ in range(2):
            peer.read_until(50, 10)
            peer.send(fake.method(50, 11, fake.short("q") + bytes(8)))
        peer.take(1)
        peer.send(NONSENSE["a giant length"])
        peer.stay()

    with FakeServer(script) as server:
        broker = open_at(f"amqp://guest:guest@127.0.0.1:{server.port}/?queue_type=classic&timeout=5")
        with pytest.raises(PublishUnknown, match="the server sent a frame of"):
            broker.publish([call()])
        broker.close()


# -- priorities on quorum queues ------------------------------------------------------------------------


def test_priorities_that_a_queue_does_not_have_are_refused(url, open_at):
    for options in ("", "&queue_type=quorum"):
        broker = open_at(url + options)
        assert Capability.PRIORITY not in broker.capabilities
        with pytest.raises(NotSupported, match="queue_type=quorum&priorities=3.*queue_type=classic"):
            broker.publish([call(), call(priority=1)])
        assert broker.depth("q") == 0


@pytest.fixture
def ranked(url, open_at):
    """A broker whose quorum queues know three priorities."""
    broker = open_at(f"{url}&queue_type=quorum&priorities=3")
    assert Capability.PRIORITY in broker.capabilities
    return broker


def test_neighbouring_priorities_are_one_where_there_are_few(ranked):
    ranked.publish([call(body=b"%d" % priority, priority=priority) for priority in range(10)])
    assert ranked.depth("q") == 10
    subscription = ranked.subscribe(["q"], 60.0, {})
    assert b"".join(bodies(together(subscription, 10))) == b"7894560123"
    subscription.close()
    assert ranked.purge("q") == 10


def test_a_message_keeps_its_priority_whatever_befalls_it(ranked):
    subscription = ranked.subscribe(["q"], 60.0, {})
    high = ranked._topology.name("q", 9)

    def comes_to(worker):
        """Return the one message that comes, from where those of its priority are."""
        (held,) = together(worker, 1)
        assert worker._intake.unsettled[worker._tag(held)].routing_key == high
        return held

    ranked.publish([call(priority=9, eta=now_us() + 50_000)])
    for action in (Action.RETRY, Action.REJECT):
        assert subscription.settle([Decision(comes_to(subscription), action)]) == []
    subscription.release([comes_to(subscription)])
    assert subscription.settle([Decision(comes_to(subscription), Action.DEAD)]) == []
    assert ranked.requeue_dead(letter.token for letter in ranked.dead_letters("q", 9)) == 1
    assert subscription.begin([comes_to(subscription)]) == []
    sever(subscription)
    ended(subscription)
    again = ranked.subscribe(["q"], 60.0, {})
    held = comes_to(again)
    assert (held.crashes, held.suspect) == (1, True)
    assert again.settle([Decision(held)]) == []
    again.close()


def test_what_comes_while_a_worker_waits_is_taken_by_its_priority(ranked):
    subscription = ranked.subscribe(["q", "r"], 60.0, {})
    taken = []
    waiting = threading.Thread(target=lambda: taken.extend(subscription.fetch(1, time.monotonic() + SOON_S)))
    waiting.start()
    ranked.publish([call(body=b"first")])
    waiting.join()
    ranked.publish([call(body=b"low"), call(body=b"high", priority=9), call("r", body=b"other", priority=5)])
    found = [bodies(together(subscription, 1))[0] for _ in range(3)]
    assert bodies(taken) == [b"first"]
    assert found.index(b"high") < found.index(b"low")
    assert at_once(subscription) == []
    subscription.close()


# -- the management plugin ------------------------------------------------------------------------------


class Plugin:
    """Answers as RabbitMQ's management plugin does, with what it is given for each path."""

    def __init__(self) -> None:
        self.answers: dict[str, object] = {}
        self.logins: set[str | None] = set()
        plugin = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                plugin.logins.add(self.headers["Authorization"])
                found = plugin.answers.get(self.path.partition("?")[0])
                body = found if isinstance(found, bytes) else json.dumps(found).encode()
                self.send_response(404 if found is None else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def plugin() -> Iterator[Plugin]:
    plugin = Plugin()
    yield plugin
    plugin.close()


def test_who_does_not_say_where_the_plugin_is_is_told_to(url, open_at):
    broker = open_at(url)
    assert Capability.INSPECT not in broker.capabilities
    for ask in (broker.queues, broker.workers):
        with pytest.raises(NotSupported, match="say management=http://host:15672"):
            ask()


def test_queues_are_listed_by_what_the_plugin_and_amqp_tell(url, open_at, plugin, vhost):
    broker = open_at(f"{url}&queue_type=quorum&priorities=2&management=http://127.0.0.1:{plugin.port}/")
    assert Capability.INSPECT in broker.capabilities
    broker.publish([*numbered(3), call(priority=9), call("idle"), call(eta=now_us() + 60_000_000)])
    subscription = broker.subscribe(["idle"], 60.0, {})
    assert subscription.settle([Decision(it) for it in together(subscription, 1)]) == []
    subscription.close()
    unacked = {
        "q": 1, "q.priority.1": 2, "q.dead": 0, "q.held.0f0e0d0c-0000-4000-8000-000000000000": 4, "idle": 0,
        "idle.priority.1": 0, "idle.dead": 0, "fastq.delay.quorum.15": 0, "fastq.astray": 0,
    }  # fmt: skip
    prefix = broker._url.prefix
    rows = [{"name": prefix + name, "messages_unacknowledged": count} for name, count in unacked.items()]
    plugin.answers[f"/api/queues/{vhost}"] = [*rows, {"name": "others.dead"}, {"name": f"{prefix}no-fastq-queue"}]
    delayed, queue = broker.queues()
    assert delayed == QueueInfo("fastq.delay", 0, 1, 0, 0, 0.0)
    assert queue[:-1] == ("q", 4, 0, 7, 0)
    assert 0 < queue.oldest_age_s < SOON_S
    assert plugin.logins == {"Basic Z3Vlc3Q6Z3Vlc3Q="}


def test_workers_are_those_of_the_same_prefix_who_say_so(url, open_at, plugin, vhost):
    broker = open_at(f"{url}&management=http://127.0.0.1:{plugin.port}")
    told = {"owner": "o", "prefix": broker._url.prefix, "about": {"host": "h"}}
    others = {"owner": "p", "prefix": "other.", "about": {}}
    plugin.answers[f"/api/vhosts/{vhost}/connections"] = [
        {"client_properties": {"fastq": told}, "timeout": 30}, {"client_properties": {"fastq": others}, "timeout": 30},
        {"client_properties": {"product": "pika"}}, {},
    ]  # fmt: skip
    assert broker.workers() == [("o", 60, {"host": "h"})]


def test_a_plugin_that_does_not_answer_as_it_should_is_unavailable(url, open_at, plugin, vhost):
    broker = open_at(f"{url}&management=http://127.0.0.1:{plugin.port}")
    with pytest.raises(BrokerUnavailable, match="answers 404 Not Found; the user"):
        broker.workers()
    plugin.answers[f"/api/queues/{vhost}"] = b"<html>"
    with pytest.raises(BrokerUnavailable, match="can't be asked"):
        broker.queues()
    nowhere = open_at(f"{url}&management=http://127.0.0.1:1")
    with pytest.raises(BrokerUnavailable, match="can't be asked at http://127.0.0.1:1"):
        nowhere.workers()


# -- the doctor -----------------------------------------------------------------------------------------


def test_the_server_and_what_it_promises_are_told(url, open_at, caplog):
    with caplog.at_level(logging.INFO):
        found = open_at(f"{url}&queue_type=quorum").diagnose()
    assert found.system.startswith("RabbitMQ ")
    assert "guest:***@" in found.system
    assert "a minority of its nodes" in found.promise
    assert found.weaknesses == ()
    (weakness,) = open_at(f"{url}&queue_type=classic").diagnose().weaknesses
    assert "one copy" in weakness.what
    assert "queue_type=quorum" in weakness.remedy
    with pytest.raises(BrokerUnavailable):
        open_at("amqp://127.0.0.1:1").diagnose()
