"""Pools: whatever runs the tasks, they have the same ends, limits among them."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from fastq import FastQ
from fastq.errors import SoftTimeLimitExceeded, TimeLimitExceeded
from tests.apps import limits
from tests.ledger import eventually
from tests.semantics.conftest import Start

pytestmark = pytest.mark.parametrize("url", ["sqlite"], indirect=True)  # what is shown here is no matter of the system
APP = "tests.apps.limits"
POOLS = ["prefork", "threads", "asyncio", "solo"]


@pytest.mark.parametrize("pool", POOLS)
def test_sync_and_async_tasks_run_in_every_pool(start: Start, pool: str) -> None:
    with start(pool=pool, concurrency=2):
        results = [limits.sleep.delay(0.001) for _ in range(20)] + [limits.sleep_later.delay(0.001) for _ in range(20)]
        assert [result.get(20) for result in results] == ["slept"] * 40
        assert (limits.pid.delay().get(10) == os.getpid()) is (pool == "solo")


@pytest.mark.parametrize("pool", POOLS)
def test_soft_limits_hold_in_every_pool(start: Start, tmp_path: Path, pool: str) -> None:
    with start(pool=pool, concurrency=2):
        assert limits.tidy.delay(str(tmp_path / "note")).get(10) == "tidied up"
        assert limits.tidy_later.delay(str(tmp_path / "other")).get(10) == "tidied up"
        for task in (limits.endless, limits.endless_later):
            with pytest.raises(SoftTimeLimitExceeded):
                task.delay().get(10)
        results = [limits.just_about.delay() for _ in range(30)]
        assert all(result.get(10) == "done" for result in results if not _is_over(result))
        assert limits.sleep.delay(0.01).get(10) == "slept"


@pytest.mark.parametrize("pool", ["threads", "asyncio"])
def test_where_a_thread_can_not_be_ended_its_process_is_and_its_neighbours_run_again(
    start: Start, app: FastQ, tmp_path: Path, pool: str
) -> None:
    gate = tmp_path / "gate"
    with start(pool=pool, concurrency=4, max_deliveries=1) as running:
        neighbours = [limits.wait.delay(str(gate)) for _ in range(2)]
        eventually(lambda: len(running.pool.running()) == 2)
        with pytest.raises(TimeLimitExceeded):
            limits.stuck.delay().get(20)
        gate.touch()
        assert [result.get(20) for result in neighbours] == ["waited"] * 2
    assert not any(info.dead for info in app.broker.queues())


def test_the_solo_pool_says_which_limits_it_can_not_keep(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    with start(pool="solo"):
        assert limits.pid.delay().get(10) == os.getpid()
        assert limits.sleep.apply_async((0.3,), time_limit=0.1).get(10) == "slept"
    (said,) = [record for record in caplog.records if record.name == "fastq.pool"]
    assert said.levelno == logging.WARNING
    assert "tests.apps.limits.stuck, " in said.getMessage()
    assert "tests.apps.limits.pid" not in said.getMessage()


def _is_over(result: object) -> bool:
    try:
        result.get(10)  # type: ignore[attr-defined]
    except SoftTimeLimitExceeded:
        return True
    return False


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_tiny_tasks_come_in_batches_and_none_waits_behind_a_long_one_while_a_child_is_idle(
    start: Start, tmp_path: Path, pool: str
) -> None:
    gate = tmp_path / "gate"
    with start(pool=pool, concurrency=2) as running:
        for result in [limits.pid.delay() for _ in range(300)]:  # after them, the worker fetches by the hundred
            result.get(20)
        long = [limits.wait.delay(str(gate))]
        short = [limits.pid.delay() for _ in range(200)] + [limits.sleep_later.delay(0.001) for _ in range(100)]
        for result in short:
            result.get(20)
        assert [run.ticket for run in running.pool.running()] != []
        assert not long[0].ready()
        gate.touch()
        assert long[0].get(10) == "waited"
