"""Conformance of a broker: publishing, fetching, waiting and settling."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fastq.broker import Action, Broker, Decision, Delivery, Subscription
from fastq.errors import ProtocolError
from fastq.testing.broker_case import (
    HOSTILE,
    SOON_S,
    BrokerCase,
    Subscribe,
    at_once,
    bodies,
    call,
    numbered,
    soon,
    together,
)


class Delivering(BrokerCase):
    """What becomes of messages while all goes well."""

    # -- publish and fetch -------------------------------------------------------------------------

    def test_what_is_published_is_delivered_byte_for_byte(self, broker: Broker, subscribe: Subscribe) -> None:
        message = call()
        broker.publish([message])
        (delivery,) = soon(subscribe())
        assert delivery.frame == message.encode()
        assert delivery.queue == "q"
        assert (delivery.fence, delivery.crashes, delivery.suspect) == (1, 0, False)

    def test_what_is_published_is_what_the_envelope_makes_of_it(self, broker: Broker, subscribe: Subscribe) -> None:
        broker.envelope = lambda message: b"sealed " + message.encode()
        messages = [call(), call(eta=1), call(), call(eta=1)]
        broker.publish(messages[:1])
        broker.publish(messages[1:2])
        broker.publish(messages[2:])
        found = {delivery.frame for delivery in together(subscribe(), 4)}
        assert found == {b"sealed " + message.encode() for message in messages}

    def test_a_batch_of_none_is_fine(self, broker: Broker, subscribe: Subscribe) -> None:
        broker.publish([])
        broker.publish_frames("q", [])
        subscription = subscribe()
        assert subscription.settle([]) == []
        assert subscription.begin([]) == []
        subscription.release([])
        assert at_once(subscription) == []

    def test_messages_come_first_in_first_out(self, broker: Broker, subscribe: Subscribe) -> None:
        messages = numbered(30)
        broker.publish(messages[:10])
        for message in messages[10:20]:
            broker.publish([message])
        broker.publish(messages[20:])
        assert bodies(soon(subscribe())) == [message.body for message in messages]

    def test_a_thousand_messages_are_one_batch(self, broker: Broker, subscribe: Subscribe) -> None:
        messages = numbered(1000)
        broker.publish(messages)
        subscription = subscribe()
        deliveries = soon(subscription, 1000)
        assert bodies(deliveries) == [message.body for message in messages]
        assert subscription.settle([Decision(delivery) for delivery in deliveries]) == []
        assert broker.depth("q") == 0

    def test_fetch_gives_no_more_than_its_limit(self, broker: Broker, subscribe: Subscribe) -> None:
        broker.publish(numbered(5))
        subscription = subscribe()
        assert bodies(soon(subscription, 2)) == [b"0", b"1"]
        assert bodies(soon(subscription, 2)) == [b"2", b"3"]
        assert bodies(soon(subscription, 2)) == [b"4"]

    def test_bytes_that_are_no_envelope_are_delivered_all_the_same(self, broker: Broker, subscribe: Subscribe) -> None:
        broker.publish_frames("q", HOSTILE)
        assert [delivery.frame for delivery in soon(subscribe())] == HOSTILE

    def test_a_name_that_is_not_a_queues_is_refused(self, broker: Broker) -> None:
        with pytest.raises(ProtocolError):
            broker.publish([call("no spaces")])
        with pytest.raises(ProtocolError):
            broker.publish_frames("", [b"x"])
        with pytest.raises(ProtocolError):
            broker.subscribe(["a'b"], 1.0, {})

    def test_a_batch_with_a_bad_message_is_not_accepted_at_all(self, broker: Broker) -> None:
        with pytest.raises(ProtocolError):
            broker.publish([call(), call("no spaces")])
        assert broker.depth("q") == 0

    def test_only_subscribed_queues_are_served(self, broker: Broker, subscribe: Subscribe) -> None:
        broker.publish([call("other"), call("q")])
        assert [delivery.queue for delivery in soon(subscribe("q"))] == ["q"]
        assert broker.depth("other") == 1

    def test_no_queue_starves(self, broker: Broker, subscribe: Subscribe) -> None:
        for queue in ("a", "b", "c"):
            broker.publish(numbered(10, queue=queue))
        subscription = subscribe("a", "b", "c")
        served = {delivery.queue for _ in range(3) for delivery in soon(subscription, 2)}
        assert served == {"a", "b", "c"}

    def test_one_batch_may_come_from_several_queues(self, broker: Broker, subscribe: Subscribe) -> None:
        broker.publish([call("a"), call("b")])
        assert {delivery.queue for delivery in soon(subscribe("a", "b"))} == {"a", "b"}

    # -- waiting -----------------------------------------------------------------------------------

    def test_fetch_returns_nothing_at_the_deadline(self, subscribe: Subscribe) -> None:
        deadline = time.monotonic() + 0.05
        assert subscribe().fetch(1, deadline) == []
        assert time.monotonic() >= deadline

    def test_a_waiting_fetch_is_woken_by_a_publish(self, broker: Broker, subscribe: Subscribe) -> None:
        subscription = subscribe()
        with ThreadPoolExecutor(1) as pool:
            fetching = pool.submit(subscription.fetch, 1, None)
            broker.publish([call()])
            assert len(fetching.result(SOON_S)) == 1

    def test_interrupt_ends_a_waiting_fetch(self, subscribe: Subscribe) -> None:
        subscription = subscribe()
        with ThreadPoolExecutor(1) as pool:
            fetching = pool.submit(subscription.fetch, 1, None)
            subscription.interrupt()
            assert fetching.result(SOON_S) == []

    def test_interrupt_ends_the_next_fetch_once(self, broker: Broker, subscribe: Subscribe) -> None:
        subscription = subscribe()
        subscription.interrupt()
        broker.publish([call()])
        assert subscription.fetch(1, None) == []
        assert len(subscription.fetch(1, None)) == 1

    def test_concurrent_fetchers_never_share_a_message(self, broker: Broker, subscribe: Subscribe) -> None:
        broker.publish(numbered(300))
        subscriptions = [subscribe() for _ in range(4)]

        def drain(subscription: Subscription) -> list[bytes]:
            got: list[bytes] = []
            while batch := at_once(subscription, 7):
                got += bodies(batch)
            return got

        with ThreadPoolExecutor(4) as pool:
            taken = [body for part in pool.map(drain, subscriptions) for body in part]
        assert sorted(taken, key=int) == [b"%d" % number for number in range(300)]

    def test_publishers_in_threads_lose_nothing(self, broker: Broker, subscribe: Subscribe) -> None:
        def publish(part: int) -> None:
            for number in range(20):
                broker.publish([call(body=b"%d" % (part * 20 + number))])

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(publish, range(4)))
        assert sorted(bodies(soon(subscribe())), key=int) == [b"%d" % number for number in range(80)]

    # -- settling ----------------------------------------------------------------------------------

    def test_what_is_acknowledged_is_forgotten(self, broker: Broker, subscribe: Subscribe) -> None:
        broker.publish([call()])
        subscription = subscribe()
        assert subscription.settle([Decision(it) for it in soon(subscription)]) == []
        subscription.close()
        assert at_once(subscribe()) == []

    def test_what_is_held_is_in_nobody_elses_hands(self, broker: Broker, subscribe: Subscribe) -> None:
        broker.publish([call()])
        subscription = subscribe()
        assert soon(subscription)
        assert at_once(subscribe()) == []
        assert at_once(subscription) == []

    def test_what_is_released_is_back_in_its_place_uncharged(self, broker: Broker, subscribe: Subscribe) -> None:
        broker.publish(numbered(3))
        subscription = subscribe()
        first, second, _ = soon(subscription)
        subscription.release([second, first])
        again = soon(subscription)
        assert bodies(again) == [b"0", b"1"]
        assert [(it.crashes, it.fence) for it in again] == [(0, 2), (0, 2)]
        assert not (self.tells_release_from_death and any(it.suspect for it in again))

    def test_what_is_rejected_is_back_and_charged(self, broker: Broker, subscribe: Subscribe) -> None:
        broker.publish(numbered(2))
        subscription = subscribe()
        delivery = soon(subscription)[0]
        assert subscription.settle([Decision(delivery, Action.REJECT)]) == []
        (again,) = soon(subscription)
        assert bodies([again]) == [b"0"]
        assert (again.crashes, again.suspect, again.fence) == (1, False, 2)

    def test_a_retry_comes_back_uncharged_with_its_new_bytes(self, broker: Broker, subscribe: Subscribe) -> None:
        broker.publish([call(), call()])
        subscription = subscribe()
        one, two = soon(subscription)
        decisions = [Decision(one, Action.RETRY, frame=b"new"), Decision(two, Action.RETRY)]
        assert subscription.settle(decisions) == []
        again = soon(subscription)
        assert {it.frame for it in again} == {b"new", two.frame}
        assert all((it.crashes, it.suspect, it.fence) == (0, False, 2) for it in again)

    def test_decisions_of_all_kinds_make_one_batch(self, broker: Broker, subscribe: Subscribe) -> None:
        broker.publish(numbered(4))
        subscription = subscribe()
        decisions = [Decision(it, action, reason="why") for it, action in zip(soon(subscription), Action, strict=True)]
        assert subscription.settle(decisions) == []
        assert sorted(bodies(soon(subscription))) == [b"1", b"2"]

    def test_what_was_settled_can_be_confirmed(self, broker: Broker, subscribe: Subscribe) -> None:
        broker.publish(numbered(2))
        subscription = subscribe()
        assert subscription.confirm()
        for delivery in soon(subscription):
            assert subscription.settle([Decision(delivery)]) == []
            assert subscription.confirm()

    def test_a_delivery_is_settled_once(self, broker: Broker, subscribe: Subscribe) -> None:
        broker.publish([call()])
        subscription = subscribe()
        (delivery,) = soon(subscription)
        assert subscription.settle([Decision(delivery)]) == []
        assert subscription.settle([Decision(delivery)]) == [delivery]
        assert subscription.begin([delivery]) == [delivery]

    def test_the_first_of_two_decisions_about_one_delivery_counts(self, broker: Broker, subscribe: Subscribe) -> None:
        broker.publish([call()])
        subscription = subscribe()
        (delivery,) = soon(subscription)
        assert subscription.settle([Decision(delivery, Action.RETRY), Decision(delivery)]) == [delivery]
        assert len(soon(subscription)) == 1

    def test_close_releases_what_is_held_and_may_be_repeated(self, broker: Broker, subscribe: Subscribe) -> None:
        broker.publish(numbered(2))
        subscription = subscribe()
        soon(subscription)
        subscription.close()
        subscription.close()
        again = soon(subscribe())
        assert bodies(again) == [b"0", b"1"]
        assert [it.crashes for it in again] == [0, 0]
        assert not (self.tells_release_from_death and any(it.suspect for it in again))

    def test_three_threads_may_use_a_subscription(self, broker: Broker, subscribe: Subscribe) -> None:
        subscription, total, done = subscribe(), 200, threading.Event()
        fetched: list[Delivery] = []

        def renew() -> None:
            while not done.is_set():
                subscription.renew()

        def settle() -> None:
            settled = 0
            while settled < total:
                batch = fetched[settled:]
                assert subscription.settle([Decision(it) for it in batch]) == []
                settled += len(batch)

        with ThreadPoolExecutor(2) as pool:
            renewing, settling = pool.submit(renew), pool.submit(settle)
            broker.publish(numbered(total))
            while len(fetched) < total:
                fetched += soon(subscription, 9)
            settling.result(SOON_S)
            done.set()
            renewing.result(SOON_S)
        assert broker.depth("q") == 0
