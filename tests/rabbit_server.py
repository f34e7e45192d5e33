"""RabbitMQ for tests: a virtual host of the server that runs, or a node of their own, to be killed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastq._speedups import AmqpLink
from fastq._speedups.amqp_link import Link
from fastq._speedups.amqp_values import Declared
from tests.conftest import require_service
from tests.redis_server import free_port

PORT = 5672


def url_of(vhost: str, scheme: str = "amqp") -> str:
    """Return the URL of a virtual host."""
    return f"{scheme}://guest:guest@127.0.0.1:{PORT}/{vhost}"


def has_rabbit() -> None:
    """Raise unless a server is there, and its tool."""
    AmqpLink(port=PORT, timeout_s=2).close()
    if shutil.which("rabbitmqctl") is None:
        raise FileNotFoundError("rabbitmqctl is not in PATH")


def rabbitmqctl(*words: str, tool: str = "rabbitmqctl", environment: dict[str, str] | None = None) -> str:
    command = [tool, "-q", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


@contextlib.contextmanager
def own_vhost() -> Iterator[str]:
    """Make an empty virtual host, and delete it at the end; fail if queues are left in it."""
    require_service("RabbitMQ", has_rabbit)
    name = f"fastq-test-{uuid.uuid4().hex}"
    rabbitmqctl("add_vhost", name)
    try:
        rabbitmqctl("set_permissions", "-p", name, "guest", ".*", ".*", ".*")
        yield name
        left = rabbitmqctl("list_queues", "-p", name, "--no-table-headers", "name").split()
    finally:
        rabbitmqctl("delete_vhost", name)
    assert not left, f"tests left these queues behind: {left}"


def prefix_of(test: str) -> str:
    """Return what the queues of a test are to be named with: no two runs have the same, and it tells the test."""
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', test)[-50:].strip('-')}.{uuid.uuid4().hex[:8]}."


@contextlib.contextmanager
def queues_deleted(vhost: str) -> Iterator[None]:
    """Delete, at the end, the queues that this process has declared meanwhile: a server has few files to spare."""
    declared: set[str] = set()
    declare = Link.declare_queue

    def recorded(link: Link, name: str, *, passive: bool = False, **options: Any) -> Declared:
        found = declare(link, name, passive=passive, **options)
        if not passive:
            declared.add(found.name)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Link, "declare_queue", recorded)
        yield
    if declared:
        link = AmqpLink(port=PORT, vhost=vhost)
        for name in declared:
            link.delete_queue(name)
        link.close()


#: The scripts themselves: those in PATH change to the user of the system's own node.
_SCRIPTS = Path("/usr/lib/rabbitmq/bin")


def can_start() -> None:
    """Raise unless nodes can be started."""
    if not (_SCRIPTS / "rabbitmq-server").exists() and shutil.which("rabbitmq-server") is None:
        raise FileNotFoundError("rabbitmq-server is not installed")


class RabbitServer:
    """One node with its files in a folder of its own. It takes seconds to boot: one does for many tests."""

    def __init__(self, folder: Path, *, management: bool = False) -> None:
        """Make its files; with `management`, so that it has the plugin of that name, and tells it soon what happens."""
        self.folder = folder
        self.port = free_port()
        self.name = f"fastq{self.port}@localhost"
        self.management_port = free_port() if management else 0
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        lines = [
            f"listeners.tcp.local = 127.0.0.1:{self.port}",
            "disk_free_limit.absolute = 1MB",
            "log.console.level = error",
        ]
        if management:
            lines += ["management.tcp.ip = 127.0.0.1", f"management.tcp.port = {self.management_port}"]
            lines += ["collect_statistics_interval = 200"]
        (folder / "rabbitmq.conf").write_text("\n".join([*lines, ""]))
        cookie = folder / ".erlang.cookie"  # nodes and tools that know the same may talk
        cookie.write_text("fastq-tests")
        cookie.chmod(0o400)
        (folder / "env.conf").write_text("")
        (folder / "plugins").write_text("[rabbitmq_management]." if management else "[].")
        self.environment = {
            **os.environ,
            "HOME": str(folder),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_FLAGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_NODENAME": self.name,
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

    def join(self, *nodes: RabbitServer) -> None:
        """Make one cluster of this node and others, when they are started for the first time."""
        lines = ["cluster_formation.peer_discovery_backend = classic_config"]
        for number, node in enumerate([self, *nodes], 1):
            lines.append(f"cluster_formation.classic_config.nodes.{number} = {node.name}")
        for node in (self, *nodes):
            with (node.folder / "rabbitmq.conf").open("a") as config:
                config.write("\n".join([*lines, ""]))

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

    def restart(self) -> None:
        self.kill()
        self.start()

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def control(self, *words: str) -> str:
        return rabbitmqctl(*words, tool=self._script("rabbitmqctl"), environment=self.environment)

    @staticmethod
    def _script(name: str) -> str:
        return str(_SCRIPTS / name) if (_SCRIPTS / name).exists() else name
