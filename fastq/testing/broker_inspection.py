"""Conformance of a broker: dead letters, counting and purging."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from fastq.broker import Action, Broker, Capability, Decision
from fastq.errors import NotSupported
from fastq.testing.broker_case import HOSTILE, SOON_S, BrokerCase, Subscribe, at_once, call, numbered, soon
from fastq.testing.clocks import Clock


class Inspecting(BrokerCase):
    """What people see and do."""

    # -- dead letters --------------------------------------------------------------------------------

    def bury(self, broker: Broker, subscribe: Subscribe, frames: Sequence[bytes]) -> None:
        """Make dead letters of frames."""
        broker.publish_frames("q", frames)
        subscription = subscribe()
        decisions = [Decision(it, Action.DEAD, reason=f"because of {n}") for n, it in enumerate(soon(subscription))]
        assert subscription.settle(decisions) == []

    def test_dead_letters_keep_their_bytes_and_reason(self, broker: Broker, subscribe: Subscribe, clock: Clock) -> None:
        self.needs(broker, Capability.DEAD_LETTERS)
        before = clock.now_us() - 1_000_000
        self.bury(broker, subscribe, HOSTILE)
        letters = broker.dead_letters("q", 100)
        assert [letter.frame for letter in letters] == HOSTILE
        assert [letter.reason for letter in letters] == [f"because of {n}" for n in range(len(HOSTILE))]
        assert all(letter.queue == "q" and letter.died_at >= before for letter in letters)
        assert broker.dead_letters("q", 1) == letters[:1]
        assert broker.dead_letters("other", 1) == []
        assert at_once(subscribe()) == []

    def test_dead_letters_are_put_back_with_their_crashes_forgotten(self, broker: Broker, subscribe: Subscribe) -> None:
        self.needs(broker, Capability.DEAD_LETTERS)
        broker.publish([call()])
        subscription = subscribe()
        (delivery,) = soon(subscription)
        subscription.settle([Decision(delivery, Action.REJECT)])
        (delivery,) = soon(subscription)
        subscription.settle([Decision(delivery, Action.DEAD)])
        assert broker.requeue_dead(letter.token for letter in broker.dead_letters("q", 9)) == 1
        (again,) = soon(subscription)
        assert (again.frame, again.crashes, again.suspect) == (delivery.frame, 0, False)
        assert again.fence > delivery.fence
        assert broker.dead_letters("q", 9) == []

    def test_dead_letters_are_dropped_for_good(self, broker: Broker, subscribe: Subscribe) -> None:
        self.needs(broker, Capability.DEAD_LETTERS)
        self.bury(broker, subscribe, [b"a", b"b", b"c"])
        a, _, c = broker.dead_letters("q", 9)
        assert broker.drop_dead([a.token, c.token]) == 2
        assert [letter.frame for letter in broker.dead_letters("q", 9)] == [b"b"]

    def test_dead_letters_are_read_in_pages(self, broker: Broker, subscribe: Subscribe) -> None:
        self.needs(broker, Capability.DEAD_LETTERS)
        frames = [b"%d" % n for n in range(7)]
        self.bury(broker, subscribe, frames)
        pages = [broker.dead_letters("q", 3)]
        while pages[-1]:
            pages.append(broker.dead_letters("q", 3, pages[-1][-1]))
        assert [[letter.frame for letter in page] for page in pages] == [frames[:3], frames[3:6], frames[6:], []]

    def test_a_page_follows_a_letter_that_is_there_no_more(self, broker: Broker, subscribe: Subscribe) -> None:
        self.needs(broker, Capability.DEAD_LETTERS)
        self.bury(broker, subscribe, [b"a", b"b", b"c", b"d"])
        a, b, *_ = broker.dead_letters("q", 9)
        broker.drop_dead([b.token])
        assert [letter.frame for letter in broker.dead_letters("q", 9, b)] == [b"c", b"d"]
        assert [letter.frame for letter in broker.dead_letters("q", 9, a)] == [b"c", b"d"]

    def test_what_is_in_nobody_s_hands_can_be_buried(self, broker: Broker, subscribe: Subscribe, clock: Clock) -> None:
        self.needs(broker, Capability.DEAD_LETTERS)
        before = clock.now_us() - 1_000_000
        broker.bury("q", HOSTILE, "unreadable")
        broker.bury("q", [], "unreadable")
        letters = broker.dead_letters("q", 100)
        assert [letter.frame for letter in letters] == HOSTILE
        assert all((it.queue, it.reason) == ("q", "unreadable") and it.died_at >= before for it in letters)
        subscription = subscribe()
        assert at_once(subscription) == []
        assert broker.requeue_dead([letters[0].token]) == 1
        assert [it.frame for it in soon(subscription)] == HOSTILE[:1]

    def test_letters_that_are_too_many_are_deleted_the_oldest_first(self, broker: Broker, subscribe: Subscribe) -> None:
        self.needs(broker, Capability.DEAD_LETTERS)
        self.bury(broker, subscribe, [b"a", b"b", b"c", b"d"])
        broker.bury("other", [b"e", b"f"], "")
        assert broker.prune_dead("q", 0, 0) == 0
        assert broker.prune_dead("q", 60, 9) == 0
        assert broker.prune_dead("q", 0, 2) == 2
        assert [letter.frame for letter in broker.dead_letters("q", 9)] == [b"c", b"d"]
        assert len(broker.dead_letters("other", 9)) == 2
        assert broker.prune_dead("nobody", 1, 1) == 0

    def test_letters_that_are_too_old_are_deleted(self, broker: Broker, clock: Clock) -> None:
        self.needs(broker, Capability.DEAD_LETTERS)
        broker.bury("q", [b"a", b"b"], "")
        clock.advance(0.5)
        broker.bury("q", [b"c"], "")
        assert broker.prune_dead("q", 60, 0) == 0
        assert broker.prune_dead("q", 0.4, 0) in (2, 3)  # all of them on a slow machine
        assert [letter.frame for letter in broker.dead_letters("q", 9)] in ([b"c"], [])

    def test_tokens_that_are_no_ones_count_for_nothing(self, broker: Broker) -> None:
        self.needs(broker, Capability.DEAD_LETTERS)
        nobody = ["", "0", "999999", "x", "-1", "1; DROP TABLE", "9" * 40, "²"]
        assert broker.requeue_dead(nobody) == 0
        assert broker.drop_dead(nobody) == 0

    # -- counting ------------------------------------------------------------------------------------

    def test_depth_counts_what_waits(self, broker: Broker, subscribe: Subscribe, clock: Clock) -> None:
        assert broker.depth("q") == 0
        broker.publish(numbered(3))
        assert broker.depth("q") == 3
        soon(subscribe(), 1)
        assert broker.depth("q") == 2
        if Capability.DELAY in broker.capabilities:
            broker.publish([call(eta=clock.now_us() + 60_000_000)])
            assert broker.depth("q") == (3 if self.finds_delayed else 2)

    def test_oldest_age_is_that_of_the_oldest_ready(self, broker: Broker, subscribe: Subscribe, clock: Clock) -> None:
        assert broker.oldest_age("q") == 0.0
        broker.publish([call()])
        clock.advance(0.1)
        broker.publish([call()])
        assert 0.1 <= broker.oldest_age("q") < SOON_S
        soon(subscribe())
        assert broker.oldest_age("q") == 0.0

    def test_purge_deletes_what_waits_and_leaves_what_is_held(
        self, broker: Broker, subscribe: Subscribe, clock: Clock
    ) -> None:
        broker.publish(numbered(4))
        broker.publish([call("other")])
        subscription = subscribe()
        (held,) = soon(subscription, 1)
        if Capability.DELAY in broker.capabilities:
            broker.publish([call(eta=clock.now_us() + 60_000_000)])
        waiting = broker.depth("q")
        assert broker.purge("q") == waiting
        assert broker.depth("q") == 0
        assert broker.depth("other") == 1
        assert at_once(subscription) == []
        assert subscription.settle([Decision(held)]) == []

    def test_queues_are_listed_in_numbers(self, broker: Broker, subscribe: Subscribe, clock: Clock) -> None:
        self.needs(broker, Capability.INSPECT)
        assert broker.queues() == []
        broker.publish([*numbered(4), call("b")])
        subscription = subscribe()
        dead, *_ = soon(subscription, 2)
        subscription.settle([Decision(dead, Action.DEAD)])
        delayed = int(Capability.DELAY in broker.capabilities and self.finds_delayed)
        if delayed:
            broker.publish([call(eta=clock.now_us() + 60_000_000)])
        clock.advance(0.05)
        b, q = broker.queues()
        assert (q.name, q.ready, q.delayed, q.leased, q.dead) == ("q", 2, delayed, 1, 1)
        assert (b.name, b.ready, b.delayed, b.leased, b.dead) == ("b", 1, 0, 0, 0)
        assert 0.05 <= q.oldest_age_s < SOON_S

    def test_workers_are_listed_while_they_live(self, broker: Broker, subscribe: Subscribe, clock: Clock) -> None:
        self.needs(broker, Capability.INSPECT)
        first, second = subscribe(lease_s=60, host="ä", pid="1"), subscribe(lease_s=self.lease_s)
        assert first.owner != second.owner
        workers = {worker.owner: worker for worker in broker.workers()}
        assert workers.keys() == {first.owner, second.owner}
        assert dict(workers[first.owner].about) == {"host": "ä", "pid": "1"}
        assert 50 < workers[first.owner].lease_left_s <= 60
        clock.advance(self.lease_s + 0.05)
        assert [worker.owner for worker in broker.workers()] == [first.owner]
        first.close()
        assert broker.workers() == []

    def test_what_is_not_declared_is_refused(self, broker: Broker) -> None:
        if Capability.INSPECT not in broker.capabilities:
            with pytest.raises(NotSupported):
                broker.queues()
        if Capability.DEAD_LETTERS not in broker.capabilities:
            with pytest.raises(NotSupported):
                broker.dead_letters("q", 1)

    def test_close_may_be_repeated(self, broker: Broker) -> None:
        broker.close()
        broker.close()
