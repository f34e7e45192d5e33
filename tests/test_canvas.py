"""Task-sets: calls that are made together, in one round trip, and watched together."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from fastq import FastQ, State, Task, TaskSet, TaskSetResult
from fastq.brokers.memory import MemoryBroker
from fastq.errors import ConfigurationError, EncodingError, ResultTimeout
from fastq.message import Message

if TYPE_CHECKING:
    from tests.conftest import InlineWorker


@pytest.fixture
def divide(app: FastQ) -> Task[[int, int], float]:
    @app.task(name="divide")
    def divide(x: int, y: int) -> float:
        return x / y

    return divide


class CountingBroker(MemoryBroker):
    """The real broker, which notes how many messages each call of `publish` had."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.published: list[int] = []

    def publish(self, messages: Sequence[Message]) -> None:
        self.published.append(len(messages))
        super().publish(messages)


def test_a_set_is_published_in_one_round_trip(
    app: FastQ, divide: Task[[int, int], float], memory_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = CountingBroker(memory_url)
    monkeypatch.setattr(app, "_broker", broker)

    TaskSet(divide.s(n, 1) for n in range(1000)).apply_async()

    assert broker.published == [1000]
    assert broker.depth("default") == 1000


def test_a_set_is_watched_while_it_runs(app: FastQ, divide: Task[[int, int], float], worker: InlineWorker) -> None:
    divide_elsewhere = app.task(name="elsewhere", queue="mail")(lambda: 0)
    results = TaskSet([divide.s(4, 2), divide_elsewhere.s()]).apply_async()
    seen = [(results.completed_count(), results.ready(), results.successful(), results.failed())]

    for queue in ("mail", "default"):
        worker.run(queue)
        seen.append((results.completed_count(), results.ready(), results.successful(), results.failed()))

    assert seen == [(0, False, False, False), (1, False, False, False), (2, True, True, False)]
    assert results.total == len(results) == 2
    assert repr(results) == f"<TaskSetResult {results.id} of 2>"


def test_values_come_in_the_order_of_submission_or_of_completion(app: FastQ, worker: InlineWorker) -> None:
    echo = app.task(name="echo")(lambda value: value)
    urgent = app.task(name="urgent", priority=9)(lambda value: value)
    results = TaskSet([echo.s(1), echo.s(2), urgent.s(3)]).apply_async()
    completed: list[Any] = []
    watching = threading.Thread(target=lambda: completed.extend(result.get() for result in results.as_completed(30)))
    watching.start()

    worker.run()
    watching.join()

    assert [result.get() for result in results] == [1, 2, 3]
    assert results.join(timeout=0) == [1, 2, 3]
    assert sorted(completed) == [1, 2, 3]


def test_the_order_of_completion_is_the_order_in_which_results_came(app: FastQ, worker: InlineWorker) -> None:
    queues = ["third", "first", "second"]
    tasks = [app.task(name=queue, queue=queue)(lambda: None) for queue in queues]
    results = TaskSet(task.s() for task in tasks).apply_async()
    names = dict(zip((result.id for result in results), queues, strict=True))

    completed = results.as_completed(timeout=30)
    order = []
    for queue in ("first", "second", "third"):
        worker.run(queue)
        order.append(names[next(completed).id])

    assert order == ["first", "second", "third"]
    assert list(completed) == []


def test_join_raises_the_exception_of_the_first_member_that_failed(
    divide: Task[[int, int], float], worker: InlineWorker
) -> None:
    results = TaskSet([divide.s(1, 1), divide.s(1, 0), divide.s(2, 1)]).apply_async()
    worker.run()

    assert results.failed()
    assert results.ready()
    assert not results.successful()
    assert [result.state for result in results] == [State.SUCCESS, State.FAILURE, State.SUCCESS]
    with pytest.raises(ZeroDivisionError):
        results.join(timeout=0)


def test_join_gives_up_at_the_timeout_and_says_how_many_are_left(
    app: FastQ, divide: Task[[int, int], float], worker: InlineWorker
) -> None:
    never = app.task(name="never", queue="unserved")(lambda: None)
    results = TaskSet([divide.s(1, 1), never.s()]).apply_async()
    worker.run()

    with pytest.raises(ResultTimeout, match=r"1 of 2 tasks have not ended within 0\.01 s"):
        results.join(timeout=0.01)


def test_a_set_is_found_again_by_its_id(divide: Task[[int, int], float], worker: InlineWorker, memory_url: str) -> None:
    results = TaskSet(divide.s(n, 1) for n in range(5)).apply_async()
    worker.run()

    with FastQ("other", broker=memory_url) as elsewhere:
        found = TaskSetResult.restore(results.id, elsewhere)

    assert found.results == results.results
    assert found.join(timeout=0) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("id", [str(uuid.uuid4()), "7"])
def test_a_set_that_the_backend_does_not_know_is_an_error(app: FastQ, id: str) -> None:
    with pytest.raises(ValueError, match="There is no task-set|badly formed"):
        TaskSetResult.restore(id, app)


def test_a_forgotten_set_has_no_results(divide: Task[[int, int], float], worker: InlineWorker) -> None:
    results = TaskSet([divide.s(1, 1)]).apply_async()
    worker.run()
    assert results.join(timeout=0) == [1]

    results.forget()

    assert [result.state for result in results] == [State.PENDING]


def test_a_set_knows_its_members_by_their_group(app: FastQ, divide: Task[[int, int], float]) -> None:
    results = TaskSet([divide.s(1, 1), divide.s(2, 1)]).apply_async()
    subscription = app.broker.subscribe(["default"], 30.0, {})

    messages = [Message.decode(delivery.frame) for delivery in subscription.fetch(10, 0.0)]

    assert [message.uuid for message in messages] == [result.id for result in results]
    assert {message.extras.group for message in messages} == {uuid.UUID(results.id).bytes}


def test_a_set_of_nothing_or_of_several_apps_is_an_error(app: FastQ, divide: Task[[int, int], float]) -> None:
    other = FastQ("other", broker="memory://").task(name="other")(lambda: None)

    with pytest.raises(ConfigurationError, match="takes one call or more, all of tasks of one app"):
        TaskSet([])
    with pytest.raises(ConfigurationError, match="all of tasks of one app"):
        TaskSet([divide.s(1, 1), other.s()])


def test_a_set_of_what_is_no_call_is_an_error(divide: Task[[int, int], float]) -> None:
    with pytest.raises(TypeError, match=r"takes calls, as in add\.s\(4, 4\), not <Task divide>"):
        TaskSet([divide])  # type: ignore[list-item]


def test_a_set_of_a_task_that_ignores_its_result_is_an_error(app: FastQ) -> None:
    quiet = app.task(name="quiet", ignore_result=True)(lambda: None)

    with pytest.raises(ConfigurationError, match="waits for results, and quiet ignores its own"):
        TaskSet([quiet.s()])


@pytest.mark.parametrize(("args", "error"), [((1,), TypeError), ((1, object()), EncodingError)])
def test_one_wrong_call_keeps_the_whole_set_from_being_sent(
    app: FastQ, divide: Task[..., float], args: tuple[object, ...], error: type[Exception]
) -> None:
    calls = TaskSet([divide.s(1, 1), divide.s(*args)])

    with pytest.raises(error, match="divide"):
        calls.apply_async()
    assert app.broker.depth("default") == 0


def test_a_single_call_can_be_made_later(divide: Task[[int, int], float], worker: InlineWorker) -> None:
    call = divide.s(4, y=2)
    result = call.delay()
    worker.run()

    assert repr(call) == "divide(4, y=2)"
    assert result.get(timeout=0) == 2
