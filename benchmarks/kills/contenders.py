"""Who is harmed: how its worker is started, how tasks are sent, and what is still in its broker at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load.resp import RedisAt, Reply
from benchmarks.load.venvs import python_of
from fastq.brokers import open_broker
from fastq.message import Message
from fastq.systems import redis_scripts
from fastq.testing.faults import Ledger, family

ROOT = Path(__file__).parents[2]
CHILDREN = 2
_QUEUE = "{fastq:default}"

#: Returns the ids of the tasks that are still in the broker, and of those that were given up, by its URL.
Look = Callable[[str], tuple[set[str], set[str]]]


@dataclass(frozen=True)
class Contender:
    """A queue in one configuration."""

    name: str
    variant: str
    module: str
    python: Path
    worker: Sequence[str]
    look: Look
    ack: str  # what it promises, in fastq's words

    @property
    def title(self) -> str:
        """What it is called in the table."""
        return f"{self.name} {self.variant}"


class Bench:
    """A contender at work: its workers, its ledger, its log. Close it at the end."""

    def __init__(self, contender: Contender, url: str, folder: Path) -> None:
        self.contender = contender
        self.url = url
        self.ledger = Ledger(folder / "ledger")
        self.log = folder / "log"
        self.workers: list[subprocess.Popen[bytes]] = []
        self._environment = {
            **os.environ, "KILLS_URL": url, "KILLS_VARIANT": contender.variant, "KILLS_LEDGER": str(self.ledger.path),
        }  # fmt: skip

    def start_worker(self) -> subprocess.Popen[bytes]:
        """Start a worker with two children."""
        with self.log.open("ab") as log:
            worker = subprocess.Popen(
                [str(self.contender.python), *self.contender.worker], cwd=ROOT, env=self._environment, stdout=log,
                stderr=log,
            )  # fmt: skip
        self.workers.append(worker)
        return worker

    def send(self, count: int, seconds: float, pills: int = 0) -> None:
        """Send so many naps of so many seconds, and pills before them."""
        command = [str(self.contender.python), "-m", self.contender.module, str(count), str(seconds), str(pills)]
        subprocess.run(command, cwd=ROOT, env=self._environment, check=True, timeout=120)

    def busy(self) -> list[int]:
        """Return the processes that run a task."""
        running: dict[str, int] = {}
        for line in self.ledger.read():
            if line.word == "start":
                running[line.id] = line.pid
            elif line.word == "end":
                running.pop(line.id, None)
        living = {pid for worker in self.workers for pid in family(worker.pid)}
        return [pid for pid in running.values() if pid in living]

    def close(self) -> None:
        """Kill whatever lives."""
        for worker in self.workers:
            for pid in reversed(family(worker.pid)):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            worker.wait()


def contenders() -> list[Contender]:
    """Return all of them; Celery's environment is made where there is none. Raises OSError."""
    fastq = ("-m", "fastq", "worker", "-A", "benchmarks.kills.fastq_tasks:app", "-c", str(CHILDREN), "--grace", "3")
    celery = (
        "-m", "celery", "-A", "benchmarks.kills.celery_tasks:app", "worker", "--loglevel", "INFO",
        "-P", "prefork", "-c", str(CHILDREN),
    )  # fmt: skip
    known = [
        Contender("fastq", variant, "benchmarks.kills.fastq_tasks", Path(sys.executable), fastq, _in_fastq, variant)
        for variant in ("late", "early")
    ]
    python = python_of("celery")
    for variant in ("rejecting", "acks_late", "default"):
        ack = "early" if variant == "default" else "late"
        known.append(Contender("celery", variant, "benchmarks.kills.celery_tasks", python, celery, _in_celery, ack))
    return known


def _in_fastq(url: str) -> tuple[set[str], set[str]]:
    """Return what waits or is held, and the dead letters."""
    with closing(open_broker(url)) as broker:
        dead = {Message.decode(letter.frame).uuid for letter in broker.dead_letters("default", 1000)}
    with closing(RedisAt(url)) as redis:
        records = _values(redis.call("LRANGE", f"{_QUEUE}:ready", "0", "-1"))
        records += _values(redis.call("ZRANGE", f"{_QUEUE}:sorted", "0", "-1"))
        for key in _values(redis.call("KEYS", f"{_QUEUE}:held:*")):
            records += _values(redis.call("HVALS", key))
    return {Message.decode(record[redis_scripts.HEADER.size :]).uuid for record in records}, dead


def _in_celery(url: str) -> tuple[set[str], set[str]]:
    """Return what waits, and what is held until the visibility timeout, an hour, has passed."""
    with closing(RedisAt(url)) as redis:
        waiting = [json.loads(raw) for raw in _values(redis.call("LRANGE", "celery", "0", "-1"))]
        held = [json.loads(raw)[0] for raw in _values(redis.call("HVALS", "unacked"))]
    return {message["headers"]["id"] for message in [*waiting, *held]}, set()


def _values(reply: Reply) -> list[bytes]:
    return [value for value in reply if isinstance(value, bytes)] if isinstance(reply, list) else []
