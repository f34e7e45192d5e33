"""A proxy between a client and its server, whose line a test can cut or let go silent."""

from __future__ import annotations

import contextlib
import socket
import threading


class Proxy:
    """Passes everything on, on a port of its own.

    `cuts`: so many answers are still to be lost, each with its connection, before they reach the client.
    """

    def __init__(self, port: int) -> None:
        self.cuts = 0
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._silent: set[int] = set()
        self._sockets = [self._listener]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def silence(self) -> None:
        """Pass nothing on over the present connections, not even their ends; new ones work."""
        self._silent.update(map(id, self._sockets[1:]))

    def close(self) -> None:
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
            server = socket.create_connection(("127.0.0.1", self._port))
            self._sockets += [client, server]
            for pair in ((client, server, False), (server, client, True)):
                self._threads.append(threading.Thread(target=self._pass_on, args=pair))
                self._threads[-1].start()

    def _pass_on(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if id(source) in self._silent:
                    continue
                if answers and self.cuts:
                    self.cuts -= 1
                    break
                target.sendall(data)
        if id(source) not in self._silent:
            for end in (source, target):
                _shut(end)


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
