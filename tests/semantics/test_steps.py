"""Steps: what an attempt has finished, no later attempt does again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fastq import FastQ, current_task
from fastq.errors import ConfigurationError, EncodingError, TaskError
from tests.apps import around
from tests.semantics.conftest import Start

APP = "tests.apps.around"


@pytest.fixture(autouse=True)
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The ledger that the app writes to."""
    path = tmp_path / "ledger"
    path.touch()
    monkeypatch.setenv("LEDGER", str(path))
    return path


def parts(lines: Path) -> Counter[str]:
    return Counter(line.split()[1] for line in lines.read_text().splitlines() if line.startswith("part "))


def test_an_attempt_goes_on_behind_the_last_finished_step(start: Start, lines: Path) -> None:
    with start():
        assert around.three_steps.delay().get(10) == [[1, 2], {"files": 2}, True, None, False]
    assert parts(lines) == {"one": 1, "two": 1, "three": 1}


def test_so_does_one_of_a_coroutine(start: Start, lines: Path) -> None:
    with start():
        assert around.three_steps_later.delay().get(10) == [[1, 2], {"files": 2}, True]
    assert parts(lines) == {"one": 1, "two": 1}


@pytest.mark.processes
def test_a_task_whose_process_died_goes_on_behind_its_last_step(start: Start, lines: Path, tmp_path: Path) -> None:
    with start():
        assert around.dies_once.delay(str(tmp_path / "died")).get(20) == ["first", "second"]
    assert parts(lines) == {"one": 1, "two": 1}


def test_a_task_whose_worker_died_goes_on_behind_its_last_step(
    app: FastQ, start: Start, lines: Path, tmp_path: Path
) -> None:
    result = around.dies_once.delay(str(tmp_path / "died"))
    app.state.put_new(f"step:{result.id}", "one", b'application/json\n"by another worker"', 60.0)
    (tmp_path / "died").touch()
    with start():
        assert result.get(10) == ["by another worker", "second"]
    assert parts(lines) == {"two": 1}


def test_a_value_is_the_same_in_the_attempt_that_made_it(app: FastQ, lines: Path) -> None:
    one, two, *_ = around.three_steps.apply().get()
    assert (one, two) == ([1, 2], {"files": 2})


def test_a_step_that_raises_is_not_finished(start: Start, lines: Path) -> None:
    with start():
        assert around.unfinished.delay().get(10) == 2


def test_a_finished_step_is_never_replaced(app: FastQ, lines: Path) -> None:
    assert around.overtaken.apply().get() == ["theirs"]


def test_when_the_task_has_ended_its_steps_are_kept_for_a_lease_and_a_little(
    app: FastQ, lines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[tuple[str, list[str], float]] = []
    put = app.state.put

    def noted(family: str, facts: Any, expires_s: float) -> None:
        kept.append((family, sorted(facts), expires_s))
        put(family, facts, expires_s)

    monkeypatch.setattr(app.state, "put", noted)
    result = around.three_steps.apply()
    assert result.get()
    assert kept == [(f"step:{result.id}", ["one", "three", "two"], app.settings.lease_s + 120)]


def test_a_name_is_for_one_step(app: FastQ, lines: Path) -> None:
    with pytest.raises(TaskError, match="'one' was finished in this attempt already"):
        around.twice.apply().get()


@pytest.mark.parametrize("name", ["", "x" * 256, 5])
def test_a_step_has_a_name(app: FastQ, name: Any) -> None:
    with pytest.raises(TypeError, match="it takes text of up to 255 characters"):
        around.unnamed.apply((name,)).get()


def test_a_value_over_the_limit_is_refused(app: FastQ, lines: Path) -> None:
    assert around.large_step.apply((900_000,)).get() == 900_000
    with pytest.raises(ConfigurationError, match="has 1100002 bytes; max_step_bytes is 1000000"):
        around.large_step.apply((1_100_000,)).get()


def test_a_value_that_cannot_be_carried_is_refused(app: FastQ, lines: Path) -> None:
    with pytest.raises(EncodingError, match="The value of the step 'thing' of .*unsayable_step can't be carried"):
        around.unsayable_step.apply().get()


def test_a_value_is_not_there_before_it_is_saved_nor_changed_after(app: FastQ, lines: Path) -> None:
    with pytest.raises(TaskError, match="'one' is not done, and nothing was saved"):
        around.impatient.apply().get()
    with pytest.raises(TaskError, match="'one' was done in an earlier attempt, and its value stays"):
        around.obstinate.apply().get()


def test_outside_of_a_task_there_are_no_steps() -> None:
    with pytest.raises(TaskError, match="No task is running here"):
        current_task.step("one")
