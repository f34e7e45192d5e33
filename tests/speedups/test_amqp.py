"""The AMQP link against a real server: both bodies keep one contract."""

from __future__ import annotations

import os
import random
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import pytest

from fastq._speedups.amqp_link import Link
from fastq._speedups.amqp_values import AmqpError, Outgoing, Properties, Received, Unconfirmed

from .amqp_bodies import link_class, open_link


@pytest.fixture
def link(kind: str) -> Iterator[Link]:
    link = open_link(kind)
    yield link
    link.close()


@pytest.fixture
def queue(link: Link) -> str:
    """A queue that is gone with the connection, and takes any number of messages."""
    return link.declare_queue(f"fastq-test-{uuid.uuid4()}", durable=False, exclusive=True).name


def soon(seconds: float = 20.0) -> float:
    return time.monotonic() + seconds


def to(queue: str, *bodies: bytes, **properties: Any) -> list[Outgoing]:
    shared = Properties(**properties)
    return [Outgoing("", queue, body, shared) for body in bodies]


def received(link: Link, count: int) -> list[Received]:
    found: list[Received] = []
    while len(found) < count:
        more = link.receive(count - len(found), soon())
        assert more, f"only {len(found)} of {count} messages arrived"
        found += more
    return found


EVERY_PROPERTY = Properties(
    content_type="application/x-test",
    content_encoding="binary",
    headers={"one": 1},
    delivery_mode=2,
    priority=9,
    correlation_id="corrélation",
    reply_to="reply",
    expiration="60000",
    message_id="id",
    timestamp=1_700_000_000,
    type="call",
    user_id="guest",
    app_id="app",
)


# -- connecting -------------------------------------------------------------------------------------


def test_the_server_says_who_it_is(link: Link) -> None:
    assert link.server["product"] == "RabbitMQ"
    assert link.server["capabilities"]["publisher_confirms"] is True  # type: ignore[call-overload,index]
    assert link.frame_max == 131_072
    assert link.blocked == ""


def test_a_wrong_password_is_a_permission_error(kind: str) -> None:
    with pytest.raises(PermissionError, match="ACCESS_REFUSED"):
        open_link(kind, login=("guest", "wrong"))


def test_a_virtual_host_that_is_not_there_is_a_permission_error(kind: str) -> None:
    with pytest.raises(PermissionError, match="vhost no-such"):
        open_link(kind, vhost="no-such")


def test_a_login_by_certificate_is_not_offered_without_tls(kind: str) -> None:
    with pytest.raises(PermissionError, match="EXTERNAL"):
        open_link(kind, login=None)


def test_a_port_that_nobody_listens_on_is_a_connection_error(kind: str) -> None:
    with pytest.raises(ConnectionError):
        open_link(kind, port=1)


def test_a_closed_link_says_so_and_may_be_closed_again(link: Link) -> None:
    assert link.fileno() >= 0
    link.close()
    link.close()

    assert link.fileno() == -1
    for use in (link.sync, link.beat, lambda: link.receive(1, 0.0), lambda: link.publish(to("q", b""), soon())):
        with pytest.raises(OSError, match=r"closed|known to be confirmed") as caught:
            use()
        assert isinstance(caught.value.__cause__ or caught.value, ConnectionError)


def test_a_fork_that_closes_its_copy_leaves_the_connection_to_its_parent(link: Link, queue: str) -> None:
    pid = os.fork()
    if not pid:
        link.close()
        os._exit(0)
    os.waitpid(pid, 0)

    assert link.publish(to(queue, b"still there"), soon()) == []


# -- topology ---------------------------------------------------------------------------------------


def test_a_queue_tells_its_messages_and_consumers(link: Link, queue: str) -> None:
    link.publish(to(queue, b"1", b"2"), soon())
    assert link.declare_queue(queue, passive=True) == (queue, 2, 0)

    assert link.purge_queue(queue) == 2
    link.consume(queue)
    assert link.declare_queue(queue, passive=True) == (queue, 0, 1)
    assert link.delete_queue(queue) == 0
    assert link.delete_queue(queue) == 0


def test_an_exchange_puts_messages_where_a_binding_says(link: Link, queue: str) -> None:
    exchange = f"fastq-test-{uuid.uuid4()}"
    link.declare_exchange(exchange, "topic", durable=False, auto_delete=True)
    link.bind_queue(queue, exchange, "a.*")

    assert link.publish([Outgoing(exchange, "a.b", b"x"), Outgoing(exchange, "b.a", b"y")], soon()) == [
        (1, "NO_ROUTE (312)")
    ]
    link.unbind_queue(queue, exchange, "a.*")
    assert (link.get(queue) or pytest.fail("nothing there")).routing_key == "a.b"


def test_arguments_reach_the_server(link: Link) -> None:
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    queue = link.declare_queue("", durable=False, exclusive=True, arguments=arguments).name

    assert link.publish(to(queue, b"1", b"2"), soon()) == [(1, "the server refused it")]


def test_a_refusal_leaves_a_new_channel(link: Link, queue: str) -> None:
    with pytest.raises(AmqpError, match="NOT_FOUND") as caught:
        link.declare_queue("no-such", passive=True)
    assert caught.value.code == 404
    with pytest.raises(AmqpError, match="PRECONDITION_FAILED") as caught:
        link.declare_queue(queue, durable=False, exclusive=True, arguments={"x-max-length": 2})
    assert caught.value.code == 406

    assert link.publish(to(queue, b"1"), soon()) == []


# -- publishing -------------------------------------------------------------------------------------


def test_a_message_keeps_all_its_properties(link: Link, queue: str) -> None:
    link.publish([Outgoing("", queue, b"body", EVERY_PROPERTY)], soon())

    message = link.get(queue, no_ack=True)

    assert message == Received("", 1, False, "", queue, EVERY_PROPERTY, b"body")


def test_a_message_without_properties_or_body_is_one_too(link: Link, queue: str) -> None:
    link.publish([Outgoing("", queue, b"")], soon())

    message = link.get(queue, no_ack=True)

    assert message == Received("", 1, False, "", queue, Properties(), b"")


@pytest.mark.parametrize(
    "value",
    [
        0, -1, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**63 - 1, -(2**63), 1.5, True, False, None, "", "täxt",
        b"\xff\x00", Decimal("1.25"), datetime(2024, 2, 3, 4, 5, 6, tzinfo=timezone.utc), [], [1, "a", None, [2]], {},
        {"a": {"b": [{"c": 1}]}},
    ],
    ids=repr,
)  # fmt: skip
def test_a_header_comes_back_as_it_was(link: Link, queue: str, value: Any) -> None:
    headers = {"value": value, "after": "it"}
    link.publish(to(queue, b"", headers=headers), soon())

    message = link.get(queue, no_ack=True)

    assert message is not None
    assert message.flaw == ""
    assert message.properties.headers == headers
    assert type(message.properties.headers["value"]) is type(value)


def test_bytes_that_are_text_come_back_as_text(link: Link, queue: str) -> None:
    link.publish(to(queue, b"", headers={"value": b"text"}), soon())

    message = link.get(queue, no_ack=True)

    assert message is not None
    assert message.properties.headers == {"value": "text"}


def nested(depth: int) -> Any:
    return {"in": nested(depth - 1)} if depth else 1


@pytest.mark.parametrize(
    "message",
    [
        Outgoing("", "q", b"", Properties(priority=256)),
        Outgoing("", "q", b"", Properties(priority=-1)),
        Outgoing("", "q" * 256, b""),
        Outgoing("", "q", b"", Properties(correlation_id="x" * 256)),
        Outgoing("", "q", b"", Properties(timestamp=-1)),
        Outgoing("", "q", b"", Properties(headers={"x" * 256: 1})),
        Outgoing("", "q", b"", Properties(headers={"x": 2**63})),
        Outgoing("", "q", b"", Properties(headers={"x": object()})),  # type: ignore[dict-item]
        Outgoing("", "q", b"", Properties(headers=nested(40))),
        Outgoing("", "q", b"", Properties(headers={"x": "y" * 140_000})),
        Outgoing("", "q", b"", Properties(headers={1: 1})),  # type: ignore[dict-item]
        Outgoing("", "q", b"", Properties(headers={"x": Decimal("1e30")})),
        Outgoing("", 1, b""),  # type: ignore[arg-type]
        Outgoing("", "q", "text"),  # type: ignore[arg-type]
    ],
    ids=lambda message: repr(message)[:60],
)
def test_what_can_not_be_sent_is_a_value_error_and_nothing_of_its_batch_is(
    link: Link, queue: str, message: Outgoing
) -> None:
    with pytest.raises((ValueError, TypeError)):
        link.publish([*to(queue, b"good"), message], soon())

    assert link.publish(to(queue, b"after"), soon()) == []
    assert link.declare_queue(queue, passive=True).messages == 1


@pytest.mark.parametrize("size", [1, 131_064, 131_065, 300_000, 5_000_000])
def test_a_body_of_any_size_arrives_whole(link: Link, queue: str, size: int) -> None:
    body = os.urandom(size)
    link.publish(to(queue, body), soon())

    message = link.get(queue, no_ack=True)

    assert message is not None
    assert message.body == body


def test_a_batch_is_confirmed_as_one(link: Link, queue: str) -> None:
    assert link.publish(to(queue, *(b"%d" % number for number in range(3000))), soon()) == []
    assert link.publish([], soon()) == []
    assert link.declare_queue(queue, passive=True).messages == 3000


def test_what_no_queue_takes_is_told_by_its_place(link: Link, queue: str) -> None:
    batch = to(queue, b"same", b"same") + to("no-such", b"same") + to(queue, b"x") + to("no-such", b"same", b"other")
    optional = batch[2]._replace(mandatory=False)

    assert link.publish([*batch, optional], soon()) == [(place, "NO_ROUTE (312)") for place in (2, 4, 5)]


def test_a_batch_that_the_server_breaks_off_says_what_is_known_of_it(link: Link, queue: str) -> None:
    link.publish(to(queue, b"before"), soon())

    with pytest.raises(Unconfirmed) as caught:
        link.publish([*to(queue, b"1"), Outgoing("no-such", "", b"2"), *to(queue, b"3")], soon())

    assert isinstance(caught.value.__cause__, AmqpError)
    assert caught.value.sent == 3
    assert not caught.value.confirmed & {1, 2}
    assert link.publish(to(queue, b"after"), soon()) == []


def test_publishing_while_deliveries_stream_in_does_not_lock_up(link: Link, queue: str) -> None:
    body = os.urandom(50_000)
    link.publish(to(queue, *[body] * 400), soon())
    link.consume(queue)

    assert link.publish(to(queue, *[body] * 400), soon(60)) == []

    assert len(received(link, 800)) == 800


def test_what_is_sent_without_confirmation_arrives(link: Link, queue: str) -> None:
    link.send(to(queue, b"1"))
    link.publish(to(queue, b"2"))
    link.send(to(queue, b"3") + to("no-such", b"4"))
    link.sync()

    assert link.publish(to(queue, b"5")) == []
    assert [(link.get(queue, no_ack=True) or pytest.fail("lost")).body for _ in range(4)] == [b"1", b"2", b"3", b"5"]


# -- consuming --------------------------------------------------------------------------------------


def test_receive_returns_what_is_there_up_to_its_limit(link: Link, queue: str) -> None:
    link.publish(to(queue, *(b"%d" % number for number in range(100))), soon())
    tag = link.consume(queue)

    first, rest = received(link, 7), received(link, 93)

    assert [int(message.body) for message in first + rest] == list(range(100))
    assert {message.tag for message in first + rest} == {tag}
    assert link.receive(1, soon(0.05)) == []


def test_prefetch_bounds_what_is_delivered_until_it_is_acknowledged(link: Link, queue: str) -> None:
    link.publish(to(queue, *[b""] * 10), soon())
    link.qos(4)
    link.consume(queue)
    first = received(link, 4)
    assert link.receive(10, soon(0.05)) == []

    link.ack(first[1].delivery_tag, multiple=True)
    link.ack_all([first[3].delivery_tag])

    assert len(received(link, 3)) == 3


def test_what_is_not_acknowledged_comes_again(kind: str, link: Link) -> None:
    with_queue = open_link(kind)
    queue = with_queue.declare_queue("", durable=False, auto_delete=True).name
    with_queue.consume(queue)
    with_queue.publish(to(queue, b"acked", b"nacked", b"rejected", b"dropped", b"left"), soon())
    acked, nacked, rejected, dropped, _ = received(with_queue, 5)
    link.consume(queue)
    with_queue.ack(acked.delivery_tag)
    with_queue.nack(nacked.delivery_tag, requeue=True)
    with_queue.reject(rejected.delivery_tag, requeue=True)
    with_queue.reject(dropped.delivery_tag)
    with_queue.close()

    again = received(link, 3)

    assert {message.body for message in again} == {b"nacked", b"rejected", b"left"}
    assert all(message.redelivered for message in again)


def test_in_whatever_order_deliveries_are_settled_each_gets_its_own_fate(kind: str, link: Link) -> None:
    choose = random.Random(7)
    queue = link.declare_queue(f"fastq-test-{uuid.uuid4()}", durable=False).name
    try:
        consumer = open_link(kind)
        link.publish(to(queue, *(b"%d" % number for number in range(300))), soon())
        consumer.consume(queue)
        deliveries = received(consumer, 300)
        choose.shuffle(deliveries)
        left: list[bytes] = []
        while deliveries:
            some = [deliveries.pop() for _ in range(min(len(deliveries), choose.randint(1, 40)))]
            if choose.random() < 0.6:
                consumer.ack_all([message.delivery_tag for message in some])
                continue
            left += [message.body for message in some]
            if choose.random() < 0.5:
                for message in some:
                    consumer.reject(message.delivery_tag, requeue=True)
        consumer.sync()
        consumer.close()

        link.consume(queue)
        assert sorted(message.body for message in received(link, len(left))) == sorted(left)
        assert link.receive(1, soon(0.05)) == []
    finally:
        link.delete_queue(queue)


def test_sync_returns_when_acknowledgements_have_been_acted_upon(kind: str, link: Link, queue: str) -> None:
    link.publish(to(queue, *[b""] * 100), soon())
    link.consume(queue)
    link.ack_all([message.delivery_tag for message in received(link, 100)])
    with pytest.raises(AmqpError, match="unknown delivery tag"):
        link.ack(1)
        link.sync()


def test_a_consumer_whose_queue_is_deleted_is_told(kind: str, link: Link) -> None:
    queue = link.declare_queue("", durable=False).name
    tag = link.consume(queue)
    other = open_link(kind)
    other.delete_queue(queue)
    other.close()

    assert link.receive(1, soon()) == []
    assert link.cancelled() == [tag]
    assert link.cancelled() == []


def test_a_cancelled_consumer_gets_no_more(link: Link, queue: str) -> None:
    link.cancel(link.consume(queue, "mine"))
    link.publish(to(queue, b""), soon())

    assert link.declare_queue(queue, passive=True) == (queue, 1, 0)


def test_dead_letters_tell_their_history(link: Link, queue: str) -> None:
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue}
    source = link.declare_queue("", durable=False, exclusive=True, arguments=arguments).name
    link.publish(to(source, b"dead", headers={"own": "header"}), soon())
    message = link.get(source)
    assert message is not None
    link.reject(message.delivery_tag)
    link.consume(queue)

    (dead,) = received(link, 1)

    headers: Any = dead.properties.headers
    assert headers["own"] == "header"
    assert headers["x-death"][0]["queue"] == source
    assert headers["x-death"][0]["count"] == 1
    assert abs(headers["x-death"][0]["time"].timestamp() - time.time()) < 60


def test_an_interrupt_ends_the_receive_that_waits(link: Link, queue: str) -> None:
    link.consume(queue)
    thread = threading.Timer(0.05, link.interrupt)
    thread.start()

    assert link.receive(1) == []
    thread.join()


def test_an_interrupt_before_it_ends_the_next_receive_alone(link: Link, queue: str) -> None:
    link.interrupt()
    link.interrupt()
    assert link.receive(1) == []

    assert link.receive(1, soon(0.01)) == []
    link.consume(queue)
    link.publish(to(queue, b"x"), soon())
    assert len(link.receive(1)) == 1


def test_get_finds_nothing_in_an_empty_queue(link: Link, queue: str) -> None:
    assert link.get(queue) is None


def test_an_idle_link_lives_by_its_heartbeats(kind: str) -> None:
    link = open_link(kind, heartbeat_s=1)
    try:
        assert link.receive(1, soon(3.2)) == []
        link.sync()
        end = soon(3.2)
        while time.monotonic() < end:
            link.beat()
            threading.Event().wait(0.2)
        link.sync()
    finally:
        link.close()


def test_the_bodies_have_one_surface() -> None:
    assert link_class("py").__init__ is Link.__init__
    assert link_class("c").__init__ is Link.__init__
