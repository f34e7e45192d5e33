"""Redis failing, refusing, forgetting and coming back: each with a clear error or recovery."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from fastq.backends import open_backend
from fastq.broker import Action, Decision
from fastq.brokers import open_broker
from fastq.completion import Completed, completion_of
from fastq.errors import BackendUnavailable, BrokerFull, BrokerUnavailable, LeaseLost, PublishUnknown
from fastq.message import Message
from fastq.systems import redis_scripts
from fastq.testing.backends import success
from fastq.testing.broker_case import at_once, bodies, call, numbered, soon
from fastq.testing.faults import Proxy
from tests.conftest import require_service
from tests.redis_server import RedisServer, free_port, has_redis


@pytest.fixture
def start(tmp_path):
    """Start servers; they are ended after the test."""
    require_service("Redis", has_redis)
    servers = []

    def start(*options: str, **settings) -> RedisServer:
        servers.append(RedisServer(tmp_path / f"redis{len(servers)}", *options, **settings).start())
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def server(start):
    return start()


@pytest.fixture
def broker(server):
    broker = open_broker(server.url)
    yield broker
    broker.close()


@pytest.fixture
def backend(server):
    backend = open_backend(server.url, 60.0)
    yield backend
    backend.close()


@pytest.fixture
def subscription(broker):
    subscription = broker.subscribe(["q"], 60.0, {})
    yield subscription
    try:
        subscription.close()
    except BrokerUnavailable:
        subscription._doze.close()


# -- forgetting ---------------------------------------------------------------------------------------


def test_scripts_that_are_flushed_are_loaded_again(server, broker, backend, subscription):
    """Row 29."""
    completion = completion_of(subscription, broker.system, backend)
    for _ in range(3):
        server.command("SCRIPT", "FLUSH")
        broker.publish([call(), call("other")])
        server.command("SCRIPT", "FLUSH")
        (delivery,) = soon(subscription)
        server.command("SCRIPT", "FLUSH")
        outcome = success(Message.decode(delivery.frame).id)
        assert completion.complete([Completed(Decision(delivery), outcome)]) == []
        assert backend.load([outcome.id]) == [outcome]
    assert broker.depth("other") == 3


def test_after_flushall_a_worker_subscribes_anew_and_all_goes_on(server, broker, subscription):
    """Row 29."""
    broker.publish(numbered(2))
    held = soon(subscription, 1)
    server.command("FLUSHALL")
    with pytest.raises(LeaseLost):
        at_once(subscription)
    with pytest.raises(LeaseLost):
        subscription.renew()
    assert subscription.settle([Decision(it) for it in held]) == held
    again = broker.subscribe(["q"], 60.0, {})
    broker.publish([call(body=b"new")])
    assert bodies(soon(again)) == [b"new"]
    again.renew()
    assert [info.name for info in broker.queues()] in ([], ["q"])  # a name is listed again within seconds
    again.close()


# -- restarting ---------------------------------------------------------------------------------------


def test_what_was_accepted_survives_the_kill_of_a_server_that_syncs(start):
    """Row 29."""
    server = start("appendonly yes", "appendfsync always")
    broker = open_broker(server.url)
    subscription = broker.subscribe(["q"], 60.0, {})
    broker.publish(numbered(3))
    (held,) = soon(subscription, 1)
    server.restart()
    assert bodies(soon(subscription)) == [b"1", b"2"]
    assert subscription.settle([Decision(held)]) == []
    subscription.close()
    assert broker.depth("q") == 2
    broker.close()


def test_a_waiting_fetch_reports_that_its_server_died_and_the_next_one_goes_on(server, broker, subscription):
    failed = threading.Event()

    def fetch() -> None:
        with pytest.raises(BrokerUnavailable):
            subscription.fetch(1, None)
        failed.set()

    thread = threading.Thread(target=fetch)
    thread.start()
    while not server.command("CLIENT", "LIST", "TYPE", "NORMAL").count(b"cmd=blpop"):
        pass
    server.restart()
    assert failed.wait(10)
    thread.join()
    with pytest.raises(LeaseLost):
        at_once(subscription)


def test_a_caller_that_waits_hears_of_results_after_a_restart(start):
    server = start("appendonly yes", "appendfsync always")
    backend = open_backend(server.url, 60.0)
    one, two = success(), success()
    backend.store([one])
    waiting = backend.wait([one.id, two.id], time.monotonic() + 20)
    assert next(waiting) == one
    server.restart()
    threading.Timer(0.3, backend.store, [[two]]).start()
    assert list(waiting) == [two]
    backend.close()


def test_a_caller_that_waits_is_told_when_the_server_does_not_come_back(server, backend):
    (one,) = outcomes = [success()]
    backend.store(outcomes)
    waiting = backend.wait([one.id, success().id], time.monotonic() + 20)
    assert next(waiting) == one
    server.kill()
    with pytest.raises(BackendUnavailable, match="check the address"):
        next(waiting)


def test_a_server_that_hangs_is_given_up_in_time(server):
    broker = open_broker(f"{server.url}?timeout=0.3")
    broker.publish([call()])
    os.kill(server.pid, signal.SIGSTOP)
    try:
        with pytest.raises(PublishUnknown, match="no answer in the time allowed"):
            broker.publish([call()])
        with pytest.raises(BrokerUnavailable):
            broker.depth("q")
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert broker.depth("q") == 2
    broker.close()


# -- answers that are lost ----------------------------------------------------------------------------


@pytest.fixture
def proxy(server):
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def through(proxy):
    broker = open_broker(f"redis://127.0.0.1:{proxy.port}")
    yield broker
    broker.close()


def test_a_publish_whose_answer_is_lost_is_in_doubt(proxy, through):
    through.publish([call()])
    proxy.cuts = 1
    with pytest.raises(PublishUnknown):
        through.publish([call()])
    assert through.depth("q") == 2


def test_messages_handed_out_in_an_answer_that_was_lost_come_again(proxy, through):
    """Row 23."""
    subscription = through.subscribe(["q"], 60.0, {})
    through.publish(numbered(4))
    (known,) = soon(subscription, 1)
    proxy.cuts = 1
    with pytest.raises(BrokerUnavailable):
        soon(subscription, 2)
    again = soon(subscription)
    assert bodies(again) == [b"1", b"2", b"3"]
    assert [(it.crashes, it.suspect) for it in again] == [(0, False)] * 3
    assert subscription.settle([Decision(it) for it in [known, *again]]) == []
    subscription.close()


def test_settling_again_after_a_lost_answer_calls_the_deliveries_lost(proxy, through):
    """Row 21."""
    subscription = through.subscribe(["q"], 60.0, {})
    through.publish(numbered(3))
    first, *deliveries = soon(subscription)
    assert subscription.settle([Decision(first)]) == []  # by now the server knows the script
    proxy.cuts = 1
    with pytest.raises(BrokerUnavailable):
        subscription.settle([Decision(it) for it in deliveries])
    assert subscription.settle([Decision(it) for it in deliveries]) == deliveries
    assert through.depth("q") == 0
    subscription.close()


# -- refusing -----------------------------------------------------------------------------------------


def test_without_memory_publishing_is_refused_and_consuming_goes_on(server, broker, backend, subscription):
    """Row 26."""
    broker.publish(numbered(3))
    broker.publish([call(priority=5), call(body=b"x" * 1000)])
    server.command("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(BrokerFull, match="maxmemory"):
        broker.publish([call()])
    with pytest.raises(BrokerFull):
        broker.publish([call(), call("other")])
    another = broker.subscribe(["q"], 60.0, {})
    another.renew()
    deliveries = soon(subscription)
    assert len(deliveries) == 5
    assert subscription.begin(deliveries[:1]) == []
    subscription.release(deliveries[1:2])
    completion = completion_of(subscription, broker.system, backend)
    outcome = success(Message.decode(deliveries[0].frame).id)
    rest = [
        Completed(Decision(it, action), None)
        for it, action in zip(deliveries[2:], (Action.REJECT, Action.RETRY, Action.DEAD), strict=True)
    ]
    assert completion.complete([Completed(Decision(deliveries[0]), outcome), *rest]) == []
    assert backend.load([outcome.id]) == [outcome]
    assert len(soon(another)) == 3
    another.close()
    server.command("CONFIG", "SET", "maxmemory", "0")
    broker.publish([call()])


@pytest.mark.parametrize("name", ["ready", "seq", "wake"])
def test_a_key_of_the_wrong_type_is_reported_with_a_remedy(server, broker, name):
    server.command("SADD" if name != "seq" else "LPUSH", f"{broker._redis.base('q')}:{name}", "x")
    with pytest.raises(BrokerUnavailable, match="another program"):
        broker.publish([call()])


def test_a_wrong_password_is_reported_and_none_is_shown(start):
    """Row 38."""
    server = start("requirepass right")
    for login in (":wrong@", "", "nobody:wrong@"):
        broker = open_broker(f"redis://{login}127.0.0.1:{server.port}")
        with pytest.raises(BrokerUnavailable, match="password") as failure:
            broker.publish([call()])
        assert "wrong" not in str(failure.value).replace("WRONGPASS", "").replace("wrong number", "")
        broker.close()
    broker = open_broker(f"redis://:right@127.0.0.1:{server.port}")
    broker.publish([call()])
    assert "right" not in repr(broker._redis.url)
    broker.close()


def test_a_database_that_is_not_there_is_reported(server):
    broker = open_broker(f"redis://127.0.0.1:{server.port}/99")
    with pytest.raises(BrokerUnavailable, match="databases"):
        broker.publish([call()])
    broker.close()


def test_a_server_that_is_not_there_is_reported():
    broker = open_broker(f"redis://127.0.0.1:{free_port()}")
    with pytest.raises(BrokerUnavailable, match="check the address"):
        broker.publish([call()])
    broker.close()


def test_a_replica_is_reported(start):
    """Row 28."""
    master = start()
    replica = start(f"replicaof 127.0.0.1 {master.port}")
    broker = open_broker(replica.url)
    with pytest.raises(BrokerUnavailable, match="replica"):
        broker.publish([call()])
    broker.close()


# -- others in our keys -------------------------------------------------------------------------------


def test_what_a_stranger_pushes_is_delivered_byte_for_byte(server, broker, subscription):
    frames = [b'{"task": "shop.add", "args": [4, 4]}', b"\0\xff not an envelope", b""]
    for frame in frames:
        server.command("LPUSH", "{fastq:q}:in", frame)
    assert broker.depth("q") == 3
    assert [it.frame for it in soon(subscription)] == frames


def test_a_stranger_can_wake_a_worker(server, subscription):
    started = time.monotonic()
    threading.Timer(0.1, lambda: [server.command("LPUSH", f"{{fastq:q}}:{it}", b"{}") for it in ("in", "wake")]).start()
    assert [it.frame for it in soon(subscription)] == [b"{}"]
    assert time.monotonic() - started < redis_scripts.LOOK_AGAIN_US / 1e6 / 2
