"""Revocation: what was revoked does not run, whether it waits, is delayed, was fetched or runs already."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from fastq import FastQ, State, TaskSet
from fastq.errors import ConfigurationError, TaskRevoked
from fastq.result import AsyncResult
from tests.apps import control
from tests.ledger import eventually
from tests.semantics.conftest import Start

APP = "tests.apps.control"


def is_known(app: FastQ, count: int = 1) -> bool:
    """Return whether the workers have heard of so many revocations."""
    stats = app.control.inspect().stats()
    return bool(stats) and all(each["revoked"] == count for each in stats.values())


def is_revoked(result: AsyncResult[object], *, why: str = "before it started") -> None:
    with pytest.raises(TaskRevoked, match=why):
        result.get(10)
    assert result.state is State.REVOKED


def test_a_task_that_was_revoked_while_no_worker_ran_is_not_run(app: FastQ, start: Start, tmp_path: Path) -> None:
    revoked = [control.touch.delay(str(tmp_path / name)) for name in ("a", "b", "c")]
    kept = control.touch.delay(str(tmp_path / "kept"))
    revoked[0].revoke()
    app.control.revoke(result.id for result in revoked[1:])
    with start():
        for result in revoked:
            is_revoked(result)
        assert kept.get(10)
    assert [path.name for path in tmp_path.glob("*") if path.is_file() and not path.name.startswith("fastq")] == [
        "kept"
    ]
    assert app.broker.depth("default") == 0


def test_a_delayed_task_that_was_revoked_ends_when_it_is_due(app: FastQ, start: Start, tmp_path: Path) -> None:
    with start():
        delayed = control.touch.apply_async((str(tmp_path / "late"),), countdown=0.7)
        delayed.revoke()
        is_revoked(delayed)
    assert not (tmp_path / "late").exists()


def test_a_revocation_survives_the_worker_that_heard_of_it(app: FastQ, start: Start, tmp_path: Path) -> None:
    delayed = control.touch.apply_async((str(tmp_path / "late"),), countdown=1.5)
    with start():
        delayed.revoke()
        eventually(lambda: is_known(app))
    with start():
        is_revoked(delayed)


def test_a_task_that_runs_is_left_alone_unless_it_is_to_be_broken_off(app: FastQ, start: Start, tmp_path: Path) -> None:
    begun, until = tmp_path / "begun", tmp_path / "until"
    with start():
        running = control.last.delay(str(begun), str(until))
        eventually(begun.exists)
        running.revoke()
        eventually(lambda: is_known(app))
        until.touch()
        assert running.get(10) == int(begun.read_text())


@pytest.mark.processes
@pytest.mark.parametrize("task", [control.last, control.last_early])
def test_a_task_that_runs_can_be_broken_off_and_is_not_charged(
    app: FastQ, start: Start, tmp_path: Path, task: control.Task
) -> None:
    begun = tmp_path / "begun"
    with start():
        running = task.delay(str(begun))
        eventually(begun.exists)
        running.revoke(terminate=True)
        is_revoked(running, why="broken off while it ran")
        assert control.add.delay(1, 2).get(10) == 3
    assert [(queue.ready, queue.leased, queue.dead) for queue in app.broker.queues()] in ([], [(0, 0, 0)])


def test_what_was_fetched_and_has_not_begun_is_not_started(app: FastQ, start: Start, tmp_path: Path) -> None:
    with start(concurrency=1):
        for _ in range(3):  # so that the worker takes several at once
            [result.get(10) for result in [control.add.delay(1, n) for n in range(200)]]
        begun, until = tmp_path / "begun", tmp_path / "until"
        touches = [control.touch.s(str(tmp_path / f"touched-{n}")) for n in range(20)]
        running, *waiting = TaskSet([control.last.s(str(begun), str(until)), *touches]).apply_async()  # type: ignore[list-item]
        eventually(begun.exists)
        eventually(lambda: any(app.control.inspect().reserved().values()))
        app.control.revoke(result.id for result in waiting[:19])
        eventually(lambda: is_known(app, 19))
        until.touch()
        assert running.get(10)
        for result in waiting[:19]:
            is_revoked(result)
        assert waiting[19].get(10)
    assert [path.name for path in tmp_path.glob("touched-*")] == ["touched-19"]


def test_tasks_are_revoked_by_a_header(app: FastQ, start: Start, tmp_path: Path) -> None:
    def send(value: object) -> AsyncResult[str]:
        return control.touch.apply_async((str(tmp_path / "x"),), headers={"tenant": value, "n": 1})

    one, other, none = send({"id": 7, "of": "a"}), send({"id": 8, "of": "a"}), control.add.delay(1, 2)
    app.control.revoke_by_header("tenant", {"of": "a", "id": 7})
    with start():
        is_revoked(one)
        assert other.get(10)
        assert none.get(10) == 3
        app.control.revoke_by_header("tenant", 9)
        eventually(lambda: is_known(app, 2))
        is_revoked(send(9))


def test_a_revocation_expires(app: FastQ, start: Start) -> None:
    delayed = control.add.apply_async((1, 2), countdown=0.6)
    app.control.revoke(delayed.id, expires_s=0.3)
    eventually(lambda: not app.state.find("revoked"))
    with start():
        assert delayed.get(10) == 3


def test_a_task_that_was_revoked_in_between_is_not_tried_again(app: FastQ, start: Start) -> None:
    with start():
        result = control.twice.apply_async(kwargs={"countdown": 0.7})
        eventually(lambda: result.state is State.RETRY)
        result.revoke()
        is_revoked(result)


def test_what_is_no_id_can_not_be_revoked(app: FastQ) -> None:
    with pytest.raises(ValueError, match="badly formed"):
        app.control.revoke("17")
    with pytest.raises(ConfigurationError, match="expires_s is 0"):
        app.control.revoke(str(uuid.uuid4()), expires_s=0)
    with pytest.raises(ConfigurationError, match="no JSON value"):
        app.control.revoke_by_header("tenant", object())
