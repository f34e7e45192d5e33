"""Workflows that go well: chains, groups, chords, callbacks, and each of them in the others."""

from __future__ import annotations

import pytest

from fastq import FastQ, TaskSetResult, chain, chord, group
from fastq.errors import WaitRefused
from tests.apps import canvas as tasks
from tests.ledger import eventually
from tests.semantics.conftest import Start

APP = "tests.apps.canvas"


def test_a_chain_gives_each_task_the_value_of_the_one_before(start: Start) -> None:
    with start():
        assert chain(tasks.add.s(4, 4), tasks.mul.s(8)).delay().get(10) == 64
        assert (tasks.add.s(4) | tasks.mul.s(8) | tasks.add.si(2, 2)).delay(4).get(10) == 4
        assert (tasks.early.s(1) | tasks.second_time_lucky.s() | tasks.early.s()).delay().get(10) == 3


def test_a_group_gives_the_values_of_its_members_in_their_order(app: FastQ, start: Start) -> None:
    with start(concurrency=2):
        results = group(tasks.add.s(n, n) for n in range(20)).delay()
        assert results.get(10) == [2 * n for n in range(20)]
        assert (results.completed_count(), results.total, results.successful()) == (20, 20, True)
        assert TaskSetResult.restore(results.id, app).join(10) == [2 * n for n in range(20)]
        nested = group(group(tasks.add.s(1), tasks.add.s(2) | tasks.mul.s(10)), tasks.add.s(3)).delay(1)
        assert nested.join(10) == [[2, 30], 4]
        assert nested.completed_count() == nested.total == 3


def test_the_callback_of_a_chord_is_given_all_values_in_order(start: Start) -> None:
    with start(concurrency=2):
        assert chord([tasks.add.s(n) for n in range(50)], tasks.echo.s("end")).delay().get(10) == [[*range(50)], "end"]
        assert (group(tasks.add.s(1), tasks.add.s(2)) | tasks.total.s()).delay(10).get(10) == 23
        assert chord(group(tasks.add.s(1)), tasks.total.s()).delay().get(10) == 1
        assert chord([tasks.add.s(1), tasks.add.s(2)], tasks.add.si(3, 4)).delay().get(10) == 7


def test_everything_may_be_within_everything(start: Start) -> None:
    with start(concurrency=2):
        middle = tasks.add.s(1) | group(tasks.mul.s(2), tasks.mul.s(3)) | tasks.total.s() | tasks.mul.s(2)
        assert middle.delay(1).get(10) == 20
        chains = chord([tasks.add.s(1) | tasks.mul.s(2), tasks.add.s(2) | tasks.mul.s(3)], tasks.echo.s())
        assert chains.delay(1).get(10) == [[4, 9]]
        after = group(tasks.add.s(1), tasks.add.s(2)) | group(tasks.total.s(), tasks.echo.s())
        assert after.delay().get(10) == [3, [[1, 2]]]
        chords = chord([chord([tasks.add.s(n), tasks.add.s(n)], tasks.total.s()) for n in range(3)], tasks.echo.s())
        assert chords.delay().get(10) == [[0, 2, 4]]
        lists = group(group(tasks.add.s(1), tasks.add.s(2)), group(tasks.add.s(3), tasks.add.s(4))) | tasks.echo.s()
        assert lists.delay().get(10) == [[[1, 2], [3, 4]]]


def test_a_long_chain_comes_to_its_end(start: Start) -> None:
    with start():
        assert chain(tasks.add.s(1) for _ in range(40)).delay(0).get(20) == 40


def test_callbacks_follow_what_they_are_linked_to(start: Start, tmp_path: object) -> None:
    path = f"{tmp_path}/notes"

    def notes() -> list[str]:
        with open(path) as file:
            return sorted(line.split(" ", 1)[1].strip() for line in file)

    with start(concurrency=2):
        open(path, "w").close()
        assert tasks.add.apply_async((1, 2), link=tasks.append.s("link", path)).get(10) == 3
        eventually(lambda: notes() == ["[3, 'link']"])
        both = [tasks.append.s("one", path), tasks.add.s(1) | tasks.append.s("two", path)]
        assert tasks.quiet.apply_async((5,), link=both, link_error=tasks.append.s("no", path)).get(10) == 5
        eventually(lambda: notes() == ["[3, 'link']", "[5, 'one']", "[6, 'two']"])
        linked = group(tasks.add.s(1), tasks.add.s(2)).link(tasks.append.s("all", path))
        assert (linked | tasks.total.s()).delay().get(10) == 3
        eventually(lambda: "[[1, 2], 'all']" in notes())


def test_one_message_runs_a_task_over_many_arguments(app: FastQ, start: Start) -> None:
    with start():
        assert tasks.add.each([(1, 2), (3, 4)]).delay().get(10) == [3, 7]
        assert tasks.total.each([([1, 2],), ([3],)]).delay().get(10) == [3, 3]
        assert tasks.add.chunks([(n, 1) for n in range(5)], 2).delay().get(10) == [[1, 2], [3, 4], [5]]
        assert (tasks.echo.s([1, 2], [3]) | tasks.add.each()).delay().get(10) == [3, 3]
        with pytest.raises(KeyError):
            tasks.fail.each([(1,), (2,)]).delay().get(10)
        with pytest.raises(TypeError, match="each takes a list of argument lists"):
            (tasks.add.s(1) | tasks.add.each()).delay().get(10)


def test_later_steps_have_their_own_queues_and_times(start: Start) -> None:
    with start(queues=("default", "other")):
        steps = tasks.add.s(1, 1) | tasks.mul.s(2).set(queue="other", countdown=0.2, priority=3) | tasks.mul.s(3)
        assert steps.delay().get(10) == 12


def test_a_workflow_survives_its_worker(start: Start) -> None:
    with start():
        result = (tasks.add.s(1, 1) | tasks.mul.s(2).set(countdown=1) | tasks.mul.s(3)).delay()
    with start():
        assert result.get(10) == 12


@pytest.mark.processes
def test_a_task_may_begin_a_workflow_but_not_wait_for_it(start: Start) -> None:
    with start(concurrency=2):
        for how in ("task", "group"):
            with pytest.raises(WaitRefused, match="allow_in_task=True"):
                tasks.wait_inside.delay(how).get(10)
        assert tasks.wait_inside.delay("allowed").get(10) == 3


@pytest.mark.processes
@pytest.mark.parametrize("pool", ["threads", "asyncio", "solo"])
def test_every_pool_gives_tasks_what_they_follow(start: Start, pool: str) -> None:
    with start(pool=pool):
        members = [tasks.add.s(n) | tasks.mul.s(2) for n in range(5)]
        assert chord(members, tasks.total.s()).delay(1).get(10) == 30
        assert tasks.total.each([([1, 2],), ([3],)]).delay().get(10) == [3, 3]
        with pytest.raises(KeyError):
            (tasks.fail.s() | tasks.total.s()).delay().get(10)


def test_nothing_is_left_of_a_workflow_that_has_ended(app: FastQ, start: Start) -> None:
    from fastq.canvas.plan import plan_of
    from fastq.state import Arrival

    errback = tasks.echo.s() | tasks.echo.s()
    for workflow in (
        chord([tasks.add.s(1), tasks.add.s(2)], tasks.total.s()).on_error(errback),
        chord([tasks.add.s(1), tasks.fail.s()], tasks.total.s() | tasks.add.s(1)).on_error(errback),
    ):
        plan = plan_of(workflow)
        with start():
            result = plan.begin()
            eventually(result.ready)
            eventually(lambda: not any(queue.ready + queue.delayed + queue.leased for queue in app.broker.queues()))
        arrivals = [Arrival(flow.id, task) for flow in plan.flows for task in flow.needs]
        assert app.state.arrive(arrivals) == []
