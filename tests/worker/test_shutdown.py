"""What running tasks are told when their worker stops, and what becomes of those that leave."""

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from fastq import FastQ, State
from fastq.broker import QueueInfo
from fastq.ending import Ending
from fastq.errors import ConfigurationError, Interrupted, SoftTimeLimitExceeded
from fastq.pools.soft_limits import Alarm, Watch
from fastq.task import Task
from fastq.testing.faults.proxy import Proxy
from fastq.testing.workers import RunningWorker, running_worker
from fastq.worker.exiting import ExitCode
from tests.apps import interruptible
from tests.cli.terminal import command, environment
from tests.conftest import require_service
from tests.hosts import in_memory
from tests.ledger import eventually
from tests.rabbit_server import PORT, has_rabbit, rabbitmqctl, url_of

ROOT = str(Path(__file__).parents[2])
Start = Callable[..., AbstractContextManager[RunningWorker]]

LONG_S = 60.0  # a grace period that no test waits for


@pytest.fixture
def app() -> Iterator[FastQ]:
    with in_memory(interruptible.app) as app:
        yield app


@pytest.fixture
def start(app: FastQ) -> Start:
    def start(**options: Any) -> AbstractContextManager[RunningWorker]:
        return running_worker(app, "tests.apps.interruptible:app", folder=ROOT, **{"grace_s": LONG_S, **options})

    return start


def queue(app: FastQ) -> QueueInfo:
    return next((info for info in app.broker.queues() if info.name == "default"), QueueInfo("default", 0, 0, 0, 0, 0.0))


def run_until_stopped(start: Start, task: Task[[str], str], folder: Path, **options: Any) -> Any:
    """Run a task until it has begun, have its worker stop long before the grace period is over; return its result."""
    with start(**options) as running:
        result = task.delay(str(folder))
        eventually((folder / "begun").exists)
        before = time.monotonic()
        assert running.stop() is ExitCode.OK
        assert time.monotonic() - before < LONG_S
    return result


@pytest.mark.parametrize("pool", ["prefork", "threads", "asyncio", "solo"])
@pytest.mark.parametrize("task", [interruptible.save, interruptible.save_later], ids=lambda task: task.name)
def test_an_interrupted_task_saves_and_goes_back_uncharged_and_uncounted(
    app: FastQ, start: Start, pool: str, task: Task[[str], str], tmp_path: Path
) -> None:
    """Row 5."""
    result = run_until_stopped(start, task, tmp_path, pool=pool)
    assert (tmp_path / "saved").exists()
    assert result.state is State.PENDING
    assert (queue(app).ready, queue(app).leased) == (1, 0)
    subscription = app.broker.subscribe(["default"], 10, {})
    assert [each.crashes for each in subscription.fetch(10, None)] == [0]
    subscription.close()
    with start(pool=pool):
        assert result.get(20) == "went on, attempt 1"


def test_an_early_task_that_leaves_is_lost(app: FastQ, start: Start, tmp_path: Path) -> None:
    result = run_until_stopped(start, interruptible.save_early, tmp_path)
    assert result.state is State.LOST
    assert queue(app).ready == 0


def test_an_interruption_is_no_failure_that_is_tried_again(app: FastQ, start: Start, tmp_path: Path) -> None:
    result = run_until_stopped(start, interruptible.leave_at_once, tmp_path)
    assert result.state is State.PENDING
    assert (queue(app).ready, queue(app).delayed) == (1, 0)


def test_a_task_that_runs_another_within_itself_is_interrupted_as_a_whole(
    app: FastQ, start: Start, tmp_path: Path
) -> None:
    result = run_until_stopped(start, interruptible.save_within, tmp_path)
    assert result.state is State.PENDING
    with start():
        assert result.get(20) == "went on, attempt 1"


def test_a_task_may_end_well_when_it_is_interrupted(start: Start, tmp_path: Path) -> None:
    assert run_until_stopped(start, interruptible.end_well, tmp_path).get(1) == "ended well"


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_any_task_can_ask_whether_its_worker_stops_and_by_when(
    app: FastQ, start: Start, pool: str, tmp_path: Path
) -> None:
    began = time.time()
    result = run_until_stopped(start, interruptible.ask, tmp_path, pool=pool)
    assert began < float((tmp_path / "saved").read_text()) < time.time() + LONG_S
    assert queue(app).ready == 1
    assert result.state is State.PENDING
    with start(pool=pool):
        assert result.get(20) == "went on"


def test_the_deadline_of_a_task_is_the_earlier_of_its_limit_and_the_end_of_its_worker(
    start: Start, tmp_path: Path
) -> None:
    before, after = map(float, run_until_stopped(start, interruptible.ask_limited, tmp_path).get(1).split())
    assert LONG_S < before <= 500
    assert 0 < after <= LONG_S


def test_interrupted_is_an_error_like_any_other_while_the_worker_goes_on(start: Start) -> None:
    with start():
        result = interruptible.raise_it.delay()
        with pytest.raises(Interrupted, match="no reason"):
            result.get(20)
    assert result.state is State.FAILURE


def test_what_ends_while_it_is_interrupted_has_its_end(app: FastQ, start: Start, tmp_path: Path) -> None:
    with start(concurrency=4) as running:
        results = [interruptible.done_just_now.delay(str(tmp_path)) for _ in range(4)]
        eventually(lambda: len(list(tmp_path.glob("*.begun"))) == 4)
        assert running.stop() is ExitCode.OK
    ended = sum(result.state is State.SUCCESS for result in results)
    assert ended + queue(app).ready == 4
    assert queue(app).leased == 0


def test_interruptible_takes_true_or_false(app: FastQ) -> None:
    with pytest.raises(ConfigurationError, match="interruptible is 'yes'"):
        app.task(interruptible="yes")(print)


# -- what raises it --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Alarm, Watch])
def test_once_the_worker_stops_no_interruptible_call_begins(kind: type[Alarm | Watch]) -> None:
    ending = Ending()
    ending.announce(time.monotonic() + LONG_S)
    before = [signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGURG)]
    with pytest.raises(Interrupted):
        kind(ending).call(0.0, True, pytest.fail, (), {})
    assert kind(ending).call(0.0, False, lambda: "ran", (), {}) == "ran"
    for number, handler in zip((signal.SIGALRM, signal.SIGURG), before, strict=True):
        signal.signal(number, handler)


def test_a_signal_interrupts_only_where_the_worker_stops_and_a_soft_limit_still_holds() -> None:
    ending, seen = Ending(), []

    def task() -> None:
        os.kill(os.getpid(), signal.SIGURG)
        seen.append("goes on")
        time.sleep(60)

    before = [signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGURG)]
    with pytest.raises(SoftTimeLimitExceeded):
        Alarm(ending).call(0.1, True, task, (), {})
    ending.announce(time.monotonic() + LONG_S)
    assert seen == ["goes on"]
    for number, handler in zip((signal.SIGALRM, signal.SIGURG), before, strict=True):
        signal.signal(number, handler)


# -- a server that hangs ---------------------------------------------------------------------------


@pytest.mark.soak  # for the server's own tools, which take seconds
def test_a_worker_ends_though_the_line_to_rabbitmq_went_dead(tmp_path: Path) -> None:
    """Row 25."""
    require_service("RabbitMQ", has_rabbit)
    begun = tmp_path / "begun"
    (tmp_path / "shop.py").write_text(
        "import time\nfrom pathlib import Path\nfrom fastq import FastQ\napp = FastQ('shop')\n"
        f"@app.task\ndef nap():\n    Path({str(begun)!r}).touch()\n    time.sleep(600)\n"
    )
    vhost, proxy = f"fastq-test-{uuid.uuid4().hex}", Proxy(PORT)
    url = f"{url_of(vhost)}?queue_type=classic"
    rabbitmqctl("add_vhost", vhost)
    try:
        rabbitmqctl("set_permissions", "-p", vhost, "guest", ".*", ".*", ".*")
        with FastQ("client", broker=url) as client:
            client.send_task("shop.nap", ignore_result=True)
        process = subprocess.Popen(
            command("worker", "-A", "shop", "-c", "1", "--grace", "0.5", "--broker",
                    url.replace(f":{PORT}/", f":{proxy.port}/")),
            cwd=tmp_path, env=environment(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        eventually(begun.exists)
        proxy.silence()
        process.terminate()
        _, log = process.communicate(timeout=60)
        assert process.returncode == 5, log
    finally:
        rabbitmqctl("delete_vhost", vhost)
        proxy.close()
