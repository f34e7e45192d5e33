"""Conformance of shared state: flows."""

from __future__ import annotations

import pytest

from fastq._speedups import new_id
from fastq.state import Arrival, Continuation, Flow, SharedState
from fastq.testing.clocks import Clock
from fastq.testing.state_case import StateCase, all_at_once

LONG_S = 3600.0


def flow_of(count: int, then: bytes = b"then") -> Flow:
    """Return a flow that needs so many tasks."""
    return Flow(new_id(), tuple(new_id() for _ in range(count)), then)


def ends(flow: Flow) -> list[Arrival]:
    """Return the ends of all that a flow needs."""
    return [Arrival(flow.id, task) for task in flow.needs]


class Joining(StateCase):
    """What becomes of flows."""

    def test_the_last_arrival_gets_the_continuation(self, state: SharedState, other: SharedState) -> None:
        flow = flow_of(3, bytes(range(256)))
        state.open_flows([flow], LONG_S)
        first, second, third = ends(flow)
        assert state.arrive([second]) == []
        assert other.arrive([first]) == []
        assert other.arrive([third]) == [Continuation(flow.id, flow.then, ())]

    def test_a_batch_may_be_of_several_flows(self, state: SharedState) -> None:
        one, two, three = flow_of(2, b"1"), flow_of(1, b"2"), flow_of(2, b"3")
        state.open_flows([one, two, three], LONG_S)
        arrivals = [ends(three)[0], *ends(two), *ends(one)]
        assert sorted(state.arrive(arrivals)) == sorted(Continuation(it.id, it.then, ()) for it in (one, two))

    def test_two_flows_may_need_one_task(self, state: SharedState) -> None:
        one = flow_of(1)
        two = flow_of(2)._replace(needs=(*one.needs, new_id()))
        state.open_flows([one, two], LONG_S)
        assert [it.flow for it in state.arrive([*ends(one), ends(two)[0]])] == [one.id]
        assert [it.flow for it in state.arrive(ends(two)[1:])] == [two.id]

    def test_batches_of_none_are_fine(self, state: SharedState) -> None:
        state.open_flows([], LONG_S)
        assert state.arrive([]) == []
        state.close_flows([])

    def test_an_arrival_that_was_noted_before_changes_nothing(self, state: SharedState) -> None:
        flow = flow_of(3)
        state.open_flows([flow], LONG_S)
        first, second, third = ends(flow)
        for _ in range(3):
            assert state.arrive([first, first]) == []
        assert state.arrive([first._replace(failed=True)]) == []
        assert state.arrive([second._replace(failed=True)]) == []
        assert state.arrive([second]) == []
        assert state.arrive([third]) == [Continuation(flow.id, flow.then, (second.task,))]

    def test_the_tasks_that_failed_are_told_in_the_order_of_their_arrival(self, state: SharedState) -> None:
        flow = flow_of(6)
        state.open_flows([flow], LONG_S)
        a, b, c, d, e, f = (arrival._replace(failed=at != 2) for at, arrival in enumerate(ends(flow)))
        state.arrive([f, c, b])
        state.arrive([e])
        (continuation,) = state.arrive([a, d])
        assert continuation.failed == tuple(it.task for it in (f, b, e, a, d))

    def test_who_arrives_again_gets_the_continuation_again_until_it_is_closed(self, state: SharedState) -> None:
        flow = flow_of(2)
        state.open_flows([flow], LONG_S)
        first, second = ends(flow)
        state.arrive([first._replace(failed=True)])
        expected = [Continuation(flow.id, flow.then, (first.task,))]
        for again in ([second], [second], [first], [first, second]):
            assert state.arrive(again) == expected
        state.close_flows([flow.id, new_id()])
        assert state.arrive([first, second]) == []
        state.close_flows([flow.id])

    def test_an_arrival_at_an_unknown_flow_is_passed_over(self, state: SharedState) -> None:
        flow = flow_of(1)
        state.open_flows([flow], LONG_S)
        assert [it.flow for it in state.arrive([*ends(flow_of(2)), *ends(flow)])] == [flow.id]

    def test_a_task_that_a_flow_does_not_need_is_passed_over(self, state: SharedState) -> None:
        flow = flow_of(1)
        state.open_flows([flow], LONG_S)
        assert state.arrive([Arrival(flow.id, new_id(), failed=True)]) == []
        assert state.arrive(ends(flow)) == [Continuation(flow.id, flow.then, ())]

    def test_a_flow_that_is_known_stays_as_it_is(self, state: SharedState) -> None:
        flow = flow_of(2)
        state.open_flows([flow], LONG_S)
        first, second = ends(flow)
        state.arrive([first])
        state.open_flows([flow._replace(needs=(*flow.needs, new_id()), then=b"other")], LONG_S)
        assert state.arrive([second]) == [Continuation(flow.id, flow.then, ())]
        state.open_flows([flow], LONG_S)
        assert len(state.arrive([second])) == 1

    def test_flows_expire(self, state: SharedState, clock: Clock) -> None:
        flow, longer = flow_of(2), flow_of(1)
        state.open_flows([flow], self.expires_s)
        state.open_flows([longer], LONG_S * 24)
        state.arrive([ends(flow)[0]._replace(failed=True)])
        clock.advance(self.expires_s + 0.05)
        assert state.arrive([*ends(flow), *ends(longer)]) == [Continuation(longer.id, longer.then, ())]

    def test_what_has_expired_may_be_opened_anew(self, state: SharedState, clock: Clock) -> None:
        flow = flow_of(2)
        state.open_flows([flow], self.expires_s)
        state.arrive([ends(flow)[0]._replace(failed=True)])
        clock.advance(self.expires_s + 0.05)
        state.open_flows([flow], LONG_S)
        assert state.arrive(ends(flow)[:1]) == []
        assert state.arrive(ends(flow)[1:]) == [Continuation(flow.id, flow.then, ())]

    @pytest.mark.parametrize("batch", [10_000, 700])
    def test_a_flow_may_need_ten_thousand_tasks(self, state: SharedState, batch: int) -> None:
        flow = flow_of(10_000)
        state.open_flows([flow, flow_of(3000)], LONG_S)
        arrivals = [it._replace(failed=at % 2 == 0) for at, it in enumerate(ends(flow))]
        assert state.arrive(arrivals[:-1]) == []
        for at in range(0, 10_000, batch):
            continuations = state.arrive(arrivals[at : at + batch])
        assert continuations == [Continuation(flow.id, flow.then, flow.needs[::2])]
        state.close_flows([flow.id])
        assert state.arrive(arrivals) == []

    def test_a_thousand_flows_are_one_batch(self, state: SharedState) -> None:
        flows = [flow_of(2, b"%d" % number) for number in range(1000)]
        state.open_flows(flows, LONG_S)
        assert state.arrive([ends(flow)[0] for flow in flows]) == []
        last = state.arrive([ends(flow)[1] for flow in flows])
        assert sorted(last) == sorted(Continuation(flow.id, flow.then, ()) for flow in flows)
        state.close_flows([flow.id for flow in flows])
        assert state.arrive([ends(flow)[1] for flow in flows]) == []

    def test_of_many_who_arrive_at_once_one_at_least_gets_the_continuation(
        self, state: SharedState, other: SharedState
    ) -> None:
        for _ in range(5):
            flow = flow_of(8)
            state.open_flows([flow], LONG_S)
            got = all_at_once(8, lambda at: (state, other)[at % 2].arrive([ends(flow)[at]]))  # noqa: B023
            assert [Continuation(flow.id, flow.then, ())] in got
            state.close_flows([flow.id])
            assert all_at_once(8, lambda at: state.arrive([ends(flow)[at]])) == [[]] * 8  # noqa: B023
