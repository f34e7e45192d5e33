"""RabbitMQ killed, hung, full, and changed under our hands: each with a clear error or recovery."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fastq.backends import open_backend
from fastq.broker import Action, Decision
from fastq.brokers import open_broker
from fastq.errors import (
    BackendError,
    BackendUnavailable,
    BrokerError,
    BrokerFull,
    BrokerUnavailable,
    LeaseLost,
    PublishUnknown,
)
from fastq.message import now_us
from fastq.testing.backends import success
from fastq.testing.broker_case import SOON_S, at_once, bodies, call, numbered, soon, together
from fastq.testing.clocks import RealClock
from fastq.testing.faults import Proxy
from tests import rabbit_server
from tests.conftest import require_service
from tests.far_host import FarHost, can_make_hosts
from tests.ledger import eventually
from tests.rabbit_server import RabbitServer, can_start

pytestmark = pytest.mark.soak  # most start a server of their own, and wait for what it takes a server to fail

QUEUE_TYPES = ["classic", "quorum"]


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """The node is another process after a restart; it is ended after the last test."""


@pytest.fixture(scope="module")
def vhost():
    with rabbit_server.own_vhost() as name:
        yield name


@pytest.fixture(autouse=True)
def queues_end_with_their_test(vhost):
    with rabbit_server.queues_deleted(vhost):
        yield


@pytest.fixture(scope="module")
def own_node(tmp_path_factory):
    require_service("RabbitMQ", can_start)
    node = RabbitServer(tmp_path_factory.mktemp("rabbit"))
    yield node
    node.kill()


@pytest.fixture
def node(own_node):
    """A node of these tests alone, which runs."""
    if not own_node.runs:
        own_node.start()
    return own_node


@pytest.fixture
def open_at(request):
    """Open brokers whose queues are of this test alone; close them after it."""
    prefixes: dict[str, str] = {}
    with contextlib.ExitStack() as opened:

        def open_at(url: str, **options):
            prefix = prefixes.setdefault(options.get("queue_type", ""), rabbit_server.prefix_of(request.node.name))
            broker = open_broker(f"{url}?prefix={prefix}&" + "&".join(f"{k}={v}" for k, v in options.items()))
            opened.callback(broker.close)
            return broker

        yield open_at


@pytest.fixture
def broker(open_at, vhost):
    return open_at(rabbit_server.url_of(vhost))


@pytest.fixture
def subscription(broker):
    subscription = broker.subscribe(["q"], 60.0, {})
    yield subscription
    subscription.close()


def sever(subscription) -> None:
    """Cut a subscription's connection as the death of its process does."""
    subscription._intake.link._wire._socket.shutdown(socket.SHUT_RDWR)


def told_that_it_ended(subscription) -> None:
    """Wait until a subscription says that its lease has ended, as it does when the server is there again."""
    give_up = time.monotonic() + 60
    while True:
        try:
            subscription.renew()
        except LeaseLost:
            return
        except BrokerUnavailable:
            assert time.monotonic() < give_up
            time.sleep(0.05)


def grown_old(broker, *messages) -> None:
    """Have queues declared, and wait until a kill of the server can't take them back.

    RabbitMQ 3.10 writes down what quorum queues there are some time after it has made one, and does not say when.
    """
    broker.publish(messages)
    RealClock().advance(5)
    broker.purge("q")


# -- poison and bystanders ----------------------------------------------------------------------------


@pytest.mark.parametrize("queue_type", QUEUE_TYPES)
def test_a_message_that_kills_its_workers_is_charged_and_those_beside_it_are_not(open_at, vhost, queue_type):
    """Row 9."""
    broker = open_at(rabbit_server.url_of(vhost), queue_type=queue_type)
    broker.publish([call(body=b"pill"), *numbered(4)])
    charged = []
    for _ in range(4):
        worker = broker.subscribe(["q"], 60.0, {})
        held = {bodies([it])[0]: it for it in together(worker, 5)}
        pill = held.pop(b"pill")
        charged.append((pill.crashes, pill.suspect))
        assert all(it.crashes == 0 for it in held.values())
        if pill.suspect:
            assert worker.begin([pill]) == []
        sever(worker)
        told_that_it_ended(worker)
        worker.close()
    assert charged == [(0, False), (0, True), (1, True), (2, True)]


def test_what_has_begun_keeps_its_fence_rising(broker):
    broker.publish([call()])
    fences = []
    for _ in range(3):
        worker = broker.subscribe(["q"], 60.0, {})
        (held,) = soon(worker)
        fences.append(held.fence)
        assert worker.begin([held]) == []
        sever(worker)
        told_that_it_ended(worker)
        worker.close()
    assert fences == sorted(set(fences))


def test_what_has_begun_can_be_settled_in_every_way(broker, subscription):
    broker.publish(numbered(4))
    first = soon(subscription)
    sever(subscription)
    told_that_it_ended(subscription)
    again = broker.subscribe(["q"], 60.0, {})
    taken = together(again, len(first))
    assert again.begin(taken) == []
    decisions = [Decision(it, action, reason="because") for it, action in zip(taken, Action, strict=True)]
    assert again.settle(decisions) == []
    assert again.settle(decisions) == taken
    assert sorted((it.crashes, it.suspect) for it in together(again, 2)) == [(0, False), (1, False)]
    assert [letter.reason for letter in broker.dead_letters("q", 9)] == ["because"]
    again.close()
    assert again.owner not in rabbit_server.rabbitmqctl("list_queues", "-p", broker._url.vhost, "name")


# -- long tasks ---------------------------------------------------------------------------------------


def test_a_long_task_outlives_the_time_that_the_server_allows(open_at, node):
    """Row 36."""
    node.control("eval", "application:set_env(rabbit, channel_tick_interval, 500).")
    node.control("eval", "application:set_env(rabbit, consumer_timeout, 3000).")
    try:
        broker = open_at(node.url, consumer_timeout=3)
        renewed, idle = (broker.subscribe([queue], 60.0, {}) for queue in ("long", "forgotten"))
        broker.publish([call("long"), call("forgotten")])
        (long,), (forgotten,) = soon(renewed), soon(idle)
        end = time.monotonic() + 8
        while time.monotonic() < end:
            renewed.renew()
            time.sleep(0.1)
        assert renewed.settle([Decision(long)]) == []
        assert idle.settle([Decision(forgotten)]) == [forgotten]
        assert broker.depth("long") == 0
        assert broker.depth("forgotten") == 1
        renewed.close()
        idle.close()
    finally:
        node.control("eval", "application:set_env(rabbit, consumer_timeout, 1800000).")


# -- changed under our hands --------------------------------------------------------------------------


def test_a_queue_that_is_deleted_is_declared_anew_by_who_publishes_and_by_who_consumes(broker, subscription, caplog):
    """Row 36."""
    broker.publish([call()])
    (held,) = soon(subscription)
    name = broker._topology.name("q")
    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(subscription.fetch, 1, time.monotonic() + SOON_S)
        rabbit_server.rabbitmqctl("delete_queue", "-p", broker._url.vhost, name)
        broker.publish([call(body=b"new")])
        fetched = fetching.result()
    assert bodies(fetched) == [b"new"]
    assert "was deleted" in caplog.text
    assert subscription.settle([Decision(held), Decision(fetched[0])]) == []
    rabbit_server.rabbitmqctl("delete_queue", "-p", broker._url.vhost, name)
    broker.publish(numbered(3))
    assert bodies(together(subscription, 3)) == [b"0", b"1", b"2"]


def test_a_queue_that_is_there_already_is_used_as_it_is_or_its_difference_explained(open_at, vhost, caplog):
    url = rabbit_server.url_of(vhost)
    classic = open_broker(f"{url}?queue_type=classic&prefix=same.")
    classic.publish([call()])
    with caplog.at_level(logging.WARNING):
        either = open_broker(f"{url}?prefix=same.")
        either.publish([call()])
    assert "used as it is" in caplog.text
    strict = open_broker(f"{url}?queue_type=quorum&prefix=same.")
    with pytest.raises(Exception, match=r"(?s)x-queue-type.*fastq wants.*quorum"):
        strict.publish([call()])
    assert classic.depth("q") == 2
    for broker in (classic, either, strict):
        broker.close()


def test_whoever_is_not_allowed_is_told(open_at, vhost):
    """Row 36."""
    rabbit_server.rabbitmqctl("add_user", user := f"nobody-{vhost[-8:]}", "secret")
    try:
        url = rabbit_server.url_of(vhost).replace("guest:guest", f"{user}:secret")
        with pytest.raises(BrokerUnavailable, match=r"lets nobody in.*check user, password and virtual host"):
            open_at(url).publish([call()])
        rabbit_server.rabbitmqctl("set_permissions", "-p", vhost, user, ".*", ".*", ".*")
        broker = open_at(url)
        broker.publish([call()])
        rabbit_server.rabbitmqctl("set_permissions", "-p", vhost, user, "^$", "^$", "^$")
        with pytest.raises(BrokerUnavailable, match="permissions that docs/rabbitmq.rst lists"):
            open_at(url).publish([call()])  # those that are connected may go on, as the server remembers
        with pytest.raises(BrokerUnavailable, match="permissions that docs/rabbitmq.rst lists"):
            broker.subscribe(["other"], 60.0, {})
    finally:
        rabbit_server.rabbitmqctl("delete_user", user)


def test_permissions_that_are_taken_away_are_missed_by_name_and_work_goes_on_with_them(open_at, vhost):
    rabbit_server.rabbitmqctl("add_user", user := f"fired-{vhost[-8:]}", "secret")
    try:
        rabbit_server.rabbitmqctl("set_permissions", "-p", vhost, user, ".*", ".*", ".*")
        broker = open_at(rabbit_server.url_of(vhost).replace("guest:guest", f"{user}:secret"))
        broker.publish(numbered(2))
        subscription = broker.subscribe(["q"], 60.0, {})
        held = together(subscription, 2)
        rabbit_server.rabbitmqctl("clear_permissions", "-p", vhost, user)
        subscription.serve(["other"])
        with pytest.raises((LeaseLost, BrokerUnavailable), match=r"permissions that docs/rabbitmq.rst|nobody in"):
            subscription.fetch(1, time.monotonic())
        assert subscription.settle([Decision(it) for it in held]) == held
        with pytest.raises(BrokerUnavailable, match=r"permissions that docs/rabbitmq.rst|lets nobody in"):
            broker.subscribe(["q"], 60.0, {})
        rabbit_server.rabbitmqctl("set_permissions", "-p", vhost, user, ".*", ".*", ".*")
        told_that_it_ended(subscription)
        subscription.close()
        again = broker.subscribe(["q"], 60.0, {})
        assert sorted(bodies(together(again, 2))) == [b"0", b"1"]
        again.close()
    finally:
        rabbit_server.rabbitmqctl("delete_user", user)


def test_a_wrong_password_is_not_shown(vhost):
    broker = open_broker(rabbit_server.url_of(vhost).replace("guest@", "sesame@"))
    with pytest.raises(BrokerUnavailable, match=r"guest:\*\*\*@") as caught:
        broker.publish([call()])
    assert "sesame" not in str(caught.value)
    broker.close()


def test_a_message_that_is_too_large_is_refused_and_others_are_not(open_at, node):
    """Row 36."""
    node.control("eval", "application:set_env(rabbit, max_message_size, 10000).")
    try:
        broker = open_at(node.url)
        with pytest.raises(BrokerError, match=r"(?i)max size.*max_message_size") as caught:
            broker.publish([call(body=bytes(20_000))])
        assert not isinstance(caught.value, PublishUnknown)
        broker.publish([call()])
        assert broker.depth("q") == 1
    finally:
        node.control("eval", "application:set_env(rabbit, max_message_size, 134217728).")


def test_a_result_that_is_too_large_is_refused_for_good_and_others_are_not(node):
    node.control("eval", "application:set_env(rabbit, max_message_size, 10000).")
    backend = open_backend(node.url.replace("amqp:", "rpc:"), 60.0)
    try:
        small, large = success(), success(body=bytes(20_000))
        small.reply_to = large.reply_to = backend.reply_to
        with pytest.raises(BackendError, match=r"(?i)max size.*max_message_size") as caught:
            backend.store([large])
        assert not isinstance(caught.value, BackendUnavailable)
        with pytest.raises(BackendError):
            backend.store([small, large])
        backend.store([small])
        assert [it.id for it in backend.wait([small.id], time.monotonic() + SOON_S)] == [small.id]
    finally:
        backend.close()
        node.control("eval", "application:set_env(rabbit, max_message_size, 134217728).")


# -- full, hung, gone -----------------------------------------------------------------------------------


ALARMS = {
    "memory": ("set_vm_memory_high_watermark", "0.0000001", "0.4"),
    "disk": ("set_disk_free_limit", "1000000GB", "1MB"),
}


@pytest.mark.parametrize("alarm", ALARMS)
def test_a_server_out_of_memory_or_disk_takes_no_messages_and_gives_what_it_has(open_at, node, alarm):
    """Row 30."""
    command, low, enough = ALARMS[alarm]
    broker = open_at(node.url, timeout=1)
    broker.publish(numbered(3))
    subscription = broker.subscribe(["q"], 60.0, {})
    node.control(command, low)
    try:
        with pytest.raises((PublishUnknown, BrokerFull), match=f"low on {alarm}"):
            broker.publish([call(body=b"unknown")])
        with pytest.raises(BrokerFull, match="nothing was published"):
            broker.publish([call(body=b"refused")])
        deliveries = soon(subscription)
        assert bodies(deliveries)[:3] == [b"0", b"1", b"2"]
        assert subscription.settle([Decision(it) for it in deliveries]) == []
        subscription.renew()
    finally:
        node.control(command, enough)
    broker.publish([call(body=b"again")])
    assert b"again" in bodies(together(subscription, 1)) + bodies(at_once(subscription))
    subscription.close()


def test_a_server_that_hangs_is_given_up_in_time(open_at, node):
    broker = open_at(node.url, timeout=1, heartbeat=1)
    broker.publish([call()])
    subscription = broker.subscribe(["q"], 60.0, {})
    assert len(soon(subscription)) == 1
    node.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(PublishUnknown, match="does not answer"):
            broker.publish([call()])
        with pytest.raises(BrokerUnavailable):
            subscription.fetch(1, time.monotonic() + 4)
        assert time.monotonic() - began < 15
        subscription.close()
    finally:
        node.signal(signal.SIGCONT)
    eventually(lambda: broker.depth("q") >= 1)


def test_what_was_accepted_survives_the_kill_of_the_server(open_at, node):
    brokers = [open_at(node.url, queue_type=queue_type) for queue_type in QUEUE_TYPES]
    subscriptions = [broker.subscribe(["q"], 60.0, {}) for broker in brokers]
    for broker in brokers:
        grown_old(broker, call(), call("other", eta=now_us() + 45_000_000))
    due = now_us() + 45_000_000
    held = []
    for broker, subscription in zip(brokers, subscriptions, strict=True):
        broker.publish([*numbered(20), call(body=b"late", eta=due)])
        held.append(soon(subscription, 5))
        assert subscription.settle([Decision(held[-1][0])]) == []
        subscription._intake.link.sync()
    node.kill()
    for broker, subscription in zip(brokers, subscriptions, strict=True):
        with pytest.raises((BrokerUnavailable, PublishUnknown), match="check the address, and that it runs"):
            broker.publish([call()])
        with pytest.raises(BrokerUnavailable):
            while subscription.fetch(1, time.monotonic() + 0.1):  # what had been pushed by then
                pass
    node.start()
    for broker, subscription, taken in zip(brokers, subscriptions, held, strict=True):
        told_that_it_ended(subscription)
        assert subscription.settle([Decision(it) for it in taken]) == taken
        subscription.close()
        again = broker.subscribe(["q"], 60.0, {})
        found, give_up = {}, time.monotonic() + 90
        while b"late" not in found and time.monotonic() < give_up:
            found.update((bodies([it])[0], (it, now_us())) for it in again.fetch(50, give_up))
        # Of acknowledgements, nothing is promised: the first may be there again.
        assert found.keys() | {b"0"} == {b"late", *(b"%d" % number for number in range(20))}
        assert all(found[b"%d" % number][0].suspect for number in range(1, 5))
        assert found[b"late"][1] >= due
        assert again.settle([Decision(it) for it, _ in found.values()]) == []
        again.close()


@pytest.mark.parametrize("queue_type", QUEUE_TYPES)
def test_nothing_is_lost_when_the_server_is_killed_while_all_are_busy(open_at, node, queue_type):
    """Row 19."""
    broker = open_at(node.url, queue_type=queue_type)
    grown_old(broker, call())
    accepted: set[bytes] = set()
    attempted: set[bytes] = set()
    settled: set[bytes] = set()
    stop = threading.Event()

    def publish() -> None:
        number = 0
        while not stop.is_set():
            batch = [call(body=b"%d" % (number + at)) for at in range(20)]
            number += 20
            attempted.update(it.body for it in batch)
            try:
                broker.publish(batch)
            except BrokerError:
                time.sleep(0.1)
            else:
                accepted.update(it.body for it in batch)

    def consume() -> None:
        subscription = broker.subscribe(["q"], 30.0, {})
        while not (stop.is_set() and accepted <= settled):
            try:
                for it in (deliveries := subscription.fetch(50, time.monotonic() + 0.2)):
                    settled.add(bodies([it])[0])
                if deliveries:
                    subscription.settle([Decision(it) for it in deliveries])
            except LeaseLost:
                with contextlib.suppress(BrokerUnavailable):
                    subscription.close()
                    subscription = broker.subscribe(["q"], 30.0, {})
            except BrokerUnavailable:
                time.sleep(0.05)
        subscription.close()

    threads = [threading.Thread(target=publish, daemon=True), threading.Thread(target=consume, daemon=True)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: len(settled) > 500, 60)
        node.kill()
        before = len(accepted)
        node.start()
        eventually(lambda: len(accepted) > before + 200, 60)
    finally:
        stop.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert accepted <= settled <= attempted


# -- half-open ------------------------------------------------------------------------------------------


def test_a_line_that_has_gone_silent_is_noticed_and_replaced(open_at, vhost):
    """Row 22."""
    proxy = Proxy(rabbit_server.PORT)
    try:
        broker = open_at(f"amqp://guest:guest@127.0.0.1:{proxy.port}/{vhost}", heartbeat=1, timeout=2)
        broker.publish([call()])
        subscription = broker.subscribe(["q"], 60.0, {})
        (held,) = soon(subscription)
        proxy.silence()
        with pytest.raises(PublishUnknown):
            broker.publish([call()])
        began = time.monotonic()
        with pytest.raises(LeaseLost):
            subscription.fetch(1, None)
        assert time.monotonic() - began < 10
        assert subscription.settle([Decision(held)]) == [held]
        again = broker.subscribe(["q"], 60.0, {})
        taken = soon(again)[0]
        assert (taken.suspect, taken.fence) == (True, 2)
        assert again.settle([Decision(taken)]) == []
        again.close()
        subscription.close()
    finally:
        proxy.close()


@pytest.fixture
def far_host():
    require_service("ip netns", can_make_hosts)
    host = FarHost()
    yield host
    host.close()


def test_a_cable_that_is_pulled_is_noticed_at_both_ends(open_at, vhost, far_host):
    proxy = far_host.proxy_to(rabbit_server.PORT)
    broker = open_at(f"amqp://guest:guest@{far_host.address}:{proxy.port}/{vhost}", heartbeat=1, timeout=2)
    broker.publish([call()])
    subscription = broker.subscribe(["q"], 60.0, {})
    (held,) = soon(subscription)
    far_host.pull()
    with pytest.raises(PublishUnknown):
        broker.publish([call()])
    with pytest.raises(BrokerUnavailable):
        subscription.fetch(1, time.monotonic() + 6)
    assert subscription.settle([Decision(held)]) == [held]
    near = open_at(rabbit_server.url_of(vhost))
    other = near.subscribe(["q"], 60.0, {})
    taken = soon(other)[0]
    assert (taken.frame, taken.suspect, taken.fence) == (held.frame, True, 2)
    assert other.settle([Decision(taken)]) == []
    other.close()
    far_host.plug()
    told_that_it_ended(subscription)
    subscription.close()
    broker.publish([call(body=b"again")])
