"""Time limits: a hard one breaks a task off whatever it does, a soft one lets it clean up; no neighbour is hurt."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastq import FastQ, State
from fastq.errors import SoftTimeLimitExceeded, TimeLimitExceeded
from tests.apps import limits
from tests.ledger import eventually
from tests.semantics.conftest import Start

APP = "tests.apps.limits"
pytestmark = pytest.mark.processes


def test_a_task_past_its_hard_limit_is_broken_off_though_it_holds_the_gil(app: FastQ, start: Start) -> None:
    """Row 10."""
    with start() as running:
        before = limits.pid.delay().get(10)
        result = limits.stuck.delay()
        with pytest.raises(TimeLimitExceeded, match=r"0\.2 s"):
            result.get(10)
        assert result.state is State.FAILURE
        assert limits.pid.delay().get(10) != before
    assert running.worker.processed == 3  # it was not tried again
    assert all((info.ready, info.leased, info.dead) == (0, 0, 0) for info in app.broker.queues())


def test_an_early_task_past_its_hard_limit_has_the_same_end(start: Start) -> None:
    with start(), pytest.raises(TimeLimitExceeded):
        limits.stuck_early.delay().get(10)


def test_a_call_has_limits_of_its_own(start: Start) -> None:
    with start():
        with pytest.raises(TimeLimitExceeded):
            limits.sleep.apply_async((600,), time_limit=0.2).get(10)
        with pytest.raises(SoftTimeLimitExceeded):
            limits.sleep.apply_async((600,), soft_time_limit=0.2).get(10)
        assert limits.sleep.apply_async((0.3,), time_limit=30, soft_time_limit=20).get(10) == "slept"


def test_the_limit_counts_from_the_start_of_the_run_and_not_from_the_hand_over(start: Start) -> None:
    with start(concurrency=1):
        results = [limits.sleep.apply_async((0.15,), time_limit=0.4) for _ in range(6)]
        assert [result.get(10) for result in results] == ["slept"] * 6


def test_past_its_soft_limit_a_task_fails_or_cleans_up(start: Start, tmp_path: Path) -> None:
    with start():
        with pytest.raises(SoftTimeLimitExceeded):
            limits.endless.delay().get(10)
        assert limits.tidy.delay(str(tmp_path / "note")).get(10) == "tidied up"
        assert (tmp_path / "note").read_text() == "clean"


def test_a_soft_limit_may_lead_to_another_try(start: Start) -> None:
    with start() as running:
        with pytest.raises(SoftTimeLimitExceeded):
            limits.impatient.delay().get(10)
        eventually(lambda: running.worker.processed == 3)


def test_an_alarm_that_comes_late_never_hits_the_next_task(start: Start) -> None:
    with start() as running:
        before = limits.pid.delay().get(10)
        results = [limits.just_about.delay() for _ in range(100)]
        plain = [limits.sleep.delay(0.001) for _ in range(100)]
        ends = [_end_of(result) for result in results]
        assert set(ends) <= {"done", "over"}
        assert [result.get(10) for result in plain] == ["slept"] * 100
        assert limits.pid.delay().get(10) == before
    assert running.worker.processed == 202


def _end_of(result: object) -> str:
    try:
        return str(result.get(10))  # type: ignore[attr-defined]
    except SoftTimeLimitExceeded:
        return "over"
