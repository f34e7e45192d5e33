"""The test kit: tasks run on the real path, when the test says so, at the time that the test says."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from fastq import FastQ, State, chain, current_task, group
from fastq.errors import BrokerUnavailable, DeadLettered, DuplicateTask, TaskLost
from fastq.testing.kit import Kit
from fastq.testing.plugin import fastq_kit  # noqa: F401 - the fixture

app = FastQ("kit", broker="sqlite:////nowhere/at/all.db")


@app.task
def add(a: int, b: int) -> int:
    return a + b


@app.task(queue="mail")
def post(to: str, *, text: str = "") -> str:
    return f"{to}: {text}"


@app.task
def order(item: str) -> str:
    post.delay("shop", text=item)
    return item


@app.task(autoretry_for=(ConnectionError,), default_retry_delay=60, max_retries=3)
def flaky() -> int:
    if current_task.attempt < 3:
        raise ConnectionError
    return current_task.attempt


@app.task(ack="early")
def once() -> None: ...


@app.task(unique="args")
def alone(number: int) -> int:
    return number


@app.task(rate_limit="1/m")
def slowly() -> int:
    return current_task._run().started_at


@pytest.fixture
def kit(fastq_kit: Callable[[FastQ], Kit]) -> Kit:  # noqa: F811
    return fastq_kit(app)


def test_waiting_for_what_nobody_runs_fails_at_once(kit: Kit) -> None:
    first, group_of_two = add.delay(1, 2), group(add.s(3, 4), add.s(5, 6)).delay()

    with pytest.raises(AssertionError, match=f"Task {first.id} has not ended, .* call kit.run"):
        first.get()
    with pytest.raises(AssertionError, match="2 tasks have not ended"):
        group_of_two.join()
    kit.run()
    assert (first.get(), group_of_two.join()) == (3, [7, 11])


def test_another_thread_may_wait_until_the_test_runs_what_it_waits_for(kit: Kit) -> None:
    with ThreadPoolExecutor(1) as waiter:
        sum_ = waiter.submit(add.delay(1, 2).get, 20)
        kit.run()
        assert sum_.result(20) == 3


def test_nothing_runs_until_the_test_says_so(kit: Kit) -> None:
    result = add.delay(4, 4)
    assert result.state is State.PENDING
    assert kit.run() == 1
    assert result.get(timeout=1) == 8
    assert kit.run() == 0


def test_what_follows_from_a_task_runs_too_in_whatever_queue(kit: Kit) -> None:
    order.delay("tea")
    assert kit.run() == 2
    assert [call.task for call in kit.sent] == [order.name, post.name]
    assert (kit.sent[1].args, kit.sent[1].kwargs, kit.sent[1].queue) == (["shop"], {"text": "tea"}, "mail")


def test_a_workflow_runs_to_its_end(kit: Kit) -> None:
    result = chain(group(add.s(1, n) for n in range(3)), total.s()).apply_async()
    kit.run()
    assert result.get(timeout=1) == 6


@app.task
def total(values: list[int]) -> int:
    return sum(values)


def test_time_passes_when_the_test_says_so(kit: Kit) -> None:
    began = time.monotonic()
    result = add.apply_async((1, 2), countdown=3600)
    assert kit.run() == 0
    assert kit.clock.advance(3599) == 0
    assert kit.clock.advance(1) == 1
    assert result.get(timeout=1) == 3
    assert time.monotonic() - began < 60


def test_a_retry_comes_when_its_time_has_come(kit: Kit) -> None:
    result = flaky.delay()
    kit.run()
    assert result.state is State.RETRY
    assert kit.clock.advance(59) == 0
    assert kit.clock.advance(61) == 2
    assert result.get(timeout=1) == 3


def test_on_the_way_each_task_runs_at_its_own_time(kit: Kit) -> None:
    results = [slowly.delay() for _ in range(3)]
    kit.clock.advance(180)
    first, second, third = sorted(result.get(timeout=1) for result in results)
    assert second - first >= 60_000_000
    assert third - second >= 60_000_000


def test_an_expired_call_is_not_run(kit: Kit) -> None:
    result = add.apply_async((1, 2), countdown=60, expires=30)
    kit.clock.advance(60)
    assert result.state is State.REVOKED


def test_what_waits_can_be_asserted(kit: Kit) -> None:
    post.apply_async(("you",), {"text": "hello"}, countdown=60)
    call = kit.assert_enqueued(post, args=["you"], kwargs={"text": "hello"}, queue="mail")
    assert call.message.eta == kit.clock.now_us() + 60_000_000
    kit.refute_enqueued(post, args=["me"])
    with pytest.raises(
        AssertionError, match=r"No such call of .*post waits; what waits: \[.*post\('you', text='hello'\)"
    ):
        kit.assert_enqueued(post, queue="default")
    with pytest.raises(AssertionError, match="There is a call"):
        kit.refute_enqueued(post)
    kit.clock.advance(60)
    kit.refute_enqueued(post)


def test_publishing_fails_when_it_is_told_to(kit: Kit) -> None:
    kit.fail_publish()
    with pytest.raises(BrokerUnavailable):
        add.delay(1, 2)
    assert add.delay(1, 2)
    assert len(kit.waiting(add)) == 1


def test_a_task_whose_process_dies_runs_again_and_in_the_end_is_given_up(kit: Kit) -> None:
    kit.die_in(add, times=2)
    result = add.delay(1, 2)
    assert kit.run() == 3
    assert result.get(timeout=1) == 3
    kit.die_in(add, times=100)
    result = add.delay(1, 2)
    assert kit.run() == 5
    with pytest.raises(DeadLettered):
        result.get(timeout=1)


def test_an_early_task_whose_process_dies_is_lost(kit: Kit) -> None:
    kit.die_in(once)
    result = once.delay()
    kit.run()
    with pytest.raises(TaskLost):
        result.get(timeout=1)


def test_shared_state_is_there(kit: Kit) -> None:
    first = alone.delay(1)
    with pytest.raises(DuplicateTask):
        alone.delay(1)
    kit.run()
    assert first.get(timeout=1) == 1
    assert alone.delay(1)


def test_a_paused_queue_waits(kit: Kit) -> None:
    app.control.pause("mail")
    post.delay("you")
    assert kit.run() == 0
    app.control.resume("mail")
    assert kit.run() == 1


def test_afterwards_the_app_is_as_it_was() -> None:
    other = FastQ("other", broker="memory://other")
    with Kit(other) as kit:
        assert other.broker is not None
        kit.clock.advance(10_000)
    assert other._broker is None
    other.close()


def test_time_does_not_go_backwards(kit: Kit) -> None:
    with pytest.raises(ValueError, match="time does not go backwards"):
        kit.clock.advance(-1)
