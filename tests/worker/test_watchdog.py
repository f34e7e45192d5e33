"""The watchdog: what it makes of what it sees, and that a worker which hangs goes on, or ends."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from fastq import FastQ
from fastq.broker import Delivery
from fastq.brokers.memory import MemoryBroker, MemorySubscription
from fastq.cli.failing import status_of
from fastq.errors import WorkerStuck
from fastq.testing.workers import RunningWorker, running_worker
from fastq.worker.exiting import ExitCode
from fastq.worker.watchdog import Judge, Measure, Symptom
from tests.apps import outages
from tests.hosts import in_memory
from tests.ledger import eventually

ROOT = str(Path(__file__).parents[2])
Start = Callable[..., AbstractContextManager[RunningWorker]]


# -- the judge -------------------------------------------------------------------------------------


class Looking:
    """A judge of patience 10, who looks once a second."""

    def __init__(self) -> None:
        self.judge = Judge(10.0, 1.0)
        self.now = 0.0

    def look(self, *symptoms: Symptom, times: int = 1) -> list[Measure]:
        """Look so many times; return the measures that were due."""
        measures = []
        for _ in range(times):
            self.now += 1
            measure, _ = self.judge.look(symptoms, self.now)
            measures += [measure] if measure else []
        return measures


HANGS = Symptom("a turn does not end", 0.5, 10.0)


def test_what_does_not_pass_is_reported_then_reconnected_then_given_up_once_each() -> None:
    looking = Looking()
    assert looking.look(HANGS, times=10) == []
    assert looking.look(HANGS) == [Measure.REPORT]
    assert looking.look(HANGS, times=4) == []
    assert looking.look(HANGS) == [Measure.RECONNECT]
    assert looking.look(HANGS, times=20) == [Measure.GIVE_UP]


def test_what_passes_is_forgotten_and_what_comes_again_is_new() -> None:
    looking = Looking()
    assert looking.look(HANGS, times=11) == [Measure.REPORT]
    assert not looking.judge.calm
    looking.look()
    assert looking.judge.calm
    assert looking.look(HANGS._replace(since=12.5), times=10) == []


def test_turns_that_end_are_none_however_many_there_are() -> None:
    looking = Looking()
    for turn in range(100):
        assert looking.look(HANGS._replace(since=float(turn))) == []


def test_while_the_whole_worker_was_stopped_nothing_could_pass() -> None:
    looking = Looking()
    looking.look(HANGS)
    looking.now += 1000
    assert looking.look(HANGS, times=7) == []
    assert looking.look(HANGS, times=3) == [Measure.REPORT]


def test_of_several_symptoms_the_worst_counts() -> None:
    looking = Looking()
    looking.look(HANGS, times=11)
    worse = [measure for _ in range(5) for measure in looking.look(HANGS, Symptom("new", 11.0, 1.0))]
    assert worse == [Measure.REPORT, Measure.RECONNECT]


def test_what_may_take_any_time_is_only_counted() -> None:
    looking = Looking()
    assert looking.look(Symptom("hungry", 0.0, math.inf), times=1000) == []
    assert looking.judge.age("hungry", 0.0) == pytest.approx(999.0)
    assert looking.judge.calm


# -- a worker that hangs -----------------------------------------------------------------------------


class HangingSubscription(MemorySubscription):
    """Does not return from `fetch` before it is closed, if its broker is told to hang."""

    def __init__(self, broker: HangingBroker, *given: Any) -> None:
        super().__init__(broker.system, *given)
        self._hangs = broker.hangs > 0
        broker.hangs -= 1
        self._closed = threading.Event()

    def fetch(self, limit: int, deadline: float | None) -> list[Delivery]:
        if self._hangs:
            self._closed.wait()
        return super().fetch(limit, deadline)

    def close(self) -> None:
        self._closed.set()
        super().close()


class HangingBroker(MemoryBroker):
    """A memory broker whose next subscriptions hang."""

    hangs = 0

    def subscribe(self, queues: Sequence[str], lease_s: float, about: Mapping[str, str]) -> MemorySubscription:
        return HangingSubscription(self, queues, lease_s, about)


@pytest.fixture
def app() -> Iterator[FastQ]:
    with in_memory(outages.app) as app:
        yield app


@pytest.fixture
def broker(app: FastQ) -> HangingBroker:
    app._broker = broker = HangingBroker(app.settings.broker)
    return broker


@pytest.fixture
def start(app: FastQ, broker: HangingBroker) -> Start:
    def start(**options: Any) -> AbstractContextManager[RunningWorker]:
        return running_worker(
            app, "tests.apps.outages:app", folder=ROOT, **{"pool": "solo", "watchdog_s": 0.3, **options}
        )

    return start


def test_a_fetch_that_hangs_is_reported_with_all_stacks_and_a_new_lease_helps(
    broker: HangingBroker, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    broker.hangs = 1
    with start(), caplog.at_level("ERROR"):
        assert outages.add.delay(1, 2).get(30) == 3
        assert outages.add.delay(3, 4).get(30) == 7
    assert "nothing is fetched, though there are free children" in caplog.text
    assert "Thread fastq-fetcher" in caplog.text
    assert "_closed.wait()" in caplog.text  # where it hangs
    assert "begins another lease" in caplog.text


def test_a_worker_that_a_new_lease_does_not_help_ends_with_an_error(broker: HangingBroker, start: Start) -> None:
    broker.hangs = 100
    outages.add.delay(1, 2)
    with pytest.raises(WorkerStuck, match="nothing is fetched"), start() as running:
        eventually(lambda: running.exit is not None)
    assert broker.depth("default") == 1  # for others
    assert status_of(WorkerStuck("so it says")) is ExitCode.STUCK


def test_a_paused_queue_is_no_hang(
    app: FastQ, broker: HangingBroker, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    app.control.pause("default")
    outages.add.delay(1, 2)
    with start():
        eventually(lambda: broker.oldest_age("default") > 1.0)
    assert "stuck" not in caplog.text


def test_a_message_that_waits_for_a_child_is_no_hang(
    broker: HangingBroker, start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "file"
    with start():
        result = outages.early_until.delay(str(file), str(tmp_path / "notes"))
        eventually((tmp_path / "notes").exists)
        waiting = [outages.add.delay(n) for n in range(3)]
        eventually(lambda: broker.oldest_age("default") > 1.0)
        file.touch()
        assert [each.get(20) for each in (result, *waiting)] == [1, 0, 1, 2]
    assert "stuck" not in caplog.text


def test_an_empty_queue_is_no_hang_and_what_comes_late_is_fetched(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    with start() as running:
        watchdog = running.worker._watchdog
        eventually(lambda: watchdog._asked_at > 0)
        assert outages.add.delay(1, 2).get(20) == 3
    assert "stuck" not in caplog.text


def test_without_patience_nothing_is_done(
    broker: HangingBroker, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    broker.hangs = 1
    with start(watchdog_s=0):
        outages.add.delay(1, 2)
        eventually(lambda: broker.oldest_age("default") > 1.0)
    assert "stuck" not in caplog.text
