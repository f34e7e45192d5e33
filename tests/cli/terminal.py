"""The command line as its users have it: real processes, in a folder of their own."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from fastq import FastQ
from fastq.broker import QueueInfo
from tests.ledger import alive, children_of, eventually

SHOP = """
import os
import time
from fastq import FastQ

app = FastQ("shop")

@app.task
def add(x, y=0):
    return x + y

@app.task
def say(*words, **named):
    return [words, named]

@app.task
def fail(text="no luck"):
    raise ValueError(text)

@app.task
def nap(seconds):
    time.sleep(seconds)

@app.task
def count(total, gate):
    from fastq import current_task

    for done in range(1, total + 1):
        current_task.progress(done, total, "counting\\x1b[31m")
    while not os.path.exists(gate):
        time.sleep(0.01)
    return total

@app.task(secret=["password"])
def log_in(user, password):
    return user

@app.task
def relay(x):
    return add.delay(x, 1).id

@app.task(ignore_result=True)
def forget():
    pass

@app.task(queue="mail")
def post():
    return "sent"
"""


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment without settings of fastq in it."""
    kept = ("FASTQ_SPEEDUPS", "FASTQ_REQUIRE_SERVICES")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FASTQ_") or name in kept}
    return {**clean, "NO_COLOR": "1", **more}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "fastq", *arguments]


def fastq(*arguments: str, folder: Path, settings: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with no terminal."""
    return subprocess.run(
        command(*arguments), cwd=folder, env=environment(**(settings or {})), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def at_terminal(*arguments: str, folder: Path, columns: int) -> list[str]:
    """Run a command to its end at a terminal without colours, and return the lines that it shows there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    with subprocess.Popen(
        command(*arguments), cwd=folder, env=environment(TERM="dumb"), stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # so a terminal ends that nobody writes to any more
            while more := os.read(ours, 65_536):
                shown += more
        process.wait(60)
    os.close(ours)
    return shown.decode().splitlines()


def client(folder: Path) -> FastQ:
    """Return an app on the database that commands and workers use in a folder when nothing is configured."""
    return FastQ("client", broker=f"sqlite:///{folder}/fastq.db")


def queued(folder: Path) -> dict[str, QueueInfo]:
    """Return the queues of a folder in numbers."""
    with client(folder) as app:
        return {queue.name: queue for queue in app.broker.queues()}


class Worker:
    """A worker that was started as an operator would, and its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self._log.read_text()

    def children(self) -> list[int]:
        return [pid for template in children_of(self.pid) for pid in children_of(template)]

    def wait_until_ready(self) -> None:
        eventually(lambda: "Ready" in self.log or self.process.poll() is not None, 20)
        assert "Ready" in self.log, self.log

    def stop(self) -> int:
        """End it with SIGTERM and return its exit status; nothing of it is left."""
        ours = [*children_of(self.pid), *self.children()]
        if self.process.poll() is None:
            self.process.terminate()
        status = self.process.wait(40)
        eventually(lambda: not any(map(alive, ours)), 5)
        return status


@contextmanager
def worker(*arguments: str, folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[Worker]:
    """Start a worker with two children, wait until it is ready, and stop it at the end."""
    log = folder / "worker.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command("worker", "-c", "2", *arguments), cwd=folder, env=environment(**(settings or {})),
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    started = Worker(process, log)
    try:
        started.wait_until_ready()
        yield started
    finally:
        started.stop()
