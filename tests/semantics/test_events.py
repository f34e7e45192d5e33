"""Events: whoever follows them sees what becomes of tasks and workers; nobody waits for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fastq import FastQ
from fastq.errors import ConfigurationError, NotSupported, TaskRevoked
from fastq.events import Buffer, Event, decode, encode
from tests.apps import control
from tests.ledger import eventually
from tests.semantics.conftest import Start

APP = "tests.apps.control"


@pytest.fixture
def reporting(app: FastQ) -> FastQ:
    app.settings = replace(app.settings, events=True)
    return app


def test_what_becomes_of_a_task_is_reported(reporting: FastQ, start: Start) -> None:
    with reporting.events(timeout=10) as events, start(name="one"):
        result = control.add.delay(1, 2)
        assert result.get(10) == 3
        seen = {}
        for event in events:
            seen[event.kind] = event
            if event.kind == "task-succeeded":
                break
        sent, received, started, succeeded = (
            seen[f"task-{kind}"] for kind in ("sent", "received", "started", "succeeded")
        )
        assert {each.id for each in (sent, received, started, succeeded)} == {result.id}
        assert (sent.worker, received.worker) == ("", "one")
        assert (succeeded.task, succeeded.queue, succeeded.attempt) == ("tests.apps.control.add", "default", 1)
        assert sent.at <= started.at <= succeeded.at
        assert 0 < succeeded.runtime_s < 10


@pytest.mark.processes
def test_every_end_of_a_task_has_its_event(reporting: FastQ, start: Start, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    with start(name="one", concurrency=1):
        failed = control.fail.delay("no luck")
        twice = control.twice.delay()
        quiet = control.add.apply_async((1, 2), ignore_result=True)
        assert twice.get(10) == 2
        delayed = control.add.apply_async((1, 2), countdown=0.2)
        delayed.revoke()
        running = control.last.delay(str(begun))
        eventually(begun.exists)
        running.revoke(terminate=True)
        for revoked in (delayed, running):
            with pytest.raises(TaskRevoked):
                revoked.get(10)
    ends = {}
    with reporting.events(["failed", "retried", "revoked", "succeeded"], from_start=True, timeout=0.5) as events:
        for event in events:
            ends[event.id, event.kind] = event.detail
    assert ends == {
        (failed.id, "task-failed"): "ValueError: no luck",
        (twice.id, "task-retried"): "fastq.errors.Retry: attempt 1 asks for another",
        (twice.id, "task-succeeded"): "",
        (quiet.id, "task-succeeded"): "",
        (delayed.id, "task-revoked"): "fastq.errors.TaskRevoked: revoked before it started",
        (running.id, "task-revoked"): "fastq.errors.TaskRevoked: revoked, and broken off while it ran",
    }


def test_a_task_that_runs_for_long_is_seen_to_have_started(reporting: FastQ, start: Start, tmp_path: Path) -> None:
    begun, until = tmp_path / "begun", tmp_path / "until"
    with reporting.events(["task-started"], timeout=10) as events, start():
        running = control.last.delay(str(begun), str(until))
        assert next(events).id == running.id
        until.touch()
        assert running.get(10)


def test_workers_come_and_go(reporting: FastQ, start: Start) -> None:
    with start(name="one"):
        eventually(reporting.control.workers)
    kinds = ["worker-online", "worker-offline"]
    with reporting.events(kinds, worker="one", from_start=True, timeout=0.5) as events:
        online, offline = events
    assert (online.kind, offline.kind) == ("worker-online", "worker-offline")
    assert online.numbers["queues"] == ["default"]


def test_events_are_chosen_by_task_queue_and_id(reporting: FastQ, start: Start) -> None:
    with start(queues=["default", "mail"]):
        first, second, post = control.add.delay(1, 2), control.add.delay(1, 2), control.post.delay()
        for result in (first, second, post):
            result.get(10)

    def ids(**chosen: str) -> set[str]:
        with reporting.events(["sent"], from_start=True, timeout=0.1, **chosen) as events:
            return {event.id for event in events}

    eventually(lambda: ids() == {first.id, second.id, post.id})
    assert ids(task="*.add") == {first.id, second.id}
    assert ids(queue="mail") == {post.id}
    assert ids(id=second.id) == {second.id}
    assert ids(worker="one") == set()


def test_nothing_is_reported_unless_it_is_asked_for(app: FastQ, start: Start) -> None:
    with start():
        assert control.add.delay(1, 2).get(10) == 3
    with app.events(from_start=True, timeout=0.3) as events:
        assert list(events) == []


def test_a_kind_that_there_is_not_is_an_error_that_names_the_right_one(app: FastQ) -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'task-succeeded'"):
        app.events(["task-suceeded"])


def test_without_shared_state_there_are_no_events() -> None:
    app = FastQ(broker="amqp://127.0.0.1:1")
    with pytest.raises(NotSupported, match="Shared state can be kept by neither"):
        app.events()


def test_a_buffer_that_is_full_drops_and_counts() -> None:
    buffer: Buffer[int] = Buffer(most=3)
    for number in range(5):
        buffer.put([number])
    assert buffer.take() == ([0, 1, 2], 2)
    assert buffer.take() == ([], 0)


def test_an_entry_of_a_newer_version_can_be_read() -> None:
    event = Event("task-sent", 1.5, id="x", numbers={"n": 1})
    assert decode(encode([event])) == [event]
    assert decode(b'[{"kind": "task-folded", "at": 2.0, "shape": "crane"}]') == [Event("task-folded", 2.0)]
