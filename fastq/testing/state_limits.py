"""Conformance of shared state: limits."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest

from fastq.state import Answer, Ask, Limit, SharedState
from fastq.testing.clocks import Clock
from fastq.testing.state_case import StateCase, all_at_once

LONG_S = 3600.0
STARTED = Answer(0.0)


def ask(holder: str, *limits: Limit) -> Ask:
    """Return an ask."""
    return Ask(holder, limits)


def slots(amount: int, key: str = "slots") -> Limit:
    """Return a limit on what runs at once."""
    return Limit(key, amount)


def rate(amount: int, period_s: float, key: str = "rate") -> Limit:
    """Return a limit on starts."""
    return Limit(key, amount, period_s)


def one(state: SharedState, holder: str, *limits: Limit, horizon_s: float = LONG_S) -> Answer:
    """Return the answer to one ask."""
    (answer,) = state.acquire([ask(holder, *limits)], LONG_S, horizon_s)
    return answer


def is_refused(answer: Answer) -> bool:
    """Whether nothing was taken for an ask."""
    return answer.wait_s > 0 and not answer.reserved


class Limiting(StateCase):
    """What becomes of asks."""

    def test_asks_without_limits_may_start(self, state: SharedState) -> None:
        assert state.acquire([], LONG_S, LONG_S) == []
        assert state.acquire([ask("a"), ask("b")], LONG_S, LONG_S) == [STARTED] * 2
        for batch in ([], [ask("a")]):
            state.extend(batch, LONG_S)
            state.give_back(batch)

    # -- how much is at once -----------------------------------------------------------------------

    def test_no_more_hold_a_slot_than_there_are(self, state: SharedState, other: SharedState) -> None:
        limit = slots(2)
        assert [one(client, holder, limit) for client, holder in ((state, "a"), (other, "b"))] == [STARTED] * 2
        refused = one(state, "c", limit, horizon_s=5.0)
        assert is_refused(refused)
        assert refused.wait_s <= 5.0
        other.give_back([ask("a", limit)])
        assert one(other, "c", limit) == STARTED
        assert is_refused(one(state, "a", limit))

    def test_in_a_batch_who_asks_first_is_served_first(self, state: SharedState) -> None:
        limit = slots(2)
        answers = state.acquire([ask(holder, limit) for holder in "abcd"], LONG_S, LONG_S)
        assert answers[:2] == [STARTED] * 2
        assert all(map(is_refused, answers[2:]))

    def test_who_holds_a_slot_gets_it_again(self, state: SharedState) -> None:
        limit, starts = slots(1), rate(1, 1000.0)
        assert state.acquire([ask("a", limit)] * 2, LONG_S, LONG_S) == [STARTED] * 2
        assert one(state, "a", limit) == STARTED
        state.give_back([ask("a", limit)])
        assert one(state, "b", limit, starts) == STARTED
        assert one(state, "b", limit, starts) == STARTED

    def test_a_limit_that_is_named_twice_counts_once(self, state: SharedState) -> None:
        assert one(state, "a", slots(1), slots(1), rate(1, 50.0), rate(1, 50.0)) == STARTED
        assert one(state, "b", rate(1, 50.0)).wait_s == pytest.approx(50.0, abs=20)

    def test_an_ask_gets_all_of_its_limits_or_none(self, state: SharedState) -> None:
        left, right, starts = slots(1, "left"), slots(1, "right"), rate(1, 1000.0)
        assert one(state, "a", right) == STARTED
        assert is_refused(one(state, "b", left, right, starts))
        assert one(state, "c", left, starts) == STARTED
        state.give_back([ask("a", right)])
        assert is_refused(one(state, "b", left, right))
        state.give_back([ask("c", left)])
        assert one(state, "b", left, right) == STARTED
        assert is_refused(one(state, "a", right))

    def test_limits_are_told_apart_by_their_keys(self, state: SharedState) -> None:
        for key in ("a", "b", "a b", "a:b", "{a}", "ü", "A", "x" * 200):
            assert one(state, "h", slots(1, key), rate(1, 1000.0, key)) == STARTED

    def test_what_is_not_held_is_passed_over_when_it_is_given_back(self, state: SharedState) -> None:
        limit = slots(1)
        state.give_back([ask("a", limit), ask("b", rate(1, 1.0))])
        assert one(state, "a", limit) == STARTED
        state.give_back([ask("b", limit)])
        assert is_refused(one(state, "c", limit))

    def test_a_slot_is_free_when_its_lease_ends(self, state: SharedState, clock: Clock) -> None:
        limit = slots(2)
        state.acquire([ask("a", limit)], self.expires_s, LONG_S)
        state.acquire([ask("b", limit)], LONG_S * 24, LONG_S)
        clock.advance(self.expires_s + 0.05)
        assert one(state, "c", limit) == STARTED
        assert is_refused(one(state, "d", limit))

    def test_a_lease_is_extended(self, state: SharedState, clock: Clock) -> None:
        limit = slots(1)
        state.acquire([ask("a", limit)], self.expires_s, LONG_S)
        for _ in range(3):
            clock.advance(self.expires_s * 0.6)
            state.extend([ask("a", limit), ask("b", limit)], self.expires_s)
        assert is_refused(one(state, "c", limit))
        clock.advance(self.expires_s + 0.05)
        assert one(state, "c", limit) == STARTED

    def test_a_lease_that_has_ended_is_extended_if_nobody_has_asked_since(
        self, state: SharedState, clock: Clock
    ) -> None:
        free, taken = slots(1, "free"), slots(1, "taken")
        both = [ask("a", free, taken)]
        state.acquire(both, self.expires_s, LONG_S)
        clock.advance(self.expires_s + 0.05)
        assert one(state, "b", taken) == STARTED
        state.extend(both, LONG_S)
        assert is_refused(one(state, "c", free))
        state.give_back([ask("b", taken)])
        assert one(state, "c", taken) == STARTED

    def test_the_number_of_slots_may_change(self, state: SharedState) -> None:
        assert one(state, "a", slots(1)) == STARTED
        assert is_refused(one(state, "b", slots(1)))
        assert one(state, "b", slots(2)) == STARTED
        state.give_back([ask("a", slots(2))])
        assert is_refused(one(state, "c", slots(1)))
        state.give_back([ask("b", slots(1))])
        assert one(state, "c", slots(1)) == STARTED

    def test_of_many_who_ask_at_once_as_many_start_as_there_are_slots(
        self, state: SharedState, other: SharedState
    ) -> None:
        def acquire(at: int) -> list[Answer]:
            asks = [ask(f"{at}-{number}", slots(5), slots(7, "more")) for number in range(4)]
            return (state, other)[at % 2].acquire(asks, LONG_S, LONG_S)

        answers = [answer for part in all_at_once(8, acquire) for answer in part]
        assert answers.count(STARTED) == 5
        assert sum(map(is_refused, answers)) == 27

    def test_thousands_ask_in_one_batch(self, state: SharedState) -> None:
        asks = [ask(f"h{number}", slots(2000), rate(9, 0.001, f"{number}")) for number in range(3000)]
        answers = state.acquire(asks, LONG_S, LONG_S)
        assert answers[:2000] == [STARTED] * 2000
        assert all(map(is_refused, answers[2000:]))
        state.extend(asks, LONG_S)
        state.give_back(asks[:1500])
        assert state.acquire(asks[1500:], LONG_S, LONG_S)[:500] == [STARTED] * 500

    # -- how much is started in a period -------------------------------------------------------------

    def test_starts_are_evenly_spread_over_the_period(self, state: SharedState) -> None:
        answers = state.acquire([ask(f"{at}", rate(4, 100.0)) for at in range(6)], LONG_S, LONG_S)
        assert answers[0] == STARTED
        assert [it.reserved for it in answers] == [False] + [True] * 5
        assert [it.wait_s for it in answers] == pytest.approx([0, 25, 50, 75, 100, 125], abs=1e-3)

    def test_a_turn_follows_those_that_others_have_reserved(self, state: SharedState, other: SharedState) -> None:
        limit = rate(1, 100.0)
        waits = [one(client, "h", limit).wait_s for client in (state, other, other, state)]
        assert waits == pytest.approx([0, 100, 200, 300], abs=20)

    @pytest.mark.parametrize("amount", [1, 3, 7])
    def test_no_window_of_the_period_has_more_starts_than_the_amount(
        self, state: SharedState, clock: Clock, amount: int
    ) -> None:
        period_s = 0.05 * amount
        dice = random.Random(amount)
        earliest: list[int] = []
        latest: list[int] = []
        for _ in range(20):
            before = clock.now_us()
            asks = [ask("h", rate(amount, period_s)) for _ in range(dice.randrange(4))]
            answers = state.acquire(asks, LONG_S, period_s * dice.choice([1, 2]))
            after = clock.now_us()
            for wait_us in started_us(answers):
                earliest.append(before + wait_us)
                latest.append(after + wait_us)
            clock.advance(dice.choice([0.0, 0.01, 0.06]))
        assert len(earliest) > 10
        for at in range(len(earliest) - amount):
            assert latest[at + amount] - earliest[at] >= period_s * 1e6

    def test_many_who_ask_at_once_have_different_turns(self, state: SharedState, other: SharedState) -> None:
        def acquire(at: int) -> list[Answer]:
            return (state, other)[at % 2].acquire([ask("h", rate(1, 100.0))] * 10, LONG_S, LONG_S * 10)

        waits = [answer.wait_s for part in all_at_once(4, acquire) for answer in part]
        assert sorted(waits) == pytest.approx([100 * turn for turn in range(40)], abs=20)

    def test_a_turn_beyond_the_horizon_is_not_reserved(self, state: SharedState) -> None:
        limit = rate(1, 100.0)
        assert one(state, "a", limit, horizon_s=150.0) == STARTED
        assert one(state, "b", limit, horizon_s=150.0).reserved
        for _ in range(3):
            assert one(state, "c", limit, horizon_s=150.0) == Answer(150.0)
        assert one(state, "d", limit, horizon_s=250.0).wait_s == pytest.approx(200, abs=20)

    def test_of_several_limits_on_starts_all_are_kept(self, state: SharedState) -> None:
        slow, fast = rate(1, 1000.0, "slow"), rate(1, 100.0, "fast")
        assert one(state, "a", slow, fast) == STARTED
        assert one(state, "b", fast).wait_s == pytest.approx(100, abs=20)
        assert one(state, "c", slow, fast).wait_s == pytest.approx(1000, abs=20)
        assert one(state, "d", fast).wait_s == pytest.approx(1100, abs=20)
        assert is_refused(one(state, "e", slow, fast, horizon_s=1500.0))
        assert one(state, "f", fast).wait_s == pytest.approx(1200, abs=20)

    def test_a_reserved_turn_holds_no_slot(self, state: SharedState) -> None:
        limit, starts = slots(1), rate(1, 1000.0)
        assert one(state, "a", starts) == STARTED
        assert one(state, "b", limit, starts).reserved
        assert one(state, "c", limit) == STARTED
        assert is_refused(one(state, "b", limit))

    def test_the_rate_may_change(self, state: SharedState) -> None:
        assert one(state, "a", rate(1, 3000.0)) == STARTED
        assert one(state, "b", rate(1, 100.0)).wait_s == pytest.approx(100, abs=20)
        assert one(state, "c", rate(1, 1000.0)).wait_s == pytest.approx(1100, abs=20)

    def test_a_limit_that_rested_for_long_has_saved_nothing_up(self, state: SharedState, clock: Clock) -> None:
        limit = rate(4, 0.2)
        one(state, "a", limit)
        clock.advance(0.5)
        waits = [it.wait_s for it in state.acquire([ask("h", limit)] * 4, LONG_S, LONG_S)]
        assert waits == pytest.approx([0, 0.05, 0.1, 0.15], abs=1e-3)


def started_us(answers: Sequence[Answer]) -> Iterator[int]:
    """Yield in how many microseconds each that has its turn starts."""
    for answer in answers:
        if answer.reserved or not answer.wait_s:
            yield round(answer.wait_s * 1e6)
