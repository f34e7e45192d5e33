"""The conformance suite of a result backend: subclass it in a test module, and give it your backend.

class TestMyBackend(BackendConformance):
    @pytest.fixture
    def backend(self):
        backend = MyBackend("mine://localhost", expires_s=self.expires_s)  # with nothing in it
        yield backend
        backend.close()
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from fastq._speedups import new_id
from fastq.backend import Backend, Watch
from fastq.outcome import Outcome, State
from fastq.testing.clocks import Clock, RealClock

SOON_S = 20.0
TERMINAL = [state for state in State if state.terminal]


def success(id: bytes = b"", body: bytes = b"42", *, attempt: int = 1, group: bytes = b"") -> Outcome:
    """Return an outcome."""
    return Outcome(id or new_id(), State.SUCCESS, body, attempt=attempt, group=group, started_at=1, finished_at=2)


def successes(count: int) -> list[Outcome]:
    """Return different outcomes."""
    return [success(body=b"%d" % number) for number in range(count)]


def in_time(backend: Backend, ids: Sequence[bytes]) -> list[Outcome]:
    """Wait for outcomes."""
    return list(backend.wait(ids, time.monotonic() + SOON_S))


def heard(watch: Watch, count: int) -> set[Outcome]:
    """Listen until so many outcomes have been told."""
    told: set[Outcome] = set()
    give_up = time.monotonic() + SOON_S
    while len(told) < count:
        told.update(watch.listen(give_up))
        assert time.monotonic() < give_up, f"{count - len(told)} outcomes were not told"
    return told


class BackendConformance:
    """One test a sentence of the contract in `fastq.backend`."""

    #: How long outcomes last. With a clock moved by hand it may be long.
    expires_s = 2.0

    @pytest.fixture
    def backend(self) -> Backend:
        """Override: an open backend with nothing in it, whose outcomes expire after `expires_s`."""
        raise NotImplementedError("a subclass gives the backend")

    @pytest.fixture
    def clock(self) -> Clock:
        """Override if the backend's clock can be moved by hand."""
        return RealClock()

    # -- store, load, forget -----------------------------------------------------------------------

    def test_what_is_stored_is_loaded_in_the_order_asked_for(self, backend: Backend) -> None:
        one, two = Outcome(new_id(), State.FAILURE, bytes(range(256)), "x/y", 3, new_id(), 1, 2, 3), success()
        backend.store([one, two])
        assert backend.load([two.id, new_id(), one.id, two.id]) == [two, None, one, two]

    def test_batches_of_none_are_fine(self, backend: Backend) -> None:
        backend.store([])
        backend.forget([])
        assert backend.load([]) == []
        assert in_time(backend, []) == []

    def test_a_thousand_outcomes_are_one_batch(self, backend: Backend) -> None:
        outcomes = successes(1000)
        backend.store(outcomes)
        assert backend.load([outcome.id for outcome in outcomes]) == outcomes

    def test_a_large_body_is_kept(self, backend: Backend) -> None:
        outcome = success(body=bytes(range(256)) * 2000)
        backend.store([outcome])
        assert backend.load([outcome.id]) == [outcome]

    @pytest.mark.parametrize("first", TERMINAL)
    @pytest.mark.parametrize("second", [State.RETRY, State.SUCCESS, State.LOST])
    def test_a_terminal_outcome_is_never_replaced(self, backend: Backend, first: State, second: State) -> None:
        kept = success()._replace(state=first)
        backend.store([kept])
        backend.store([kept._replace(state=second, body=b"other", attempt=9)])
        assert backend.load([kept.id]) == [kept]

    def test_nor_within_a_batch(self, backend: Backend) -> None:
        kept = success()
        backend.store([kept._replace(state=State.RETRY), kept, kept._replace(state=State.LOST)])
        assert backend.load([kept.id]) == [kept]

    def test_an_outcome_of_an_earlier_attempt_replaces_nothing(self, backend: Backend) -> None:
        later = success(attempt=3)._replace(state=State.RETRY)
        backend.store([later])
        backend.store([later._replace(attempt=2, state=State.SUCCESS)])
        assert backend.load([later.id]) == [later]
        same = later._replace(body=b"other")
        backend.store([same])
        assert backend.load([later.id]) == [same]
        last = later._replace(attempt=4, state=State.SUCCESS)
        backend.store([last])
        assert backend.load([later.id]) == [last]

    def test_what_is_forgotten_is_not_known(self, backend: Backend) -> None:
        outcomes = successes(3)
        backend.store(outcomes)
        backend.forget([outcomes[0].id, new_id(), outcomes[2].id])
        assert backend.load([outcome.id for outcome in outcomes]) == [None, outcomes[1], None]
        backend.store(outcomes[:1])
        assert backend.load([outcomes[0].id]) == [outcomes[0]]

    def test_outcomes_expire(self, backend: Backend, clock: Clock) -> None:
        outcome = success(group=(group := new_id()))
        backend.store([outcome])
        backend.create_group(group, [outcome.id])
        assert backend.load([outcome.id]) == [outcome]
        clock.advance(self.expires_s + 1.1)
        assert backend.load([outcome.id]) == [None]
        assert list(backend.wait([outcome.id], time.monotonic())) == []
        assert backend.group_members(group) == []
        assert backend.group_completed(group) == 0

    def test_what_has_expired_may_be_stored_anew(self, backend: Backend, clock: Clock) -> None:
        outcome = success()
        backend.store([outcome])
        clock.advance(self.expires_s + 1.1)
        again = outcome._replace(body=b"again")
        backend.store([again])
        assert backend.load([outcome.id]) == [again]

    # -- wait --------------------------------------------------------------------------------------

    def test_wait_gives_what_is_there_already(self, backend: Backend) -> None:
        outcomes = successes(3)
        backend.store(outcomes)
        waited = in_time(backend, [outcome.id for outcome in outcomes])
        assert sorted(waited) == sorted(outcomes)

    def test_wait_gives_each_id_once(self, backend: Backend) -> None:
        outcome = success()
        backend.store([outcome])
        assert in_time(backend, [outcome.id, outcome.id]) == [outcome]

    def test_wait_stops_at_the_deadline(self, backend: Backend) -> None:
        there = success()
        backend.store([there])
        deadline = time.monotonic() + 0.05
        assert list(backend.wait([there.id, new_id()], deadline)) == [there]
        assert time.monotonic() >= deadline

    def test_wait_passes_over_what_is_not_terminal(self, backend: Backend) -> None:
        outcome = success()._replace(state=State.RETRY)
        backend.store([outcome])
        assert list(backend.wait([outcome.id], time.monotonic() + 0.05)) == []

    def test_a_waiter_is_woken_in_the_order_of_completion(self, backend: Backend) -> None:
        outcomes = successes(20)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(in_time, backend, [outcome.id for outcome in outcomes])
            for at in range(19, -1, -1):
                backend.store([success(), outcomes[at]._replace(state=State.RETRY)])
                backend.store([outcomes[at]])
            waited = waiting.result(SOON_S)
        assert sorted(waited) == sorted(outcomes)

    def test_the_order_is_that_of_completion(self, backend: Backend) -> None:
        first, *others = successes(5)
        backend.store([first])
        waiting = backend.wait([it.id for it in (*others, first)], time.monotonic() + SOON_S)
        assert next(waiting) == first  # by now it waits
        for outcome in reversed(others):
            backend.store([outcome])
        assert list(waiting) == others[::-1]

    def test_an_outcome_that_was_started_before_is_seen_to_end(self, backend: Backend) -> None:
        one, two = successes(2)
        backend.store([one._replace(state=State.RETRY), two])
        waiting = backend.wait([one.id, two.id], time.monotonic() + SOON_S)
        assert next(waiting) == two
        backend.store([one])
        assert list(waiting) == [one]

    def test_two_threads_wait_at_once(self, backend: Backend) -> None:
        one, two, both = successes(3)
        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(in_time, backend, [it.id, both.id]) for it in (one, two)]
            for outcome in (two, both, one):
                backend.store([outcome])
            assert sorted(waiting[0].result(SOON_S)) == sorted([one, both])
            assert sorted(waiting[1].result(SOON_S)) == sorted([two, both])

    def test_ten_thousand_ids_are_waited_for(self, backend: Backend) -> None:
        outcomes = successes(10_000)
        backend.store(outcomes[:3000])
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(in_time, backend, [outcome.id for outcome in outcomes])
            for at in range(3000, 10_000, 500):
                backend.store(outcomes[at : at + 500])
            assert sorted(waiting.result(SOON_S)) == sorted(outcomes)

    def test_a_wait_may_be_abandoned(self, backend: Backend) -> None:
        outcome = success()
        backend.store([outcome])
        waiting = backend.wait([outcome.id, new_id()], None)
        assert next(waiting) == outcome
        waiting.close()  # type: ignore[attr-defined]

    # -- groups ------------------------------------------------------------------------------------

    def test_a_group_keeps_its_members_in_order(self, backend: Backend) -> None:
        group, ids = new_id(), [new_id() for _ in range(1000)]
        backend.create_group(group, ids[::-1])
        assert backend.group_members(group) == ids[::-1]
        assert backend.group_members(new_id()) == []

    def test_a_group_counts_what_is_terminal_once(self, backend: Backend) -> None:
        group = new_id()
        one, two, three = (success(group=group) for _ in range(3))
        backend.create_group(group, [one.id, two.id, three.id])
        assert backend.group_completed(group) == 0
        backend.store([one, two._replace(state=State.RETRY), success(group=new_id())])
        backend.store([one])
        assert backend.group_completed(group) == 1
        backend.store([two, three._replace(state=State.FAILURE)])
        assert backend.group_completed(group) == 3

    def test_close_may_be_repeated(self, backend: Backend) -> None:
        backend.close()
        backend.close()

    # -- watch -------------------------------------------------------------------------------------

    def test_a_watch_tells_what_has_ended_before_and_what_ends_then(self, backend: Backend) -> None:
        before, then, other = successes(3)
        backend.store([before])
        with closing(backend.watch()) as watch:
            assert watch.add([before.id, then.id]) == [before]
            backend.store([other, then])
            assert heard(watch, 1) == {then}

    def test_a_watch_takes_more_ids_while_it_is_listened_to(self, backend: Backend) -> None:
        outcomes = successes(300)
        with closing(backend.watch()) as watch, ThreadPoolExecutor(1) as others:
            assert watch.add([new_id()]) == []
            listening = others.submit(heard, watch, len(outcomes))
            for outcome in outcomes:
                assert watch.add([outcome.id]) == []
                backend.store([outcome])
            assert listening.result() == set(outcomes)

    def test_what_was_dropped_is_not_told(self, backend: Backend) -> None:
        dropped, kept = successes(2)
        with closing(backend.watch()) as watch:
            watch.add([dropped.id, kept.id])
            watch.drop([dropped.id, new_id()])
            backend.store([dropped, kept])
            assert heard(watch, 1) == {kept}

    def test_a_watch_passes_over_what_is_not_terminal(self, backend: Backend) -> None:
        outcome = success()
        backend.store([outcome._replace(state=State.RETRY)])
        with closing(backend.watch()) as watch:
            assert watch.add([outcome.id]) == []
            backend.store([outcome._replace(state=State.RETRY)])
            assert watch.listen(time.monotonic() + 0.05) == []
            backend.store([outcome])
            assert heard(watch, 1) == {outcome}

    def test_listening_ends_at_the_deadline(self, backend: Backend) -> None:
        with closing(backend.watch()) as watch:
            watch.add([new_id()])
            began = time.monotonic()
            while time.monotonic() < began + 0.1:
                assert watch.listen(began + 0.1) == []
        watch.close()
