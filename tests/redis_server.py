"""Redis servers that tests start for themselves, on free ports of 127.0.0.1, and end again."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from fastq.systems.redis_url import RedisUrl
from fastq.systems.redis_wire import ERRORS, Wire, pack


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class RedisServer:
    """One redis-server with its files in a folder of its own."""

    running: ClassVar[set[RedisServer]] = set()

    def __init__(self, folder: Path, *options: str, port: int = 0, sentinel: bool = False) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.options = options
        self._sentinel = sentinel
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, *, tls: bool = False) -> RedisServer:
        config = self.folder / "redis.conf"
        if not config.exists():
            lines = ["bind 127.0.0.1", f"dir {self.folder}", f"{'tls-port' if tls else 'port'} {self.port}"]
            if tls:
                lines.append("port 0")
            if not self._sentinel:
                lines.append('save ""')
            config.write_text("\n".join([*lines, *self.options]) + "\n")
        command = [shutil.which("redis-server") or "redis-server", str(config), *["--sentinel"] * self._sentinel]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        self.running.add(self)
        if not tls:
            self.wait()
        return self

    def wait(self) -> None:
        give_up = time.monotonic() + 20
        while True:
            try:
                answer = self.command("PING")
                if not str(answer).startswith("LOADING"):
                    return
                raise ConnectionError(answer)
            except ERRORS as error:
                if str(error).startswith(("NOAUTH", "WRONGPASS")):
                    return
                if time.monotonic() > give_up:
                    raise RuntimeError((self.folder / "log").read_text()[-2000:]) from error
                time.sleep(0.01)

    def wire(self) -> Wire:
        url = RedisUrl.parse(self.url)
        return Wire(url, url.addresses[0], login=("", ""), db=0)

    def command(self, *words: str | int | bytes):
        wire = self.wire()
        try:
            return wire.exchange(pack(words), 1)[0]
        finally:
            wire.close()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.running.discard(self)

    def restart(self) -> None:
        self.kill()
        self.start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid


def has_redis() -> None:
    """Raise unless servers can be started."""
    if shutil.which("redis-server") is None:
        raise FileNotFoundError("redis-server is not in PATH")


def one_for_all(folder: Path) -> Iterator[RedisServer | None]:
    """Run one server while a fixture lasts, started before the first test looks at what it leaves behind.

    It is None where servers can't be started.
    """
    try:
        has_redis()
    except FileNotFoundError:
        yield None
        return
    server = RedisServer(folder).start()
    yield server
    server.kill()
