"""A contender as the harness sees it: a driver process in the contender's own environment, told what to do."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from benchmarks.load import venvs
from benchmarks.load.resp import RedisAt
from benchmarks.peers.processes import family, send_signal

ROOT = Path(__file__).parents[2]
VHOST = "fastq-bench"  # the one that is made and deleted


class Contender(Protocol):
    """What every contender can be told. Rates are per second, times in seconds; each call is bounded in time."""

    keeps: bool  # whether it can keep results

    def start(self, children: int) -> float: ...
    def stop(self) -> None: ...
    def freeze(self) -> None: ...
    def send_each(self, task: str, argument: Any, limit_s: float) -> float: ...
    def send_bulk(self, task: str, argument: Any, count: int, limit_s: float) -> float: ...
    def drain(self, limit_s: float) -> float: ...
    def round_trips(self, count: int, limit_s: float) -> list[float]: ...
    def chord(self, count: int, limit_s: float) -> dict[str, float] | str: ...
    def idle(self, seconds: float) -> dict[str, float]: ...
    def mixed(self, rate: int, seconds: float) -> list[float]: ...
    def recover_child(self, limit_s: float) -> float | str: ...
    def recover_worker(self, children: int, limit_s: float) -> float | str: ...


@dataclass(frozen=True)
class Entry:
    """A contender's name, the folder of its adapter, and the configuration that is meant.

    `delivery` says what becomes of a task whose worker dies.
    """

    name: str
    folder: str
    delivery: str
    variant: str = ""
    brokers: tuple[str, ...] = ("redis",)
    speedups: str = ""
    keeps: bool = True  # whether it can keep results

    @property
    def ours(self) -> bool:
        return self.folder == "fastq"


OURS = (
    Entry("fastq", "fastq", "at least once", brokers=("redis", "sqlite", "memory"), speedups="1"),
    Entry("fastq, Python bodies", "fastq", "at least once", brokers=("redis", "sqlite", "memory"), speedups="0"),
    Entry("fastq, quorum", "fastq", "at least once", brokers=("amqp",), speedups="1"),
    Entry("fastq", "fastq", "at least once", variant="classic", brokers=("amqp",), speedups="1"),
    Entry("fastq, Python bodies", "fastq", "at least once", variant="classic", brokers=("amqp",), speedups="0"),
    Entry("fastq, rpc://", "fastq", "at least once", variant="classic rpc", brokers=("amqp",), speedups="1"),
)
PEERS = (
    Entry("celery prefork", "celery", "at least once", brokers=("redis", "amqp")),
    Entry("celery solo × 2", "celery", "at least once", variant="solo", brokers=("redis", "amqp")),
    Entry("dramatiq", "dramatiq", "at least once", brokers=("redis", "amqp")),
    Entry("taskiq streams", "taskiq", "at least once"),
    Entry("taskiq", "taskiq", "at least once", brokers=("amqp",)),
    Entry("taskiq list", "taskiq", "at most once", variant="list"),
    Entry("huey", "huey", "at most once", brokers=("redis", "sqlite")),
    Entry("rq", "rq", "at most once"),
    Entry("arq", "arq", "at least once"),
    Entry("saq", "saq", "at least once"),
    Entry("streaq", "streaq", "at least once"),
    Entry("bullmq (Node.js)", "bullmq", "at least once"),
    Entry("sidekiq (Ruby)", "sidekiq", "at most once", keeps=False),
)


class ContenderError(Exception):
    """Raised when a contender can't do what it was told, or not in time."""


class Driven:
    """A Contender by its driver process. Use `driven`, which ends it and empties its database."""

    def __init__(self, process: subprocess.Popen[str], folder: Path, *, keeps: bool) -> None:
        self.process = process
        self.folder = folder
        self.keeps = keeps

    def start(self, children: int) -> float:
        return float(self._told(40, do="start", children=children, limit_s=30))

    def stop(self) -> None:
        self._told(20, do="stop")

    def freeze(self) -> None:
        self._told(5, do="freeze")

    def send_each(self, task: str, argument: Any, limit_s: float) -> float:
        return float(self._told(limit_s + 20, do="send_each", task=task, argument=argument, limit_s=limit_s))

    def send_bulk(self, task: str, argument: Any, count: int, limit_s: float) -> float:
        command = {"task": task, "argument": argument, "count": count, "limit_s": limit_s}
        return float(self._told(limit_s + 20, do="send_bulk", **command))

    def drain(self, limit_s: float) -> float:
        return float(self._told(limit_s + 20, do="drain", limit_s=limit_s))

    def round_trips(self, count: int, limit_s: float) -> list[float]:
        return list(self._told(limit_s + 20, do="round_trips", count=count, limit_s=limit_s))

    def chord(self, count: int, limit_s: float) -> dict[str, float] | str:
        answer = self._told(limit_s + 20, do="chord", count=count, limit_s=limit_s)
        return answer if isinstance(answer, str) else dict(answer)

    def idle(self, seconds: float) -> dict[str, float]:
        return dict(self._told(seconds + 20, do="idle", seconds=seconds))

    def mixed(self, rate: int, seconds: float) -> list[float]:
        return list(self._told(seconds * 3 + 60, do="mixed", rate=rate, seconds=seconds, limit_s=seconds + 30))

    def recover_child(self, limit_s: float) -> float | str:
        return self._recovery(self._told(limit_s + 30, do="recover_child", limit_s=limit_s))

    def recover_worker(self, children: int, limit_s: float) -> float | str:
        return self._recovery(self._told(limit_s + 30, do="recover_worker", children=children, limit_s=limit_s))

    @staticmethod
    def _recovery(value: Any) -> float | str:
        return value if isinstance(value, str) else float(value)

    def _told(self, patience_s: float, /, **command: Any) -> Any:
        """Send a command, and return the value of its answer. Raises ContenderError."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise ContenderError(f"the driver has ended:{self._logged('driver.log')}") from None
        if not select.select([self.process.stdout], [], [], patience_s)[0]:
            raise ContenderError(f"{command['do']} took more than {patience_s} s")
        line = self.process.stdout.readline()
        if not line:
            raise ContenderError(f"the driver has ended:{self._logged('driver.log')}")
        answer = json.loads(line)
        if "error" in answer:
            raise ContenderError(f"{command['do']}: {answer['error']}{self._logged('worker.log')}")
        return answer["value"]

    def _logged(self, name: str) -> str:
        """Return the last lines of a log, on lines of their own."""
        path = self.folder / name
        lines = path.read_text(errors="replace").splitlines()[-12:] if path.exists() else []
        return "".join(f"\n    {line[:200]}" for line in lines)


@contextmanager
def driven(entry: Entry, url: str, *, keep: bool, rabbit: str = "") -> Iterator[Contender]:
    """Run the driver of a contender on an empty database; end its processes, and empty the database, at the end.

    `url` is that of a Redis database which nobody else uses; or "sqlite", for a file in a new folder;
    or memory://, for what lives in the driver itself. With the URL of a RabbitMQ, messages go to a virtual host there,
    which is made and deleted.
    """
    python = Path(sys.executable) if entry.ours else venvs.python_of(entry.folder)
    with tempfile.TemporaryDirectory(prefix="fastq-bench-") as name:
        folder = Path(name)
        database = RedisAt(url) if url.startswith("redis") else None
        if database is not None:
            database.flush()
        broker = emptied_vhost(rabbit) if rabbit else ""
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("FASTQ_")},
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "",
            "BENCH_FOLDER": name,
            "BENCH_URL": f"sqlite:///{name}/queue.db" if url == "sqlite" else url,
            "BENCH_KEEP": "1" if keep and entry.keeps else "0",
            "BENCH_VARIANT": entry.variant,
            **({"FASTQ_SPEEDUPS": entry.speedups} if entry.speedups else {}),
            **({"BENCH_BROKER": broker} if broker else {}),
        }
        with (folder / "driver.log").open("w") as log:
            process = subprocess.Popen(
                [str(python), "-m", "benchmarks.peers.driver", entry.folder],
                cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                text=True, bufsize=1,
            )  # fmt: skip
        try:
            yield Driven(process, folder, keeps=entry.keeps)
        finally:
            end(process)
            if database is not None:
                database.flush()
                database.close()
            if broker:
                rabbitmqctl("delete_vhost", VHOST)


def emptied_vhost(rabbit: str) -> str:
    """Make the virtual host for one session, and return the URL of it."""
    rabbitmqctl("add_vhost", VHOST)
    rabbitmqctl("set_permissions", "-p", VHOST, urlsplit(rabbit).username or "guest", ".*", ".*", ".*")
    return f"{rabbit.rstrip('/')}/{VHOST}"


def rabbitmqctl(*words: str) -> None:
    """Change RabbitMQ, which takes root. Raises OSError."""
    done = subprocess.run(["rabbitmqctl", "-q", *words], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise OSError(f"rabbitmqctl {' '.join(words)} failed: {done.stdout}{done.stderr}")


def end(process: subprocess.Popen[str]) -> None:
    """End a driver and whatever it has started."""
    everyone = family(process.pid)
    assert process.stdin is not None
    try:
        process.stdin.close()
        process.wait(10)
    except (subprocess.TimeoutExpired, BrokenPipeError):
        send_signal(everyone, signal.SIGKILL)
        process.wait(10)
    else:
        time.sleep(0.05)
        send_signal([pid for pid in everyone if pid != process.pid], signal.SIGKILL)
    if process.stdout is not None:
        process.stdout.close()
