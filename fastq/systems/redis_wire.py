"""One connection to one Redis server: a socket, hiredis, and what Redis's errors mean.

The client library redis-py is not used: importing it takes 100 ms and 20 MB in every process, worker, child and
caller, where hiredis and a socket take 4 ms and 1 MB, and what is needed of it fits on this page.
"""

from __future__ import annotations

import logging
import select
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import hiredis

from fastq import failpoints
from fastq.systems.redis_url import RedisUrl

if TYPE_CHECKING:
    import ssl  # 5 MB, for those who use it

logger = logging.getLogger(__name__)

#: What goes wrong between us and a server; `explain` says it in words.
ERRORS = (OSError, hiredis.HiredisError)

_READ = 65536

#: Returns a command, given as a tuple, as it goes over the wire. What it takes is more than its stub says.
pack = cast("Callable[[tuple[bytes | str | int, ...]], bytes]", hiredis.pack_command)


class Unanswered(ConnectionError):
    """Raised when a command was sent whole, and its answer did not come: it may or may not have been carried out."""


class Wire:
    """A connection, logged in, with its database selected; RESP3, so that pushed messages are told from answers.

    Rules: one thread at a time. After any error of `exchange` but a reply of the server it is of no more use.
    """

    def __init__(self, url: RedisUrl, address: tuple[str, int], *, login: tuple[str, str], db: int) -> None:
        self.address = address
        self.id = 0  # by which the server knows this connection
        self._reader = hiredis.Reader()
        self._socket = _connect(url, address)
        #: How many bytes TLS has read, and we have not: `poll` does not know of them.
        self._buffered: Callable[[], int] = getattr(self._socket, "pending", int)
        try:
            self._greet(login, db)
        except BaseException:
            self.close()
            raise
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def _greet(self, login: tuple[str, str], db: int) -> None:
        username, password = login
        auth = ("AUTH", username or "default", password) if password or username else ()
        greeting = pack(("HELLO", "3", *auth, "SETNAME", "fastq"))
        replies = self.exchange(greeting + (pack(("SELECT", db)) if db else b""), 2 if db else 1)
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                raise reply
        self.id = int(replies[0][b"id"])

    def exchange(self, packed: bytes, replies: int) -> list[Any]:
        """Send commands in one go and return as many replies; errors among them are values.

        Raises Unanswered, or another OSError if the commands did not leave whole.
        """
        self.send(packed)
        if failpoints.on:
            failpoints.hit("P1")
        return [self.receive() for _ in range(replies)]

    def send(self, packed: bytes) -> None:
        """Send commands."""
        try:
            self._socket.sendall(packed)
        except BlockingIOError as error:
            raise TimeoutError("no room for a command in the time allowed") from error

    def receive(self) -> Any:
        """Return the next reply that is not a pushed message."""
        while isinstance(reply := self._next(), hiredis.PushNotification):
            pass
        return reply

    def pushed(self, timeout_s: float | None) -> list[Any]:
        """Return the messages that are there, or else come within the timeout; raises OSError when broken."""
        messages: list[Any] = []
        if self.ready(timeout_s):
            self._fill()
        while (message := self._reader.gets()) is not False:
            messages.append(message)
        return messages

    def ready(self, timeout_s: float | None) -> bool:
        """Whether something can be read, or can be within the timeout."""
        return self._buffered() > 0 or bool(self._poll.poll(None if timeout_s is None else max(0.0, timeout_s * 1000)))

    def _next(self) -> Any:
        while (reply := self._reader.gets()) is False:
            self._fill()
        return reply

    def _fill(self) -> None:
        try:
            data = self._socket.recv(_READ)
        except BlockingIOError as error:  # the socket's own timeout, see `_connect`
            raise Unanswered("no answer in the time allowed") from error
        except OSError as error:
            raise Unanswered(str(error) or type(error).__name__) from error
        if not data:
            raise Unanswered("the server closed the connection")
        self._reader.feed(data)

    def is_quiet(self) -> bool:
        """Whether nothing has come unasked, as the end of the connection would."""
        return not self.ready(0) and not self._reader.has_data()

    def fileno(self) -> int:
        """Return the socket's descriptor, for `poll`."""
        return self._socket.fileno()

    def close(self) -> None:
        """Hang up. May be called twice."""
        self._socket.close()


def _connect(url: RedisUrl, address: tuple[str, int]) -> socket.socket:
    host = address[0]
    if url.kind == "unix":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(url.timeout_s)
            sock.connect(host)
        except BaseException:
            sock.close()
            raise
    else:
        sock = socket.create_connection(address, url.timeout_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if url.tls:
        try:
            return _context(url).wrap_socket(sock, server_hostname=host)
        except BaseException:
            sock.close()
            raise
    # The kernel's timeouts: those of Python's sockets cost a `poll` before each call.
    sock.settimeout(None)
    limit = struct.pack("ll", int(url.timeout_s), int(url.timeout_s % 1 * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    return sock


def _context(url: RedisUrl) -> ssl.SSLContext:
    import ssl

    context = ssl.create_default_context(cafile=url.ca_certs or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if url.insecure:
        logger.warning("%s: insecure=1, so whoever answers is believed to be the server", url.shown)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if url.certfile:
        context.load_cert_chain(url.certfile, url.keyfile or None)
    return context


# -- what errors mean ---------------------------------------------------------------------------------

#: How Redis's errors begin, and what is to be done about them.
_REMEDIES = {
    "WRONGPASS": "check the user and the password in the URL",
    "NOAUTH": "put the password into the URL: redis://:password@host",
    "NOPERM": "the user lacks a permission; docs/redis.rst lists those that fastq needs",
    "can't run this command": "the user lacks a permission; docs/redis.rst lists those that fastq needs",
    "ERR DB index": "the server has no database of this number: see its `databases` setting",
    "ERR unknown command": "Redis 6.2 or later, or Valkey, is needed",
    "NOPROTO": "Redis 6.2 or later, or Valkey, is needed",
    "READONLY": "this is a replica; name the master, or let sentinels find it with redis+sentinel://",
    "OOM": "the server is over its `maxmemory`: let workers catch up, or give it more",
    "WRONGTYPE": "another program keeps a key of another type under fastq's prefix: delete it, or choose a ?prefix=",
    "MISCONF": "the server can't save to its disk and refuses writes: see its log",
    "LOADING": "the server is loading its data, and will be there in a moment",
    "BUSY": "a script of somebody's keeps the server busy; SCRIPT KILL ends it",
    "CLUSTERDOWN": "the cluster does not serve all slots: see CLUSTER INFO",
    "MOVED": "this is a node of a cluster: use redis+cluster://",
    "CROSSSLOT": "this is a node of a cluster: use redis+cluster://",
}


def explain(url: RedisUrl, error: BaseException) -> str:
    """Return what went wrong and what to do about it, fit to be shown."""
    text = str(error) or type(error).__name__
    if isinstance(error, hiredis.ReplyError):
        text = text.split(" script: ")[0]  # what follows names lines of our scripts
        remedy = next((remedy for start, remedy in _REMEDIES.items() if start in text), "")
    elif type(error).__name__ == "SSLCertVerificationError":
        remedy = "give the certificate of its authority as ?ssl_ca_certs=file"
    elif type(error).__name__.startswith("SSL") or "handshake" in text:
        remedy = "if the server does not speak TLS, the URL begins with redis://"
    elif isinstance(error, hiredis.ProtocolError):
        remedy = "if the server speaks TLS, the URL begins with rediss://; else it is not a Redis"
    elif url.kind == "unix" or isinstance(error, (socket.gaierror, ConnectionRefusedError)):
        remedy = "check the address, and that the server runs"
    elif isinstance(error, ConnectionError) and not url.tls:
        remedy = "if that is so from the start: a server that speaks TLS wants a URL that begins with rediss://"
    else:
        remedy = ""
    return f"Redis at {url.shown} failed: {text}" + (f" ({remedy})" if remedy else "")


def is_full(error: BaseException | None) -> bool:
    """Whether the server has no memory left."""
    return isinstance(error, hiredis.ReplyError) and "OOM" in str(error)
