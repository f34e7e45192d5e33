"""Calls that are made together go out in few round trips, and none of them twice."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import copy_context

import pytest

from fastq import FastQ, Task
from fastq.errors import BrokerUnavailable, ConfigurationError, PublishUnknown, TaskError
from fastq.message import Message
from tests.conftest import InlineWorker


@pytest.fixture
def add(app: FastQ) -> Task[[int, int], int]:
    @app.task(name="add")
    def add(a: int, b: int = 0) -> int:
        return a + b

    return add


@pytest.fixture
def publishes(app: FastQ, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many messages each publish has."""
    sizes: list[int] = []
    publish = app.broker.publish

    def counted(messages: Sequence[Message]) -> None:
        sizes.append(len(messages))
        publish(messages)

    monkeypatch.setattr(app.broker, "publish", counted)
    return sizes


@pytest.fixture
def failing(app: FastQ, monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception | None], None]:
    """Make publishing fail with an exception, or work again."""
    publish = app.broker.publish
    errors: list[Exception | None] = [None]

    def fail(messages: Sequence[Message]) -> None:
        if errors[0] is not None:
            raise errors[0]
        publish(messages)

    def choose(error: Exception | None) -> None:
        errors[0] = error

    monkeypatch.setattr(app.broker, "publish", fail)
    return choose


# -- batch ------------------------------------------------------------------------------------------


def test_the_calls_of_a_batch_go_out_together_at_its_end(
    app: FastQ, add: Task[[int, int], int], worker: InlineWorker, publishes: list[int]
) -> None:
    with app.batch() as batch:
        results = [add.delay(n, n) for n in range(10)] + [add.apply_async((10, 10)), app.send_task("add", [11, 11])]
        assert publishes == []
    assert publishes == [12]
    assert (batch.sent, batch.unsent) == (12, [])
    worker.run()
    assert [result.get(0) for result in results] == [2 * n for n in range(12)]


def test_a_full_batch_goes_out_before_the_end(app: FastQ, add: Task[[int, int], int], publishes: list[int]) -> None:
    with app.batch(size=4) as batch:
        for n in range(10):
            add.delay(n, n)
        assert (publishes, batch.sent, len(batch.unsent)) == ([4, 4], 8, 2)
    assert publishes == [4, 4, 2]


def test_a_batch_of_large_arguments_goes_out_before_it_is_full(app: FastQ, publishes: list[int]) -> None:
    @app.task
    def size(text: str) -> int:
        return len(text)

    with app.batch():
        for _ in range(5):
            size.delay("x" * 3_000_000)
    assert publishes == [3, 2]


def test_a_batch_without_calls_sends_nothing(app: FastQ, publishes: list[int]) -> None:
    with app.batch():
        pass
    assert publishes == []


def test_an_exception_within_keeps_back_what_was_not_sent_and_says_which(
    app: FastQ, add: Task[[int, int], int], publishes: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ZeroDivisionError), app.batch(size=2) as batch:
        results = [add.delay(n, n) for n in range(5)]
        raise ZeroDivisionError
    assert publishes == [2, 2]
    assert batch.sent == 4
    assert batch.unsent == [results[4].id]
    assert "broken off by ZeroDivisionError: 4 calls were sent, and 1 are not" in caplog.text
    with pytest.raises(TaskError, match="was in a batch that ended before it was sent"):
        results[4].get(0)


def test_a_result_is_not_waited_for_within_its_batch(
    app: FastQ, add: Task[[int, int], int], worker: InlineWorker
) -> None:
    with app.batch():
        result = add.delay(1, 1)
        with pytest.raises(TaskError, match=f"Task {result.id} is in a batch, and not sent yet"):
            result.get()
        with pytest.raises(TaskError, match="not sent yet"):
            asyncio.run(result.aget())
    worker.run()
    assert result.get(0) == 2


def test_a_batch_in_a_batch_goes_out_at_its_own_end(
    app: FastQ, add: Task[[int, int], int], publishes: list[int]
) -> None:
    with app.batch():
        add.delay(1, 1)
        with app.batch():
            add.delay(2, 2)
            add.delay(3, 3)
        assert publishes == [2]
        add.delay(4, 4)
    assert publishes == [2, 2]


def test_a_batch_is_for_its_own_app(app: FastQ, add: Task[[int, int], int], publishes: list[int]) -> None:
    with FastQ("other", broker="memory://other-of-batches") as other:

        @other.task(name="elsewhere")
        def elsewhere() -> None: ...

        with app.batch(), other.batch():
            add.delay(1, 1)
            elsewhere.delay()
        assert publishes == [1]
        assert other.broker.depth("default") == 1
        other.broker.purge("default")


def test_another_thread_is_not_in_the_batch_unless_it_runs_in_its_context(
    app: FastQ, add: Task[[int, int], int], publishes: list[int]
) -> None:
    with app.batch():
        thread = threading.Thread(target=add.delay, args=(1, 1))
        thread.start()
        thread.join()
        assert publishes == [1]
        context = copy_context()
        thread = threading.Thread(target=context.run, args=(add.delay, 2, 2))
        thread.start()
        thread.join()
        assert publishes == [1]
    assert publishes == [1, 1]


def test_threads_that_share_a_batch_lose_nothing(app: FastQ, add: Task[[int, int], int], publishes: list[int]) -> None:
    def call() -> None:
        for n in range(500):
            add.delay(n, n)

    with app.batch(size=7) as batch:
        threads = [threading.Thread(target=copy_context().run, args=(call,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert batch.sent == sum(publishes) == app.broker.depth("default") == 2_000


def test_what_outlives_its_batch_is_sent_by_itself(
    app: FastQ, add: Task[[int, int], int], publishes: list[int]
) -> None:
    with app.batch():
        context = copy_context()
    context.run(add.delay, 1, 1)
    assert publishes == [1]


def test_a_broker_that_fails_leaves_the_calls_unsent(
    app: FastQ, add: Task[[int, int], int], failing: Callable[[Exception | None], None]
) -> None:
    failing(BrokerUnavailable("gone"))
    with pytest.raises(BrokerUnavailable), app.batch() as batch:
        result = add.delay(1, 1)
    assert (batch.sent, batch.unsent) == (0, [result.id])


def test_a_call_that_fails_to_send_a_full_batch_may_be_followed_by_others(
    app: FastQ, add: Task[[int, int], int], failing: Callable[[Exception | None], None]
) -> None:
    with app.batch(size=2) as batch:
        failing(BrokerUnavailable("gone"))
        add.delay(1, 1)
        with pytest.raises(BrokerUnavailable):
            add.delay(2, 2)
        failing(None)
        add.delay(3, 3)
    assert batch.sent == app.broker.depth("default") == 3


def test_what_may_have_been_sent_is_not_sent_again(
    app: FastQ, add: Task[[int, int], int], failing: Callable[[Exception | None], None]
) -> None:
    failing(PublishUnknown("who knows"))
    with app.batch(size=2) as batch:
        first = add.delay(1, 1)
        with pytest.raises(PublishUnknown):
            add.delay(2, 2)
        failing(None)
        add.delay(3, 3)
    assert (batch.sent, batch.unsent) == (1, [])
    assert batch.doubtful[0] == first.id
    assert len(batch.doubtful) == 2
    assert app.broker.depth("default") == 1


@pytest.mark.parametrize("size", [0, -1, 1.5, "many"])
def test_the_size_of_a_batch_is_one_or_more(app: FastQ, size: int) -> None:
    with pytest.raises(ConfigurationError, match="it takes 1 or more"):
        app.batch(size=size)


# -- map --------------------------------------------------------------------------------------------


def test_map_calls_a_task_once_for_each_argument(
    app: FastQ, add: Task[[int, int], int], worker: InlineWorker, publishes: list[int]
) -> None:
    results = add.map(range(2_500))
    assert publishes == [1_000, 1_000, 500]
    worker.run()
    assert [result.get(0) for result in results] == list(range(2_500))


def test_starmap_calls_a_task_once_for_each_tuple(app: FastQ, add: Task[[int, int], int], worker: InlineWorker) -> None:
    results = add.starmap([(1, 2), [3, 4], (5,)], queue="other")
    worker.run("other")
    assert [result.get(0) for result in results] == [3, 7, 5]


def test_an_iterable_is_consumed_as_its_calls_are_sent(
    app: FastQ, add: Task[[int, int], int], publishes: list[int]
) -> None:
    def arguments() -> Iterator[int]:
        for n in range(3_000):
            assert len(publishes) == n // 1_000
            yield n

    assert len(add.map(arguments())) == 3_000


def test_map_in_a_batch_is_a_part_of_it(app: FastQ, add: Task[[int, int], int], publishes: list[int]) -> None:
    with app.batch():
        add.map(range(10))
        add.delay(1, 1)
    assert publishes == [11]


def test_map_refuses_what_cannot_be_meant(app: FastQ, add: Task[[int, int], int]) -> None:
    with pytest.raises(ConfigurationError, match="task_id names one task"):
        add.map([1], task_id="0199f3a2-5d4e-7c31-8f6b-2a9d0c1e4b57")
    with pytest.raises(TypeError, match="too many positional"):
        add.starmap([(1, 2, 3)])
    with pytest.raises(TypeError, match="it takes a tuple or list"):
        add.starmap("text")
    assert app.broker.depth("default") == 0
