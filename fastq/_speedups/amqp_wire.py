"""The socket under the AMQP link: it never blocks, everything has a deadline, and who waits keeps the heartbeats."""

from __future__ import annotations

import math
import select
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress

from .amqp_values import Tls

_READ = 131_072  # bytes to ask the kernel for at once
_HEARTBEAT = b"\x08\0\0\0\0\0\0\xce"
_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR
_NEVER = math.inf
_LATER = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Wire:
    """A connected socket with TLS or without, and a bell that any thread may ring to wake who waits.

    `hear` is called while something is being written and the server has said something: a server may wait with its
    reading until we have read. It returns whether there was something to read.
    """

    def __init__(self, *, host: str, port: int, tls: Tls | None, timeout_s: float, hear: Callable[[], bool]) -> None:
        """Connect. Raises ConnectionError, TimeoutError, OSError for a name that is not known, ValueError for `tls`."""
        self.closed = ""  # why
        self.blocked = ""  # why the server doesn't read, if it told
        self.heartbeat_s = 0  # 0: none
        self.writing = False  # a part of a frame may be written and the rest not
        self._hear = hear
        self._timeout_s = timeout_s
        self._socket = _connected(host, port, tls, timeout_s)
        self._bell, self._rope = socket.socketpair()
        self._bell.setblocking(False)
        self._rope.setblocking(False)
        self._poll, self._poll_with_bell = select.poll(), select.poll()
        for poll in (self._poll, self._poll_with_bell):
            poll.register(self._socket, select.POLLIN)
        self._poll_with_bell.register(self._bell, select.POLLIN)
        self._last_sent = self._last_heard = time.monotonic()

    def fileno(self) -> int:
        """Return the socket's descriptor; -1 when it is closed."""
        return self._socket.fileno()

    def read(self) -> bytes | None:
        """Return what is there, None if nothing is. Raises ConnectionError."""
        self._check()
        try:
            data = self._socket.recv(_READ)
        except _LATER:
            return None
        except OSError as error:
            raise self.shut(f"the connection broke: {error}") from error
        if not data:
            raise self.shut("the server closed the connection")
        self._last_heard = time.monotonic()
        return data

    def write(self, data: bytes, until: float) -> None:
        """Write it all. Raises ConnectionError or TimeoutError, and what `hear` does; a part may be written then."""
        self._check()
        view = memoryview(data)
        self.writing = True
        try:
            while view:
                try:
                    view = view[self._socket.send(view) :]
                except _LATER:
                    if self.wait_for("room to write", until, select.POLLIN | select.POLLOUT) & _READABLE:
                        self._hear()
                except OSError as error:
                    while self._hear():  # its last words
                        pass
                    raise self.shut(f"the connection broke: {error}") from error
        finally:
            self.writing = False
        self._last_sent = time.monotonic()

    def write_if_room(self, data: bytes) -> None:
        """Write what need not arrive."""
        with suppress(OSError):
            self._socket.send(data)

    def wait_for(self, what: str, until: float, events: int = select.POLLIN) -> int:
        """Wait until the socket is ready, and return what for. Raises TimeoutError, which says what was not there."""
        ready = self.wait(until, events)
        if not ready:
            why = f"; it takes none at present: {self.blocked}" if self.blocked else ""
            raise TimeoutError(str(self.shut(f"the server gave no {what} in time{why}")))
        return ready

    def wait(self, deadline: float | None, events: int = select.POLLIN, *, bell: bool = False) -> int:
        """Wait for the socket and return what it is ready for; 0 when the deadline has passed, or at the bell."""
        self._check()
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return select.POLLIN
        poll = self._poll_with_bell if bell else self._poll
        poll.modify(self._socket, events)
        while True:
            until = min(self._next_beat(), _NEVER if deadline is None else deadline)
            left_ms = None if until == _NEVER else max(0, math.ceil((until - time.monotonic()) * 1000))
            ready = dict(poll.poll(left_ms))
            if self._socket.fileno() in ready:
                return ready[self._socket.fileno()]
            if ready:
                self._silence_bell()
                return 0
            if deadline is not None and time.monotonic() >= deadline:
                return 0
            self.check_pulse()
            self.beat()

    def ring(self) -> None:
        """Ring the bell: for who waits for it, or else will next."""
        with suppress(OSError):  # it rings already, or there is nobody any more
            self._rope.send(b"\0")

    def beat(self) -> None:
        """Send a heartbeat if it is time to."""
        now = time.monotonic()
        if self.heartbeat_s and not self.writing and now >= self._last_sent + self.heartbeat_s / 2:
            self.write(_HEARTBEAT, now + self._timeout_s)

    def check_pulse(self) -> None:
        """Raise ConnectionError if the server missed two heartbeats. What there was to read must have been read."""
        silence_s = time.monotonic() - self._last_heard
        if self.heartbeat_s and silence_s >= 2 * self.heartbeat_s:
            raise self.shut(f"the server has been silent for {silence_s:.0f} s")

    def shut(self, reason: str) -> ConnectionError:
        """Close what there is to close, and return the error to raise."""
        if not self.closed:
            self.closed = reason
            for one in (self._socket, self._bell, self._rope):
                one.close()
        return ConnectionError(reason)

    def _check(self) -> None:
        if self.closed:
            raise ConnectionError(self.closed)

    def _next_beat(self) -> float:
        if not self.heartbeat_s:
            return _NEVER
        end = self._last_heard + 2 * self.heartbeat_s
        return end if self.writing else min(end, self._last_sent + self.heartbeat_s / 2)

    def _silence_bell(self) -> None:
        with suppress(BlockingIOError):
            while self._bell.recv(4096):
                pass


def _connected(host: str, port: int, tls: Tls | None, timeout_s: float) -> socket.socket:
    """Return a socket that never blocks. A name that has several addresses has them tried in turn."""
    context = None if tls is None else tls_context(tls)
    until = time.monotonic() + timeout_s
    connected = socket.create_connection((host, port), timeout_s)
    try:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if tls is not None and context is not None:
            connected.settimeout(max(0.001, until - time.monotonic()))
            connected = context.wrap_socket(connected, server_hostname=tls.server_name or host)
        connected.setblocking(False)
    except BaseException as error:
        connected.close()
        if isinstance(error, ssl.SSLError):
            raise ConnectionError(f"TLS with {host}:{port} failed: {error}") from error
        raise
    return connected


def tls_context(tls: Tls) -> ssl.SSLContext:
    """Return what a client needs to speak TLS. Raises ValueError."""
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        if not tls.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if tls.cert is not None:
            context.load_cert_chain(tls.cert, tls.key)
    except (OSError, ValueError) as error:
        raise ValueError(f"{tls} can't be used: {error}") from error
    return context
