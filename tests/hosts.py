"""A host with workers on it, as an operator would start them."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastq import FastQ
from fastq.settings import Settings
from tests.ledger import Ledger, alive, children_of, eventually

ROOT = Path(__file__).parents[1]


class Host:
    """Workers on one broker, each a process of its own; the ledger and the log are common to them."""

    def __init__(
        self, url: str, ledger: Ledger, log: Path, lease_s: float = 3, app: str = "tests.apps.basic:app"
    ) -> None:
        self.lease_s = lease_s
        self.app = app
        self.log = log
        self.prefix: list[str] = []  # of the command that starts a worker
        self.options: dict[str, str] = {}  # more of its environment
        self.grace_s = 30.0
        self.children = 2
        self.ledger = ledger
        self._environment = {**os.environ, "TEST_BROKER": url, "LEDGER": str(ledger.path)}
        self.workers: list[subprocess.Popen[bytes]] = []

    def start_worker(self) -> subprocess.Popen[bytes]:
        command = [
            *self.prefix,
            sys.executable,
            "-m",
            "fastq",
            "worker",
            "-A",
            self.app,
            "-c",
            str(self.children),
            "--lease",
            str(self.lease_s),
            "--grace",
            str(self.grace_s),
        ]
        with self.log.open("ab") as log:
            environment = {**self._environment, **self.options}
            worker = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        self.workers.append(worker)
        return worker

    def pool_children(self, *workers: subprocess.Popen[bytes]) -> list[int]:
        """Return the pids of the pool children of some workers, or of all."""
        templates = [pid for worker in workers or self.workers for pid in children_of(worker.pid)]
        return [pid for template in templates for pid in children_of(template)]

    def stop(self) -> list[int]:
        """Stop the workers, and return the pids of processes of theirs that are left."""
        ours = [*self.pool_children(), *(pid for worker in self.workers for pid in children_of(worker.pid))]
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            worker.wait(40)
        eventually(lambda: not any(map(alive, ours)), 5)
        return [pid for pid in ours if alive(pid)]


@contextmanager
def in_memory(app: FastQ) -> Iterator[FastQ]:
    """Give an app of the tests a broker in memory that nobody else has."""
    before = app.settings
    app.settings = Settings.load({"broker": f"memory://{uuid.uuid4().hex}"})
    try:
        yield app
    finally:
        app.close()
        app.settings = before
