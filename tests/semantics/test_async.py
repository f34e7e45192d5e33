"""Async tasks: many at once beside the sync ones, neither kind in the way of the other, each cancelled for itself."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from fastq import FastQ
from fastq.errors import SoftTimeLimitExceeded, TaskRevoked, TimeLimitExceeded
from fastq.worker.exiting import ExitCode
from tests.apps import limits
from tests.ledger import alive, eventually
from tests.semantics.conftest import Start

APP = "tests.apps.limits"
pytestmark = pytest.mark.processes


@pytest.mark.parametrize("pool", ["prefork", "threads", "asyncio"])
def test_many_async_tasks_run_at_once_in_one_process(start: Start, tmp_path: Path, pool: str) -> None:
    with start(pool=pool, concurrency=0 if pool == "asyncio" else 1, async_concurrency=50):
        results = [limits.meet.delay(str(tmp_path), 50) for _ in range(50)]
        assert len({result.get(20) for result in results}) == 1


def test_there_are_never_more_at_once_than_the_setting_says(start: Start, tmp_path: Path) -> None:
    with start(async_concurrency=3) as running:
        results = [limits.wait_later.delay(str(tmp_path / "gate")) for _ in range(7)]
        eventually(lambda: sum(1 for _ in tmp_path.glob("gate.*")) == 3)
        assert len(running.pool.running()) == 3
        (tmp_path / "gate").touch()
        assert max(result.get(10) for result in results) <= 3


def test_neither_kind_of_task_waits_for_the_other(start: Start, tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")
    with start(concurrency=1, async_concurrency=2):
        blocked = [limits.wait.delay(gate) for _ in range(4)]
        assert limits.sleep_later.delay(0.001).get(10) == "slept"  # it stands behind four that need the one child
        Path(gate).touch()
        assert [result.get(10) for result in blocked] == ["waited"] * 4
        Path(gate).unlink()
        waiting = [limits.wait_later.delay(gate) for _ in range(4)]
        assert limits.sleep.delay(0.001).get(10) == "slept"
        Path(gate).touch()
        assert [result.get(10) for result in waiting]


def test_a_coroutine_past_its_hard_limit_is_cancelled_and_its_neighbours_go_on(start: Start) -> None:
    with start() as running:
        loop = limits.pid_of_the_loop.delay().get(10)
        neighbour = limits.sleep_later.delay(1.0)
        with pytest.raises(TimeLimitExceeded):
            limits.stuck_later.delay().get(10)
        assert limits.pid_of_the_loop.delay().get(10) == loop
        assert neighbour.get(10) == "slept"
    assert running.worker.processed == 4


@pytest.mark.parametrize("task", [limits.stubborn, limits.blocking_the_loop])
def test_one_that_does_not_end_takes_its_process_along_and_its_neighbours_run_again(
    start: Start, app: FastQ, task: object, tmp_path: Path
) -> None:
    gate = str(tmp_path / "gate")
    with start(max_deliveries=1):  # a neighbour that were charged would be a dead letter
        loop = limits.pid_of_the_loop.delay().get(10)
        neighbours = [limits.wait_later.delay(gate) for _ in range(3)]
        eventually(lambda: sum(1 for _ in tmp_path.glob("gate.*")) == 3)
        with pytest.raises(TimeLimitExceeded):
            task.delay().get(20)  # type: ignore[attr-defined]
        Path(gate).touch()
        assert [result.get(20) > 0 for result in neighbours] == [True] * 3
        assert limits.pid_of_the_loop.delay().get(10) != loop
    assert not any(info.dead for info in app.broker.queues())


def test_past_its_soft_limit_a_coroutine_fails_or_cleans_up(start: Start, tmp_path: Path) -> None:
    with start():
        with pytest.raises(SoftTimeLimitExceeded, match=r"0\.2 s"):
            limits.endless_later.delay().get(10)
        assert limits.tidy_later.delay(str(tmp_path / "note")).get(10) == "tidied up"
        assert (tmp_path / "note").read_text() == "clean"


def test_a_coroutine_that_runs_can_be_revoked(start: Start, app: FastQ) -> None:
    with start() as running:
        loop = limits.pid_of_the_loop.delay().get(10)
        result = limits.sleep_later.delay(600)
        eventually(lambda: len(running.pool.running()) == 1)
        app.control.revoke(result.id, terminate=True)
        with pytest.raises(TaskRevoked):
            result.get(10)
        assert limits.pid_of_the_loop.delay().get(10) == loop


def test_the_current_task_is_each_ones_own(start: Start) -> None:
    with start():
        results = [limits.own_ids.delay(0.01) for _ in range(20)]
        for result in results:
            assert set(result.get(10)) == {result.id}


def test_when_the_process_of_the_loop_dies_its_tasks_run_again(start: Start) -> None:
    with start():
        loop = limits.pid_of_the_loop.delay().get(10)
        results = [limits.sleep_later.delay(0.5) for _ in range(5)]
        os.kill(loop, signal.SIGKILL)
        assert [result.get(15) for result in results] == ["slept"] * 5
        assert not alive(loop)


def test_stopping_lets_coroutines_end(start: Start) -> None:
    with start() as running:
        results = [limits.sleep_later.delay(0.4) for _ in range(5)]
        eventually(lambda: len(running.pool.running()) == 5)
        began = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - began < 5
        assert [result.get(1) for result in results] == ["slept"] * 5


def test_a_loop_that_is_blocked_does_not_keep_its_messages_when_the_worker_stops(start: Start, app: FastQ) -> None:
    with start(grace_s=0.1) as running:
        limits.blocking_the_loop.apply_async(time_limit=600)
        eventually(lambda: len(running.pool.running()) == 1)
        assert running.stop(now=True) == ExitCode.UNFINISHED
    assert [(info.ready + info.delayed, info.leased) for info in app.broker.queues()] == [(1, 0)]
