"""What is promised of every message, where no other test shows it: see docs/delivery.rst."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastq import FastQ, State
from tests.apps import basic
from tests.hosts import Host
from tests.ledger import Ledger, eventually

pytestmark = [
    pytest.mark.parametrize("url", ["sqlite", "redis"], indirect=True),
    pytest.mark.processes,
]
APP = "tests.apps.basic"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


@pytest.fixture
def host(app: FastQ, ledger: Ledger, tmp_path: Path) -> Iterator[Host]:
    host = Host(app.settings.broker, ledger, tmp_path / "log", lease_s=1.5)
    yield host
    host.stop()


def alone(app: FastQ) -> Callable[[], bool]:
    """Return what says whether one worker is left at the broker."""
    return lambda: len(app.broker.workers()) == 1


def test_an_early_task_whose_worker_is_killed_never_runs_again_and_nobody_tells_its_caller(
    app: FastQ, host: Host, ledger: Ledger
) -> None:
    worker = host.start_worker()
    result = basic.noted_early.delay(60)
    eventually(ledger.starts)
    worker.kill()
    host.start_worker()
    assert basic.add.delay(4, 4).get(20) == 8
    eventually(alone(app))
    assert basic.add.delay(4, 4).get(20) == 8
    assert ledger.starts() == {result.id: 1}
    assert result.state is State.PENDING


def test_a_task_that_outlasts_its_lease_many_times_runs_once(app: FastQ, host: Host, ledger: Ledger) -> None:
    for _ in range(2):
        host.start_worker()
    eventually(lambda: len(app.broker.workers()) == 2)
    result = basic.noted.delay(5)
    result.get(30)
    assert ledger.starts() == {result.id: 1}


def test_a_late_task_whose_worker_is_killed_runs_again_when_the_lease_is_over(
    app: FastQ, host: Host, ledger: Ledger, tmp_path: Path
) -> None:
    worker = host.start_worker()
    result = basic.wait_for.delay(str(tmp_path / "gate"))
    eventually(ledger.starts)
    worker.kill()
    host.start_worker()
    eventually(lambda: ledger.starts()[result.id] >= 2)
    (tmp_path / "gate").touch()
    assert result.get(20) == str(tmp_path / "gate")
    assert app.broker.depth("default") == 0
