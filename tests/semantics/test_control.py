"""Remote control: workers answer whatever their children do, and do what they are told."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from fastq import FastQ
from fastq.broadcast import LOG, Command, ask
from fastq.errors import CommandFailed, ConfigurationError, NotSupported, TaskRevoked, UnknownWorker
from tests.apps import control
from tests.conftest import require_service
from tests.ledger import eventually
from tests.redis_server import RedisServer, has_redis
from tests.semantics.conftest import Start

APP = "tests.apps.control"


def test_workers_answer_by_name(app: FastQ, start: Start) -> None:
    with start(name="one"), start(name="two"):
        eventually(lambda: len(app.control.workers()) == 2)
        assert app.control.ping() == {"one": "pong", "two": "pong"}
        assert app.control.ping(destination=["two"]) == {"two": "pong"}
        with pytest.raises(UnknownWorker, match="There is no worker 'tow': did you mean 'two'"):
            app.control.ping(destination=["tow"])
    assert app.control.ping() == {}


def test_workers_of_the_same_name_are_told_apart(app: FastQ, start: Start) -> None:
    with start(name="one"), start(name="one"):
        eventually(lambda: len(app.control.workers()) == 2)
        first, second = sorted(app.control.ping())
        assert first == "one"
        assert second.startswith("one#")
        assert app.control.ping(destination=[second]) == {second: "pong"}


@pytest.mark.processes
def test_what_runs_is_seen_while_every_child_hangs(app: FastQ, start: Start, tmp_path: Path) -> None:
    begun = [tmp_path / "begun-1", tmp_path / "begun-2"]
    with start(name="one", concurrency=2):
        running = [control.last.delay(str(path)) for path in begun]
        eventually(lambda: all(path.exists() and path.read_text() for path in begun))
        pids = [int(path.read_text()) for path in begun]
        os.kill(pids[0], signal.SIGSTOP)
        try:
            tasks = {task["id"]: task for task in app.control.inspect().active()["one"]}
            assert set(tasks) == {result.id for result in running}
            assert [tasks[result.id]["pid"] for result in running] == pids
            assert {(task["task"], task["queue"]) for task in tasks.values()} == {
                ("tests.apps.control.last", "default")
            }
            stats = app.control.inspect().stats()["one"]
            assert (stats["app"], stats["children"], stats["running"]) == ("control", 2, 2)
        finally:
            os.kill(pids[0], signal.SIGCONT)


@pytest.mark.processes
def test_a_stopped_child_is_broken_off_with_its_task(app: FastQ, start: Start, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    with start():
        running = control.last.delay(str(begun))
        eventually(lambda: begun.exists() and begun.read_text())
        os.kill(int(begun.read_text()), signal.SIGSTOP)
        running.revoke(terminate=True)
        with pytest.raises(TaskRevoked):
            running.get(10)
        assert control.add.delay(1, 2).get(10) == 3


def test_a_worker_says_what_it_can_do_and_what_will_come(app: FastQ, start: Start) -> None:
    with start(name="one", queues=["default", "mail"]):
        control.add.apply_async((1, 2), countdown=600)
        assert control.add.delay(1, 2).get(10) == 3
        inspect = app.control.inspect(["one"])
        assert inspect.scheduled() == {"one": {"default": 1, "mail": 0}}
        assert "tests.apps.control.add" in inspect.registered()["one"]
        assert inspect.active() == inspect.reserved() == {"one": []}
        assert inspect.stats()["one"]["processed"] == 1
        assert inspect.stats()["one"]["queues"] == ["default", "mail"]


def test_what_a_worker_can_not_do_it_answers_with_the_reason(app: FastQ, start: Start) -> None:
    with start(name="one"), start(name="two"):
        eventually(lambda: len(app.control.workers()) == 2)
        app.control.add_consumer("mail", destination=["one"])
        with pytest.raises(CommandFailed, match="two answers: The queue 'mail' is not served here") as caught:
            app.control.cancel_consumer("mail")
        assert caught.value.replies == {"one": ["default"]}
        with pytest.raises(CommandFailed, match="There is no command 'dance'"):
            ask(app.control._board, "dance", {}, destination=None, timeout_s=5)
        with pytest.raises(CommandFailed, match="TypeError"):
            ask(app.control._board, "pause", {"step": 2}, destination=["one"], timeout_s=5)
        assert app.control.ping(timeout=5) == {"one": "pong", "two": "pong"}


def test_commands_that_can_not_be_read_or_come_too_late_are_passed_over(app: FastQ, start: Start) -> None:
    with start(name="one"):
        eventually(app.control.workers)
        late = Command("shutdown", {}, at=time.time() - 90, expires=time.time() - 30)
        garbage = [
            b"\xff",
            b"[]",
            b"{}",
            orjson.dumps({"name": 1, "arguments": {}}),
            b'{"name": "ping", "arguments": []}',
        ]
        app.state.append(LOG, [*garbage, late.encode()], keep=100, expires_s=60)
        app.state.put("revoked", {"no id": b"{}"}, 60)
        app.state.put("revoked-header", {"x": b"[]"}, 60)
        app.state.put("rate-limit", {"tests.apps.control.add": b"often"}, 60)
        assert app.control.ping(timeout=5) == {"one": "pong"}
        assert control.add.delay(1, 2).get(10) == 3
    with start(name="two"):
        assert control.add.delay(1, 2).get(10) == 3


def test_a_worker_can_be_shut_down_from_afar(app: FastQ, start: Start, tmp_path: Path) -> None:
    begun, until = tmp_path / "begun", tmp_path / "until"
    with start(name="one") as worker:
        running = control.last.delay(str(begun), str(until))
        eventually(begun.exists)
        assert app.control.shutdown(timeout=5) == {"one": "stopping"}
        assert app.control.inspect(timeout=5).active()["one"][0]["id"] == running.id
        until.touch()
        eventually(lambda: worker.exit is not None)
        assert running.get(10)


def test_a_rate_that_was_changed_holds_for_workers_that_start_later(app: FastQ, start: Start) -> None:
    app.control.rate_limit("tests.apps.control.add", "1/h")
    with start():
        assert control.add.delay(1, 2).get(10) == 3
        second = control.add.delay(1, 2)
        eventually(lambda: [queue.delayed for queue in app.broker.queues()] == [1])
        assert not second.ready()
        app.control.rate_limit("tests.apps.control.add", None)
        assert app.control.ping(timeout=5)
        assert control.add.delay(1, 2).get(10) == 3


def test_a_worker_without_remote_control_works(app: FastQ, start: Start) -> None:
    with start(control=False):
        assert control.add.delay(1, 2).get(10) == 3
        assert app.control.ping() == {}


def test_where_there_can_be_no_shared_state_asking_is_an_error() -> None:
    app = FastQ(broker="amqp://127.0.0.1:1")
    with pytest.raises(NotSupported, match="Shared state can be kept by neither"):
        app.control.ping()


def test_a_worker_has_a_name_that_can_be_written_in_a_line(start: Start) -> None:
    with pytest.raises(ConfigurationError, match="is no name for a worker"), start(name="two words"):
        pass


@pytest.mark.processes
def test_a_pool_grows_and_shrinks(app: FastQ, start: Start, tmp_path: Path) -> None:
    until = tmp_path / "until"
    with start(name="one", concurrency=1):
        eventually(app.control.workers)
        assert app.control.pool_grow(2, timeout=5) == {"one": 3}
        begun = [tmp_path / f"begun-{n}" for n in range(3)]
        running = [control.last.delay(str(path), str(until)) for path in begun]
        eventually(lambda: all(path.exists() for path in begun))
        assert app.control.inspect(timeout=5).stats()["one"]["children"] == 3
        assert app.control.pool_shrink(2, timeout=5) == {"one": 1}
        until.touch()
        assert len({result.get(10) for result in running}) == 3
        with pytest.raises(CommandFailed, match="can't have 0"):
            app.control.pool_shrink(timeout=5)
        with pytest.raises(CommandFailed, match="can't have"):
            app.control.pool_grow(100_000, timeout=5)
        assert control.add.delay(1, 2).get(10) == 3


@pytest.mark.parametrize("n", [0, -1, 1.5, True])
def test_a_pool_grows_by_a_number_of_children(app: FastQ, n: int) -> None:
    with pytest.raises(ConfigurationError, match="it takes 1 or more"):
        app.control.pool_grow(n)


# -- outages --------------------------------------------------------------------------------------


@pytest.fixture
def state_server(tmp_path: Path) -> Iterator[RedisServer]:
    require_service("Redis", has_redis)
    server = RedisServer(tmp_path / "state", "appendonly yes", "appendfsync always").start()
    yield server
    server.kill()


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_worker_outlives_its_shared_state_and_learns_what_it_missed(
    app: FastQ, start: Start, state_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    app.settings = replace(app.settings, state=state_server.url)
    with start(name="one"):
        eventually(app.control.workers)
        revoked = str(uuid.uuid4())
        app.state.put("revoked", {revoked: b'{"terminate":false}'}, 600)  # which no command tells of
        state_server.kill()
        eventually(lambda: "Remote control is interrupted" in caplog.text)
        assert control.add.delay(1, 2).get(10) == 3
        state_server.start()
        eventually(lambda: "Remote control works again" in caplog.text, 30)
        result = control.add.apply_async((1, 2), task_id=revoked)
        with pytest.raises(TaskRevoked):
            result.get(10)
        assert app.control.ping(timeout=5) == {"one": "pong"}
    assert caplog.text.count("Remote control is interrupted") == 1


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_worker_starts_without_its_shared_state_and_finds_it_later(
    app: FastQ, start: Start, state_server: RedisServer
) -> None:
    app.settings = replace(app.settings, state=state_server.url)
    state_server.kill()
    with start(name="one"):
        assert control.add.delay(1, 2).get(10) == 3
        state_server.start()
        eventually(app.control.workers, 30)
        assert app.control.ping(timeout=5) == {"one": "pong"}
