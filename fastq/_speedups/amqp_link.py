"""The AMQP 0-9-1 link: one connection and its one channel, for either of the codecs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from .amqp_confirms import Confirms
from .amqp_deliveries import Deliveries
from .amqp_methods import Method
from .amqp_values import AmqpClosed, AmqpError, Declared, Field, Outgoing, Received, Table, Tls, Unconfirmed
from .amqp_wire import Wire

_FRAME_MAX = 131_072  # bytes; what RabbitMQ offers
_MOST_ANSWERS = 8  # more than one question at a time is never asked
_CLOSING_S = 1.0  # seconds that a server is given to answer a farewell
_GREETING = b"AMQP\0\0\x09\x01"
_CAPABILITIES = ("publisher_confirms", "consumer_cancel_notify", "basic.nack", "connection.blocked")


class Codec(Protocol):
    """What a body gives to the link; `amqp_py.Codec` has the contract."""

    frame_max: int

    def method(self, method: Method, *args: Any) -> bytes: ...
    def acks(self, tags: Iterable[int]) -> bytes: ...
    def publications(self, batch: Sequence[Outgoing]) -> list[tuple[bytes, int]]: ...
    def feed(self, data: bytes, inbox: list[Received]) -> list[tuple[Method, Any]]: ...


class Link:
    """One connection to a server, and its one channel. One thread at a time may use it, but for `interrupt`.

    Any call may raise

    * ConnectionError: the connection is broken and the link closed; AmqpClosed is one, where the server said why;
    * TimeoutError: the server didn't answer within `timeout_s`; the link is closed, as a late answer would be taken
      for that of another question;
    * AmqpError: the server refused something and closed the channel; the link goes on with a new one, and consumers,
      prefetch, delivery tags and what had been received are gone with the old.
    * ValueError or TypeError: arguments that can't be sent; nothing was.
    """

    codec: Callable[[], Codec]

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 5672,
        vhost: str = "/",
        login: tuple[str, str] | None = ("guest", "guest"),
        tls: Tls | None = None,
        heartbeat_s: int = 30,
        timeout_s: float = 10.0,
        name: str = "",
        about: Table | None = None,
    ) -> None:
        """Connect, log in and open the channel, within `timeout_s`.

        `login` is a user and a password; None leaves it to the certificate (SASL EXTERNAL). `heartbeat_s` of 0 does
        without; the server may ask for a shorter interval. `name` is how the server's tools show the connection, and
        `about` what else they tell of it, beside what the link itself says.
        Raises PermissionError when the server refuses the login or the virtual host.
        """
        self.server: dict[str, Field] = {}  # what it says of itself: product, version, capabilities …
        self.about = dict(about or {})
        self.frame_max = 4096
        self._timeout_s = timeout_s
        self._codec = self.codec()
        self._inbox: list[Received] = []
        self._answers: list[tuple[Method, Any]] = []
        self._cancelled: list[str] = []
        self._acks: list[bytes] = []  # written by `flush`
        self._refusal: AmqpError | None = None  # the channel's end, to be raised when all that came before is read
        self._confirms = Confirms()
        self._deliveries = Deliveries()
        self._pid = os.getpid()
        until = time.monotonic() + timeout_s
        self._wire = Wire(host=host, port=port, tls=tls, timeout_s=timeout_s, hear=self._read)
        try:
            self._log_in(vhost, login, heartbeat_s, name, until)
        except BaseException:
            self._wire.shut("the login failed")
            raise

    @property
    def blocked(self) -> str:
        """Why the server takes no messages at present, as far as was heard; "" if it does."""
        return self._wire.blocked

    # -- topology -----------------------------------------------------------------------------------

    def declare_queue(
        self,
        name: str,
        *,
        durable: bool = True,
        exclusive: bool = False,
        auto_delete: bool = False,
        passive: bool = False,
        arguments: Table | None = None,
    ) -> Declared:
        """Declare a queue, or with `passive` look whether it is there. The name "" has the server invent one."""
        args = name, passive, durable, exclusive, auto_delete, arguments or {}
        return Declared(*self._call(Method.QUEUE_DECLARE, args, Method.QUEUE_DECLARE_OK))

    def delete_queue(self, name: str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete a queue, and return how many messages went with it. There may be none of that name."""
        return self._count(Method.QUEUE_DELETE, (name, if_unused, if_empty), Method.QUEUE_DELETE_OK)

    def purge_queue(self, name: str) -> int:
        """Delete the messages that are ready to be delivered, and return how many there were."""
        return self._count(Method.QUEUE_PURGE, (name,), Method.QUEUE_PURGE_OK)

    def declare_exchange(
        self,
        name: str,
        type: str = "direct",
        *,
        durable: bool = True,
        auto_delete: bool = False,
        passive: bool = False,
        arguments: Table | None = None,
    ) -> None:
        """Declare an exchange, or with `passive` look whether it is there."""
        args = name, type, passive, durable, auto_delete, arguments or {}
        self._call(Method.EXCHANGE_DECLARE, args, Method.EXCHANGE_DECLARE_OK)

    def bind_queue(self, queue: str, exchange: str, routing_key: str, arguments: Table | None = None) -> None:
        """Have an exchange put messages with this key into a queue."""
        self._call(Method.QUEUE_BIND, (queue, exchange, routing_key, arguments or {}), Method.QUEUE_BIND_OK)

    def unbind_queue(self, queue: str, exchange: str, routing_key: str, arguments: Table | None = None) -> None:
        """Undo `bind_queue`."""
        self._call(Method.QUEUE_UNBIND, (queue, exchange, routing_key, arguments or {}), Method.QUEUE_UNBIND_OK)

    # -- publishing ---------------------------------------------------------------------------------

    def publish(self, batch: Sequence[Outgoing], deadline: float | None = None) -> list[tuple[int, str]]:
        """Publish a batch, wait for all its confirmations, and return (index, reason) of what the server didn't take.

        That is what it returned because no queue takes it (if `mandatory`), and what it refused. All is written before
        the first confirmation is awaited. `deadline` is a point on `time.monotonic`; None is `timeout_s` from now.
        Raises Unconfirmed when there is no telling for a part of the batch.
        """
        pieces = self._codec.publications(batch)
        if not self._confirms.on:
            self._call(Method.CONFIRM_SELECT, (), Method.CONFIRM_SELECT_OK)
            self._confirms.on = True
        confirms = self._confirms
        sent = 0
        until = time.monotonic() + self._timeout_s if deadline is None else deadline
        try:
            with self._unbroken():
                self.flush()
                self._await_leave(until)
                confirms.begin(len(batch))
                for piece, begun in pieces:
                    sent = begun
                    self._write(piece, until)
                while confirms.settled < confirms.published:
                    self._pump(until, "confirmations")
        except OSError as error:
            failed = confirms.failures(batch) if sent else []
            confirmed = confirms.confirmed(batch, failed) if sent else frozenset()
            raise Unconfirmed(sent, confirmed, failed) from error
        return confirms.failures(batch)

    def send(self, batch: Sequence[Outgoing], deadline: float | None = None) -> None:
        """Publish a batch without waiting for confirmations: it has left when this returns. Returns go unheard."""
        pieces = self._codec.publications(batch)
        until = time.monotonic() + self._timeout_s if deadline is None else deadline
        with self._unbroken():
            self.flush()
            if self._confirms.on:
                self._confirms.published += len(batch)
            for piece, _ in pieces:
                self._write(piece, until)

    # -- consuming ----------------------------------------------------------------------------------

    def qos(self, prefetch: int) -> None:
        """Have at most so many unacknowledged messages delivered to each consumer that begins from now on; 0: any."""
        self._call(Method.BASIC_QOS, (prefetch,), Method.BASIC_QOS_OK)

    def consume(
        self,
        queue: str,
        tag: str = "",
        *,
        no_ack: bool = False,
        exclusive: bool = False,
        arguments: Table | None = None,
    ) -> str:
        """Have a queue's messages delivered, for `receive`; return its tag, which the server invents for ""."""
        args = queue, tag, no_ack, exclusive, arguments or {}
        tag = str(self._call(Method.BASIC_CONSUME, args, Method.BASIC_CONSUME_OK)[0])
        if no_ack:
            self._deliveries.owe_nothing(tag, self._inbox)
        return tag

    def cancel(self, tag: str) -> None:
        """Have no more delivered to a consumer. What was delivered before may still be received."""
        self._call(Method.BASIC_CANCEL, (tag,), Method.BASIC_CANCEL_OK)

    def receive(self, limit: int, deadline: float | None = None) -> list[Received]:
        """Wait for a delivery, then return it with whatever else is there by now, up to `limit`.

        Returns [] when the deadline on `time.monotonic` has passed (None: there is none), after an `interrupt`, and
        when the server has cancelled a consumer, see `cancelled`. Acknowledgements are flushed first.
        """
        with self._unbroken():
            self.flush()
            self._wire.beat()
            while not self._inbox and not self._cancelled:
                if not self._wire.wait(deadline, bell=True):
                    return []
                self._read()
            while len(self._inbox) < limit and self._read():
                pass
        taken = self._inbox[:limit]
        del self._inbox[:limit]
        return taken

    def get(self, queue: str, *, no_ack: bool = False) -> Received | None:
        """Return the next message of a queue, if there is one."""
        found = self._call(Method.BASIC_GET, (queue, no_ack), Method.BASIC_GET_OK, Method.BASIC_GET_EMPTY)
        if not found:
            return None
        message: Received = found[0]
        if not no_ack:
            self._deliveries.add([message])
        return message

    def cancelled(self) -> list[str]:
        """Return the tags of the consumers that the server has cancelled since the last call: their queue is gone."""
        tags, self._cancelled = self._cancelled, []
        return tags

    def interrupt(self) -> None:
        """Have the `receive` that waits, or else the next that would, return []. Any thread may call this."""
        self._wire.ring()

    # -- settling -----------------------------------------------------------------------------------

    def ack(self, delivery_tag: int, *, multiple: bool = False) -> None:
        """Acknowledge a delivery, and with `multiple` all before it. Written by `flush`, or whatever is called next."""
        self._acks.append(self._codec.method(Method.BASIC_ACK, delivery_tag, multiple))
        self._deliveries.settle(delivery_tag, multiple)

    def ack_all(self, delivery_tags: Sequence[int]) -> None:
        """Acknowledge these deliveries, and no others, by as few frames as will do. Written as with `ack`."""
        up_to, others = self._deliveries.settle_all(delivery_tags)
        if up_to:
            self._acks.append(self._codec.method(Method.BASIC_ACK, up_to, True))
        self._acks.append(self._codec.acks(others))

    def nack(self, delivery_tag: int, *, multiple: bool = False, requeue: bool = False) -> None:
        """Refuse a delivery, and with `multiple` all before it: back to the queue, or to where its dead letters go."""
        self._acks.append(self._codec.method(Method.BASIC_NACK, delivery_tag, multiple, requeue))
        self._deliveries.settle(delivery_tag, multiple)

    def reject(self, delivery_tag: int, *, requeue: bool = False) -> None:
        """Refuse a delivery, as `nack` does."""
        self._acks.append(self._codec.method(Method.BASIC_REJECT, delivery_tag, requeue))
        self._deliveries.settle(delivery_tag, multiple=False)

    def flush(self) -> None:
        """Write what `ack`, `nack` and `reject` left to be written. The server doesn't answer; `sync` has it do so."""
        if self._acks:
            data = b"".join(self._acks)
            self._acks.clear()
            self._write(data, time.monotonic() + self._timeout_s)

    def sync(self) -> None:
        """Make a round trip: the server's channel has acted upon all that was sent before."""
        self._call(Method.CHANNEL_FLOW, (True,), Method.CHANNEL_FLOW_OK)

    # -- life ---------------------------------------------------------------------------------------

    def beat(self) -> None:
        """Keep the heartbeats of a link that nobody waits on, and hear the server; to be called twice an interval.

        Raises ConnectionError when the server was silent for two intervals.
        """
        while self._read():
            pass
        self.flush()
        self._wire.check_pulse()
        self._wire.beat()

    def fileno(self) -> int:
        """Return the socket's descriptor, to wait on together with others; -1 when the link is closed."""
        return self._wire.fileno()

    def close(self) -> None:
        """Flush, take leave of the server and close, within a second however it is. May be called twice."""
        if self._wire.closed:
            return
        try:
            if self._pid == os.getpid():  # a fork must not end its parent's connection
                until = time.monotonic() + min(_CLOSING_S, self._timeout_s)
                self._acks.append(self._codec.method(Method.CONNECTION_CLOSE, 200, "bye"))
                self._write(b"".join(self._acks), until)
                while not any(method == Method.CONNECTION_CLOSE_OK for method, _ in self._answers):
                    self._answers.clear()
                    self._pump(until, "an answer to a farewell")
        except OSError:
            pass
        finally:
            self._wire.shut("the link was closed")

    def _await_leave(self, until: float) -> None:
        """Wait while the server is known to take nothing: what was not sent has a fate that is known."""
        while self.blocked:
            if not self._wire.wait(until):
                raise TimeoutError(f"the server takes no messages: {self.blocked}")
            self._read()

    # -- calls --------------------------------------------------------------------------------------

    def _call(self, method: Method, args: Sequence[Any], *replies: Method, until: float | None = None) -> Any:
        frame = self._codec.method(method, *args)
        if until is None:
            until = time.monotonic() + self._timeout_s
        with self._unbroken():
            self._answers.clear()
            self.flush()
            self._write(frame, until)
            return self._answer(until, *replies)

    @contextmanager
    def _unbroken(self) -> Iterator[None]:
        """Close the link if a call is broken off from without, by a signal's handler say: it may be half-way."""
        try:
            yield
        except OSError:  # whoever raised it has seen to the link
            raise
        except BaseException:
            self._wire.shut("a call was broken off")
            raise

    def _count(self, method: Method, args: Sequence[Any], reply: Method) -> int:
        return int(self._call(method, args, reply)[0])

    def _answer(self, until: float, *replies: Method) -> Any:
        while not self._answers:
            self._pump(until, replies[0].name)
        method, args = self._answers.pop(0)
        if method not in replies:
            raise self._wire.shut(f"the server answered {method.name}, not {replies[0].name}")
        return args

    def _log_in(self, vhost: str, login: tuple[str, str] | None, heartbeat_s: int, name: str, until: float) -> None:
        self._write(_GREETING, until)
        _, _, self.server, mechanisms, _ = self._answer(until, Method.CONNECTION_START)
        mechanism = "EXTERNAL" if login is None else "PLAIN"
        if mechanism not in mechanisms.split():
            raise PermissionError(f"the server takes logins by {mechanisms}, not {mechanism}")
        about: dict[str, Field] = {
            **self.about,
            "connection_name": name,
            "capabilities": {**dict.fromkeys(_CAPABILITIES, True), "authentication_failure_close": True},
        }
        response = "" if login is None else "\0{}\0{}".format(*login)
        start_ok = self._codec.method(Method.CONNECTION_START_OK, about, mechanism, response, "en_US")
        self._write(start_ok, until)
        try:
            channel_max, frame_max, interval_s = self._answer(until, Method.CONNECTION_TUNE)
            self._codec.frame_max = self.frame_max = max(4096, min(frame_max or _FRAME_MAX, _FRAME_MAX))
            self._wire.heartbeat_s = min(interval_s or heartbeat_s, heartbeat_s)
            tuned = channel_max, self.frame_max, self._wire.heartbeat_s
            self._write(self._codec.method(Method.CONNECTION_TUNE_OK, *tuned), until)
            self._call(Method.CONNECTION_OPEN, (vhost,), Method.CONNECTION_OPEN_OK, until=until)
        except AmqpClosed as error:
            if error.code in (403, 530):
                raise PermissionError(error.text) from error
            raise
        self._call(Method.CHANNEL_OPEN, (), Method.CHANNEL_OPEN_OK, until=until)

    # -- what the server says -----------------------------------------------------------------------

    def _hear(self, method: Method, args: Any) -> None:
        """Act upon a method that came unasked, or keep it as an answer."""
        if method == Method.BASIC_ACK or method == Method.BASIC_NACK:
            if not self._confirms.take(*args, refused=method == Method.BASIC_NACK):
                raise self._wire.shut(f"the server confirmed message {args[0]}, which was not published")
        elif method == Method.BASIC_RETURN:
            code, text, _, _, message = args
            self._confirms.give_back(f"{text} ({code})", message)
        elif method == Method.BASIC_CANCEL:
            self._cancelled.append(args[0])
        elif method == Method.CONNECTION_BLOCKED:
            self._wire.blocked = args[0] or "for a reason not given"
        elif method == Method.CONNECTION_UNBLOCKED:
            self._wire.blocked = ""
        elif method == Method.CHANNEL_FLOW:
            self._acks.append(self._codec.method(Method.CHANNEL_FLOW_OK, *args))
        elif method == Method.CHANNEL_CLOSE:
            self._refusal = AmqpError(*args)
        elif method == Method.CONNECTION_CLOSE:
            self._wire.write_if_room(self._codec.method(Method.CONNECTION_CLOSE_OK))
            self._wire.shut(args[1])
            raise AmqpClosed(*args)
        elif len(self._answers) < _MOST_ANSWERS:
            self._answers.append((method, args))
        else:
            raise self._wire.shut(f"the server sent {method.name} unasked")

    def _raise_refusal(self) -> None:
        """If the server has closed the channel, open it again and say why it was."""
        if self._refusal is None:
            return
        refusal, self._refusal = self._refusal, None
        self._confirms = Confirms()
        until = time.monotonic() + self._timeout_s
        self._deliveries = Deliveries()
        for lost in (self._inbox, self._answers, self._acks):
            lost.clear()
        self._write(self._codec.method(Method.CHANNEL_CLOSE_OK), until)
        self._call(Method.CHANNEL_OPEN, (), Method.CHANNEL_OPEN_OK, until=until)
        raise refusal

    def _pump(self, until: float, what: str) -> None:
        """Wait for what the server says and act upon it."""
        self._wire.wait_for(what, until)
        self._read()

    def _read(self) -> bool:
        """Read what is there and act upon it. Return whether there was something."""
        data = self._wire.read()
        if data is None:
            return False
        before = len(self._inbox)
        try:
            heard = self._codec.feed(data, self._inbox)
        except ValueError as error:
            raise self._wire.shut(f"the server sent {error}") from error
        if len(self._inbox) > before:
            self._deliveries.add(self._inbox[before:])
        for method, args in heard:
            self._hear(method, args)
        if not self._wire.writing:
            self._raise_refusal()
        return True

    def _write(self, data: bytes, until: float) -> None:
        self._wire.write(data, until)
        self._raise_refusal()
