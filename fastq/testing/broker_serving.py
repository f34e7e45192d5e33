"""Conformance of a broker: which queues a subscription serves, and how often each has its turn."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from fastq.broker import Action, Broker, Capability, Decision, Subscription
from fastq.errors import LeaseLost, ProtocolError
from fastq.testing.broker_case import SOON_S, BrokerCase, Subscribe, at_once, bodies, call, numbered, soon, together
from fastq.testing.clocks import Clock


def served(subscription: Subscription, fetches: int, limit: int = 1) -> Counter[str]:
    """Return how many messages of each queue so many fetches bring."""
    return Counter(delivery.queue for _ in range(fetches) for delivery in at_once(subscription, limit))


class Serving(BrokerCase):
    """What a subscription fetches when its queues change."""

    def test_messages_come_from_the_queues_that_are_served_now(self, broker: Broker, subscribe: Subscribe) -> None:
        broker.publish([*numbered(2, queue="a"), *numbered(2, queue="b"), *numbered(2, queue="c")])
        subscription = subscribe("a")
        for queues in (["b"], ["c", "a"], ["b"], ["a", "c"]):
            subscription.serve(queues)
            assert {it.queue for it in (*at_once(subscription, 1), *at_once(subscription, 1))} <= {*queues}
        assert sum(broker.depth(queue) for queue in "abc") == 0

    def test_a_queue_that_is_not_served_any_more_keeps_what_it_has(self, broker: Broker, subscribe: Subscribe) -> None:
        broker.publish(numbered(3, queue="a"))
        subscription = subscribe("a", "b")
        assert len(at_once(subscription, 1)) == 1
        subscription.serve(["b"])
        assert at_once(subscription) == []
        assert broker.depth("a") == 2
        subscription.serve(["b", "a"])
        assert bodies(at_once(subscription)) == [b"1", b"2"]

    def test_without_queues_nothing_is_fetched(self, broker: Broker, subscribe: Subscribe) -> None:
        subscription = subscribe("a")
        subscription.serve([])
        broker.publish([call("a")])
        deadline = time.monotonic() + 0.05
        assert subscription.fetch(1, deadline) == []
        assert time.monotonic() >= deadline
        subscription.interrupt()
        assert subscription.fetch(1, None) == []
        assert broker.depth("a") == 1

    def test_a_subscription_may_begin_without_queues(self, broker: Broker, subscribe: Subscribe) -> None:
        subscription = broker.subscribe([], 60.0, {})
        broker.publish([call("a")])
        assert at_once(subscription) == []
        subscription.renew()
        subscription.serve(["a"])
        (delivery,) = soon(subscription)
        subscription.renew()
        assert subscription.settle([Decision(delivery)]) == []
        subscription.close()

    def test_a_name_that_is_not_a_queues_is_not_served(self, broker: Broker, subscribe: Subscribe) -> None:
        broker.publish([call("a")])
        subscription = subscribe("a")
        with pytest.raises(ProtocolError):
            subscription.serve(["b", "no spaces"])
        assert len(at_once(subscription)) == 1

    def test_who_has_closed_does_not_begin_to_serve(self, broker: Broker, subscribe: Subscribe) -> None:
        self.needs(broker, Capability.INSPECT)
        subscription = subscribe("b")
        subscription.close()
        subscription.serve(["a"])
        assert broker.workers() == []

    # -- a fetch that waits ------------------------------------------------------------------------

    @pytest.mark.parametrize("before", [[], ["a"], ["a", "c"]])
    def test_a_fetch_that_waits_goes_on_with_the_new_queues(
        self, broker: Broker, subscribe: Subscribe, before: list[str]
    ) -> None:
        broker.publish(numbered(3, queue="b"))
        subscription = subscribe("c")
        with ThreadPoolExecutor(1) as pool:
            for number in range(3):
                subscription.serve(before)
                fetching = pool.submit(subscription.fetch, 1, None)
                subscription.serve(["b"])
                assert bodies(fetching.result(SOON_S)) == [b"%d" % number]

    def test_a_fetch_that_goes_on_with_new_queues_is_woken_by_them(self, broker: Broker, subscribe: Subscribe) -> None:
        subscription = subscribe("a")
        with ThreadPoolExecutor(1) as pool:
            for queue in ("b", "c", "a", "b"):
                fetching = pool.submit(subscription.fetch, 1, None)
                subscription.serve([queue])
                broker.publish([call(queue)])
                assert [it.queue for it in fetching.result(SOON_S)] == [queue]

    def test_queues_may_change_while_others_fetch_settle_and_renew(self, broker: Broker, subscribe: Subscribe) -> None:
        subscription, done = subscribe("a"), threading.Event()

        def choose() -> None:
            while not done.is_set():
                for queues in (["a"], [], ["b", "c"], ["c", "a", "c"]):
                    subscription.serve(queues)
                    subscription.renew()

        for queue in ("a", "b", "c"):
            broker.publish(numbered(40, queue=queue))
        fetched: Counter[str] = Counter()
        with ThreadPoolExecutor(1) as pool:
            choosing = pool.submit(choose)
            try:
                while fetched.total() < 120:
                    deliveries = soon(subscription, 7)
                    assert deliveries
                    assert subscription.settle([Decision(it) for it in deliveries]) == []
                    fetched.update(it.queue for it in deliveries)
            finally:
                done.set()
            choosing.result(SOON_S)
        assert fetched == {"a": 40, "b": 40, "c": 40}

    # -- what is held ------------------------------------------------------------------------------

    @pytest.mark.parametrize("queues", [[], ["b"]])
    def test_what_is_held_stays_held(self, broker: Broker, subscribe: Subscribe, queues: list[str]) -> None:
        broker.publish(numbered(5, queue="a"))
        subscription, other = subscribe("a"), subscribe("a")
        one, two, three, four, _ = soon(subscription)
        subscription.serve(queues)
        assert at_once(other) == []
        assert subscription.begin([one]) == []
        assert subscription.settle([Decision(one), Decision(two, Action.REJECT), Decision(three, Action.RETRY)]) == []
        subscription.release([four])
        assert sorted(bodies(together(other, 3))) == [b"1", b"2", b"3"]
        subscription.close()
        assert bodies(soon(other)) == [b"4"]

    @pytest.mark.parametrize("queues", [[], ["b"]])
    def test_the_lease_is_kept_whichever_queues_are_served(
        self, broker: Broker, subscribe: Subscribe, clock: Clock, queues: list[str]
    ) -> None:
        broker.publish(numbered(2, queue="a"))
        subscription, other = subscribe("a", lease_s=self.lease_s), subscribe("a")
        held = soon(subscription)
        subscription.serve(queues)
        for _ in range(4):
            clock.advance(self.lease_s / 2)
            assert at_once(subscription) == []
            subscription.renew()
            other.renew()
        assert at_once(other) == []
        assert subscription.settle([Decision(it) for it in held]) == []

    @pytest.mark.parametrize("queues", [[], ["b"]])
    def test_a_lease_that_is_not_renewed_ends_whichever_queues_are_served(
        self, broker: Broker, subscribe: Subscribe, clock: Clock, queues: list[str]
    ) -> None:
        broker.publish(numbered(2, queue="a"))
        subscription = subscribe("a", lease_s=self.lease_s)
        held = soon(subscription)
        subscription.serve(queues)
        clock.advance(self.lease_s + 0.05)
        taken = soon(subscribe("a"))
        assert [(it.suspect, it.fence) for it in taken] == [(True, 2)] * 2
        assert subscription.settle([Decision(it) for it in held]) == held
        with pytest.raises(LeaseLost):
            subscription.renew()

    def test_a_queue_that_is_served_later_has_the_same_lease(
        self, broker: Broker, subscribe: Subscribe, clock: Clock
    ) -> None:
        subscription, other = subscribe("a", lease_s=self.lease_s), subscribe("b")
        subscription.serve(["b"])
        broker.publish([call("b")])
        (held,) = soon(subscription)
        for _ in range(4):
            clock.advance(self.lease_s / 2)
            subscription.renew()
        assert at_once(other) == []
        assert subscription.settle([Decision(held)]) == []

    @pytest.mark.parametrize("queues", [[], ["b"]])
    def test_who_serves_other_queues_takes_over_from_the_dead_all_the_same(
        self, broker: Broker, subscribe: Subscribe, clock: Clock, queues: list[str]
    ) -> None:
        broker.publish([call("a")])
        soon(subscribe("a", lease_s=self.lease_s))
        other = subscribe("a")
        other.serve(queues)
        clock.advance(self.lease_s + 0.05)
        other.renew()
        give_up = time.monotonic() + SOON_S  # a server may notice by itself, and take its time
        while broker.depth("a") != 1 and time.monotonic() < give_up:
            time.sleep(0.01)
        assert broker.depth("a") == 1

    # -- turns -------------------------------------------------------------------------------------

    def test_a_queue_that_is_named_several_times_has_as_many_turns(self, broker: Broker, subscribe: Subscribe) -> None:
        broker.publish([*numbered(40, queue="a"), *numbered(40, queue="b"), *numbered(40, queue="c")])
        subscription = subscribe("a", "a", "b", "a")
        assert served(subscription, 12) == {"a": 9, "b": 3}
        subscription.serve(["b", "c", "c"])
        assert served(subscription, 12) == {"b": 4, "c": 8}
        subscription.serve(["c", "b"])
        assert served(subscription, 12) == {"b": 6, "c": 6}

    def test_a_turn_is_not_lost_where_the_queue_is_empty(self, broker: Broker, subscribe: Subscribe) -> None:
        broker.publish(numbered(10, queue="b"))
        assert served(subscribe("a", "a", "a", "b"), 10) == {"b": 10}

    def test_a_batch_is_filled_from_the_queue_whose_turn_it_is_and_then_from_the_others(
        self, broker: Broker, subscribe: Subscribe
    ) -> None:
        broker.publish([*numbered(6, queue="a"), *numbered(6, queue="b")])
        subscription = subscribe("a", "b", "a")
        assert served(subscription, 4, limit=3) == {"a": 6, "b": 6}

    def test_naming_a_queue_twice_gives_a_message_once(self, broker: Broker, subscribe: Subscribe) -> None:
        broker.publish(numbered(10, queue="a"))
        assert bodies(at_once(subscribe("a", "b", "a"))) == [b"%d" % number for number in range(10)]
