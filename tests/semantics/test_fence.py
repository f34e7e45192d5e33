"""The fence: a number that rises with each delivery and each attempt of a task, whatever befell it in between."""

from __future__ import annotations

import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fastq import FastQ, current_task
from fastq.deadletters import DeadLetters
from fastq.errors import DeadLettered, TaskError
from fastq.pool import fence_of, ticket_of
from fastq.testing.kit import Kit
from tests.apps import fenced
from tests.hosts import Host
from tests.ledger import Ledger, eventually
from tests.semantics.conftest import Start

APP = "tests.apps.fenced"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file that the app's tasks write their fences to."""
    path = tmp_path / "fences"
    path.touch()
    return path


def fences(path: Path) -> list[int]:
    """Return what was written, of which each is higher than the one before."""
    found = [int(line) for line in path.read_text().split()]
    assert all(one < other for one, other in pairwise(found)), found
    return found


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("pool", ["prefork", "threads", "asyncio", "solo"])
def test_tasks_know_their_fence_in_every_pool(start: Start, pool: str) -> None:
    with start(pool=pool):
        assert [task.delay().get(20) for task in (fenced.fence, fenced.fence_later)] == [1 << 32 | 1] * 2


@pytest.mark.parametrize("task", [fenced.retried, fenced.retried_early])
def test_each_retry_has_a_higher_fence(start: Start, path: Path, task: Any) -> None:
    with start():
        last = task.delay(str(path)).get(20)
    assert len(fences(path)) == 4
    assert fences(path)[-1] == last


@pytest.mark.processes
def test_a_run_after_a_crash_and_one_after_the_dead_letters_have_higher_fences(
    app: FastQ, start: Start, path: Path, tmp_path: Path
) -> None:
    with start(max_deliveries=2):
        result = fenced.deadly.delay(str(path), str(tmp_path / "antidote"))
        with pytest.raises(DeadLettered):
            result.get(20)
        assert len(fences(path)) == 2
        (tmp_path / "antidote").touch()
        dead = DeadLetters(app)
        eventually(dead.find)  # the end is told before the letter is there, where results are kept elsewhere
        assert dead.requeue(dead.find()) == 1
        assert app.result(result.id).get(20) == fences(path)[2]


@pytest.mark.processes
def test_a_letter_that_was_edited_has_a_higher_fence(app: FastQ, start: Start, path: Path, tmp_path: Path) -> None:
    with start(max_deliveries=1):
        result = fenced.deadly.delay(str(path), str(tmp_path / "antidote"))
        with pytest.raises(DeadLettered):
            result.get(20)
        dead = DeadLetters(app)
        eventually(dead.find)
        (letter,) = dead.find()
        dead.edit(letter, args=[str(path), str(path)])
        assert app.result(result.id).get(20) == fences(path)[1]


@pytest.mark.parametrize("url", ["sqlite", "redis"], indirect=True)
@pytest.mark.processes
def test_a_worker_that_slept_past_its_lease_has_the_lower_fence(app: FastQ, path: Path, tmp_path: Path) -> None:
    log, gate = tmp_path / "log", tmp_path / "gate"
    host = Host(app.settings.broker, Ledger(tmp_path / "ledger"), log, lease_s=1.5, app=f"{APP}:app")
    try:
        sleeper = host.start_worker()
        result = fenced.slow.delay(str(path), str(gate))
        eventually(lambda: len(fences(path)) == 1)
        sleeper.send_signal(signal.SIGSTOP)
        host.start_worker()
        eventually(lambda: len(fences(path)) >= 2)
        gate.touch()
        assert result.get(20) in fences(path)[1:]
        sleeper.send_signal(signal.SIGCONT)
        eventually(lambda: "lease of 1.5 s was lost" in log.read_text())
        assert app.result(result.id).get(1) in fences(path)[1:]
    finally:
        sleeper.send_signal(signal.SIGCONT)
        host.stop()


@pytest.mark.parametrize("url", ["memory"], indirect=True)
def test_the_fence_rises_in_tests_with_the_kit_too(app: FastQ, path: Path) -> None:
    with Kit(app) as kit:
        kit.die_in(fenced.fence)
        result = fenced.fence.delay()
        assert kit.run() == 2
        assert result.get() == 1 << 32 | 2
        fenced.retried.delay(str(path))
        kit.run()
    assert len(fences(path)) == 4


@pytest.mark.parametrize("url", ["memory"], indirect=True)
def test_outside_of_a_worker_the_attempts_alone_count(app: FastQ, path: Path) -> None:
    assert fenced.fence.apply().get() == 1 << 32
    fenced.retried.apply((str(path),))
    assert len(fences(path)) == 4
    with pytest.raises(TaskError, match="No task is running here"):
        _ = current_task.fence


@pytest.mark.parametrize("fence", [0, 1, (1 << 24) - 1, 1 << 24, 1 << 40])
@pytest.mark.parametrize("url", ["memory"], indirect=True)
def test_a_fence_of_any_height_fits_into_a_ticket(url: str, fence: int) -> None:
    ticket = ticket_of((1 << 40) - 1, fence)
    assert 0 < ticket < 1 << 64
    assert fence_of(ticket) == min(fence, (1 << 24) - 1)
