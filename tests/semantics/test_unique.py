"""Unique tasks: of calls that are the same, one waits at a time."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from fastq import FastQ, State, chain
from fastq.brokers.memory import MemoryBroker
from fastq.errors import BrokerUnavailable, ConfigurationError, DuplicateTask, PublishUnknown, TaskRevoked
from fastq.result import AsyncResult
from fastq.unique import LATEST, Latest
from tests.apps import unique
from tests.ledger import eventually
from tests.semantics.conftest import Start

APP = "tests.apps.unique"


def is_superseded(result: AsyncResult[Any], by: AsyncResult[Any]) -> None:
    with pytest.raises(TaskRevoked, match=f"superseded by {by.id}"):
        result.get(10)
    assert result.state is State.REVOKED


# -- reject, existing ------------------------------------


def test_a_call_that_is_there_already_is_rejected_and_the_error_names_it(app: FastQ) -> None:
    first = unique.once.delay("a")
    with pytest.raises(DuplicateTask, match=rf"unique\.once\[{first.id}\] is there already"):
        unique.once.apply_async(kwargs={"name": "a", "path": ""})
    unique.once.delay("b")
    assert app.broker.depth("default") == 2


def test_or_the_one_that_is_there_is_returned(app: FastQ, start: Start) -> None:
    first = unique.once_a_name.delay("a", 1)
    assert unique.once_a_name.delay("a", 2) == first
    with start():
        assert first.get(10) == 1
        assert unique.once_a_name.delay("a", 3).get(10) == 3


@pytest.mark.processes
def test_the_lock_ends_with_the_task_however_that_ends(app: FastQ, start: Start, tmp_path: Path) -> None:
    with start(max_deliveries=1):
        for _ in range(2):
            assert unique.once.delay("a").get(10) == "a"
            with pytest.raises(ValueError, match="raise"):
                unique.by_function.delay("x", how="raise").get(10)
        expired = unique.once.apply_async(("b",), expires=0.0)
        eventually(lambda: expired.state is State.REVOKED)
        assert unique.once.delay("b").get(10) == "b"
        running = unique.once.delay("c", str(tmp_path / "never"))
        eventually(lambda: app.broker.queues()[0].leased == 1)
        with pytest.raises(DuplicateTask):
            unique.once.delay("c", str(tmp_path / "never"))
        running.revoke(terminate=True)
        eventually(lambda: running.state is State.REVOKED)
        (tmp_path / "never").touch()
        assert unique.once.delay("c", str(tmp_path / "never")).get(10) == "c"


def test_a_retry_keeps_the_lock(start: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "open")
    with start():
        result = unique.again.delay(path)
        eventually(lambda: result.state is State.RETRY)
        with pytest.raises(DuplicateTask):
            unique.again.delay(path)
        (tmp_path / "open").touch()
        assert result.get(10) == 2


def test_the_lock_lasts_no_longer_than_it_is_told_to(app: FastQ, start: Start) -> None:
    first = unique.once_in_a_while.delay("a")
    second: list[AsyncResult[str]] = []

    def accepted() -> bool:
        try:
            second.append(unique.once_in_a_while.delay("a"))
        except DuplicateTask:
            return False
        return True

    eventually(accepted)
    with start():
        assert [result.get(10) for result in (first, *second)] == ["a", "a"]


def test_a_function_says_what_is_the_same_and_what_is_not_unique(app: FastQ) -> None:
    unique.by_function.delay("A")
    with pytest.raises(DuplicateTask):
        unique.by_function.delay("a")
    for _ in range(2):
        unique.by_function.delay("a", how="free")
    assert app.broker.depth("default") == 3


def test_of_coroutines_and_of_many_calls_one_gets_through(app: FastQ, start: Start) -> None:
    async def call() -> list[object]:
        return await asyncio.gather(*(unique.once.adelay("a") for _ in range(5)), return_exceptions=True)

    came = asyncio.run(call())
    assert sum(isinstance(each, DuplicateTask) for each in came) == 4
    assert len(set(unique.once_a_name.map(["a"] * 5 + ["b"]))) == 2
    assert app.broker.depth("default") == 3


# -- replace, debounce ------------------------------------


def test_the_latest_call_takes_the_place_of_one_that_waits(app: FastQ, start: Start) -> None:
    first, second, third = (unique.latest.delay("a", value) for value in (1, 2, 3))
    another = unique.latest.delay("b", 4)
    with start():
        assert (third.get(10), another.get(10)) == (3, 4)
        is_superseded(first, by=third)
        is_superseded(second, by=third)


@pytest.mark.processes
def test_one_that_runs_already_is_not_replaced(app: FastQ, start: Start, tmp_path: Path) -> None:
    with start(concurrency=2):
        first = unique.latest.delay("a", 1, str(tmp_path / "open"))
        eventually(lambda: app.broker.queues()[0].leased == 1)
        eventually(lambda: app.control.inspect().active())
        second = unique.latest.delay("a", 2)
        assert second.get(10) == 2
        (tmp_path / "open").touch()
        assert first.get(10) == 1


def test_a_delayed_call_stays_replaced_when_the_latest_has_ended(app: FastQ, start: Start) -> None:
    first = unique.latest.apply_async(("a", 1), countdown=0.5)
    second = unique.latest.delay("a", 2)
    with start():
        assert second.get(10) == 2
        is_superseded(first, by=second)
        third = unique.latest.apply_async(("a", 3), countdown=0.1)
        assert third.get(10) == 3


def test_a_call_starts_when_no_other_came_for_some_time(app: FastQ, start: Start) -> None:
    with start():
        results = [unique.settled.delay("a", value) for value in range(5)]
        called = time.time()
        assert results[-1].get(10) == 4
        finished = results[-1].finished_at
        assert finished is not None
        assert finished.timestamp() >= called + 0.45
        for result in results[:-1]:
            is_superseded(result, by=results[-1])
        assert unique.settled.apply_async(("a", 5), countdown=0).get(10) == 5


# -- what goes wrong ------------------------------------


class Refusing(MemoryBroker):
    """A broker that refuses, or that breaks off before it answers."""

    error: Exception = BrokerUnavailable("refused")

    def publish(self, messages: Any) -> None:
        raise self.error


def test_a_call_that_was_not_sent_leaves_no_lock_and_one_that_may_have_been_does(app: FastQ) -> None:
    broker = app.broker
    refusing = app._broker = Refusing()
    with pytest.raises(BrokerUnavailable):
        unique.once.delay("a")
    refusing.error = PublishUnknown("broken off")
    with pytest.raises(PublishUnknown):
        unique.once.delay("a")
    app._broker = broker
    with pytest.raises(DuplicateTask):
        unique.once.delay("a")


def test_in_a_workflow_a_unique_task_is_refused(app: FastQ) -> None:
    with pytest.raises(ConfigurationError, match=r"unique\.once is unique, and calls of a workflow are not"):
        chain(unique.other.s(), unique.once.s()).apply_async()
    assert app.broker.depth("default") == 0


def test_a_call_that_could_not_be_sent_takes_nobody_s_place(app: FastQ, start: Start) -> None:
    first = unique.latest.delay("a", 1)
    broker, app._broker = app.broker, Refusing()
    with pytest.raises(BrokerUnavailable):
        unique.latest.delay("a", 2)
    app._broker = broker
    with start():
        assert first.get(10) == 1


def test_a_call_whose_caller_died_while_sending_it_keeps_the_one_before_waiting_and_no_more(
    app: FastQ, start: Start
) -> None:
    first = unique.latest.delay("a", 1)
    (name,) = app.state.find(LATEST)
    app.state.put(LATEST, {name: Latest(b"x" * 16, 0).encode()}, 600.0)
    with start():
        eventually(lambda: app.broker.queues()[0].delayed == 1)
        app.state.delete(LATEST, [name])  # as when it expires
        assert first.get(10) == 1
