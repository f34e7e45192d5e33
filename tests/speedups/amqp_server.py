"""A server that speaks AMQP 0-9-1 as a script tells it to: the lies and silences that a real one is not capable of."""

from __future__ import annotations

import shutil
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
Script = Callable[["Peer"], object]


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def method(class_id: int, method_id: int, arguments: bytes = b"") -> bytes:
    return frame(METHOD, int(class_id != 10), struct.pack(">HH", class_id, method_id) + arguments)


def short(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return bytes([len(data)]) + data


def long(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def content(body: bytes, properties: bytes = b"\0\0", size: int | None = None) -> bytes:
    header = struct.pack(">HHQ", 60, 0, len(body) if size is None else size) + properties
    return frame(HEADER, 1, header) + (frame(BODY, 1, body) if body else b"")


def headers(table: bytes) -> bytes:
    """Return properties with headers alone."""
    return b"\x20\0" + long(table)


def nested_table(depth: int) -> bytes:
    table = b"\1kV"
    for _ in range(depth):
        table = b"\1kF" + long(table)
    return table


def deliver(
    number: int, body: bytes = b"body", properties: bytes = b"\0\0", key: str | bytes = "key", size: int | None = None
) -> bytes:
    arguments = short("tag") + struct.pack(">Q?", number, False) + short("exchange") + short(key)
    return method(60, 60, arguments) + content(body, properties, size)


def give_back(body: bytes, key: str = "key") -> bytes:
    return method(60, 50, struct.pack(">H", 312) + short("NO_ROUTE") + short("") + short(key)) + content(body)


def ack(number: int, *, multiple: bool = False, refused: bool = False) -> bytes:
    return method(60, 120 if refused else 80, struct.pack(">QB", number, multiple))


def close(code: int, text: str) -> bytes:
    return method(10, 50, struct.pack(">H", code) + short(text) + bytes(4))


START = method(10, 10, b"\0\x09" + long(b"\x07productS" + long(b"fake")) + long(b"PLAIN") + long(b"en_US"))
OPEN_OK = method(10, 41, b"\0")
CHANNEL_OPEN_OK = method(20, 11, long(b""))
CONFIRM_SELECT_OK = method(85, 11)
FLOW_OK = method(20, 21, b"\1")


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket, over: threading.Event) -> None:
        self.sock = sock
        self.over = over  # set when the test is
        self._file = sock.makefile("rb")

    def send(self, *data: bytes) -> None:
        self.sock.sendall(b"".join(data))

    def read(self) -> tuple[int, bytes]:
        """Return type and payload of the next frame but heartbeats."""
        while True:
            kind, _, size = struct.unpack(">BHI", self._exactly(7))
            payload = self._exactly(size)
            assert self._exactly(1) == b"\xce"
            if kind != HEARTBEAT:
                return kind, payload

    def read_until(self, class_id: int, method_id: int) -> bytes:
        """Read up to this method, and return its arguments."""
        while True:
            kind, payload = self.read()
            if kind == METHOD and payload[:4] == struct.pack(">HH", class_id, method_id):
                return payload[4:]

    def welcome(self, *, frame_max: int = 131_072, heartbeat_s: int = 0) -> Peer:
        """Go through all that is done before a link is made."""
        assert self._exactly(8) == b"AMQP\0\0\x09\x01"
        self.send(START)
        self.read_until(10, 11)
        self.send(method(10, 30, struct.pack(">HIH", 2047, frame_max, heartbeat_s)))
        self.read_until(10, 31)
        self.read_until(10, 40)
        self.send(OPEN_OK)
        self.read_until(20, 10)
        self.send(CHANNEL_OPEN_OK)
        return self

    def take(self, messages: int) -> None:
        """Agree to confirm, and read so many messages that have a body."""
        self.read_until(85, 10)
        self.send(CONFIRM_SELECT_OK)
        for _ in range(messages):
            while self.read()[0] != BODY:
                pass

    def stay(self) -> None:
        """Read what comes, and answer nothing but a farewell."""
        self.read_until(10, 50)
        self.send(method(10, 51))

    def hang(self) -> None:
        """Do nothing until the test is over."""
        self.over.wait(60)

    def _exactly(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise ConnectionError("the link is gone")
        return data


class FakeServer:
    """Runs a script with each connection that is made to `port`, in a thread, and closes it at the script's end."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self._script = script
        self._tls = tls
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self.errors: list[BaseException] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Any:
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join(10)
        for thread in self._threads:
            thread.join(10)
        if error is None:
            assert not self.errors, self.errors

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            try:
                if self._tls is not None:
                    sock = self._tls.wrap_socket(sock, server_side=True)
                self._script(Peer(sock, self._over))
            except OSError:
                pass  # the link closed first
            except BaseException as error:
                self.errors.append(error)


def to_rabbitmq(peer: Peer, lies: Sequence[bytes] = ()) -> None:
    """Pass on what is said, both ways, between the link and the real server; tell each of the `lies` as it is added."""
    told = len(lies)
    with socket.create_connection(("127.0.0.1", 5672)) as server:
        peer.sock.settimeout(0.01)  # one thread at a time may use a TLS socket
        server.settimeout(0.01)
        while not peer.over.is_set():
            for lie in lies[told:]:
                told += 1
                peer.send(lie)
            for one, other in ((peer.sock, server), (server, peer.sock)):
                with suppress(TimeoutError):
                    while data := one.recv(65_536):
                        other.settimeout(20)
                        other.sendall(data)
                        other.settimeout(0.01)
                    return


def certificate(folder: Path) -> ssl.SSLContext:
    """Make cert.pem, a certificate for "localhost" that signs itself, and key.pem; return a server's context."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not in PATH")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=DNS:localhost", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context
