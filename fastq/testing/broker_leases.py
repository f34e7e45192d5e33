"""Conformance of a broker: leases, delays and priorities."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from fastq.broker import Action, Broker, Capability, Decision
from fastq.errors import LeaseLost
from fastq.testing.broker_case import SOON_S, BrokerCase, Subscribe, at_once, bodies, call, numbered, soon, together
from fastq.testing.clocks import Clock


class Leasing(BrokerCase):
    """What becomes of messages when workers die or are late, and when messages are not due."""

    # -- leases ------------------------------------------------------------------------------------

    def test_messages_of_a_dead_worker_are_taken_over_as_suspects(
        self, broker: Broker, subscribe: Subscribe, clock: Clock
    ) -> None:
        broker.publish(numbered(2))
        held = soon(subscribe(lease_s=self.lease_s))
        clock.advance(self.lease_s + 0.05)
        taken = soon(subscribe())
        assert [it.frame for it in taken] == [it.frame for it in held]
        assert all((it.crashes, it.suspect, it.fence) == (0, True, 2) for it in taken)

    def test_renewing_takes_over_too(self, broker: Broker, subscribe: Subscribe, clock: Clock) -> None:
        broker.publish([call()])
        soon(subscribe(lease_s=self.lease_s))
        other = subscribe()
        clock.advance(self.lease_s + 0.05)
        other.renew()
        assert broker.depth("q") == 1

    def test_a_waiting_fetch_takes_over(self, broker: Broker, subscribe: Subscribe, clock: Clock) -> None:
        broker.publish([call()])
        soon(subscribe(lease_s=self.lease_s))
        with ThreadPoolExecutor(1) as pool:
            fetching = pool.submit(subscribe().fetch, 1, None)
            clock.advance(self.lease_s + 0.05)
            assert len(fetching.result(SOON_S)) == 1

    def test_an_attempt_that_began_is_charged_when_its_worker_dies(
        self, broker: Broker, subscribe: Subscribe, clock: Clock
    ) -> None:
        broker.publish(numbered(2))
        first = subscribe(lease_s=self.lease_s)
        begun, _ = soon(first)
        assert first.begin([begun]) == []
        clock.advance(self.lease_s + 0.05)
        again = {it.frame == begun.frame: (it.crashes, it.suspect) for it in together(subscribe(), 2)}
        assert again == {True: (1, True), False: (0, True)}

    def test_an_attempt_that_began_is_forgotten_when_it_is_released(
        self, broker: Broker, subscribe: Subscribe, clock: Clock
    ) -> None:
        broker.publish([call()])
        first = subscribe(lease_s=self.lease_s)
        (delivery,) = soon(first)
        first.begin([delivery])
        first.release([delivery])
        soon(first)
        clock.advance(self.lease_s + 0.05)
        assert [it.crashes for it in soon(subscribe())] == [0]

    def test_a_renewed_lease_lasts(self, broker: Broker, subscribe: Subscribe, clock: Clock) -> None:
        broker.publish([call()])
        first, second = subscribe(lease_s=self.lease_s), subscribe()
        (delivery,) = soon(first)
        for _ in range(4):
            clock.advance(self.lease_s / 2)
            first.renew()
            second.renew()
        assert at_once(second) == []
        assert first.settle([Decision(delivery)]) == []

    def test_a_late_worker_may_renew_if_nobody_took_over(
        self, broker: Broker, subscribe: Subscribe, clock: Clock
    ) -> None:
        broker.publish([call()])
        first = subscribe(lease_s=self.lease_s)
        (delivery,) = soon(first)
        clock.advance(self.lease_s + 0.05)
        first.renew()
        assert first.settle([Decision(delivery)]) == []

    def test_who_lost_the_lease_is_told(self, subscribe: Subscribe, clock: Clock) -> None:
        first, second = subscribe(lease_s=self.lease_s), subscribe()
        clock.advance(self.lease_s + 0.05)
        second.renew()
        with pytest.raises(LeaseLost):
            first.renew()
        with pytest.raises(LeaseLost):
            at_once(first)

    def test_who_lost_the_lease_changes_nothing(self, broker: Broker, subscribe: Subscribe, clock: Clock) -> None:
        """Row 34."""
        broker.publish(numbered(2))
        first, second = subscribe(lease_s=self.lease_s), subscribe()
        stale = soon(first)
        clock.advance(self.lease_s + 0.05)
        taken = soon(second)
        assert len(taken) == 2
        for action in Action:
            assert first.settle([Decision(it, action) for it in stale]) == stale
        assert first.begin(stale) == stale
        first.release(stale)
        first.close()
        assert at_once(second) == []
        assert second.settle([Decision(it) for it in taken]) == []

    def test_a_stale_delivery_does_not_spoil_its_batch(self, broker: Broker, subscribe: Subscribe) -> None:
        broker.publish(numbered(2))
        subscription = subscribe()
        stale, good = soon(subscription)
        subscription.release([stale])
        (again,) = soon(subscription)  # the same message in the same hands, with a higher fence
        assert again.fence > stale.fence
        assert subscription.settle([Decision(stale), Decision(good)]) == [stale]
        assert subscription.settle([Decision(again)]) == []

    # -- delays and priorities -----------------------------------------------------------------------

    def test_nothing_delayed_is_early(self, broker: Broker, subscribe: Subscribe, clock: Clock) -> None:
        """Row 46."""
        self.needs(broker, Capability.DELAY)
        due = clock.now_us() + 300_000
        broker.publish([call(eta=due)])
        subscription = subscribe()
        assert at_once(subscription) == []
        clock.advance(0.1)
        assert clock.now_us() >= due or at_once(subscription) == []
        clock.advance(0.2)
        assert len(soon(subscription)) == 1
        assert clock.now_us() >= due

    def test_a_waiting_fetch_wakes_for_what_falls_due(self, broker: Broker, subscribe: Subscribe, clock: Clock) -> None:
        self.needs(broker, Capability.DELAY)
        broker.publish([call(eta=clock.now_us() + 100_000)])
        with ThreadPoolExecutor(1) as pool:
            fetching = pool.submit(subscribe().fetch, 1, None)
            clock.advance(0.1)
            assert len(fetching.result(SOON_S)) == 1

    def test_a_retry_is_not_early(self, broker: Broker, subscribe: Subscribe, clock: Clock) -> None:
        self.needs(broker, Capability.DELAY)
        broker.publish([call()])
        subscription = subscribe()
        (delivery,) = soon(subscription)
        subscription.settle([Decision(delivery, Action.RETRY, due=clock.now_us() + 200_000)])
        assert at_once(subscription) == []
        clock.advance(0.2)
        assert len(soon(subscription)) == 1

    def test_delayed_messages_come_in_the_order_they_fall_due(
        self, broker: Broker, subscribe: Subscribe, clock: Clock
    ) -> None:
        self.needs(broker, Capability.DELAY)
        now = clock.now_us()
        broker.publish([call(body=b"late", eta=now + 200_000), call(body=b"soon", eta=now + 100_000)])
        clock.advance(0.25)
        subscription = subscribe()
        assert bodies(soon(subscription, 1) + soon(subscription, 1)) == [b"soon", b"late"]

    def test_the_higher_priority_goes_first(self, broker: Broker, subscribe: Subscribe) -> None:
        self.needs(broker, Capability.PRIORITY)
        broker.publish(
            [call(body=b"%d%d" % (priority, n), priority=priority) for n in (0, 1) for priority in range(10)]
        )
        expected = [b"%d%d" % (priority, n) for priority in reversed(range(10)) for n in (0, 1)]
        assert bodies(soon(subscribe())) == expected

    def test_the_higher_priority_goes_first_one_message_at_a_time(self, broker: Broker, subscribe: Subscribe) -> None:
        self.needs(broker, Capability.PRIORITY)
        for priority in (3, 0, 9, 5, 1, 8, 2, 7, 4, 6):
            broker.publish([call(body=b"%d" % priority, priority=priority)])
        subscription = subscribe()
        subscription.release(soon(subscription, 3))
        assert [bodies(soon(subscription, 1)) for _ in range(10)] == [[b"%d" % it] for it in reversed(range(10))]
