"""A proxy between a client and its server, whose line a test can cut, slow down or let go silent."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable


class Proxy:
    """Passes everything on, on a port of its own at 127.0.0.1, or from whoever comes to `listener`.

    `cuts`: so many answers are still to be lost, each with its connection, before they reach the client.
    `delay_s`: how long each piece of an answer is held back. `piece`: of how many bytes pieces are, at most.
    """

    def __init__(self, port: int, listener: socket.socket | None = None) -> None:
        self.cuts = 0
        self.delay_s = 0.0
        self.piece = 65_536
        self._server_port = port
        self._listener = listener or socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._silent: set[int] = set()
        self._sockets = [self._listener]
        self._trigger: tuple[bytes, Callable[[], None]] | None = None
        self._closed = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def silence(self) -> None:
        """Pass nothing on over the present connections, not even their ends; new ones work."""
        self._silent.update(map(id, self._sockets[1:]))

    def cut(self) -> None:
        """Cut the present connections; new ones work."""
        for each in self._sockets[1:]:
            _shut(each)

    def when_sent(self, what: bytes, then: Callable[[], None] | None = None) -> None:
        """The next time a client sends these bytes: pass them on, call `then`, and lose the answer with its connection.

        The bytes are to come in one piece, as those of one small command do.
        """
        self._trigger = what, then or (lambda: None)

    def close(self) -> None:
        """Cut everything, and wait until nothing is passed on any more."""
        self._closed.set()
        for each in self._sockets:
            _shut(each)
            each.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._server_port))
            except OSError:  # it is down
                client.close()
                continue
            self._sockets += [client, server]
            for pair in ((client, server, False), (server, client, True)):
                self._threads.append(threading.Thread(target=self._pass_on, args=pair))
                self._threads[-1].start()

    def _pass_on(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(self.piece):
                if id(source) in self._silent:
                    continue
                if answers and self.cuts:
                    self.cuts -= 1
                    break
                if answers and self.delay_s:
                    self._closed.wait(self.delay_s)
                if not answers and self._trigger is not None and self._trigger[0] in data:
                    (_, then), self._trigger = self._trigger, None
                    self._silent.add(id(target))  # whose answer is lost
                    target.sendall(data)
                    then()
                    break
                target.sendall(data)
        if id(source) not in self._silent:
            for end in (source, target):
                _shut(end)


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
