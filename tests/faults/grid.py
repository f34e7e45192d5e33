"""The machinery of the crash-point grid: one fault, at one point, in one process, and what became of twenty tasks."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import traceback
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from fastq import FastQ, State, Task
from fastq.broker import Broker
from fastq.brokers.amqp import AmqpBroker
from fastq.message import Message
from fastq.outcome import Outcome
from fastq.settings import Settings
from fastq.testing.faults import Audit, Failures, Firing, Ledger, Verdict, family, judge
from tests.apps import grid
from tests.hosts import ROOT
from tests.ledger import eventually
from tests.rabbit_server import rabbitmqctl

TASKS = 20
CHILDREN = 2
LONG_S = 60.0  # a lease that nobody is to wait for
PATIENCE_S = 90.0


@dataclass(frozen=True)
class Case:
    """A point, whoever ends there, and where."""

    system: str  # sqlite, redis, amqp; "redis apart" keeps outcomes elsewhere than messages
    ack: str
    point: str
    victim: str  # producer, child, parent, both, or broker

    def __str__(self) -> str:
        return "-".join((self.system.replace(" ", "_"), self.ack, self.point, self.victim))


class Server(Protocol):
    """A broker of the test's own, which may be the victim."""

    def restart(self) -> None:
        """Kill it, and start it again with what it had written down."""


class Field:
    """Where a case takes place: an app on its own queues, a ledger, and workers on it. Close it at the end."""

    def __init__(
        self, folder: Path, *, broker: str, backend: str = "", state: str = "", server: Server | None = None,
        lease_s: float = 0.4,
    ) -> None:  # fmt: skip
        self.app: FastQ = grid.app
        self.broker = broker
        self.server = server  # the broker's own, where it may be the victim
        self.folder = folder
        self.ledger = Ledger(folder / "ledger")
        self.lease_s = lease_s  # of workers that are to be killed
        self.workers: list[subprocess.Popen[bytes]] = []
        self.audit = Audit()
        self._log = folder / "log"
        self._before = grid.app.settings
        grid.app.settings = Settings.load({"broker": broker, "backend": backend, "state": state})
        self._environment = {
            **os.environ, "LEDGER": str(self.ledger.path), "TEST_BROKER": broker, "TEST_BACKEND": backend,
            "TEST_STATE": state,
        }  # fmt: skip

    def use_broker(self, url: str) -> None:
        """Have this process send by another way."""
        self.app.close()
        self.app.settings = replace(self.app.settings, broker=url)

    def point_workers_at(self, url: str, *, backend: str) -> None:
        """Have workers fetch by another way; their results go where they went."""
        self._environment |= {"TEST_BROKER": url, "TEST_BACKEND": self._environment["TEST_BACKEND"] or backend}

    def start_worker(self, failures: Failures | None = None, *, lease_s: float = LONG_S) -> subprocess.Popen[bytes]:
        """Start a worker, which fails as it is told to; return when it is ready, or dead."""
        command = [sys.executable, "-m", "fastq", "worker", "-A", "tests.apps.grid:app", "-c", str(CHILDREN)]
        command += ["--lease", str(lease_s), "--grace", "20"]
        environment = {**self._environment, **(failures.environment if failures else {})}
        before = self.log().count("Ready")
        with self._log.open("ab") as log:
            worker = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        self.workers.append(worker)
        eventually(lambda: self.log().count("Ready") > before or worker.poll() is not None, PATIENCE_S)
        self.note_family()
        return worker

    def note_family(self) -> None:
        """Remember the processes of all workers that live."""
        for worker in self.workers:
            self.audit.include(worker.pid)

    def log(self) -> str:
        """Return what the workers logged."""
        return self._log.read_text() if self._log.exists() else ""

    def ends(self, ids: Sequence[str]) -> dict[str, Outcome]:
        """Return the ends that are recorded."""
        outcomes = self.app.backend.load([uuid.UUID(id).bytes for id in ids])
        known = ((id, outcome) for id, outcome in zip(ids, outcomes, strict=True) if outcome is not None)
        return {id: outcome for id, outcome in known if outcome.state.terminal}

    def dead(self) -> list[str]:
        """Return the ids of the dead letters."""
        return [Message.decode(letter.frame).uuid for letter in self.app.broker.dead_letters("default", 1000)]

    def stop(self) -> list[str]:
        """End the workers in good order; return what was wrong about how they ended."""
        self.note_family()
        wrong = []
        for worker in self.workers:
            ended_before = worker.poll() is not None
            worker.terminate()
            status = worker.wait(60)
            if not ended_before and status != 0:
                wrong.append(f"a worker exited with {status}")
        if "Traceback (most recent call last)" in self.log():
            wrong.append("an unexpected error is in the log")
        return wrong

    def close(self) -> None:
        """Kill whatever lives, leave the queue empty, and set the app back."""
        for worker in self.workers:
            if worker.poll() is None:
                for pid in reversed(family(worker.pid)):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                worker.wait()
        try:
            broker = self.app.broker
            broker.drop_dead([letter.token for letter in broker.dead_letters("default", 1000)])
            broker.purge("default")
        finally:
            self.app.close()
            self.app.settings = self._before


@contextlib.contextmanager
def opened(field: Field) -> Iterator[Field]:
    """Close a field at the end, and show its log."""
    try:
        yield field
    finally:
        field.close()
        print(field.log()[-6000:])


# -- one case -----------------------------------------------------------------------------------------


def run(case: Case, field: Field) -> Verdict:
    """Have the fault happen, and everything drained; return what it came to."""
    if case.victim == "producer":
        ids = _send_and_die(case, field)
        killed: set[int] = set()
        ends_before: dict[str, Outcome] = {}
        field.start_worker()
    else:
        failures = _failures(case, field)
        lives_on = case.victim in ("child", "broker")
        ids = _leave_something_to_take_over(case, field) if case.point == "P14" else []
        victim = field.start_worker(failures, lease_s=LONG_S if lives_on else field.lease_s)
        ids = ids or _send(case, field)
        eventually(failures.fired, PATIENCE_S)
        fired = failures.fired()[0]
        if case.victim == "child":
            killed = {fired.pid}
        elif case.victim == "broker":
            killed = _restart(field, fired)
        else:
            killed = _see_die(victim, fired, field)
        ends_before = {} if lives_on else field.ends(ids)
        if not lives_on:
            field.start_worker()
    may_lose = CHILDREN if case.ack == "early" and case.victim in ("parent", "both", "broker") else 0
    _drain(field, ids, case.ack, killed, may_lose)
    return _judged(case, field, ids, killed, ends_before, may_lose)


def _send(case: Case, field: Field) -> list[str]:
    if case.point == "P13":
        results = [(grid.first.s() | grid.then.s()).delay() for _ in range(TASKS)]
        ids = [result.id for result in results]
        with field.ledger.sending(ids):
            return ids
    if case.point == "P15":
        return [*_send_unreadable(field, 5), *_sent(field, grid.late, TASKS - 5)]
    return _sent(field, grid.twice if case.point == "P16" else _task(case), TASKS)


def _task(case: Case) -> Task[[], None]:
    return grid.early if case.ack == "early" else grid.late


def _sent(field: Field, task: Task[..., None], count: int) -> list[str]:
    return [result.id for result in field.ledger.send(task, [()] * count)]


def _send_unreadable(field: Field, count: int) -> list[str]:
    """Send calls whose arguments are none: dead letters to be."""
    call = grid.late._call((), None)
    messages = [call.message(field.app.settings)._replace(body=b"[1") for _ in range(count)]
    with field.ledger.sending([message.uuid for message in messages]):
        field.app.broker.publish(messages)
    return [message.uuid for message in messages]


def _send_and_die(case: Case, field: Field) -> list[str]:
    """Send from a process that dies at the point with its last call; return what was accepted."""
    failures = Failures(field.folder / "failures", f"{case.point}=kill9:once")
    pid = os.fork()
    if pid == 0:
        try:
            field.ledger.send(_task(case), [()] * (TASKS - 1))
            failures.arm()
            field.ledger.send(_task(case), [()])
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    assert [fired.pid for fired in failures.fired()] == [pid]
    return [line.id for line in field.ledger.lines() if line.word == "accepted"]


def _failures(case: Case, field: Field) -> Failures:
    folder = field.folder / "failures"
    in_child = case.point in ("P6", "P8", "P9")
    if case.victim == "both":
        return Failures(folder, f"{case.point}=kill9:once:child, P10=kill9:once:parent")
    if case.victim == "child" or (case.victim == "parent" and not in_child):
        return Failures(folder, f"{case.point}=kill9:once:{case.victim}")
    return Failures(folder, f"{case.point}=stop:once:{'child' if in_child else 'parent'}")


def _leave_something_to_take_over(case: Case, field: Field) -> list[str]:
    """Have a worker die while it holds messages; return what was sent."""
    failures = Failures(field.folder / "first", "P8=stop:once:child")
    worker = field.start_worker(failures, lease_s=field.lease_s)
    ids = _send(case, field)
    eventually(failures.fired, PATIENCE_S)
    worker.kill()
    worker.wait()
    return ids


def _see_die(victim: subprocess.Popen[bytes], fired: Firing, field: Field) -> set[int]:
    """Wait until the worker is dead, with all it had; return the processes that had begun something."""
    if fired.action == "stop":
        victim.kill()
    victim.wait(PATIENCE_S)
    eventually(lambda: not field.audit.left(), PATIENCE_S)  # its children write nothing more
    return {line.pid for line in field.ledger.lines() if line.word == "start"}


def _restart(field: Field, fired: Firing) -> set[int]:
    """Restart the broker while the process at the point waits; return the processes whose work may be done again."""
    assert field.server is not None
    field.server.restart()
    os.kill(fired.pid, signal.SIGCONT)
    return {fired.pid}


def _drain(field: Field, ids: Sequence[str], ack: str, killed: set[int], may_lose: int) -> None:
    """Wait until everything that was accepted has come to an end, and the queue is empty."""

    def drained() -> bool:
        undone = set(ids) - field.ends(ids).keys()
        if ack == "early" and undone:
            processes = field.ledger.processes()
            undone -= {id for id in undone if set(processes.get(id, ())) & killed}
            return len(undone) <= may_lose and _is_empty(field.app.broker)
        return not undone and field.app.broker.depth("default") == 0

    eventually(drained, PATIENCE_S)


def _is_empty(broker: Broker) -> bool:
    """Whether nothing waits, and nothing is held."""
    if isinstance(broker, AmqpBroker):
        counts = rabbitmqctl("list_queues", "-p", broker._url.vhost, "--no-table-headers", "messages").split()
        return not any(map(int, counts))
    return all((info.ready, info.delayed, info.leased) == (0, 0, 0) for info in broker.queues())


def _judged(
    case: Case, field: Field, ids: Sequence[str], killed: set[int], ends_before: dict[str, Outcome], may_lose: int
) -> Verdict:
    ends = field.ends(ids)
    misbehaved = field.stop()
    patience = time.monotonic() + 10
    while (behind := field.audit.left()) and time.monotonic() < patience:
        time.sleep(0.02)  # what was killed is on its way out
    depth = field.app.broker.depth("default")
    return judge(
        field.ledger.read(), ack=case.ack, dead=field.dead(),
        left=[f"one of {depth}"] if depth else [],
        told=[id for id, end in ends.items() if end.state is State.LOST],
        # A broker that was killed may not have heard what it was told last; a retry may have been published twice.
        killed=None if case.victim == "broker" or case.point == "P16" else killed,
        may_lose=may_lose, ends_before=ends_before, ends_after=ends, behind=behind, misbehaved=misbehaved,
    )  # fmt: skip
