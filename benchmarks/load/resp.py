"""Redis over a plain socket: what the harness itself needs of it, and the floor that is measured on it."""

from __future__ import annotations

import socket
from typing import TypeAlias
from urllib.parse import urlsplit

Reply: TypeAlias = "bytes | int | list[Reply] | None"


class RedisAt:
    """One database of a Redis server, by URL: ``redis://HOST:PORT/NUMBER``. Raises OSError, ValueError."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.database = int(parts.path.strip("/") or 0)
        self.socket = socket.create_connection((parts.hostname or "localhost", parts.port or 6379), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._left = b""
        if parts.password:
            self.call("AUTH", *([parts.username] if parts.username else []), parts.password)
        self.call("SELECT", str(self.database))

    def flush(self) -> None:
        """Empty this database, and no other."""
        self.call("FLUSHDB")

    def info(self, section: str = "default") -> dict[str, str]:
        """Return what INFO says."""
        text = self.call("INFO", section)
        assert isinstance(text, bytes)
        lines = text.decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))

    def setting(self, name: str) -> str:
        """Return a setting of the server."""
        pair = self.call("CONFIG", "GET", name)
        assert isinstance(pair, list)
        value = pair[1] if len(pair) == 2 else b""
        return value.decode() if isinstance(value, bytes) else ""

    def call(self, *words: str | bytes) -> Reply:
        """Send one command and return its reply."""
        self.socket.sendall(packed(*words))
        return self.reply()

    def reply(self) -> Reply:
        """Read one reply. Raises ValueError for an error."""
        head, rest = self._line()[:1], self._last[1:]
        if head == b"+":
            return rest
        if head == b"-":
            raise ValueError(rest.decode())
        if head == b":":
            return int(rest)
        if head == b"$":
            return self._exactly(int(rest)) if int(rest) >= 0 else None
        return [self.reply() for _ in range(int(rest))] if int(rest) >= 0 else None

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()

    def _line(self) -> bytes:
        while b"\r\n" not in self._left:
            self._read()
        self._last, self._left = self._left.split(b"\r\n", 1)
        return self._last

    def _exactly(self, size: int) -> bytes:
        while len(self._left) < size + 2:
            self._read()
        found, self._left = self._left[:size], self._left[size + 2 :]
        return found

    def _read(self) -> None:
        more = self.socket.recv(1 << 18)
        if not more:
            raise ConnectionError("Redis has closed the connection")
        self._left += more


def packed(*words: str | bytes) -> bytes:
    """Return a command as the protocol has it."""
    encoded = [word.encode() if isinstance(word, str) else word for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)
