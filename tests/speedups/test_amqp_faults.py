"""The AMQP link and a server that breaks off, lies, floods or says nothing."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fastq._speedups.amqp_link import Link
from fastq._speedups.amqp_values import MAX_BODY, AmqpClosed, AmqpError, Outgoing, Properties, Unconfirmed

from . import amqp_server as fake
from .amqp_bodies import link_class
from .amqp_server import FakeServer, Peer, Script

Connect = Callable[..., Any]


def soon(seconds: float = 20.0) -> float:
    return time.monotonic() + seconds


@pytest.fixture
def connect(kind: str) -> Connect:
    """Return a context manager: a link to a server with a script."""
    made = link_class(kind)

    @contextmanager
    def connected(script: Script, **options: Any) -> Iterator[Link]:
        with FakeServer(script) as server:
            link = made(**{"port": server.port, "timeout_s": 5.0, "heartbeat_s": 0, **options})
            try:
                yield link
            finally:
                link.close()

    return connected


def saying(*data: bytes) -> Script:
    """A server that says this to the first who asks for a queue's state, and keeps the connection."""

    def script(peer: Peer) -> None:
        peer.welcome().read_until(50, 10)
        peer.send(*data)
        peer.stay()

    return script


BATCH = [Outgoing("", "key", b"%d" % number) for number in range(5)]


# -- while it is made -------------------------------------------------------------------------------


@pytest.mark.parametrize("greeting", [b"AMQP\0\1\0\0", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", fake.START[:-5]])
def test_a_server_that_breaks_off_or_speaks_otherwise_is_a_connection_error(connect: Connect, greeting: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.send(greeting)

    with pytest.raises(ConnectionError), connect(script):
        pass


def test_a_server_that_never_answers_is_a_timeout_within_its_time(connect: Connect) -> None:
    begun = time.monotonic()
    with pytest.raises(TimeoutError), connect(Peer.hang, timeout_s=0.2):
        pass
    assert time.monotonic() - begun < 5


def test_a_server_that_answers_by_the_wrong_method_is_a_connection_error(connect: Connect) -> None:
    def script(peer: Peer) -> None:
        peer.sock.recv(8)
        peer.send(fake.START)
        peer.read_until(10, 11)
        peer.send(fake.OPEN_OK)
        peer.stay()

    with pytest.raises(ConnectionError, match="CONNECTION_OPEN_OK, not CONNECTION_TUNE"), connect(script):
        pass


def test_a_link_that_could_not_be_made_leaves_no_descriptor_open(connect: Connect, kind: str) -> None:
    probe = socket.socketpair()[0].fileno()
    for _ in range(3):
        with pytest.raises(ConnectionError), connect(lambda peer: peer.send(b"rubbish!")):
            pass
    assert abs(socket.socketpair()[0].fileno() - probe) <= 2


# -- bytes that should not be -----------------------------------------------------------------------

NONSENSE = {
    "a wrong end": fake.FLOW_OK[:-1] + b"\xcd",
    "a giant length": b"\x01\0\1\xff\xff\xff\xff" + bytes(100),
    "one byte more than agreed": struct.pack(">BHI", 1, 1, 131_072 - 7) + bytes(100),
    "an unknown type": fake.frame(7, 0, b""),
    "an unknown class": fake.method(77, 1),
    "an unknown method": fake.method(60, 99),
    "a method for servers": fake.method(50, 10, bytes(20)),
    "a method of no bytes": fake.frame(1, 1, b""),
    "a method of three bytes": fake.frame(1, 1, b"\0\x3c\0"),
    "a method cut short": fake.method(60, 80, b"\0\0"),
    "a text cut short": fake.method(60, 30, b"\x09tag"),
    "a delivery cut short": fake.method(60, 60, fake.short("tag") + bytes(9) + b"\xffexchange"),
    "another channel": fake.frame(1, 9, b"\0\x14\0\x15\1"),
    "the connection's method on the channel": fake.frame(1, 1, b"\0\x0a\0\x29\0"),
    "the channel's method on the connection": fake.frame(1, 0, b"\0\x14\0\x15\1"),
    "a body that nobody announced": fake.frame(3, 1, b"body"),
    "a header that nobody announced": fake.content(b""),
    "a body in place of a header": fake.deliver(1, b"")[: -8 - 14] + fake.frame(3, 1, b"body"),
    "a method in place of a body": fake.deliver(1, b"", size=4) + fake.FLOW_OK,
    "a body larger than announced": fake.deliver(1, b"body", size=3),
    "a body larger than there may be": fake.deliver(1, b"body", size=MAX_BODY + 1),
    "a body of 2**64 - 1": fake.deliver(1, b"body", size=2**64 - 1),
    "a header of no bytes": fake.deliver(1, b"")[: -8 - 14] + fake.frame(2, 1, b""),
    "content of another class": fake.deliver(1, b"")[: -8 - 14] + fake.frame(2, 1, bytes(14)),
    "a confirmation of nothing": fake.ack(1),
    "a refusal of nothing": fake.ack(7, refused=True, multiple=True),
    "an answer to another question": fake.FLOW_OK,
}  # fmt: skip


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_nonsense_is_a_connection_error_and_closes_the_link(connect: Connect, nonsense: str) -> None:
    """Row 41."""
    with connect(saying(NONSENSE[nonsense])) as link:
        with pytest.raises(ConnectionError, match="the server"):
            link.declare_queue("q")
        assert link.fileno() == -1
        with pytest.raises(ConnectionError):
            link.sync()


@pytest.mark.parametrize("kept", [1, 7, 20, -1])
def test_a_server_that_goes_in_the_midst_of_a_frame_is_a_connection_error(connect: Connect, kept: int) -> None:
    def script(peer: Peer) -> None:
        peer.welcome().read_until(50, 10)
        peer.send(fake.deliver(1)[:kept])

    with connect(script) as link, pytest.raises(ConnectionError, match="the server closed the connection"):
        link.declare_queue("q")


POISON = {
    "nested deeper than is read": fake.headers(fake.nested_table(33)),
    "nested so deep that it fills a frame": fake.headers(fake.nested_table(14_000)),
    "of a kind that there is not": fake.headers(b"\1k?"),
    "longer than they are": fake.headers(b"\1kS\0\0\0\xff"),
    "with a name that is no text": fake.headers(b"\1\xffV"),
    "with a time that no calendar has": fake.headers(b"\1kT" + b"\xff" * 8),
    "with more flags than there are": b"\0\1\0\0",
    "of a type that is no text": b"\x80\0\2\xff\xfe",
    "cut short": b"\xff\xfc\1",
}


@pytest.mark.parametrize("poison", POISON)
def test_properties_that_can_not_be_read_come_with_their_flaw_and_harm_nothing(connect: Connect, poison: str) -> None:
    script = saying(fake.deliver(1, b"poisoned", POISON[poison]), fake.deliver(2, b"sound"), fake.FLOW_OK)

    with connect(script) as link:
        with pytest.raises(ConnectionError):  # FLOW_OK is no answer to this
            link.declare_queue("q")
        poisoned, sound = link._inbox

    assert poisoned.flaw.startswith("the properties can't be read")
    assert poisoned.properties == Properties()
    assert (poisoned.delivery_tag, poisoned.body) == (1, b"poisoned")
    assert (sound.flaw, sound.body) == ("", b"sound")


def test_headers_as_deep_as_is_allowed_are_read(connect: Connect) -> None:
    with connect(saying(fake.deliver(1, b"", fake.headers(fake.nested_table(31))), fake.FLOW_OK)) as link:
        with pytest.raises(ConnectionError):
            link.declare_queue("q")
        assert link._inbox[0].flaw == ""


def test_a_routing_key_need_not_be_text(connect: Connect) -> None:
    def script(peer: Peer) -> None:
        peer.welcome()
        peer.send(fake.deliver(1, b"", key=b"\xff\xfe"))
        peer.stay()

    with connect(script) as link:
        assert link.receive(1, soon())[0].routing_key == r"\xff\xfe"


def test_a_message_may_come_in_any_pieces(connect: Connect) -> None:
    """Row 24."""
    whole = fake.deliver(1, b"one") + fake.frame(8, 0, b"") + fake.deliver(2, b"") + fake.deliver(3, b"three")
    three = fake.deliver(4, b"", size=6) + fake.frame(3, 1, b"4") + fake.frame(8, 0, b"") + fake.frame(3, 1, b"44444")

    def script(peer: Peer) -> None:
        peer.welcome()
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in whole + three:
            peer.send(bytes([byte]))
        peer.stay()

    with connect(script) as link:
        found: list[bytes] = []
        while len(found) < 4:
            found += [message.body for message in link.receive(10, soon())]

    assert found == [b"one", b"", b"three", b"444444"]


# -- confirmations ----------------------------------------------------------------------------------


def publishing(*answers: bytes, stay: bool = True) -> Script:
    def script(peer: Peer) -> None:
        peer.welcome().take(len(BATCH))
        peer.send(*answers)
        if stay:
            peer.stay()

    return script


@pytest.mark.parametrize(
    "answers",
    [
        [fake.ack(5, multiple=True)],
        [fake.ack(0, multiple=True)],
        [fake.ack(number) for number in (3, 1, 5, 2, 4)],
        [fake.ack(2), fake.ack(4), fake.ack(3, multiple=True), fake.ack(5), fake.ack(5), fake.ack(1)],
    ],
    ids=["all", "nought", "mixed", "both"],
)
def test_confirmations_may_come_in_any_order_and_twice(connect: Connect, answers: list[bytes]) -> None:
    with connect(publishing(*answers)) as link:
        assert link.publish(BATCH, soon()) == []


def test_what_is_refused_or_returned_is_told_apart_from_what_is_taken(connect: Connect) -> None:
    answers = [fake.ack(1), fake.ack(3, multiple=True, refused=True), fake.ack(5, multiple=True)]

    with connect(publishing(*answers)) as link:
        assert link.publish(BATCH, soon()) == [(1, "the server refused it"), (2, "the server refused it")]

    answers = [fake.give_back(b"1"), fake.give_back(b"4"), fake.ack(5, multiple=True)]
    with connect(publishing(*answers)) as link:
        assert link.publish(BATCH, soon()) == [(1, "NO_ROUTE (312)"), (4, "NO_ROUTE (312)")]


def test_a_connection_that_breaks_tells_what_is_known(connect: Connect) -> None:
    answers = [fake.give_back(b"0"), fake.ack(2, multiple=True), fake.ack(4), fake.ack(5, refused=True)]

    with connect(publishing(*answers, stay=False)) as link, pytest.raises(Unconfirmed) as caught:
        link.publish(BATCH, soon())

    assert isinstance(caught.value.__cause__, ConnectionError)
    assert caught.value.confirmed == {1, 3}
    assert caught.value.failed == [(0, "NO_ROUTE (312)"), (4, "the server refused it")]
    assert caught.value.sent == 5
    assert "2 messages are known to be confirmed, 1 may" in str(caught.value)


def test_a_server_that_says_why_it_goes_is_quoted(connect: Connect) -> None:
    answers = [fake.ack(1), fake.close(320, "CONNECTION_FORCED - shutdown")]

    with connect(publishing(*answers, stay=False)) as link, pytest.raises(Unconfirmed) as caught:
        link.publish(BATCH, soon())

    cause = caught.value.__cause__
    assert isinstance(cause, AmqpClosed)
    assert isinstance(cause, ConnectionError)
    assert (cause.code, str(cause)) == (320, "CONNECTION_FORCED - shutdown (320)")
    assert caught.value.confirmed == {0}


def test_confirmations_that_do_not_come_are_a_timeout_that_closes_the_link(connect: Connect) -> None:
    with connect(publishing(fake.ack(3))) as link:
        with pytest.raises(Unconfirmed) as caught:
            link.publish(BATCH, soon(0.1))
        assert isinstance(caught.value.__cause__, TimeoutError)
        assert caught.value.confirmed == {2}
        with pytest.raises(ConnectionError, match="no confirmations in time"):
            link.sync()


def test_a_server_that_reads_nothing_is_a_timeout_and_what_was_not_sent_is_known(connect: Connect) -> None:
    def script(peer: Peer) -> None:
        peer.welcome().take(0)
        peer.hang()

    batch = [Outgoing("", "key", bytes(1_000_000))] * 40
    with connect(script) as link:
        with pytest.raises(Unconfirmed) as caught:
            link.publish(batch, soon(0.3))
        assert 0 < caught.value.sent < 40
        assert isinstance(caught.value.__cause__, TimeoutError)


def test_a_server_that_reads_only_when_it_has_been_read_does_not_lock_up(connect: Connect) -> None:
    flood = b"".join(fake.deliver(number, bytes(100_000)) for number in range(1, 201))

    def script(peer: Peer) -> None:
        peer.welcome().read_until(85, 10)
        peer.send(fake.CONFIRM_SELECT_OK, flood)
        for _ in range(20):
            peer.read_until(60, 40)
        peer.send(fake.ack(20, multiple=True))
        peer.stay()

    with connect(script) as link:
        assert link.publish([Outgoing("", "key", bytes(1_000_000))] * 20, soon()) == []
        assert len(link.receive(1000, soon())) == 200


# -- other things that servers do -------------------------------------------------------------------


def test_a_refused_channel_is_opened_again_while_confirmations_are_awaited(connect: Connect) -> None:
    def script(peer: Peer) -> None:
        peer.welcome().take(5)
        peer.send(
            fake.deliver(1), fake.ack(1), fake.method(20, 40, struct.pack(">H", 404) + fake.short("NO") + bytes(4))
        )
        peer.read_until(20, 41)
        peer.read_until(20, 10)
        peer.send(fake.CHANNEL_OPEN_OK)
        peer.take(5)
        peer.send(fake.ack(5, multiple=True))
        peer.stay()

    with connect(script) as link:
        with pytest.raises(Unconfirmed) as caught:
            link.publish(BATCH, soon())
        assert isinstance(caught.value.__cause__, AmqpError)
        assert caught.value.confirmed == {0}
        assert link.receive(1, 0.0) == []
        assert link.publish(BATCH, soon()) == []


def test_a_blocked_link_says_so_and_sends_nothing(connect: Connect) -> None:
    free = threading.Event()

    def script(peer: Peer) -> None:
        peer.welcome().take(5)
        peer.send(fake.ack(5, multiple=True), fake.method(10, 60, fake.short("low on memory")))
        free.wait(20)
        peer.send(fake.method(10, 61))
        for _ in BATCH:
            peer.read_until(60, 40)
        peer.send(fake.ack(10, multiple=True))
        peer.stay()

    with connect(script) as link:
        link.publish(BATCH, soon())
        while not link.blocked:
            link.beat()
        assert link.blocked == "low on memory"
        with pytest.raises(Unconfirmed) as caught:
            link.publish(BATCH, soon(0.05))
        assert (caught.value.sent, caught.value.confirmed) == (0, frozenset())
        assert "low on memory" in str(caught.value.__cause__)
        free.set()
        assert link.publish(BATCH, soon()) == []
        assert link.blocked == ""


def test_a_cancelled_consumer_ends_the_receive_that_waits(connect: Connect) -> None:
    def script(peer: Peer) -> None:
        peer.welcome()
        peer.send(fake.deliver(1), fake.method(60, 30, fake.short("tag") + b"\1"))
        peer.stay()

    with connect(script) as link:
        assert len(link.receive(9, soon())) == 1
        assert link.receive(9, soon()) == []
        assert link.cancelled() == ["tag"]


def test_a_server_that_pauses_the_channel_is_obeyed(connect: Connect) -> None:
    def script(peer: Peer) -> None:
        peer.welcome()
        peer.send(fake.method(20, 20, b"\0"))
        assert peer.read_until(20, 21) == b"\0"
        peer.read_until(20, 20)
        peer.send(fake.FLOW_OK)
        peer.stay()

    with connect(script) as link:
        while not link._acks:
            link._read()
        link.sync()


def test_what_is_acknowledged_together_takes_as_few_frames_as_will_do(connect: Connect) -> None:
    seen: list[tuple[int, bool]] = []

    def script(peer: Peer) -> None:
        peer.welcome()
        peer.send(*(fake.deliver(number) for number in range(1, 10)))
        while len(seen) < 5:
            seen.append(struct.unpack(">Q?", peer.read_until(60, 80)))
        peer.stay()

    with connect(script) as link:
        received = 0
        while received < 9:
            received += len(link.receive(9, soon()))
        link.ack_all([2, 3])  # before 1
        link.ack_all([1])
        link.ack_all([6, 5, 4, 8])
        link.ack_all([7, 9])
    assert seen == [(2, False), (3, False), (1, False), (6, True), (8, False)]


@pytest.mark.parametrize("use", ["receive", *(pytest.param(it, marks=pytest.mark.soak) for it in ("sync", "publish"))])
def test_a_server_that_falls_silent_is_found_dead_after_two_heartbeats(connect: Connect, use: str) -> None:
    """Row 22."""

    def script(peer: Peer) -> None:
        peer.welcome(heartbeat_s=1).read_until(85, 10)
        peer.send(fake.CONFIRM_SELECT_OK)
        peer.stay()

    with connect(script, heartbeat_s=60, timeout_s=30.0) as link:
        assert link._wire.heartbeat_s == 1
        with pytest.raises((ConnectionError, Unconfirmed)) as caught:
            link.publish(BATCH, soon()) if use == "publish" else link.sync() if use == "sync" else link.receive(
                1, soon()
            )
        assert "silent for 2 s" in str(caught.value.__cause__ or caught.value)


def test_a_link_that_only_reads_sends_heartbeats_all_the_same(connect: Connect) -> None:
    beats = threading.Event()

    def script(peer: Peer) -> None:
        peer.welcome(heartbeat_s=1)
        flood = threading.Thread(target=stream, args=(peer,))
        flood.start()
        assert peer._file.read(8) == fake.frame(8, 0, b"")
        beats.set()
        flood.join()
        peer.stay()

    def stream(peer: Peer) -> None:
        number = 0
        while not beats.wait(0.01):
            number += 1
            peer.send(fake.deliver(number))

    with connect(script, heartbeat_s=1) as link:
        end = soon()
        while not beats.is_set():
            assert time.monotonic() < end, "no heartbeat was sent"
            link.receive(10, soon(0.2))


def test_answers_that_nobody_asked_for_are_not_collected(connect: Connect) -> None:
    def script(peer: Peer) -> None:
        peer.welcome()
        peer.send(fake.FLOW_OK * 100)
        peer.stay()

    with connect(script) as link, pytest.raises(ConnectionError, match="CHANNEL_FLOW_OK unasked"):
        link.receive(1, soon())


@pytest.mark.parametrize("use", ["receive", "sync", "publish"])
def test_a_call_that_a_signal_breaks_off_closes_the_link(connect: Connect, use: str) -> None:
    def script(peer: Peer) -> None:
        peer.welcome()
        if use == "publish":
            peer.take(len(BATCH))
        else:
            peer.read_until(*{"sync": (20, 20), "receive": (60, 80)}[use])
        os.kill(os.getpid(), signal.SIGUSR1)
        peer.hang()

    def handle(*_: object) -> None:
        raise InterruptedHereError

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        with connect(script) as link:
            link.ack(1)  # which `receive` will flush
            with pytest.raises(InterruptedHereError):
                link.publish(BATCH, soon()) if use == "publish" else link.sync() if use == "sync" else link.receive(1)
            with pytest.raises(ConnectionError, match="broken off"):
                link.sync()
    finally:
        signal.signal(signal.SIGUSR1, before)


class InterruptedHereError(Exception):
    pass


def test_closing_takes_no_longer_than_a_server_is_worth(connect: Connect) -> None:
    with connect(lambda peer: peer.welcome().hang(), timeout_s=30.0) as link:
        begun = time.monotonic()
        link.close()
        assert time.monotonic() - begun < 10


def test_acknowledgements_that_were_not_flushed_are_when_the_link_is_closed(connect: Connect) -> None:
    seen: list[bytes] = []

    def script(peer: Peer) -> None:
        peer.welcome()
        seen.append(peer.read_until(60, 80))
        peer.read_until(10, 50)
        peer.send(fake.method(10, 51))

    with connect(script) as link:
        link.ack(7)
    assert seen == [struct.pack(">QB", 7, 0)]
