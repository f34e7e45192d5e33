"""The harm that is done, the same to each contender."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.kills.contenders import CHILDREN, Bench, Contender
from benchmarks.kills.server import Server
from fastq.testing.faults import Verdict, family, judge

TASKS = 20
QUIET_S = 60.0  # when so long nothing has happened, it is counted what there is
LONGEST_S = 150.0
_READY_S = 60.0


@dataclass(frozen=True)
class Outcome:
    """What a scenario came to for a contender."""

    scenario: str
    contender: str
    verdict: Verdict
    held: int  # tasks that are neither finished nor lost: they are still in the broker
    most_starts: int  # of one task


def _child_killed(bench: Bench, _server: Server) -> None:
    """Three times, a child is killed in the midst of a task of half a second."""
    bench.start_worker()
    bench.send(TASKS, 0.5)
    for _ in range(3):
        while not (busy := bench.busy()):
            time.sleep(0.02)
        with suppress(ProcessLookupError):
            os.kill(busy[0], signal.SIGKILL)
        ends = sum(bench.ledger.ends().values())
        _wait_for(lambda ends=ends: sum(bench.ledger.ends().values()) > ends + 1)  # type: ignore[misc]


def _worker_killed(bench: Bench, _server: Server) -> None:
    """A worker and all its processes are killed in the midst of tasks of half a second; another one is started."""
    worker = bench.start_worker()
    bench.send(TASKS, 0.5)
    _wait_for(lambda: len(bench.busy()) == CHILDREN)
    for pid in family(worker.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    worker.wait()
    bench.start_worker()


def _told_to_stop(bench: Bench, _server: Server) -> None:
    """SIGTERM amid tasks of 12 seconds and, as supervisors do, SIGKILL to whatever is there 10 seconds later."""
    worker = bench.start_worker()
    bench.send(6, 12)
    _wait_for(lambda: len(bench.busy()) == CHILDREN)
    worker.terminate()
    members = family(worker.pid)
    give_up = time.monotonic() + 10
    while worker.poll() is None and time.monotonic() < give_up:
        time.sleep(0.05)
    for pid in members:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    worker.wait()
    bench.start_worker()


def _poison(bench: Bench, _server: Server) -> None:
    """Two tasks that kill their process stand before eighteen of a tenth of a second."""
    bench.start_worker()
    bench.send(TASKS - 2, 0.1, pills=2)


def _broker_killed(bench: Bench, server: Server) -> None:
    """Twice, Redis is killed in the midst of tasks of half a second, and started again."""
    bench.start_worker()
    bench.send(TASKS, 0.5)
    for _ in range(2):
        _wait_for(lambda: len(bench.busy()) == CHILDREN)
        server.restart()
        ends = sum(bench.ledger.ends().values())
        _wait_for(lambda ends=ends: sum(bench.ledger.ends().values()) > ends + 1)  # type: ignore[misc]


SCENARIOS: dict[str, Callable[[Bench, Server], None]] = {
    "child killed": _child_killed,
    "worker killed": _worker_killed,
    "told to stop": _told_to_stop,
    "poison pills": _poison,
    "broker killed": _broker_killed,
}


def play(scenario: str, contender: Contender, folder: Path) -> Outcome:
    """Do harm to a contender, wait until it has made the best of it, and count."""
    folder.mkdir(parents=True)
    server = Server(folder)
    server.start()
    bench = Bench(contender, server.url, folder)
    try:
        SCENARIOS[scenario](bench, server)
        _settle(bench)
        held, dead = contender.look(server.url)
    finally:
        bench.close()
        server.kill()
    left = held - bench.ledger.ends().keys()
    verdict = judge(bench.ledger.read(), ack=contender.ack, dead=dead, left=left)
    starts = Counter(bench.ledger.starts()).most_common(1)
    return Outcome(scenario, contender.title, verdict, len(left), starts[0][1] if starts else 0)


def _settle(bench: Bench) -> None:
    """Wait until all has ended, or for long nothing has begun or ended, or for long the same goes on and on."""
    began = changed = time.monotonic()
    size = -1
    while time.monotonic() < min(changed + QUIET_S, began + LONGEST_S):
        accepted = sum(line.word == "accepted" for line in bench.ledger.read())
        if len(bench.ledger.ends()) == accepted:
            time.sleep(1)  # what has ended is settled a moment later
            return
        if bench.ledger.path.stat().st_size != size:
            size, changed = bench.ledger.path.stat().st_size, time.monotonic()
        time.sleep(0.2)


def _wait_for(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + _READY_S
    while not condition() and time.monotonic() < give_up:
        time.sleep(0.02)
