"""What a worker does when its broker or backend fail or refuse: nothing is kept from everyone, and it goes on."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from fastq import FastQ, State, broadcast, group
from fastq.backends.memory import MemoryBackend
from fastq.broker import Decision, Delivery
from fastq.brokers.memory import MemoryBroker, MemorySubscription
from fastq.errors import (
    BackendError,
    BackendUnavailable,
    BrokerError,
    BrokerUnavailable,
    ConfigurationError,
    DeadLettered,
    NotSupported,
    PublishUnknown,
    StateUnavailable,
    TaskLost,
)
from fastq.message import Message
from fastq.outcome import Outcome
from fastq.states.memory import MemoryState
from fastq.testing.workers import RunningWorker, running_worker
from fastq.unique import LATEST
from tests.apps import outages
from tests.hosts import in_memory
from tests.ledger import eventually

ROOT = str(Path(__file__).parents[2])
Start = Callable[..., AbstractContextManager[RunningWorker]]


class FaultySubscription(MemorySubscription):
    """Fails to carry out what its broker is told to let fail."""

    def __init__(self, broker: FaultyBroker, *given: Any) -> None:
        super().__init__(broker.system, *given)
        self._broker = broker

    def settle(self, decisions: Sequence[Decision]) -> list[Delivery]:
        self._broker.fail("settle")
        return super().settle(decisions)

    def release(self, deliveries: Sequence[Delivery]) -> None:
        self._broker.fail("release")
        super().release(deliveries)


class FaultyBroker(MemoryBroker):
    """A memory broker that fails so many times to do something, and refuses messages that it is told to refuse."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.faults: dict[str, int] = {}
        self.refuse: Callable[[Message], Exception | None] = lambda message: None
        self.sure = True  # of several messages, which it took when it refused one
        self.refuse_to_bury: Callable[[], Exception | None] = lambda: None

    def fail(self, what: str) -> None:
        if self.faults.get(what, 0) > 0:
            self.faults[what] -= 1
            raise BrokerUnavailable(f"it is told to fail to {what}")

    def publish(self, messages: Sequence[Message]) -> None:
        for message in messages:
            if error := self.refuse(message):
                raise error if self.sure or len(messages) == 1 else PublishUnknown(f"{error}; or not")
        super().publish(messages)

    def bury(self, queue: str, frames: Sequence[bytes], reason: str) -> None:
        if error := self.refuse_to_bury():
            raise error
        super().bury(queue, frames, reason)

    def subscribe(self, queues: Sequence[str], lease_s: float, about: Mapping[str, str]) -> MemorySubscription:
        self.fail("subscribe")
        return FaultySubscription(self, queues, lease_s, about)


class FaultyBackend(MemoryBackend):
    """A memory backend that keeps nothing as long as it is told not to, and never what it is told to refuse."""

    full = False
    refuses: tuple[State, ...] = ()

    def store(self, outcomes: Sequence[Outcome]) -> None:
        if self.full:
            raise BackendUnavailable("it is told to keep nothing")
        if any(outcome.state in self.refuses and len(outcome.body) > 1 for outcome in outcomes):
            raise BackendError("it is too large")
        super().store(outcomes)


class FaultyState(MemoryState):
    """A memory state that can't let go of a lock."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.asked = threading.Event()

    def delete_if(self, family: str, name: str, value: bytes) -> bool:
        self.asked.set()
        raise StateUnavailable("it is told not to")


@pytest.fixture
def app() -> Iterator[FastQ]:
    with in_memory(outages.app) as app:
        yield app


@pytest.fixture
def broker(app: FastQ) -> FaultyBroker:
    app._broker = broker = FaultyBroker(app.settings.broker)
    return broker


@pytest.fixture
def start(app: FastQ, broker: FaultyBroker) -> Start:
    def start(**options: Any) -> AbstractContextManager[RunningWorker]:
        return running_worker(app, "tests.apps.outages:app", folder=ROOT, **{"pool": "solo", **options})

    return start


def refusing(task: str, error: Exception) -> Callable[[Message], Exception | None]:
    return lambda message: error if message.task.endswith(f".{task}") else None


# -- what follows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ConfigurationError("it is too large"), BrokerError("it is too large")], ids=type)
def test_a_follower_that_the_broker_refuses_fails_as_if_it_had_run(
    broker: FaultyBroker, start: Start, error: Exception, tmp_path: Path
) -> None:
    file = tmp_path / "caught"
    refused = outages.double.s().on_error(outages.caught.s(str(file)))
    broker.refuse = refusing("double", error)
    with start():
        result = (outages.add.s(1, 2) | refused | outages.add.s(1)).delay()
        with pytest.raises(type(error), match="too large"):
            result.get(10)
        assert outages.add.delay(4, 4).get(10) == 8
        eventually(file.exists)
        eventually(lambda: file.read_text() == f"tests.apps.outages.double fastq.errors.{type(error).__name__}")
    assert broker.depth("default") == 0


@pytest.mark.parametrize("sure", [True, False], ids=["all are refused", "none knows which"])
def test_what_is_published_along_with_a_follower_that_is_refused_runs(
    broker: FaultyBroker, start: Start, sure: bool
) -> None:
    broker.sure = sure
    broker.refuse = refusing("double", BrokerError("it is too large"))
    with start():
        results = (outages.add.s(1, 2) | group(outages.add.s(1), outages.double.s(), outages.add.s(2))).delay()
        first, refused, last = results
        assert (first.get(10), last.get(10)) == (4, 5)
        with pytest.raises(BrokerError, match="too large"):
            refused.get(10)


# -- early tasks ------------------------------------------------------------------------------------------


def test_the_next_attempt_of_an_early_task_waits_for_the_broker(broker: FaultyBroker, start: Start) -> None:
    times = iter([BrokerUnavailable("it is away")] * 2)
    broker.refuse = lambda message: next(times, None) if message.attempt > 1 else None
    with start():
        assert outages.early.delay(3).get(10) == 3


def test_an_early_task_whose_next_attempt_is_refused_is_lost_and_its_neighbours_are_not(
    broker: FaultyBroker, start: Start
) -> None:
    broker.refuse = lambda message: ConfigurationError("it is too large") if message.attempt > 1 else None
    with start():
        result, neighbour = outages.early.delay(2), outages.add.delay(4, 4)
        with pytest.raises(TaskLost, match="too large"):
            result.get(10)
        assert neighbour.get(10) == 8
    assert result.state is State.LOST


def test_the_next_attempt_of_an_early_task_is_not_published_twice(broker: FaultyBroker, start: Start) -> None:
    seen = []

    def refuse(message: Message) -> Exception | None:
        if message.attempt == 1:
            return None
        seen.append(message.id)
        return PublishUnknown("the answer was lost")

    broker.refuse = refuse
    with start():
        result = outages.early.delay(2)
        eventually(lambda: result.state is State.RETRY)
        assert outages.add.delay(4, 4).get(10) == 8
    assert len(seen) == 1


def test_an_early_task_that_can_not_be_acknowledged_waits_for_the_broker(broker: FaultyBroker, start: Start) -> None:
    broker.faults["settle"] = 1
    with start(lease_s=0.6):
        assert outages.early.delay().get(10) == 1


# -- settling ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failures", [0, 2], ids=["at once", "once it can be handed back"])
def test_a_task_whose_result_can_not_be_stored_is_delivered_again(
    app: FastQ, broker: FaultyBroker, start: Start, failures: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 45."""
    monkeypatch.setattr("fastq.worker.settler._PATIENCE_S", 0.1)
    app._backend = backend = FaultyBackend(f"memory://{uuid.uuid4().hex}", expires_s=60)
    file = tmp_path / "notes"
    broker.faults["release"] = failures
    backend.full = True
    with start(lease_s=0.6):
        result = outages.note.delay(1, str(file))
        eventually(lambda: file.exists() and len(file.read_text().split()) >= 2)
        backend.full = False
        assert result.get(10) == 1
    assert (broker.depth("default"), broker.faults["release"]) == (0, 0)


@pytest.mark.parametrize("follows", [False, True], ids=["nothing follows", "something follows"])
def test_a_failure_takes_the_place_of_a_result_that_the_backend_refuses(
    app: FastQ, broker: FaultyBroker, start: Start, follows: bool
) -> None:
    app._backend = backend = FaultyBackend(f"memory://{uuid.uuid4().hex}", expires_s=60)
    backend.refuses = (State.SUCCESS,)
    neighbours = outages.add.map([1] * 10)
    with start():
        result = (outages.add.s(100) | outages.add.s(1)).delay() if follows else outages.add.delay(100)
        with pytest.raises(BackendError, match="too large"):
            result.get(10)
        assert [neighbour.get(10) for neighbour in neighbours] == [1] * 10
        eventually(lambda: not any(info.leased for info in app.broker.queues()))
    assert broker.depth("default") == 0


def test_a_message_of_which_the_backend_refuses_every_end_is_a_dead_letter(
    app: FastQ, broker: FaultyBroker, start: Start
) -> None:
    app._backend = backend = FaultyBackend(f"memory://{uuid.uuid4().hex}", expires_s=60)
    backend.refuses = (State.SUCCESS, State.FAILURE)
    with start():
        result = outages.add.delay(100)
        eventually(lambda: broker.dead_letters("default", 9))
        assert outages.add.delay(1).get(10) == 1
    (letter,) = broker.dead_letters("default", 9)
    assert Message.decode(letter.frame).uuid == result.id
    assert letter.reason == "its outcome can't be stored: it is too large"


@pytest.mark.parametrize("ack", ["early", "late"])
def test_a_call_that_can_not_be_read_is_a_dead_letter_whenever_it_was_acknowledged(
    app: FastQ, broker: FaultyBroker, start: Start, ack: str
) -> None:
    task = {"early": "early", "late": "add"}[ack]
    call = Message(uuid.uuid4().bytes, f"tests.apps.outages.{task}", "default", b"no JSON")
    broker.publish([call])
    times = iter([BrokerUnavailable("it is away")] * 2)
    broker.refuse_to_bury = lambda: next(times, None)
    with start():
        with pytest.raises(DeadLettered):
            app.result(call.uuid).get(10)
        assert outages.add.delay(1).get(10) == 1
    (letter,) = broker.dead_letters("default", 9)
    assert letter.frame == call.encode()


def test_an_early_call_that_can_neither_be_read_nor_buried_is_lost(
    app: FastQ, broker: FaultyBroker, start: Start
) -> None:
    call = Message(uuid.uuid4().bytes, "tests.apps.outages.early", "default", b"no JSON")
    broker.publish([call])
    broker.refuse_to_bury = lambda: NotSupported("there are no dead letters here")
    with (
        start(),
        pytest.raises(TaskLost, match="it should be a dead letter, and can't become one: there are no dead letters"),
    ):
        app.result(call.uuid).get(10)
    assert broker.dead_letters("default", 9) == []


@pytest.mark.parametrize(("task", "error"), [("endless", DeadLettered), ("early", TaskLost)])
def test_a_task_that_was_tried_as_often_as_can_be_counted_ends(
    app: FastQ, broker: FaultyBroker, start: Start, task: str, error: type[Exception]
) -> None:
    id, most = str(uuid.uuid4()), (1 << 32) - 1
    call = {"task": f"tests.apps.outages.{task}", "args": [1 << 40][: task == "early"], "id": id, "attempt": most}
    broker.publish_frames("default", [json.dumps(call).encode()])
    neighbours = outages.add.map(range(3))
    with start():
        with pytest.raises(error, match="attempt"):
            app.result(id).get(10)
        assert [neighbour.get(10) for neighbour in neighbours] == [0, 1, 2]


def test_the_result_of_an_early_task_is_stored_though_its_lock_can_not_be_given_up(app: FastQ, start: Start) -> None:
    app._state = state = FaultyState(f"memory://{uuid.uuid4().hex}")
    with start() as running:
        result = outages.early_and_unique.delay(4)
        assert state.asked.wait(10)
        running.stop()
    assert result.get(1) == 4


def test_results_of_early_tasks_that_can_not_be_stored_are_reported(
    app: FastQ, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fastq.worker.settler._PATIENCE_S", 0.1)
    app._backend = backend = FaultyBackend(f"memory://{uuid.uuid4().hex}", expires_s=60)
    backend.full = True
    with start():
        outages.early.delay()
        eventually(lambda: "1 results of early tasks can't be stored, and are lost" in caplog.text)


# -- the shared state -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [broadcast.REVOKED, broadcast.REVOKED_HEADER, broadcast.PAUSED, broadcast.RATES])
@pytest.mark.parametrize("value", [b"\xff", b"[1]", b'{"header": {}}', b""])
def test_nonsense_in_the_shared_state_keeps_no_worker_from_its_work(
    app: FastQ, start: Start, family: str, value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    app.state.put(family, {"no such thing!": value, str(uuid.uuid4()): value, "tests.apps.outages.add": value}, 60)
    app.state.append(broadcast.LOG, [value], keep=10, expires_s=60)
    with start():
        app.state.append(broadcast.LOG, [value], keep=10, expires_s=60)
        eventually(lambda: app.control.ping(timeout=10))
        assert outages.add.delay(1, 2).get(10) == 3
    assert "A turn of" not in caplog.text


def test_a_lock_that_can_not_be_read_is_none(app: FastQ, start: Start) -> None:
    outages.latest.delay(4)
    app.state.put(LATEST, dict.fromkeys(app.state.find(LATEST), b"nonsense"), 60)
    result = outages.latest.delay(4)
    app.state.put(LATEST, dict.fromkeys(app.state.find(LATEST), b"nonsense"), 60)
    with start():
        assert result.get(10) == 4


# -- the lease --------------------------------------------------------------------------------------------


def test_a_worker_that_can_not_begin_another_lease_tries_again(
    broker: FaultyBroker, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    with start(lease_s=0.6):
        assert outages.add.delay(1).get(10) == 1
        broker.faults["subscribe"] = 2
        with broker.system.held():
            broker.system.queues.leases.clear()
            broker.system.arrived.notify_all()
        assert outages.add.delay(2).get(20) == 2
    assert broker.faults["subscribe"] == 0
    assert "A turn of" not in caplog.text


def test_a_lease_that_is_given_up_when_no_other_can_begin_is_not_renewed_but_replaced_later(
    broker: FaultyBroker, start: Start
) -> None:
    with start(lease_s=0.6) as running:
        assert outages.add.delay(1).get(20) == 1
        lease = running.worker._lease
        given_up = lease.subscription
        broker.faults["subscribe"] = 2
        with pytest.raises(BrokerUnavailable):
            lease.begin_anew()
        assert lease.subscription is given_up
        eventually(lambda: lease.subscription is not given_up)
        assert outages.add.delay(2).get(20) == 2
    assert broker.faults["subscribe"] == 0


@pytest.mark.parametrize("pool", ["solo", "prefork"])
def test_early_tasks_go_on_when_the_lease_is_lost(start: Start, pool: str, tmp_path: Path) -> None:
    file, notes = tmp_path / "file", tmp_path / "notes"
    with start(pool=pool) as running:
        result = outages.early_until.delay(str(file), str(notes))
        eventually(notes.exists)
        lease = running.worker._lease
        lease.lost(lease.subscription)
        assert result.state is State.PENDING
        file.touch()
        assert result.get(10) == 1
        assert outages.add.delay(1, 2).get(10) == 3
    assert notes.read_text() == "begun\n"
