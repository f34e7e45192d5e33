"""Limits: the whole cluster starts no more than it may, and what waits, waits at the broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastq import FastQ, State
from fastq.errors import DeadLettered, NotSupported
from fastq.result import AsyncResult
from fastq.state import Answer, Ask, Limit
from fastq.states.memory import MemoryState
from fastq.testing.workers import running_worker
from tests.apps import limited
from tests.apps.limited import Times
from tests.conftest import require_service
from tests.ledger import eventually
from tests.redis_server import RedisServer, has_redis
from tests.semantics.conftest import ROOT, Start

APP = "tests.apps.limited"


def at_once(spans: Sequence[Times]) -> int:
    """Return how many of some spans of time had a moment in common, at most."""
    return max(sum(began <= moment < ended for began, ended in spans) for moment, _ in spans)


def numbers(app: FastQ) -> tuple[int, int]:
    """Return how many messages are delayed and how many are leased."""
    infos = app.broker.queues()
    return sum(info.delayed for info in infos), sum(info.leased for info in infos)


def values(results: Sequence[AsyncResult[Any]]) -> list[Any]:
    return [result.get(30) for result in results]


# -- how many at once ------------------------------------


@pytest.mark.processes
@pytest.mark.parametrize("task", [limited.two_at_once, limited.two_at_once_early], ids=["late", "early"])
def test_no_more_run_at_once_than_may_whatever_the_workers(start: Start, task: Any) -> None:
    with start(concurrency=2), start(concurrency=2):
        results = [task.delay(0.05) for _ in range(12)]
        others = [limited.free.delay(0.05) for _ in range(4)]
        assert 1 <= at_once(values(results)) <= 2
        values(others)


@pytest.mark.processes
def test_what_waits_for_a_slot_waits_at_the_broker_and_lets_others_by(app: FastQ, start: Start, tmp_path: Path) -> None:
    with start(concurrency=2):
        results = [limited.one_a_tenant.delay(str(tmp_path / "open")) for _ in range(20)]
        eventually(lambda: numbers(app) == (19, 1))
        assert limited.free.delay().get(10)
        (tmp_path / "open").touch()
        values(results)


@pytest.mark.processes
def test_limits_are_kept_apart_by_the_arguments_that_are_named(app: FastQ, start: Start, tmp_path: Path) -> None:
    with start(concurrency=4):
        held = [limited.one_a_tenant.delay(str(tmp_path / "never"), tenant) for tenant in ("a", "a", "nobody", "b c")]
        default = limited.one_a_tenant.delay(str(tmp_path / "never"))
        eventually(lambda: numbers(app) == (2, 3))
        assert limited.one_a_tenant.delay(str(tmp_path), tenant="d").get(10) == "d"
        assert not any(result.ready() for result in (*held, default))
        (tmp_path / "never").touch()
        assert values([*held, default]) == ["a", "a", "nobody", "b c", "nobody"]


@pytest.mark.processes
def test_a_call_may_say_itself_by_what_its_limits_are_kept_apart(app: FastQ, start: Start, tmp_path: Path) -> None:
    with start(concurrency=2):
        path = str(tmp_path / "open")
        held = [limited.one_a_tenant.apply_async((path, tenant), limit_key="one") for tenant in "ab"]
        eventually(lambda: numbers(app) == (1, 1))
        assert limited.one_a_tenant.apply_async((str(tmp_path), "a"), limit_key="two").get(10) == "a"
        (tmp_path / "open").touch()
        assert values(held) == ["a", "b"]


@pytest.mark.processes
def test_a_queue_has_limits_too(start: Start) -> None:
    with start(concurrency=3, queue_limits=(("default", "1"),)):
        results = [limited.free.delay(0.02) for _ in range(6)]
        assert at_once(values(results)) == 1


@pytest.mark.processes
def test_a_slot_is_given_back_whatever_the_end(start: Start) -> None:
    with start(max_deliveries=1, lease_s=600):
        with pytest.raises(ValueError, match="raise"):
            limited.one_at_once.delay("raise").get(10)
        assert limited.one_at_once.delay("retry").get(10) == "retry"
        with pytest.raises(DeadLettered):
            limited.one_at_once.delay("die").get(10)
        expired = limited.one_at_once.apply_async(expires=0.0)
        eventually(lambda: expired.state is State.REVOKED)
        assert limited.one_at_once.delay("done").get(10) == "done"


@pytest.mark.processes
def test_a_worker_that_stops_gives_its_slots_back(app: FastQ, start: Start, tmp_path: Path) -> None:
    result = limited.one_a_tenant.delay(str(tmp_path / "open"))
    with start(lease_s=600, grace_s=0):
        eventually(lambda: numbers(app) == (0, 1))
    with start(lease_s=600):
        (tmp_path / "open").touch()
        assert result.get(10) == "nobody"


def test_slots_are_held_for_longer_than_their_lease(app: FastQ, start: Start, tmp_path: Path) -> None:
    limit = Limit("task:tests.apps.limited.one_a_tenant nobody", 1)
    with start(lease_s=0.6) as worker:
        result = limited.one_a_tenant.delay(str(tmp_path / "open"))
        eventually(lambda: bool(worker.pool.running()))  # which is after it has asked; to be leased is before
        asked_until = time.monotonic() + 1.0
        while time.monotonic() < asked_until:
            (answer,) = app.state.acquire([Ask("another", (limit,))], 10.0, 10.0)
            assert answer.wait_s
            threading.Event().wait(0.05)  # the worker shares this process: asking without a pause would starve it
        (tmp_path / "open").touch()
        result.get(10)
        eventually(lambda: app.state.acquire([Ask("another", (limit,))], 10.0, 10.0) == [Answer(0.0)])


# -- how many in a time ------------------------------------


def test_no_more_start_in_a_time_than_may(start: Start) -> None:
    with start(), start():
        before = time.time()
        starts = sorted(began for began, _ in values([limited.ten_a_second.delay() for _ in range(12)]))
    assert all(began - before >= 0.1 * at for at, began in enumerate(starts)), "each has a turn of its own"


@pytest.mark.processes
def test_both_limits_of_a_task_hold_at_once(start: Start) -> None:
    with start(concurrency=3):
        before = time.time()
        spans = sorted(values([limited.twenty_a_second_one_at_once.delay() for _ in range(8)]))
    assert all(began - before >= 0.05 * at for at, (began, _) in enumerate(spans))
    assert at_once(spans) == 1


def test_a_queue_has_a_rate_too(start: Start) -> None:
    with start(queue_limits=(("default", "20/s"),)):
        before = time.time()
        starts = sorted(began for began, _ in values([limited.free.delay() for _ in range(8)]))
    assert all(began - before >= 0.05 * at for at, began in enumerate(starts))


def test_a_rate_may_be_changed_while_workers_run(app: FastQ, start: Start) -> None:
    with start():
        assert limited.one_an_hour.delay().get(10)
        app.control.rate_limit("tests.apps.limited.one_an_hour", "1000/s")
        assert app.control.inspect().ping(), "and so it has heard what was said before"
        assert limited.one_an_hour.delay().get(10)
        app.control.rate_limit("tests.apps.limited.free", "1/h")
        assert app.control.inspect().ping()
        assert limited.free.delay().get(10)
        late = limited.free.delay()
        eventually(lambda: numbers(app)[0] == 1)
        assert not late.ready()


# -- a crowd ------------------------------------


class CountingState(MemoryState):
    """Counts how often it was asked."""

    asked = 0

    def acquire(self, asks: Sequence[Ask], lease_s: float, horizon_s: float) -> list[Answer]:
        self.asked += 1
        return super().acquire(asks, lease_s, horizon_s)


def asked_in_a_second(state: CountingState) -> int:
    """Return how often the state is asked in a second in which other tasks run."""
    before, until = state.asked, time.monotonic() + 1.0
    while time.monotonic() < until:
        assert limited.free.delay().get(10)
    return state.asked - before


def test_a_crowd_before_a_limit_costs_little_and_keeps_nobody_behind_it_waiting(memory_url: str) -> None:
    app = limited.app
    before, app.settings = app.settings, replace(app.settings, broker=memory_url)
    state = app._state = CountingState(memory_url)
    try:
        state.acquire([Ask("another", (Limit("task:tests.apps.limited.one_at_once", 1),))], 600.0, 1.0)
        with app.batch():
            for _ in range(1_000):
                limited.one_at_once.delay()
            behind = limited.free.delay()
        with running_worker(app, f"{APP}:app", folder=ROOT):
            behind.get(20)
            eventually(lambda: numbers(app) == (1_000, 0))
            assert state.asked < 100, "many are put aside in few batches"
            eventually(lambda: asked_in_a_second(state) < 150)
    finally:
        app.close()
        app.settings = before


# -- shared state that is not there ------------------------------------


def test_without_shared_state_tasks_under_limits_wait_and_others_run(
    app: FastQ, start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    require_service("Redis", has_redis)
    server = RedisServer(tmp_path / "state").start()
    app.settings = replace(app.settings, state=server.url)
    try:
        with start():
            assert limited.one_at_once.delay("before").get(10) == "before"
            server.kill()
            result = limited.one_at_once.delay("after")
            assert limited.free.delay().get(10)
            eventually(lambda: "Tasks under limits have to wait" in caplog.text)
            eventually(lambda: numbers(app) == (1, 0))
            assert not result.ready()
            server.start()
            assert result.get(30) == "after"
    finally:
        server.kill()


def test_where_there_can_be_no_shared_state_a_worker_does_not_start(app: FastQ, start: Start) -> None:
    app.settings = replace(app.settings, state="nowhere://")
    with (
        pytest.raises(NotSupported, match=r"limited\.two_at_once, .* can't be limited in the whole cluster: Shared"),
        start(),
    ):
        pass
