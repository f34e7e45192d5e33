"""Task-sets: calls that are made together, in one round trip, and watched together."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest

from fastq import FastQ, State, Task, TaskSet, TaskSetResult, Workflow, chain, chord, group
from fastq.brokers.memory import MemoryBroker
from fastq.canvas.plan import Plan, plan_of
from fastq.canvas.then import Then
from fastq.errors import ConfigurationError, EncodingError, NotSupported, ResultTimeout
from fastq.message import NO_EXTRAS, Message, now_us, time_us
from fastq.middleware import Middleware, Outgoing
from fastq.settings import Settings

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


# -- workflows: from signatures to messages and flows -------------------------------------------


class Shop:
    """Tasks for workflows that are planned, and not run."""

    def __init__(self, app: FastQ) -> None:
        self.app = app
        self.add = app.task(name="add")(lambda x, y=0: x + y)
        self.total = app.task(name="total")(lambda values: sum(values))
        self.log = app.task(name="log", queue="logs")(lambda failure, *more: None)


@pytest.fixture
def shop(app: FastQ) -> Shop:
    return Shop(app)


def planned(workflow: Workflow[Any], *args: Any) -> tuple[Plan, dict[bytes, Then]]:
    """Plan a workflow; return the plan, and what its flows lead to, having passed through its bytes."""
    plan = plan_of(workflow, args)
    return plan, {flow.id: Then.decode(flow.then) for flow in plan.flows}


def test_a_single_call_is_one_message_without_flows(shop: Shop) -> None:
    plan, thens = planned(shop.add.s(4, y=4).set(queue="mail", priority=3))

    (message,) = plan.messages
    assert (message.task, message.queue, message.priority, message.body) == ("add", "mail", 3, b'[[4],{"y":4}]')
    assert message.extras is NO_EXTRAS
    assert thens == {}
    assert plan.shape is None


def test_in_a_chain_each_step_is_in_one_flow_and_is_given_the_one_before(shop: Shop) -> None:
    plan, thens = planned(shop.add.s(1, 2) | shop.add.s(3) | shop.add.si(4, 5))

    (first,), (one, two) = plan.messages, plan.flows
    second, third = thens[one.id].run[0].message, thens[two.id].run[0].message
    assert (one.needs, two.needs) == ((first.id,), (second.id,))
    assert (first.extras.flows, second.extras.flows, third.extras.flows) == ((one.id,), (two.id,), ())
    assert (first.extras.given, second.extras.given, third.extras.given) == (b"", first.id, b"")
    assert (second.body, third.body) == (b"[[3],{}]", b"[[4,5],{}]")
    assert [end.id for end in plan.ends] == [third.id]


def test_a_chord_is_one_flow_and_its_callback_is_small(shop: Shop) -> None:
    plan, thens = planned(chord((shop.add.s(n) for n in range(1000)), shop.total.s()))

    (flow,), (then,) = plan.flows, thens.values()
    (callback,) = (later.message for later in then.run)
    assert flow.needs == tuple(message.id for message in plan.messages)
    assert {message.extras.flows for message in plan.messages} == {(flow.id,)}
    assert callback.extras.given == flow.id
    assert len(callback.encode()) < 200
    assert json.loads(then.values) == [id.hex() for id in flow.needs]


def test_a_group_in_a_chain_is_given_the_value_and_gives_its_own(shop: Shop) -> None:
    workflow = shop.add.s(1) | group(shop.add.s(2), shop.add.s(3) | shop.add.s(4)) | shop.total.s()
    plan, thens = planned(workflow)

    (first,) = plan.messages
    two, three = (later.message for later in thens[first.extras.flows[0]].run)
    (four,) = (later.message for later in thens[three.extras.flows[0]].run)
    assert [each.extras.given for each in (two, three, four)] == [first.id, first.id, three.id]
    (joined,) = two.extras.flows
    assert four.extras.flows == (joined,)
    assert json.loads(thens[joined].values) == [two.id.hex(), four.id.hex()]
    assert [later.message.extras.given for later in thens[joined].run] == [joined]


def test_groups_in_groups_are_lists_in_lists(shop: Shop) -> None:
    plan, _ = planned(group(group(shop.add.s(1), shop.add.s(2)), shop.add.s(3)))

    assert plan.shape == ((None, None), None)
    assert {message.extras.group for message in plan.messages} == {plan.group}
    assert plan.flows == []


def test_callbacks_of_one_call_share_a_flow(shop: Shop) -> None:
    call = shop.add.s(1, 2).link(shop.add.s(3), shop.add.s(4)).on_error(shop.log.s("here"))
    plan, thens = planned(call | shop.add.s(5))

    (flow,), (then,) = plan.flows, thens.values()
    assert flow.needs == (plan.messages[0].id,)
    assert sorted(later.message.body for later in then.run) == [b"[[3],{}]", b"[[4],{}]", b"[[5],{}]"]
    (log,) = (later.message for later in then.on_error)
    assert (log.queue, log.body, log.extras.failed) == ("logs", b'[["here"],{}]', flow.id)


def test_what_follows_an_error_callback_is_dropped_if_that_does_not_run(shop: Shop) -> None:
    plan, thens = planned(shop.add.s(1).on_error(shop.log.s() | shop.log.si(None) | shop.log.si(None)))

    first = plan.flows[0].id
    assert set(thens[first].dropped) == {flow.id for flow in plan.flows} - {first}


def test_arguments_and_options_for_the_whole_go_to_the_calls_that_begin_it(shop: Shop) -> None:
    workflow = (group(shop.add.s(1), shop.add.si(2)) | shop.total.s()).set(queue="mail", countdown=60)
    plan, thens = planned(workflow, 7)

    assert [message.body for message in plan.messages] == [b"[[7,1],{}]", b"[[2],{}]"]
    assert all(message.eta - message.enqueued_at == 60_000_000 for message in plan.messages)
    (callback,) = (later for then in thens.values() for later in then.run)
    assert (callback.message.queue, callback.message.eta, callback.delay_us) == ("mail", 0, 0)


def test_countdown_and_expires_of_a_later_step_count_from_when_it_is_published(shop: Shop) -> None:
    late = datetime(2100, 1, 1, tzinfo=timezone.utc)
    _, thens = planned(
        shop.add.s(1) | shop.add.s(2).set(countdown=60, expires=90) | shop.add.s(3).set(eta=late, expires=late)
    )

    second, third = (later for then in thens.values() for later in then.run)
    message, now = second.now(), now_us()
    assert (second.message.eta, second.message.expires) == (0, 0)
    assert 0 <= now + 60_000_000 - message.eta < 10_000_000
    assert message.expires - message.eta == 30_000_000
    assert third.now().eta == third.now().expires == time_us(late)


def test_who_is_waited_for_keeps_its_result(app: FastQ, shop: Shop) -> None:
    quiet = app.task(name="quiet", ignore_result=True)(lambda value=0: value)
    plan, thens = planned(quiet.s() | quiet.s())

    assert [message.ignore_result for message in plan.messages] == [False]
    assert [later.message.ignore_result for then in thens.values() for later in then.run] == [True]
    with pytest.raises(ConfigurationError, match="quiet is told to ignore its result, but others wait for it"):
        plan_of(quiet.s().set(ignore_result=True) | shop.add.s(1))


def test_a_call_over_many_arguments_is_one_message(shop: Shop) -> None:
    plan, thens = planned(shop.add.chunks([(n, n) for n in range(5)], 2) | shop.add.each())

    bodies = [message.body for message in plan.messages]
    assert bodies == [b"[[[[0,0],[1,1]]],{}]", b"[[[[2,2],[3,3]]],{}]", b"[[[[4,4]]],{}]"]
    assert all(message.extras.each for message in plan.messages)
    assert [later.message.body for then in thens.values() for later in then.run] == [b"[[],{}]"]


def test_one_signature_may_stand_in_many_places(shop: Shop) -> None:
    call = shop.add.s(1)
    plan, _ = planned(group([call] * 3) | call)

    assert len({message.id for message in plan.messages}) == 3


def test_a_copy_of_a_signature_changes_apart(shop: Shop) -> None:
    call = shop.add.s(1)
    call.clone().link(shop.add.s(2)).set(queue="mail")

    assert (call.links, call.options) == ([], {})


@pytest.mark.parametrize("nothing", [chain, group, lambda: group([]), lambda: chain(())])
def test_a_workflow_of_nothing_is_an_error(nothing: Callable[[], Any]) -> None:
    with pytest.raises(ConfigurationError, match="takes one call or more"):
        nothing()


def test_a_chord_needs_members_and_a_callback(shop: Shop) -> None:
    with pytest.raises(ConfigurationError, match="A chord takes one call or more"):
        chord([], shop.total.s())
    with pytest.raises(TypeError, match="The callback of a chord is <Task total>"):
        chord([shop.add.s(1)], shop.total)  # type: ignore[type-var]
    with pytest.raises(ConfigurationError, match="chunks takes one list of arguments or more"):
        shop.add.chunks([], 3)
    with pytest.raises(ConfigurationError, match="The size of chunks is 0"):
        shop.add.chunks([(1,)], 0)


def test_what_is_no_call_is_no_part_of_a_workflow(shop: Shop) -> None:
    for make in (chain, group, shop.add.s(1).link, shop.add.s(1).on_error):
        with pytest.raises(TypeError, match="not 7"):
            make(shop.add.s(1), 7)  # type: ignore[operator]
    with pytest.raises(TypeError):
        shop.add.s(1) | shop.add  # type: ignore[operator]


def test_a_cycle_is_found(shop: Shop) -> None:
    one, two = shop.add.s(1), shop.add.s(2)
    one.link(two)
    two.on_error(one)

    with pytest.raises(ConfigurationError, match=r"has a cycle: add\(1\) follows from itself"):
        one.delay()


def test_a_workflow_that_is_nested_without_end_is_an_error(shop: Shop) -> None:
    workflow: Workflow[Any] = shop.add.s(1)
    for _ in range(3000):
        workflow = group(workflow)

    with pytest.raises(ConfigurationError, match="nested too deeply"):
        plan_of(workflow)


def test_a_chain_may_be_long(shop: Shop) -> None:
    assert len(plan_of(chain(shop.add.s(1) for _ in range(3000))).flows) == 2999


def test_tasks_of_other_apps_and_tasks_that_are_gone_are_errors(app: FastQ, shop: Shop) -> None:
    other = FastQ("other", broker="memory://").task(name="other")(lambda x: x)
    gone = app.task(name="gone")(lambda x: x)
    del app.tasks["gone"]

    with pytest.raises(ConfigurationError, match="other is a task of another app"):
        plan_of(shop.add.s(1).link(other.s()))
    with pytest.raises(ConfigurationError, match="gone is not registered as a task of the app 'test'"):
        plan_of(shop.add.s(1) | gone.s())


def test_arguments_are_checked_with_the_value_that_is_to_come(shop: Shop) -> None:
    assert plan_of(shop.add.s(1, 2) | shop.total.s())
    with pytest.raises(TypeError, match="total"):
        plan_of(shop.add.s(1, 2) | shop.total.s(1))
    with pytest.raises(TypeError, match="total"):
        plan_of(shop.add.s(1, 2) | shop.total.si())
    with pytest.raises(TypeError, match=r"add"):
        plan_of(shop.add.each([(1, 2), (1, 2, 3)]))
    with pytest.raises(TypeError, match=r"add.each takes a list of argument lists and nothing else"):
        plan_of(shop.add.s(1) | shop.add.each([(1, 2)]))


def test_one_task_id_names_one_call(shop: Shop) -> None:
    id = str(uuid.uuid4())

    assert plan_of(shop.add.s(1) | shop.add.s(2).set(task_id=id)).ends[0].uuid == id
    with pytest.raises(ConfigurationError, match="have the same task_id"):
        plan_of(group(shop.add.s(1), shop.add.s(2)).set(task_id=id))


def test_a_call_that_is_too_large_or_can_not_be_carried_keeps_all_from_being_sent(app: FastQ, shop: Shop) -> None:
    app.settings = Settings.load({"broker": app.settings.broker, "max_message_bytes": 3000})

    with pytest.raises(ConfigurationError, match="max_message_bytes is 3000"):
        (shop.add.s(1) | shop.add.s("x" * 3000)).delay()
    with pytest.raises(EncodingError, match="add"):
        (shop.add.s(1) | shop.add.s(object())).delay()
    assert app.broker.depth("default") == 0


def test_what_follows_from_others_needs_shared_state(memory_url: str) -> None:
    with FastQ("test", broker=memory_url, state="nowhere://") as app:
        shop = Shop(app)
        assert group(shop.add.s(1), shop.add.s(2)).delay().total == 2
        with pytest.raises(NotSupported, match=r"state="):
            (shop.add.s(1) | shop.add.s(2)).delay()
        assert app.broker.depth("default") == 2


def test_what_follows_from_others_needs_a_backend_that_keeps_results(memory_url: str) -> None:
    with FastQ("test", broker=memory_url, backend="rpc://me:secret@127.0.0.1:1/") as app:
        shop = Shop(app)
        with pytest.raises(NotSupported, match="name a backend that does") as caught:
            (shop.add.s(1) | shop.add.s(2)).delay()
        assert "secret" not in str(caught.value)
        assert app.broker.depth("default") == 0


def test_ten_thousand_members_are_published_a_thousand_at_a_time(
    app: FastQ, shop: Shop, memory_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = CountingBroker(memory_url)
    monkeypatch.setattr(app, "_broker", broker)

    chord((shop.add.s(n) for n in range(10_000)), shop.total.s()).delay()

    assert broker.published == [1000] * 10


def test_a_group_that_ignores_results_can_not_be_waited_for(app: FastQ) -> None:
    quiet = app.task(name="quiet", ignore_result=True)(lambda: None)
    results = group(quiet.s(), quiet.s()).delay()

    for wait in (results.join, results.get, results.as_completed, results.completed_count):
        with pytest.raises(ConfigurationError, match="ignores its result"):
            wait()


def test_workflows_are_shown_as_they_are_written(shop: Shop) -> None:
    workflow = shop.add.s(1, y=2) | group(shop.add.s(n) for n in range(5)) | (shop.total.s() | shop.add.s(1))

    assert repr(workflow) == "add(1, y=2) | group(add(0), add(1), add(2), …) | total() | add(1)"
    assert repr(shop.add.each([(1, 2)])) == "add.each([[1, 2]])"


def test_middleware_sees_each_message_of_a_workflow(app: FastQ, shop: Shop) -> None:
    class Stamp(Middleware):
        def before_publish(self, outgoing: Outgoing) -> None:
            outgoing.headers["stamp"] = outgoing.task

    app.add_middleware(Stamp())
    plan, thens = planned(shop.add.s(1) | shop.total.s())
    plan.begin()

    subscription = app.broker.subscribe(["default"], 30.0, {})
    (begun,) = (Message.decode(delivery.frame) for delivery in subscription.fetch(10, 0.0))
    (callback,) = (later.message for then in thens.values() for later in then.run)
    assert (begun.extras.headers, callback.extras.headers) == ({"stamp": "add"}, {"stamp": "total"})
