"""One worker with real children, on the broker in memory: from a message to its end, and what stands in between."""

import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import pytest

from fastq import FastQ, State, TaskSet
from fastq.broker import QueueInfo
from fastq.errors import DeadLettered, RemoteError, TaskLost, TaskRevoked
from fastq.testing.workers import RunningWorker, running_worker
from fastq.worker.exiting import ExitCode
from tests.apps import basic
from tests.ledger import Ledger, alive, eventually

ROOT = str(Path(__file__).parents[2])
Start = Callable[..., AbstractContextManager[RunningWorker]]


@pytest.fixture
def app() -> Iterator[FastQ]:
    """The test app, on a broker of its own for each test."""
    app = basic.app
    before = app.settings
    app.settings = type(before).load({"broker": f"memory://{uuid.uuid4()}"})
    yield app
    app.close()
    app.settings = before


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.setenv("LEDGER", str(tmp_path / "ledger"))
    return Ledger(tmp_path / "ledger")


@pytest.fixture
def start(app: FastQ) -> Start:
    def start(**options: Any) -> AbstractContextManager[RunningWorker]:
        return running_worker(app, "tests.apps.basic:app", folder=ROOT, **options)

    return start


def queue(app: FastQ) -> QueueInfo:
    return next((info for info in app.broker.queues() if info.name == "default"), QueueInfo("default", 0, 0, 0, 0, 0.0))


# -- ends ----------------------------------------------------------------------------------------


def test_a_task_runs_in_a_child_and_its_value_comes_back(start: Start) -> None:
    with start():
        assert basic.add.delay(4, 4).wait(10) == 8
        assert basic.pid.delay().get(10) != os.getpid()
        assert basic.add_later.delay(2, 3).get(10) == 5


def test_an_exception_comes_back_with_its_remote_traceback(start: Start) -> None:
    with start():
        result = basic.fail.delay("no stock")
        with pytest.raises(ValueError, match="no stock") as caught:
            result.get(10)
    assert "tests/apps/basic.py" in str(caught.value.__cause__)
    assert result.state is State.FAILURE


def test_a_value_that_can_not_be_encoded_is_a_failure_that_names_it(start: Start) -> None:
    with start(), pytest.raises(Exception, match="return value of tests.apps.basic.unsayable can't be carried by json"):
        basic.unsayable.delay().get(10)


def test_sys_exit_in_a_task_ends_the_task_and_not_the_child(start: Start) -> None:
    with start():
        before = basic.pid.delay().get(10)
        with pytest.raises(RemoteError, match="SystemExit: 3"):
            basic.leave.delay(3).get(10)
        assert basic.pid.delay().get(10) == before


def test_arguments_and_results_of_many_megabytes_pass(start: Start) -> None:
    text = "x" * 5_000_000
    with start():
        assert basic.echo.delay(text).get(30) == text


def test_a_task_set_is_watched_to_its_end(start: Start) -> None:
    with start(concurrency=2):
        result = TaskSet(basic.add.s(n, n) for n in range(500)).apply_async()
        assert sum(1 for _ in result.as_completed(30)) == 500
        assert result.join(10) == [2 * n for n in range(500)]
        assert (result.completed_count(), result.ready(), result.successful()) == (500, True, True)


def test_a_message_in_plain_json_runs(app: FastQ, start: Start) -> None:
    id = str(uuid.uuid4())
    app.broker.publish_frames(
        "default", [b'{"task": "tests.apps.basic.add", "args": [4, 4], "id": "%s"}' % id.encode()]
    )
    with start():
        assert app.result(id).get(10) == 8


def test_a_delayed_task_does_not_start_early(start: Start) -> None:
    due = time.time() + 0.3
    with start():
        result = basic.pid.apply_async(countdown=0.3)
        result.get(10)
        finished = result.finished_at
        assert finished is not None
        assert finished.timestamp() >= due


def test_an_expired_task_is_revoked_and_not_run(ledger: Ledger, start: Start) -> None:
    result = basic.noted.apply_async(expires=0.001)
    time.sleep(0.01)
    with start(), pytest.raises(TaskRevoked, match="expired"):
        result.get(10)
    assert result.state is State.REVOKED
    assert not ledger.lines()


def test_what_is_no_message_goes_to_the_dead_letters_unchanged_and_the_worker_goes_on(app: FastQ, start: Start) -> None:
    """Row 39."""
    hostile = [b"", b"\x00" * 72, b"{", b"[]", b"\xf5Q\x02" + bytes(100), b'{"task": 3}', b'{"task": "os.system ls"}']
    app.broker.publish_frames("default", hostile)
    with start():
        assert basic.add.delay(1, 1).get(10) == 2
        eventually(lambda: queue(app).dead == len(hostile))
        assert sorted(letter.frame for letter in app.broker.dead_letters("default", 100)) == sorted(hostile)


def test_a_body_that_is_no_call_goes_to_the_dead_letters_and_the_caller_hears_of_it(app: FastQ, start: Start) -> None:
    message = basic.add._call((1, 2), None).message(app.settings)
    wrong = [
        message._replace(body=b"[1"),
        message._replace(body=b"[[], 3]"),
        message._replace(content_type="application/x-pickle", body=b"cos\nsystem\n(S'touch /tmp/canary'\ntR."),
        message._replace(content_type="text/plain"),
    ]
    wrong = [each._replace(id=uuid.uuid4().bytes) for each in wrong]
    app.broker.publish(wrong)
    with start():
        for each in wrong:
            with pytest.raises(DeadLettered):
                app.result(each.uuid).get(10)
        letters = app.broker.dead_letters("default", 10)
    assert [letter.frame for letter in letters] == [each.encode() for each in wrong]
    assert "not accepted" in letters[2].reason
    assert "no serializer for content type 'text/plain'" in letters[3].reason


def test_an_unknown_task_is_held_for_a_newer_worker_and_then_given_up(app: FastQ, start: Start) -> None:
    """Row 40."""
    result = app.send_task("tests.apps.basic.not_yet", (1,))
    with start(unknown_task_grace_s=0.2):
        with pytest.raises(DeadLettered, match="not_yet' is not known"):
            result.get(10)
        assert len(app.broker.dead_letters("default", 10)) == 1


def test_ignored_results_are_not_stored(app: FastQ, start: Start) -> None:
    with start():
        result = basic.add.apply_async((1, 2), ignore_result=True)
        basic.add.delay(0, 0).get(10)
        eventually(lambda: queue(app).leased == 0)
        assert result.state is State.PENDING


# -- deaths ----------------------------------------------------------------------------------------


def test_a_task_whose_child_dies_runs_again_and_is_given_up_in_the_end(
    app: FastQ, ledger: Ledger, start: Start
) -> None:
    """Row 2."""
    result = basic.kill_self.delay()
    with start(max_deliveries=3), pytest.raises(DeadLettered, match="crash 3 of 3: its process was killed by SIGKILL"):
        result.get(20)
    assert ledger.starts() == {result.id: 3}
    assert len(app.broker.dead_letters("default", 10)) == 1


def test_an_early_task_whose_child_dies_is_lost_and_never_runs_again(app: FastQ, ledger: Ledger, start: Start) -> None:
    """Row 1."""
    result = basic.kill_self_early.delay()
    with start():
        with pytest.raises(TaskLost, match="killed by SIGKILL"):
            result.get(20)
        basic.add.delay(1, 1).get(10)
    assert result.state is State.LOST
    assert ledger.starts() == {result.id: 1}
    assert queue(app).dead == queue(app).ready == 0


def test_the_neighbours_of_a_killer_are_not_charged(app: FastQ, ledger: Ledger, start: Start) -> None:
    """Row 8."""
    results = [basic.kill_self.delay() if n % 25 == 0 else basic.noted.delay() for n in range(100)]
    with start(concurrency=2, max_deliveries=2):
        for n, result in enumerate(results):
            if n % 25:
                assert result.get(30)
        eventually(lambda: len(app.broker.dead_letters("default", 10)) == 4)
    starts = ledger.starts()
    assert all(starts[result.id] == (1 if n % 25 else 2) for n, result in enumerate(results))


def test_a_killed_template_is_replaced_and_its_children_with_it(app: FastQ, ledger: Ledger, start: Start) -> None:
    with start(concurrency=2) as running:
        before = basic.pid.delay().get(10)
        results = [basic.noted.delay(0.05) for _ in range(20)]
        eventually(lambda: len(ledger.starts()) > 2)
        assert running.pool._template is not None
        os.kill(running.pool._template._process.pid, signal.SIGKILL)
        assert all(result.get(20) != before or True for result in results)
        eventually(lambda: not alive(before))
        assert basic.pid.delay().get(10) != before
    assert sum(ledger.starts().values()) <= 22  # the two that ran, at most, ran twice


def test_a_task_that_forks_leaves_no_second_child_behind(start: Start) -> None:
    """Row 11."""
    with start():
        copy = basic.fork_and_fall_through.delay().get(10)
        assert isinstance(copy, int)
        eventually(lambda: not alive(copy))
        assert basic.add.delay(1, 2).get(10) == 3


def test_a_task_that_closes_all_descriptors_costs_no_more_than_its_child(start: Start) -> None:
    """Row 12."""
    with start(max_deliveries=2):
        with suppress(DeadLettered):  # through shared memory, its end may still come back
            basic.close_everything.delay().get(20)
        assert basic.add.delay(1, 2).get(10) == 3


def test_a_task_that_floods_its_output_disturbs_nothing(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    """Row 13."""
    with start():
        assert basic.shout.delay(8).get(30) == 8 << 20
        assert basic.add.delay(1, 2).get(10) == 3
    capfd.readouterr()


# -- stopping -----------------------------------------------------------------------------------------


def test_stopping_ends_what_runs_and_hands_back_the_rest(
    app: FastQ, ledger: Ledger, start: Start, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    with start() as running:
        first = basic.wait_for.delay(str(gate))
        rest = [basic.noted.delay() for _ in range(5)]
        eventually(ledger.starts)
        running.worker.stop_soon()
        eventually(lambda: running.pool._quiet)
        assert queue(app).ready == 5
        gate.touch()
        assert running.stop() is ExitCode.OK
    assert first.get(1) == str(gate)
    assert all(result.state is State.PENDING for result in rest)
    assert list(ledger.starts()) == [first.id]
    with start():
        assert all(result.get(10) for result in rest)


def test_what_does_not_end_in_time_goes_back_uncharged(app: FastQ, ledger: Ledger, start: Start) -> None:
    """Row 5."""
    with start(grace_s=0.1) as running:
        late, early = basic.noted.delay(60), None
        eventually(ledger.starts)
        assert running.stop() is ExitCode.UNFINISHED
    assert (queue(app).ready, queue(app).leased) == (1, 0)
    subscription = app.broker.subscribe(["default"], 10, {})
    (delivery,) = subscription.fetch(10, None)
    subscription.close()
    assert delivery.crashes == 0
    assert late.state is State.PENDING
    assert early is None


def test_an_early_task_that_does_not_end_in_time_is_lost(ledger: Ledger, start: Start) -> None:
    """Row 5."""
    with start(grace_s=0.1) as running:
        result = basic.noted_early.delay(60)
        eventually(ledger.starts)
        assert running.stop() is ExitCode.UNFINISHED
    assert result.state is State.LOST


def test_stopping_leaves_no_process_behind(start: Start) -> None:
    with start(concurrency=2) as running:
        child = basic.pid.delay().get(10)
        assert running.pool._template is not None
        template = running.pool._template._process.pid
        running.stop()
    assert not alive(child)
    assert not alive(template)


# -- the lease -------------------------------------------------------------------------------------------


def test_a_worker_whose_lease_was_lost_gives_up_what_it_holds_and_goes_on(
    app: FastQ, ledger: Ledger, start: Start
) -> None:
    with start(lease_s=0.3, concurrency=2) as running:
        result = basic.noted.delay(1.0)
        eventually(ledger.starts)
        lease = running.worker._lease
        lease.lost(lease.subscription)
        assert basic.add.delay(1, 2).get(10) == 3
        assert result.get(20)
    assert ledger.starts() == {result.id: 2}
    assert ledger.ends() == {result.id: 1}
