"""Workflows that don't go well: who fails with whom, and who is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastq import FastQ, State, chain, chord, group
from fastq.errors import DeadLettered, TaskLost, TaskRevoked, UpstreamFailed
from tests.apps import canvas as tasks
from tests.ledger import eventually
from tests.semantics.conftest import Start

APP = "tests.apps.canvas"

Notes = Callable[[], list[tuple[str, Any]]]


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "notes").touch()
    return str(tmp_path / "notes")


@pytest.fixture
def notes(path: str) -> Notes:
    """Return what `append` wrote: the ids of the tasks, and what they were given."""

    def notes() -> list[tuple[str, Any]]:
        lines = [line.split(" ", 1) for line in Path(path).read_text().splitlines()]
        return [(id, eval(given)) for id, given in lines]

    return notes


def test_what_follows_a_task_that_failed_fails_as_it_did_and_does_not_run(
    start: Start, path: str, notes: Notes
) -> None:
    with start():
        result = chain(tasks.add.s(1), tasks.fail.s(), tasks.append.s(path), tasks.append.s(path)).delay(1)
        with pytest.raises(KeyError, match="shelf") as caught:
            result.get(10)
    assert result.state is State.FAILURE
    assert "In task tests.apps.canvas.fail[" in str(caught.value.__cause__)
    assert notes() == []


def test_an_error_callback_is_told_which_task_failed_and_how(start: Start, path: str, notes: Notes) -> None:
    failing = tasks.fail.s()
    with start():
        (failing | tasks.add.s(1) | tasks.add.s(2)).on_error(tasks.append.s("chain", path)).delay()
        eventually(lambda: len(notes()) == 1)
        ((_, [failure, word]),) = notes()
        assert word == "chain"
        assert {key: failure[key] for key in ("task", "type", "message")} == {
            "task": "tests.apps.canvas.fail", "type": "KeyError", "message": "'shelf'",
        }  # fmt: skip
        assert 'raise KeyError("shelf")' in failure["traceback"]
        result = tasks.fail.apply_async(link_error=tasks.append.s("one", path), link=tasks.append.s("no", path))
        eventually(lambda: len(notes()) == 2)
        assert notes()[1][1][0]["task_id"] == result.id
        tasks.fail.apply_async(link_error=tasks.append.si("nothing", path) | tasks.append.s("after", path))
        eventually(lambda: [given for _, given in notes()[2:]] == [["nothing"], [1, "after"]])


@pytest.mark.processes
def test_the_callback_of_a_chord_fails_once_all_members_have_ended(
    start: Start, path: str, notes: Notes, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    members = [tasks.add.s(1), tasks.fail.s(), tasks.fail.s(), tasks.wait_for.s(str(gate))]
    with start(concurrency=2):
        callback = tasks.append.s("callback", path).on_error(tasks.append.s("error", path))
        result = (chord(members, callback) | tasks.add.s(1)).on_error(tasks.append.s("whole", path)).delay()
        ended = tasks.add.delay(1, 1)
        assert ended.get(10) == 2
        assert (result.ready(), notes()) == (False, [])
        gate.touch()
        with pytest.raises(KeyError):
            result.get(10)
        eventually(lambda: sorted(given[1] for _, given in notes()) == ["error", "whole"])
    first, second = (given[0] for _, given in notes())
    assert first["task_id"] == second["task_id"]
    assert first["task"] == "tests.apps.canvas.fail"


def test_a_failure_goes_through_groups_within_chains(start: Start, path: str, notes: Notes) -> None:
    doomed = group(tasks.append.s(path), tasks.append.s(path) | tasks.append.s(path))
    with start():
        result = (tasks.fail.s() | doomed | tasks.total.s() | doomed).delay()
        with pytest.raises(KeyError):
            result.get(10)
        assert result.completed_count() == 2
        assert result.failed()
    assert notes() == []


def test_a_long_chain_fails_to_its_end(start: Start) -> None:
    with start(), pytest.raises(KeyError):
        (tasks.fail.s() | chain(tasks.add.s(1) for _ in range(60))).delay().get(20)


def test_a_member_that_is_revoked_or_expires_fails_the_chord(app: FastQ, start: Start) -> None:
    from fastq.canvas.plan import plan_of

    plan = plan_of(chord([tasks.add.s(1), tasks.add.s(2)], tasks.total.s()))
    app.control.revoke(plan.messages[1].uuid)
    result = plan.begin()
    expired = chord([tasks.add.s(1), tasks.add.s(2).set(expires=0.001)], tasks.total.s()).delay()
    with start():
        with pytest.raises(TaskRevoked, match="revoked"):
            result.get(10)
        with pytest.raises(TaskRevoked, match="expired"):
            expired.get(10)
    assert result.state is State.FAILURE


@pytest.mark.processes
def test_a_member_that_is_lost_or_a_dead_letter_fails_the_chord(start: Start) -> None:
    with start(concurrency=2, max_deliveries=1):
        with pytest.raises(TaskLost):
            chord([tasks.add.s(1), tasks.die_early.s()], tasks.total.s()).delay().get(20)
        with pytest.raises(DeadLettered):
            (tasks.die.s() | tasks.add.s(1)).delay().get(20)


def test_a_task_that_is_not_known_to_any_worker_fails_what_follows_it(app: FastQ, start: Start) -> None:
    stranger = app.task(name="stranger")(lambda: 1)
    try:
        result = (stranger.s() | tasks.add.s(1)).delay()
    finally:
        del app.tasks["stranger"]
    with start(unknown_task_grace_s=0.1), pytest.raises(DeadLettered, match="stranger"):
        result.get(20)


def test_a_retry_is_no_end(start: Start) -> None:
    with start():
        assert chord([tasks.second_time_lucky.s(n) for n in range(5)], tasks.total.s()).delay().get(10) == 10


@pytest.mark.parametrize("many", [False, True])
def test_a_value_that_is_gone_fails_who_needs_it(app: FastQ, start: Start, many: bool) -> None:
    from fastq.canvas.plan import plan_of

    first = group(tasks.add.s(1), tasks.add.s(2)) if many else tasks.add.s(1)
    plan = plan_of(first | tasks.echo.s().set(countdown=1))
    with start():
        result = plan.begin()
        for message in plan.messages:
            app.result(message.uuid).get(10)
        app.backend.forget([message.id for message in plan.messages])
        with pytest.raises(UpstreamFailed, match="has expired or was forgotten"):
            result.get(10)


def test_an_error_callback_comes_even_if_the_failure_is_gone(app: FastQ, start: Start, path: str, notes: Notes) -> None:
    from fastq.canvas.plan import plan_of

    plan = plan_of(tasks.fail.s().on_error(tasks.append.s(path).set(countdown=1)))
    with start():
        plan.begin()
        eventually(app.result(plan.messages[0].uuid).ready)
        app.backend.forget([plan.messages[0].id])
        eventually(lambda: len(notes()) == 1)
    ((_, [failure]),) = notes()
    assert failure["type"] == "fastq.errors.UpstreamFailed"
