"""Pausing: no task of a paused queue starts, whoever heard of it when; and which queues a worker serves can change."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastq import FastQ, TaskSet
from fastq.errors import CommandFailed, ProtocolError
from tests.apps import control
from tests.ledger import eventually
from tests.semantics.conftest import Start

APP = "tests.apps.control"


def waits_for(app: FastQ, *paused: str) -> None:
    """Wait until all workers know which of their queues are paused."""
    eventually(lambda: all(each["paused"] == sorted(paused) for each in app.control.workers().values()))


def test_nothing_of_a_paused_queue_starts_until_it_is_resumed(app: FastQ, start: Start) -> None:
    with start(queues=["default", "mail"]):
        eventually(app.control.workers)
        app.control.pause("mail")
        waits_for(app, "mail")
        post = control.post.delay()
        assert control.add.delay(1, 2).get(10) == 3
        assert app.broker.depth("mail") == 1
        assert app.control.resume("mail")
        assert post.get(10) == "sent"
        assert not app.control.resume("mail")


def test_a_pause_holds_for_workers_that_start_later(app: FastQ, start: Start) -> None:
    app.control.pause("mail")
    assert list(app.control.paused()) == ["mail"]
    post = control.post.delay()
    with start(queues=["mail", "default"]):
        assert control.add.delay(1, 2).get(10) == 3
        assert app.broker.depth("mail") == 1
    app.control.resume("mail")
    assert app.control.paused() == {}
    with start(queues=["mail"]):
        assert post.get(10) == "sent"


def test_a_worker_all_of_whose_queues_are_paused_keeps_what_runs(app: FastQ, start: Start, tmp_path: Path) -> None:
    begun, until = tmp_path / "begun", tmp_path / "until"
    with start(lease_s=1.0):
        running = control.last.delay(str(begun), str(until))
        eventually(begun.exists)
        app.control.pause("default")
        waits_for(app, "default")
        until.touch()
        assert running.get(10) == int(begun.read_text())


def test_what_was_fetched_from_a_paused_queue_and_has_not_begun_goes_back(
    app: FastQ, start: Start, tmp_path: Path
) -> None:
    with start(concurrency=1):
        for _ in range(3):  # so that the worker takes several at once
            [result.get(10) for result in [control.add.delay(1, n) for n in range(200)]]
        begun, until = tmp_path / "begun", tmp_path / "until"
        touches = [control.touch.s(str(tmp_path / f"touched-{n}")) for n in range(20)]
        running, *waiting = TaskSet([control.last.s(str(begun), str(until)), *touches]).apply_async()  # type: ignore[list-item]
        eventually(begun.exists)
        eventually(lambda: any(app.control.inspect().reserved().values()))
        app.control.pause("default")
        eventually(lambda: [(queue.ready, queue.leased) for queue in app.broker.queues()] == [(20, 1)])
        until.touch()
        assert running.get(10)
        assert not list(tmp_path.glob("touched-*"))
        app.control.resume("default")
        for result in waiting:
            assert result.get(10)


def test_a_worker_can_serve_another_queue_and_leave_it_again(app: FastQ, start: Start) -> None:
    with start(name="one"):
        eventually(app.control.workers)
        post = control.post.delay()
        assert app.control.add_consumer("mail") == {"one": ["default", "mail"]}
        assert post.get(10) == "sent"
        assert app.control.cancel_consumer("mail", destination=["one"]) == {"one": ["default"]}
        control.post.delay()
        assert control.add.delay(1, 2).get(10) == 3
        assert app.broker.depth("mail") == 1
        with pytest.raises(CommandFailed, match="one answers: The queue 'mial' is not served here"):
            app.control.cancel_consumer("mial")
        with pytest.raises(ProtocolError, match="is not a queue name"):
            app.control.add_consumer("no name")


def test_a_queue_that_a_worker_is_to_serve_may_be_paused(app: FastQ, start: Start) -> None:
    app.control.pause("mail")
    post = control.post.delay()
    with start(name="one"):
        eventually(app.control.workers)
        app.control.add_consumer("mail")
        waits_for(app, "mail")
        assert control.add.delay(1, 2).get(10) == 3
        assert app.broker.depth("mail") == 1
        app.control.resume("mail")
        assert post.get(10) == "sent"


def test_the_shares_of_a_fair_queue_are_paused_with_it(app: FastQ, start: Start) -> None:
    shares = (("mail", "4"),)
    with start(queues=["default", "mail"], fair_queues=shares):
        eventually(app.control.workers)
        app.control.pause("mail")
        waits_for(app, "mail")
        for share in range(4):
            control.post.apply_async(queue=f"mail:fair-{share}")
        assert control.add.delay(1, 2).get(10) == 3
        assert sum(app.broker.depth(f"mail:fair-{share}") for share in range(4)) == 4
