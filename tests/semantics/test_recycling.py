"""Recycling and autoscaling: children come and go, and no task notices."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import pytest

from fastq import FastQ
from fastq.worker.autoscaler import Autoscaler
from tests.apps import growing
from tests.ledger import eventually
from tests.semantics.conftest import Start

pytestmark = pytest.mark.parametrize("url", ["sqlite"], indirect=True)  # what is shown here is no matter of the system
APP = "tests.apps.growing"


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_child_is_replaced_after_its_number_of_tasks(start: Start, app: FastQ, pool: str) -> None:
    with start(pool=pool, concurrency=2, max_tasks_per_child=5, max_deliveries=1) as running:
        results = [growing.pid.delay() for _ in range(60)]
        pids = Counter(result.get(20) for result in results)
        assert running.worker.processed == 60
    assert len(pids) >= 60 / (5 + 2)  # threads that are at work may each end another one
    if pool == "prefork":
        assert max(pids.values()) <= 5
    assert not any(info.dead for info in app.broker.queues())


def test_a_child_that_has_grown_is_replaced_after_the_task(start: Start) -> None:
    with start(concurrency=1, max_memory_per_child_mb=200):
        before = growing.pid.delay().get(10)
        assert growing.grow.delay(1).get(10) == before
        assert growing.grow.delay(250).get(10) == before
        assert growing.pid.delay().get(10) != before


def test_a_child_is_replaced_when_it_has_reached_its_age_even_if_it_idles(start: Start) -> None:
    with start(concurrency=1, max_child_age_s=0.3):
        first = growing.pid.delay().get(10)
        eventually(lambda: growing.pid.delay().get(10) != first)


def test_a_loop_is_replaced_while_its_last_coroutines_still_run(start: Start) -> None:
    with start(max_tasks_per_child=3, max_deliveries=1):
        long = growing.pid_later.delay(2.5)
        first = growing.pid_later.delay().get(10)
        eventually(lambda: growing.pid_later.delay().get(10) != first)
        assert not long.ready()
        assert long.get(10) == first


def test_leaving_is_told_to_the_log_as_nothing_bad(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fastq.pool")
    with start(concurrency=1, max_tasks_per_child=1):
        assert len({growing.pid.delay().get(10) for _ in range(6)}) == 6
    said = [record for record in caplog.records if record.name == "fastq.pool"]
    assert len(said) >= 5
    assert all(record.levelno == logging.INFO and "has left; it is replaced" in record.getMessage() for record in said)


def test_the_pool_grows_while_more_waits_than_runs_and_shrinks_when_it_idles(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Autoscaler, "IDLE_S", 0.6)
    gate = tmp_path / "gate"
    with start(concurrency=0, autoscale_min=1, autoscale_max=4) as running:
        eventually(lambda: list(running.pool.lanes)[:1] == [1])
        results = [growing.wait.delay(str(gate)) for _ in range(6)]
        eventually(lambda: len(running.pool.running()) == 4)
        assert running.pool.lanes[0] == 4
        gate.touch()
        assert len({result.get(10) for result in results}) >= 4
        eventually(lambda: running.pool.lanes[0] == 1)
        assert growing.pid.delay().get(10)
