"""Processes that come to harm, or do it: each costs what it has in hand, and no other notices."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from fastq import FastQ, State, TaskSet
from fastq.errors import DeadLettered
from fastq.message import Message
from fastq.pools.prefork import PreforkPool
from fastq.settings import Settings
from fastq.testing.faults import Audit, Ledger, Verdict, children_of, family, judge
from fastq.testing.faults.audit import descriptors, resident_mb
from fastq.testing.workers import RunningWorker, running_worker
from tests.apps import pills
from tests.hosts import ROOT, Host
from tests.ledger import alive, eventually

APP = "tests.apps.pills:app"
Start = Callable[..., AbstractContextManager[RunningWorker]]
Record = Callable[[str, Verdict], None]


@pytest.fixture
def app(tmp_path: Path) -> Iterator[FastQ]:
    before = pills.app.settings
    pills.app.settings = Settings.load({"broker": f"sqlite:///{tmp_path}/pills.db"})
    yield pills.app
    pills.app.close()
    pills.app.settings = before


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.setenv("LEDGER", str(tmp_path / "ledger"))
    return Ledger(tmp_path / "ledger")


@pytest.fixture
def start(app: FastQ, ledger: Ledger) -> Start:
    return lambda **options: running_worker(app, APP, folder=str(ROOT), **options)


@pytest.fixture
def host(app: FastQ, ledger: Ledger, tmp_path: Path) -> Iterator[Host]:
    host = Host(app.settings.broker, ledger, tmp_path / "log", app=APP)
    yield host
    host.stop()
    print((tmp_path / "log").read_text()[-4000:])


def template_of(running: RunningWorker) -> int:
    assert isinstance(running.pool, PreforkPool)
    assert running.pool._template is not None
    return running.pool._template._process.pid


def dead(app: FastQ) -> dict[str, str]:
    """Return the reasons of dead letters by the ids of their tasks."""
    return {Message.decode(it.frame).uuid: it.reason for it in app.broker.dead_letters("default", 1000)}


# -- signals --------------------------------------------------------------------------------------------


def test_a_storm_of_signals_ends_a_worker_once_and_costs_nothing(
    app: FastQ, host: Host, ledger: Ledger, record_verdict: Record
) -> None:
    """Row 6."""
    worker = host.start_worker()
    eventually(lambda: "Ready" in host.log.read_text())
    results = ledger.send(pills.fine, [()] * 300)
    targets = [worker.pid, *children_of(worker.pid)]
    for target, number in itertools.product(targets * 200, (signal.SIGCHLD, signal.SIGWINCH, signal.SIGCONT)):
        os.kill(target, number)
    for _ in range(50):
        worker.terminate()
    assert worker.wait(60) == 0
    assert host.log.read_text().count("Stopped;") == 1
    host.start_worker()
    assert all(result.get(60) for result in results)
    verdict = judge(ledger.read(), killed=(), dead=dead(app))
    record_verdict("storm of signals", verdict)
    assert verdict.ok, verdict.violations


# -- pills ----------------------------------------------------------------------------------------------


def test_whatever_ends_a_process_ends_its_own_task_alone(
    app: FastQ, start: Start, ledger: Ledger, capfd: pytest.CaptureFixture[str], record_verdict: Record
) -> None:
    """Row 8."""
    kinds = {"segfault": "SIGSEGV", "abort": "SIGABRT", "exit": "status 3", "overflow": "SIGSEGV"}
    poison = dict(zip(kinds, ledger.send(pills.pill, [(kind,) for kind in kinds]), strict=True))
    others = ledger.send(pills.fine, [()] * 60)
    with start(concurrency=2, max_deliveries=2):
        assert all(result.get(60) for result in others)
        for kind, words in kinds.items():
            with pytest.raises(DeadLettered, match=rf"crash 2 of 2: its process .*{words}"):
                poison[kind].get(60)
    capfd.readouterr()  # what faulthandler said
    starts = ledger.starts()
    assert all(starts[result.id] == 2 for result in poison.values())
    assert all(starts[result.id] == 1 for result in others)
    verdict = judge(ledger.read(), dead=dead(app), max_deliveries=2)
    record_verdict("four kinds of pills", verdict)
    assert verdict.ok, verdict.violations


def test_those_beside_a_task_that_kills_workers_are_not_charged(
    app: FastQ, host: Host, ledger: Ledger, record_verdict: Record
) -> None:
    """Row 9: the first death charges nobody, as nobody can tell whose fault it was; later ones what had begun."""
    host.lease_s = 0.5
    host.children = 1  # what runs beside it when its worker dies is charged, too: nobody can tell
    host.options = {"FASTQ_MAX_DELIVERIES": "2"}
    (killer,) = ledger.send(pills.kill_worker, [()])
    others = ledger.send(pills.fine, [()] * 30)
    worker = host.start_worker()
    deaths = 0
    while not (killer.ready() and all(result.ready() for result in others)):
        if worker.poll() is not None:
            deaths += 1
            assert deaths < 6
            worker = host.start_worker()
        threading.Event().wait(0.05)
    assert deaths == 3
    assert list(dead(app)) == [killer.id]
    assert all(result.state is State.SUCCESS for result in others)
    verdict = judge(ledger.read(), dead=dead(app), max_deliveries=3)
    record_verdict("a task that kills workers", verdict)
    assert verdict.ok, verdict.violations


@pytest.mark.soak
@pytest.mark.parametrize(("seconds", "hundreds"), [(0.0, 100), (0.005, 40)])
def test_with_a_pill_among_a_hundred_tasks_the_others_go_on(
    app: FastQ, start: Start, ledger: Ledger, capfd: pytest.CaptureFixture[str], record_verdict: Record,
    seconds: float, hundreds: int,
) -> None:  # fmt: skip
    """Row 8, with figures: how many of the other tasks end in a second, with pills and without."""
    rates = []
    for pills_among in (0, 1):
        others = []
        for _ in range(hundreds):
            ledger.send(pills.pill, [("exit",)] * pills_among)
            others += ledger.send(pills.fine, [(seconds,)] * 99)
        began = time.monotonic()
        with start(concurrency=2, max_deliveries=2):
            for result in others:
                eventually(result.ready, 300)
            rates.append(len(others) / (time.monotonic() - began))
            eventually(lambda: app.broker.depth("default") == 0, 300)
            eventually(lambda among=pills_among: len(dead(app)) == hundreds * among, 300)
    capfd.readouterr()
    print(
        f"tasks of {seconds} s: {rates[0]:.0f} a second, with pills {rates[1]:.0f}, which is {rates[1] / rates[0]:.0%}"
    )
    verdict = judge(ledger.read(), dead=dead(app), max_deliveries=2)
    record_verdict(f"a pill among a hundred tasks of {seconds} s", verdict)
    assert verdict.ok, verdict.violations


# -- what tasks leave behind ----------------------------------------------------------------------------


def test_what_tasks_leave_behind_is_gone_with_the_worker(start: Start) -> None:
    """Row 11: processes that a task started, and did not wait for."""
    audit = Audit()
    with start(concurrency=2) as running:
        started = [pills.start_process.delay().get(20) for _ in range(3)]
        assert all(map(alive, started))
        audit.include(template_of(running))
        running.stop()
    eventually(lambda: not audit.left())


def test_a_task_that_ruins_its_standard_streams_disturbs_nothing(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    """Rows 12 and 13."""
    with start() as running:
        for _ in range(3):
            pills.vandalise.delay().get(20)
            assert pills.fine.delay().get(20)
        assert alive(template_of(running))
    capfd.readouterr()


def test_children_that_come_and_go_leave_no_zombies(start: Start) -> None:
    """Row 16."""
    audit = Audit()
    with start(concurrency=2, max_tasks_per_child=1) as running:
        template = template_of(running)
        results = [pills.fine.delay() for _ in range(100)]
        most = 0
        while not all(result.ready() for result in results):
            audit.include(template)
            most = max(most, len(audit.zombies()))
        assert most <= 4, "a child is asked how it ended before the next is forked"
        eventually(lambda: not audit.zombies())
        running.stop()
    eventually(lambda: not audit.left())


def test_as_the_first_process_of_a_container_a_worker_leaves_no_zombies(app: FastQ, host: Host) -> None:
    """Row 16: processes whose parents have died become children of the first one, which has to ask how they ended."""
    host.prefix = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if shutil.which("unshare") is None or subprocess.run([*host.prefix, "true"], capture_output=True).returncode:
        pytest.skip("processes of this user can't have a space of their own here")
    worker = host.start_worker()
    audit = Audit()
    assert [pills.start_daemon.delay().get(30) for _ in range(20)] == [None] * 20
    (first,) = children_of(worker.pid)
    audit.include(first)
    zombies = [pid for pid in children_of_any_state(first) if not alive(pid)]
    eventually(lambda: not [pid for pid in children_of_any_state(first) if not alive(pid)], 10)
    assert len(zombies) <= 20
    os.kill(first, signal.SIGTERM)
    assert worker.wait(60) == 0


def children_of_any_state(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_pool_that_a_passing_thread_made_outlives_it() -> None:
    """Row 15: the signal that the kernel sends at the death of a parent is sent at the death of its thread."""
    pool = PreforkPool("fastq.testing.sample:app")

    def make() -> None:
        pool.load()
        pool.start(2)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    assert pool._template is not None
    members = family(pool._template._process.pid)
    assert len(members) == 3
    pool.collect(time.monotonic() + 0.2)
    assert all(map(alive, members))
    pool.stop(time.monotonic() + 5)
    assert not any(map(alive, members))


# -- too much -----------------------------------------------------------------------------------------


@pytest.fixture
def small_memory() -> Iterator[Path]:
    """A group of processes that have 150 MB together."""
    group = Path(f"/sys/fs/cgroup/memory/fastq-{uuid.uuid4().hex}")
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text("150M")
    except OSError as error:
        pytest.skip(f"there are no groups of processes here that share a limit of memory: {error}")
    yield group
    eventually(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


def test_a_task_that_takes_more_memory_than_there_is_costs_its_child_and_not_the_worker(
    app: FastQ, small_memory: Path, host: Host, ledger: Ledger
) -> None:
    """Row 4."""
    host.prefix = ["sh", "-c", f'echo $$ > {small_memory}/cgroup.procs; exec "$@"', "sh"]
    host.options = {"FASTQ_MAX_DELIVERIES": "2"}
    worker = host.start_worker()
    greedy = pills.swell.delay(400)
    others = [pills.fine.delay() for _ in range(20)]
    with pytest.raises(DeadLettered, match=r"crash 2 of 2: its process .*SIGKILL"):
        greedy.get(60)
    assert all(result.get(60) for result in others)
    assert ledger.starts()[greedy.id] == 2
    assert host.stop() == []
    assert worker.returncode == 0


@pytest.mark.soak
def test_messages_of_50_megabytes_go_through_and_small_ones_beside_them(app: FastQ, host: Host, ledger: Ledger) -> None:
    """Row 42, with figures: what the parent holds at most."""
    worker = host.start_worker()
    assert pills.fine.delay().get(30)
    before = resident_mb(worker.pid)
    text = "x" * 50_000_000
    large = [pills.length.delay(text) for _ in range(10)]
    small, most = [], before
    while not all(result.ready() for result in large):
        small.append(pills.fine.delay())
        most = max(most, resident_mb(worker.pid))
        threading.Event().wait(0.02)
    assert [result.get(60) for result in large] == [50_000_000] * 10
    assert all(result.get(60) for result in small)
    print(f"the parent held {before:.0f} MB before, and {most:.0f} MB at most")


@pytest.mark.soak
def test_hundreds_of_thousands_of_tasks_leave_a_worker_as_it_was(app: FastQ, host: Host) -> None:
    """Row 18, with figures: descriptors and memory of each process."""
    worker = host.start_worker()
    sizes: list[list[float]] = []
    counts: list[list[int]] = []
    for _ in range(31):
        TaskSet(pills.nothing.s() for _ in range(10_000)).apply_async().join(300)
        members = family(worker.pid)
        sizes.append([round(resident_mb(pid), 1) for pid in members])
        counts.append([len(descriptors(pid)) for pid in members])
    print(f"the parent held, after each 10,000 tasks, {[of_all[0] for of_all in sizes]} MB")
    print(f"all of them, after the first and the last 100,000, {sizes[9]} and {sizes[-1]} MB")
    assert counts[1] == counts[-1]
    assert sizes[-1][0] - sizes[9][0] < 5.0, "over 200,000 tasks"
