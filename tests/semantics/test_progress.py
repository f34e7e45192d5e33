"""Progress: what a task says of how far it is can be seen while it runs and afterwards, on every system."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastq import FastQ, State, current_task
from fastq.errors import NotSupported, TaskError
from fastq.progress import Progress
from tests.apps import around
from tests.ledger import eventually
from tests.semantics.conftest import Start

APP = "tests.apps.around"


@pytest.fixture(autouse=True)
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGER", str(tmp_path / "ledger"))


def test_what_a_task_says_is_seen_while_it_runs(start: Start, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with start():
        result = around.count.delay(1_000, str(gate))
        eventually(lambda: result.progress == (1_000, 1_000, "number 1000"))
        assert not result.ready()
        gate.touch()
        assert result.get(10) == 1_000


@pytest.mark.parametrize("task", [around.count, around.count_later])
def test_what_it_said_last_is_kept_when_it_ends(start: Start, task: Any) -> None:
    with start():
        results = [task.delay(total) for total in (1, 2, 500)]
        assert [result.get(10) for result in results] == [1, 2, 500]
        assert [result.progress.done for result in results] == [1, 2, 500]


def test_where_nothing_was_said_there_is_none(app: FastQ, start: Start) -> None:
    with start():
        result = around.echo.delay(1)
        result.get(10)
        assert result.progress is None
    assert app.result("0199f3a2-5d4e-7c31-8f6b-2a9d0c1e4b57").progress is None


@pytest.mark.parametrize(
    ("done", "total", "note", "error"),
    [
        ("half", None, "", TypeError),
        (True, None, "", TypeError),
        (-1, None, "", ValueError),
        (1, -1, "", ValueError),
        (1, None, 5, TypeError),
        (1, None, "x" * 1_001, ValueError),
    ],
)
def test_what_is_no_progress_is_refused(app: FastQ, done: Any, total: Any, note: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="it takes"):
        around.wrong_progress.apply((done, total, note)).get()


def test_here_and_now_it_is_kept_too(app: FastQ) -> None:
    result = around.count.apply((3,))
    assert result.state is State.SUCCESS
    assert result.progress == Progress(3, 3, "number 3")


def test_however_often_a_task_speaks_the_state_is_seldom_written(app: FastQ, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[int] = []
    put = app.state.put

    def counted(family: str, facts: Any, expires_s: float) -> None:
        writes.append(len(facts))
        put(family, facts, expires_s)

    monkeypatch.setattr(app.state, "put", counted)
    result = around.count.apply((20_000,))
    assert result.progress.done == 20_000  # type: ignore[union-attr]
    assert len(writes) < 200


def test_outside_of_a_task_there_is_no_progress() -> None:
    with pytest.raises(TaskError, match="No task is running here"):
        current_task.progress(1)


def test_where_no_state_is_kept_a_task_is_told_so(app: FastQ, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(self: FastQ) -> None:
        raise NotSupported("Shared state can be kept by nobody here")

    monkeypatch.setattr(FastQ, "state", property(none))
    with pytest.raises(NotSupported):
        around.count.apply((3,)).get()
