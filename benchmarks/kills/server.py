"""A Redis server for one run, which writes everything down before it answers, and which may be killed."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from contextlib import closing
from pathlib import Path

from benchmarks.load.resp import RedisAt


class Server:
    """Owns a process and a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = int(free.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        """Start it, and wait until it answers. Raises OSError if it can't be started."""
        program = shutil.which("redis-server")
        if program is None:
            raise OSError("redis-server is not in PATH")
        command = [program, "--bind", "127.0.0.1", "--port", str(self._port), "--dir", str(self._folder), "--save", ""]
        command += ["--appendonly", "yes", "--appendfsync", "always"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        give_up = time.monotonic() + 20
        while True:
            try:
                with closing(RedisAt(self.url)) as redis:
                    redis.call("PING")
                return
            except (OSError, ValueError):
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.02)

    def kill(self) -> None:
        """End it as the end of its power would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Kill it, and start it again."""
        self.kill()
        time.sleep(0.5)
        self.start()
