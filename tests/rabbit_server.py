"""RabbitMQ for tests: a virtual host of the server that runs, or a node of their own, to be killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from fastq._speedups import AmqpLink
from tests.conftest import require_service
from tests.redis_server import free_port

PORT = 5672


def url_of(vhost: str, scheme: str = "amqp") -> str:
    """Return the URL of a virtual host."""
    return f"{scheme}://guest:guest@127.0.0.1:{PORT}/{vhost}"


def has_rabbit() -> None:
    """Raise unless a server is there, and its tool."""
    AmqpLink(port=PORT, timeout_s=2).close()
    rabbitmqctl("version")


def rabbitmqctl(*words: str, tool: str = "rabbitmqctl", environment: dict[str, str] | None = None) -> str:
    command = [tool, "-q", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


@contextlib.contextmanager
def own_vhost() -> Iterator[str]:
    """Make an empty virtual host, and delete it at the end."""
    require_service("RabbitMQ", has_rabbit)
    name = f"fastq-test-{uuid.uuid4().hex}"
    rabbitmqctl("add_vhost", name)
    try:
        rabbitmqctl("set_permissions", "-p", name, "guest", ".*", ".*", ".*")
        yield name
    finally:
        rabbitmqctl("delete_vhost", name)


#: The scripts themselves: those in PATH change to the user of the system's own node.
_SCRIPTS = Path("/usr/lib/rabbitmq/bin")


def can_start() -> None:
    """Raise unless nodes can be started."""
    if not (_SCRIPTS / "rabbitmq-server").exists() and shutil.which("rabbitmq-server") is None:
        raise FileNotFoundError("rabbitmq-server is not installed")


class RabbitServer:
    """One node with its files in a folder of its own. It takes seconds to boot: one does for many tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.local = 127.0.0.1:{self.port}\ndisk_free_limit.absolute = 1MB\nlog.console.level = error\n"
        )
        for name in ("env.conf", "plugins"):
            (folder / name).write_text("[]." if name == "plugins" else "")
        self.environment = {
            **os.environ,
            "HOME": str(folder),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_FLAGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_NODENAME": f"fastq{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "env.conf"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
        }

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @property
    def runs(self) -> bool:
        return self._process is not None

    def start(self) -> RabbitServer:
        with (self.folder / "out").open("ab") as out:
            self._process = subprocess.Popen(
                [self._script("rabbitmq-server")], stdout=out, stderr=out, env=self.environment, start_new_session=True
            )
        give_up = time.monotonic() + 60
        while True:
            try:
                return AmqpLink(port=self.port, timeout_s=5).close() or self
            except OSError as error:
                if time.monotonic() > give_up or self._process.poll() is not None:
                    raise RuntimeError((self.folder / "out").read_text()[-2000:]) from error
                time.sleep(0.05)

    def kill(self) -> None:
        """End it as the end of its power would."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def control(self, *words: str) -> str:
        return rabbitmqctl(*words, tool=self._script("rabbitmqctl"), environment=self.environment)

    @staticmethod
    def _script(name: str) -> str:
        return str(_SCRIPTS / name) if (_SCRIPTS / name).exists() else name
