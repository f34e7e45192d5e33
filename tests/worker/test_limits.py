"""Limits: what a flight asks for, what becomes of those that are refused, and which slots are held."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from fastq.broker import Action, Decision, Delivery
from fastq.completion import Completed
from fastq.errors import ConfigurationError, NotSupported, StateUnavailable
from fastq.message import Extras, Message, now_us
from fastq.pool import TaskInfo
from fastq.settings import Settings
from fastq.state import Answer, Ask, Limit, SharedState
from fastq.states.memory import MemoryState
from fastq.systems.memory import MemorySystem
from fastq.worker.limits import Limits
from fastq.worker.triage import Flight
from tests.ledger import eventually

TASKS = {
    "one": TaskInfo("one", limits=(Limit("", 1),)),
    "rare": TaskInfo("rare", limits=(Limit("", 1, 5.0),)),
    "yearly": TaskInfo("yearly", limits=(Limit("", 1, 1000.0),)),
    "both": TaskInfo("both", limits=(Limit("", 1, 5.0), Limit("", 1))),
    "apart": TaskInfo("apart", limits=(Limit("", 1),), limited_by_key=True),
    "free": TaskInfo("free"),
}


class Unreliable(MemoryState):
    """Fails while it is told to."""

    fails = False
    asked = 0

    def acquire(self, asks: Sequence[Ask], lease_s: float, horizon_s: float) -> list[Answer]:
        self.asked += 1
        if self.fails:
            raise StateUnavailable("it is gone")
        return super().acquire(asks, lease_s, horizon_s)


@pytest.fixture
def state() -> Unreliable:
    return Unreliable(system=MemorySystem())


Make = Callable[..., Limits]


@pytest.fixture
def make(state: Unreliable) -> Iterator[Make]:
    """Make limits that run until the test ends."""
    made: list[Limits] = []

    def make(**settings: Any) -> Limits:
        limits = Limits(state=lambda: state, tasks=TASKS, settings=Settings.load(settings), fail=pytest.fail)
        limits.prepare()
        limits.start()
        made.append(limits)
        return limits

    yield make
    for limits in made:
        limits.stop(5)


def flight(task: str, *, queue: str = "default", eta: int = 0, **extras: Any) -> Flight:
    message = Message(uuid.uuid4().bytes, task, queue, b"[[],{}]", eta=eta, extras=Extras(**extras))
    return Flight(Delivery(message.encode(), queue, 1, 1), message, message.encode(), TASKS[task])


def decision(completed: Completed) -> Decision:
    """Return the decision about one that goes back, after a look at the rest."""
    assert completed.decision is not None
    assert (completed.decision.action, completed.outcome, completed.message) == (Action.RETRY, None, None)
    return completed.decision


def wait_s(completed: Completed) -> float:
    return (decision(completed).due - now_us()) / 1e6


def test_without_limits_nothing_is_asked(state: Unreliable) -> None:
    limits = Limits(state=lambda: state, tasks={"free": TaskInfo("free")}, settings=Settings(), fail=pytest.fail)
    assert not limits.active
    limits.prepare()
    limits.start()
    limits.stop(1)


def test_what_has_no_limits_starts_without_asking(make: Make, state: Unreliable) -> None:
    flights = [flight("free") for _ in range(3)]
    assert make().sift(flights) == (flights, [])
    assert state.asked == 0


def test_one_starts_and_holds_a_slot_and_the_other_goes_back_unchanged_for_a_moment(make: Make) -> None:
    limits, first, other, free = make(), flight("one"), flight("one"), flight("free")
    start, (back,) = limits.sift([first, other, free])
    assert start == [first, free]
    assert limits.holding
    assert (decision(back).delivery, decision(back).frame) == (other.delivery, b"")
    assert 0 < wait_s(back) < 0.2


def test_a_slot_is_free_when_its_flight_has_landed(make: Make) -> None:
    limits, first = make(), flight("one")
    limits.sift([first])
    limits.free([None, first, flight("free")])
    assert not limits.holding
    eventually(lambda: limits.sift([flight("one")])[0])
    limits.free([first])
    assert limits.sift([flight("one")])[0] == []


def test_a_slot_of_a_flight_that_was_forsaken_is_not_held_any_longer(make: Make) -> None:
    limits, forsaken = make(lease_s=0.3), flight("one")
    limits.sift([forsaken])
    held_until = time.monotonic() + 0.6
    while time.monotonic() < held_until:
        assert limits.sift([flight("one")])[0] == [], "the loop extends it"
    limits.forget([forsaken, flight("free")])
    assert not limits.holding
    eventually(lambda: limits.sift([flight("one")])[0])


def test_a_turn_that_is_to_come_is_reserved_in_the_message(make: Make) -> None:
    limits = make()
    _, backs = limits.sift([flight("rare") for _ in range(3)])
    turns = [Message.decode(decision(back).frame) for back in backs]
    assert [message.extras.reserved for message in turns] == [True, True]
    assert [message.eta for message in turns] == [decision(back).due for back in backs]
    assert [wait_s(back) for back in backs] == pytest.approx([5, 10], abs=0.5)


def test_who_comes_back_at_its_turn_does_not_ask_for_another(make: Make, state: Unreliable) -> None:
    limits = make()
    limits.sift([flight("rare")])
    asked = state.asked
    come_back = flight("rare", eta=now_us() - 1000, reserved=True)
    assert limits.sift([come_back]) == ([come_back], [])
    assert state.asked == asked


def test_who_comes_back_at_its_turn_still_asks_for_a_slot_and_without_one_loses_the_turn(make: Make) -> None:
    limits, come_back = make(), flight("both", eta=now_us(), reserved=True)
    start, _ = limits.sift([come_back])
    assert start == [come_back]
    assert limits.holding
    _, (back,) = limits.sift([flight("both", eta=now_us(), reserved=True)])
    assert not Message.decode(decision(back).frame).extras.reserved


@pytest.mark.parametrize(("late_s", "starts"), [(4.0, True), (6.0, False)])
def test_a_turn_that_was_missed_by_more_than_an_interval_is_lost(make: Make, late_s: float, starts: bool) -> None:
    limits = make()
    limits.sift([flight("rare")])
    start, _ = limits.sift([flight("rare", eta=now_us() - round(late_s * 1e6), reserved=True)])
    assert bool(start) is starts


def test_a_turn_far_ahead_is_not_reserved(make: Make) -> None:
    limits = make()
    _, backs = limits.sift([flight("yearly") for _ in range(50)])
    assert len(backs) == 49
    assert all(not decision(back).frame and wait_s(back) > 7 for back in backs)


def test_limits_are_apart_for_each_key(make: Make) -> None:
    flights = [flight("apart", limit_key=key) for key in ("a", "b", "", "a")]
    start, backs = make().sift(flights)
    assert start == flights[:3]
    assert [decision(back).delivery for back in backs] == [flights[3].delivery]
    ignored = [flight("one", limit_key=key) for key in ("a", "b")]
    assert len(make().sift(ignored)[0]) == 1, "it is the task that says whether there are keys"


def test_keys_of_any_length_fit(make: Make) -> None:
    start, _ = make().sift([flight("apart", limit_key="k" * 255), flight("apart", limit_key="k" * 254)])
    assert len(start) == 2


def test_a_queue_s_limits_hold_for_all_in_it_and_for_its_shares(make: Make) -> None:
    limits = make(queue_limits={"mail": 2}, fair_queues={"mail": 4})
    flights = [flight("free", queue=queue) for queue in ("mail", "mail:fair-1", "mail:fair-2", "mail", "other")]
    start, _ = limits.sift(flights)
    assert start == [flights[0], flights[1], flights[4]]


def test_limits_of_the_task_and_of_the_queue_are_asked_for_together(make: Make) -> None:
    limits = make(queue_limits={"mail": [2, "1000/s"]})
    flights = [flight("one", queue="mail"), flight("one", queue="mail"), flight("free", queue="mail")]
    start, _ = limits.sift(flights)
    assert flights[0] in start
    assert flights[1] not in start


def test_a_rate_is_changed_and_set_back(make: Make) -> None:
    limits = make()
    limits.override("free", "1/h")
    assert len(limits.sift([flight("free"), flight("free")])[0]) == 1
    limits.override("free", None)
    assert len(limits.sift([flight("free"), flight("free")])[0]) == 2
    limits.override("both", "1000/s")
    assert len(limits.sift([flight("both"), flight("both")])[0]) == 1, "what runs at once is as it was"
    with pytest.raises(ConfigurationError, match="rate_limit is 'often'"):
        limits.override("free", "often")


def test_without_state_limited_tasks_wait_and_the_server_is_asked_now_and_then(
    make: Make, state: Unreliable, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    limits, free = make(), flight("free")
    state.fails = True
    for _ in range(20):
        start, (back,) = limits.sift([flight("one"), free])
        assert start == [free]
        assert 0 < wait_s(back) < 20
    assert state.asked <= 2
    assert caplog.text.count("have to wait") == 1
    state.fails = False
    eventually(lambda: limits.sift([flight("one")])[0])
    assert "can be asked for again" in caplog.text


def test_without_state_a_turn_that_has_come_is_lost(make: Make, state: Unreliable) -> None:
    state.fails = True
    _, (back,) = make().sift([flight("both", eta=now_us(), reserved=True)])
    assert not Message.decode(decision(back).frame).extras.reserved


def test_slots_that_can_not_be_given_back_hold_nobody_up(
    make: Make, state: Unreliable, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits, first = make(lease_s=0.3), flight("one")
    limits.sift([first])

    @contextmanager
    def gone(error: type[Exception]) -> Iterator[int]:
        raise error("it is gone")
        yield 0

    with monkeypatch.context() as broken:
        broken.setattr(state.system, "held", gone)
        limits.free([first])
        eventually(lambda: "1 slots can't be given back" in caplog.text)
    eventually(lambda: limits.sift([flight("one")])[0])


def test_where_there_can_be_no_state_the_error_names_what_needs_it() -> None:
    def none() -> SharedState:
        raise NotSupported("There is none")

    settings = Settings.load({"queue_limits": {"mail": 1}})
    limits = Limits(state=none, tasks={"one": TASKS["one"]}, settings=settings, fail=pytest.fail)
    with pytest.raises(NotSupported, match="one, the queue mail can't be limited in the whole cluster: There is none"):
        limits.prepare()
