"""Coroutines call tasks and wait for results without halting their loop: no thread a result, no round trip a call."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from fastq import FastQ, Task, TaskSet, aas_completed, as_completed
from fastq.errors import (
    BackendUnavailable,
    BrokerUnavailable,
    ConfigurationError,
    ResultTimeout,
    TaskError,
    WaitRefused,
)
from fastq.message import Message
from tests.conftest import InlineWorker
from tests.ledger import eventually


@pytest.fixture(params=["memory", "sqlite"])
def app(request: pytest.FixtureRequest, memory_url: str, tmp_path: object) -> Iterator[FastQ]:
    url = memory_url if request.param == "memory" else f"sqlite:///{tmp_path}/fastq.db"
    with FastQ("test", broker=url) as app:
        yield app


@pytest.fixture
def add(app: FastQ) -> Task[[int, int], int]:
    @app.task(name="add")
    def add(a: int, b: int) -> int:
        return a + b

    return add


@pytest.fixture
def fail(app: FastQ) -> Task[[], None]:
    @app.task(name="fail")
    def fail() -> None:
        raise ValueError("no stock")

    return fail


async def until(condition: Callable[[], object]) -> None:
    """Wait in a coroutine until a condition holds."""
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up, "it never came true"
        await asyncio.sleep(0.002)


class Publishes:
    """Counts how many messages each publish of an app's broker has."""

    def __init__(self, app: FastQ) -> None:
        self.sizes: list[int] = []
        self._publish = app.broker.publish
        app.broker.publish = self  # type: ignore[method-assign]

    def __call__(self, messages: Sequence[Message]) -> None:
        self.sizes.append(len(messages))
        self._publish(messages)


def test_a_call_and_its_result_can_be_awaited(app: FastQ, add: Task[[int, int], int], worker: InlineWorker) -> None:
    async def main() -> int:
        result = await add.adelay(4, 4)
        worker.run()
        assert await result == 8
        return await (await add.aapply_async((8, 8), queue="other")).aget(0) if worker.run("other") else await result

    assert asyncio.run(main()) == 8


def test_a_result_arrives_while_it_is_awaited(app: FastQ, add: Task[[int, int], int], worker: InlineWorker) -> None:
    async def main() -> list[int]:
        results = [await add.adelay(n, n) for n in range(10)]
        waiting = asyncio.gather(*results)
        await asyncio.sleep(0)
        await asyncio.to_thread(worker.run)
        return await waiting

    assert asyncio.run(main()) == [2 * n for n in range(10)]


def test_the_loop_goes_on_while_it_waits(app: FastQ, add: Task[[int, int], int], worker: InlineWorker) -> None:
    turns = 0

    async def main() -> int:
        nonlocal turns
        result = await add.adelay(1, 1)
        waiting = asyncio.ensure_future(result.aget(20))
        while turns < 100:
            await asyncio.sleep(0)
            turns += 1
        assert not waiting.done()
        await asyncio.to_thread(worker.run)
        return await waiting

    assert asyncio.run(main()) == 2


def test_many_results_are_awaited_by_one_thread(app: FastQ, add: Task[[int, int], int], worker: InlineWorker) -> None:
    async def main() -> list[int]:
        results = await asyncio.gather(*(add.adelay(n, 1) for n in range(200)))
        waiting = [asyncio.ensure_future(result.aget(20)) for result in results]
        await until(lambda: app._awaiter._thread is not None)
        assert [thread.name for thread in threading.enumerate()].count("fastq-awaiter") == 1
        await asyncio.to_thread(worker.run)
        return await asyncio.gather(*waiting)

    assert asyncio.run(main()) == [n + 1 for n in range(200)]


def test_calls_of_one_turn_are_published_together(app: FastQ, add: Task[[int, int], int]) -> None:
    publishes = Publishes(app)

    async def main() -> None:
        await asyncio.gather(*(add.adelay(n, n) for n in range(2_500)))

    asyncio.run(main())

    assert publishes.sizes == [1_000, 1_000, 500]
    assert app.broker.depth("default") == 2_500


def test_an_exception_comes_back_as_itself(app: FastQ, fail: Task[[], None], worker: InlineWorker) -> None:
    async def main() -> None:
        result = await fail.adelay()
        worker.run()
        with pytest.raises(ValueError, match="no stock"):
            await result

    asyncio.run(main())


def test_waiting_ends_at_the_timeout_and_leaves_nothing(app: FastQ, add: Task[[int, int], int]) -> None:
    async def main() -> None:
        result = await add.adelay(1, 1)
        with pytest.raises(ResultTimeout, match=f"Task {result.id} has not ended within 0.05 s"):
            await result.aget(0.05)
        assert not app._awaiter._awaited

    asyncio.run(main())


def test_a_cancelled_wait_leaves_nothing_and_disturbs_no_other(
    app: FastQ, add: Task[[int, int], int], worker: InlineWorker
) -> None:
    async def main() -> int:
        result = await add.adelay(1, 1)
        cancelled, other = (asyncio.ensure_future(result.aget(20)) for _ in range(2))
        await until(lambda: app._awaiter._thread is not None)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        await asyncio.to_thread(worker.run)
        value = await other
        assert not app._awaiter._awaited
        return value

    assert asyncio.run(main()) == 2


def test_what_was_given_up_may_be_awaited_again(app: FastQ, add: Task[[int, int], int], worker: InlineWorker) -> None:
    async def main() -> list[int]:
        results = await asyncio.gather(*(add.adelay(n, n) for n in range(20)))
        other = asyncio.ensure_future((await add.adelay(0, 0)).aget(20))
        for _ in range(20):  # at any time between registering, looking, dropping and telling
            waiting = [asyncio.ensure_future(result.aget(20)) for result in results]
            await asyncio.sleep(0)
            for each in waiting[::2]:
                each.cancel()
            await asyncio.sleep(random.uniform(0, 0.03))
            for each in waiting:
                each.cancel()
        waiting = [asyncio.ensure_future(result.aget(20)) for result in results]
        await asyncio.to_thread(worker.run)
        return [*await asyncio.gather(*waiting), await other]

    assert asyncio.run(main()) == [*(2 * n for n in range(20)), 0]


def test_results_come_as_they_are_completed(app: FastQ, add: Task[[int, int], int], worker: InlineWorker) -> None:
    async def main() -> list[int]:
        results = add.starmap((n, n) for n in range(50))
        worker.run()
        return sorted([result.get(0) async for result in aas_completed(results, 10)])

    assert asyncio.run(main()) == [2 * n for n in range(50)]


def test_the_results_of_a_task_set_can_be_awaited(app: FastQ, add: Task[[int, int], int], worker: InlineWorker) -> None:
    async def main() -> None:
        results = TaskSet(add.s(n, n) for n in range(5)).apply_async()
        waiting = asyncio.ensure_future(results.ajoin(20))
        await asyncio.to_thread(worker.run)
        assert await waiting == await results == [0, 2, 4, 6, 8]
        assert len([result async for result in results.aas_completed(20)]) == 5
        with pytest.raises(TaskError, match="halt the event loop"):
            results.as_completed()

    asyncio.run(main())


def test_a_task_does_not_await_another_unless_it_is_told_to(
    app: FastQ, add: Task[[int, int], int], worker: InlineWorker
) -> None:
    async def wait(allowed: bool) -> int:
        result = add.delay(1, 1)
        await asyncio.to_thread(worker.run)
        if allowed:
            return await result.aget(20, allow_in_task=True)
        with pytest.raises(WaitRefused, match="nobody is left to run"):
            [each async for each in aas_completed([result])]
        with pytest.raises(WaitRefused, match="nobody is left to run"):
            as_completed([result], allow_in_loop=True)
        return await result

    @app.task(name="waits")
    def waits(allowed: bool) -> int:
        return asyncio.run(wait(allowed))

    assert waits.apply((True,)).get() == 2
    with pytest.raises(WaitRefused, match="nobody is left to run"):
        waits.apply((False,)).get()


def test_not_all_results_come_in_time(app: FastQ, add: Task[[int, int], int]) -> None:
    async def main() -> None:
        results = add.starmap([(1, 1), (2, 2)])
        with pytest.raises(ResultTimeout, match="2 of 2 tasks have not ended within 0.05 s"):
            async for _ in aas_completed(results, 0.05):
                pass

    asyncio.run(main())


def test_without_a_loop_results_come_as_they_are_completed_too(
    app: FastQ, add: Task[[int, int], int], worker: InlineWorker
) -> None:
    results = add.starmap((n, n) for n in range(5))
    worker.run()
    assert sorted(result.get(0) for result in as_completed(results)) == [0, 2, 4, 6, 8]
    with pytest.raises(ResultTimeout, match="1 of 1"):
        list(as_completed([add.delay(1, 1)], 0.01))
    assert list(as_completed([])) == []


def test_a_blocking_get_in_a_loop_is_refused(app: FastQ, add: Task[[int, int], int], worker: InlineWorker) -> None:
    async def main() -> int:
        result = add.delay(1, 1)
        worker.run()
        with pytest.raises(TaskError, match="write `await result`"):
            result.get()
        with pytest.raises(TaskError, match="halt the event loop"):
            list(as_completed([result]))
        assert result.get(1, allow_in_loop=True) == 2
        return result.get()  # it is here by now, and nothing is to be waited for

    assert asyncio.run(main()) == 2


def test_an_ignored_result_is_not_awaited(app: FastQ, add: Task[[int, int], int]) -> None:
    async def main() -> None:
        with pytest.raises(ConfigurationError, match="nothing to wait for"):
            await (await add.aapply_async((1, 1), ignore_result=True))

    asyncio.run(main())


def test_wrong_arguments_are_refused_where_they_are_given(app: FastQ, add: Task[[int, int], int]) -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match="missing a required argument"):
            await add.adelay(1)  # type: ignore[call-arg]

    asyncio.run(main())


def test_a_broker_that_fails_tells_all_who_called(
    app: FastQ, add: Task[[int, int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def publish(messages: Sequence[Message]) -> None:
        raise BrokerUnavailable("gone")

    monkeypatch.setattr(app.broker, "publish", publish)

    async def main() -> list[BaseException | object]:
        return await asyncio.gather(*(add.adelay(1, 1) for _ in range(3)), return_exceptions=True)

    assert [type(error) for error in asyncio.run(main())] == [BrokerUnavailable] * 3


def test_a_call_that_cannot_be_framed_fails_alone(app: FastQ, add: Task[[int, int], int]) -> None:
    async def main() -> list[BaseException | object]:
        calls = [add.aapply_async((1, 1), limit_key="two words"), add.adelay(1, 1)]
        return await asyncio.gather(*calls, return_exceptions=True)

    wrong, right = asyncio.run(main())

    assert isinstance(wrong, Exception)
    assert not isinstance(right, Exception)
    assert app.broker.depth("default") == 1


def test_a_backend_that_fails_tells_all_who_wait(
    app: FastQ, add: Task[[int, int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        result = await add.adelay(1, 1)
        waiting = [asyncio.ensure_future(result.aget(20)) for _ in range(3)]
        await until(lambda: app._awaiter._thread is not None)
        watch = app._awaiter._watch

        def listen(deadline: float) -> list[object]:
            raise BackendUnavailable("gone")

        monkeypatch.setattr(watch, "listen", listen)
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(answer) for answer in answers] == [BackendUnavailable] * 3

    asyncio.run(main())


def test_closing_the_app_ends_the_thread_and_tells_who_waits(app: FastQ, add: Task[[int, int], int]) -> None:
    async def main() -> None:
        result = await add.adelay(1, 1)
        waiting = asyncio.ensure_future(result.aget(20))
        await until(lambda: app._awaiter._thread is not None)
        await asyncio.to_thread(app.close)
        with pytest.raises(BackendUnavailable, match="closed"):
            await waiting

    asyncio.run(main())
    eventually(lambda: "fastq-awaiter" not in [thread.name for thread in threading.enumerate()])
    assert app.broker.depth("default") == 1


def test_an_app_serves_one_loop_after_another(app: FastQ, add: Task[[int, int], int], worker: InlineWorker) -> None:
    async def main(n: int) -> int:
        result = await add.adelay(n, n)
        await asyncio.to_thread(worker.run)
        return await result

    assert [asyncio.run(main(n)) for n in range(3)] == [0, 2, 4]
