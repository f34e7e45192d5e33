"""Brokers against a model of a few dozen lines, by whatever sequence of calls hypothesis comes upon."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from fastq.broker import Action, Decision, Delivery, Subscription
from fastq.brokers import open_broker
from fastq.brokers.memory import MemoryBroker
from fastq.errors import LeaseLost
from fastq.message import Message
from fastq.systems.memory import MemorySystem
from fastq.testing.broker_case import call
from fastq.testing.clocks import FakeClock

LEASE_S = 30.0
QUEUES = ("a", "b")
SERVED = ((), ("a",), ("b",), QUEUES, ("b", "a", "b"))


@dataclass
class Modelled:
    number: int
    queue: str
    priority: int
    due: int
    owner: str = ""
    fence: int = 0
    crashes: int = 0
    suspect: bool = False
    began: bool = False
    dead: bool = False

    @property
    def place(self):
        return (-self.priority, self.due, self.number)


class BrokerMachine(RuleBasedStateMachine):
    subscriptions = Bundle("subscriptions")
    deliveries = Bundle("deliveries")

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.broker = self.open()
        self.messages: dict[int, Modelled] = {}
        self.leases: dict[str, int] = {}
        self.served: dict[str, tuple[str, ...]] = {}
        self.number = 0

    def open(self):
        raise NotImplementedError

    def teardown(self) -> None:
        self.broker.close()

    # -- rules ---------------------------------------------------------------------------------------

    @rule(queue=st.sampled_from(QUEUES), priority=st.sampled_from([0, 5, 9]), delay_s=st.sampled_from([0, 0, 5]))
    def publish(self, queue: str, priority: int, delay_s: int) -> None:
        self.number += 1
        due = self.clock.now_us() + delay_s * 1_000_000
        message = call(queue, body=b"%d" % self.number, priority=priority, eta=due if delay_s else 0)
        self.broker.publish([message])
        self.messages[self.number] = Modelled(self.number, queue, priority, due)

    @rule(target=subscriptions)
    def subscribe(self) -> Subscription:
        subscription = self.broker.subscribe(QUEUES, LEASE_S, {})
        self.leases[subscription.owner] = self.clock.now_us() + round(LEASE_S * 1e6)
        self.served[subscription.owner] = QUEUES
        return subscription

    @rule(subscription=subscriptions, queues=st.sampled_from(SERVED))
    def serve(self, subscription: Subscription, queues: tuple[str, ...]) -> None:
        subscription.serve(queues)
        self.served[subscription.owner] = queues

    @rule(target=deliveries, subscription=subscriptions, limit=st.integers(1, 4), begins=st.booleans())
    def fetch(self, subscription: Subscription, limit: int, begins: bool):
        if subscription.owner not in self.leases:
            with pytest.raises(LeaseLost):
                subscription.fetch(limit, time.monotonic())
            return (subscription, [])
        fetched = subscription.fetch(limit, time.monotonic())
        queues = self.served[subscription.owner]
        if not self.ready(*queues):
            self.sweep(subscription.owner)
        assert len(fetched) == min(limit, len(self.ready(*queues)))
        assert {delivery.queue for delivery in fetched} <= {*queues}
        for queue in queues:
            numbers = [number_of(delivery) for delivery in fetched if delivery.queue == queue]
            assert numbers == [it.number for it in self.ready(queue)][: len(numbers)]
        for delivery in fetched:
            known = self.messages[number_of(delivery)]
            known.fence += 1
            known.owner = subscription.owner
            assert (delivery.fence, delivery.crashes, delivery.suspect) == (known.fence, known.crashes, known.suspect)
        if begins:
            self.begin((subscription, fetched))
        return (subscription, fetched)

    @rule(taken=deliveries, action=st.sampled_from(Action), delay_s=st.sampled_from([0, 5]))
    def settle(self, taken: tuple[Subscription, list[Delivery]], action: Action, delay_s: int) -> None:
        subscription, fetched = taken
        due = self.clock.now_us() + delay_s * 1_000_000
        lost = subscription.settle([Decision(it, action, due=due, reason="why") for it in fetched])
        assert lost == [it for it in fetched if not self.holds(subscription, it)]
        for it in fetched:
            if it not in lost:
                self.carry_out(number_of(it), action, due)

    @rule(taken=deliveries)
    def release(self, taken: tuple[Subscription, list[Delivery]]) -> None:
        subscription, fetched = taken
        held = [it for it in fetched if self.holds(subscription, it)]
        subscription.release(fetched)
        for it in held:
            self.put_back(self.messages[number_of(it)])

    @rule(taken=deliveries)
    def begin(self, taken: tuple[Subscription, list[Delivery]]) -> None:
        subscription, fetched = taken
        lost = [it for it in fetched if not self.holds(subscription, it)]
        assert subscription.begin(fetched) == lost
        for it in fetched:
            if it not in lost:
                self.messages[number_of(it)].began = True

    @rule(subscription=subscriptions)
    def renew(self, subscription: Subscription) -> None:
        if subscription.owner not in self.leases:
            with pytest.raises(LeaseLost):
                subscription.renew()
            return
        subscription.renew()
        self.leases[subscription.owner] = self.clock.now_us() + round(LEASE_S * 1e6)
        self.sweep(subscription.owner)

    @rule(subscription=consumes(subscriptions))
    def close(self, subscription: Subscription) -> None:
        subscription.close()
        self.leases.pop(subscription.owner, None)
        for it in self.held_by(subscription.owner):
            self.put_back(it)

    @rule(seconds=st.sampled_from([1, 5, 20]))
    def pass_time(self, seconds: int) -> None:
        """With whoever does not renew in the meantime as good as crashed."""
        self.clock.advance(seconds)

    @rule(target=subscriptions)
    def pass_the_leases(self) -> Subscription:
        """All workers crash, and another takes over what they held."""
        self.clock.advance(LEASE_S + 1)
        subscription = self.subscribe()
        self.renew(subscription)
        return subscription

    @precondition(lambda self: self.number > 3)
    @rule(queue=st.sampled_from(QUEUES))
    def purge(self, queue: str) -> None:
        waiting = self.waiting(queue)
        assert self.broker.purge(queue) == len(waiting)
        for it in waiting:
            del self.messages[it.number]

    # -- the model -------------------------------------------------------------------------------------

    def waiting(self, *queues: str) -> list[Modelled]:
        return [it for it in self.messages.values() if not it.owner and not it.dead and it.queue in queues]

    def ready(self, *queues: str) -> list[Modelled]:
        now = self.clock.now_us()
        return sorted((it for it in self.waiting(*queues) if it.due <= now), key=lambda it: it.place)

    def held_by(self, owner: str) -> list[Modelled]:
        return [it for it in self.messages.values() if it.owner == owner]

    def holds(self, subscription: Subscription, delivery: Delivery) -> bool:
        known = self.messages.get(number_of(delivery))
        return known is not None and (known.owner, known.fence) == (subscription.owner, delivery.fence)

    def carry_out(self, number: int, action: Action, due: int) -> None:
        known = self.messages[number]
        self.put_back(known)
        if action is Action.ACK:
            del self.messages[number]
        elif action is Action.REJECT:
            known.crashes += 1
        elif action is Action.RETRY:
            known.due = due
        elif action is Action.DEAD:
            known.dead = True

    def put_back(self, known: Modelled) -> None:
        known.owner, known.began = "", False

    def sweep(self, spare: str) -> None:
        now = self.clock.now_us()
        for owner in [owner for owner, until in self.leases.items() if until < now and owner != spare]:
            del self.leases[owner]
            for it in self.held_by(owner):
                it.suspect = True
                it.crashes += it.began
                self.put_back(it)

    # -- what always holds -----------------------------------------------------------------------------

    @invariant()
    def numbers_agree(self) -> None:
        infos = {info.name: info for info in self.broker.queues()}
        for queue in QUEUES:
            of_queue = [it for it in self.messages.values() if it.queue == queue]
            ready = self.ready(queue)
            assert self.broker.depth(queue) == len(self.waiting(queue))
            assert (queue in infos) == bool(of_queue)
            if of_queue:
                assert infos[queue][:5] == (
                    queue,
                    len(ready),
                    len(self.waiting(queue)) - len(ready),
                    sum(bool(it.owner) for it in of_queue),
                    sum(it.dead for it in of_queue),
                )
            age_s = (self.clock.now_us() - min((it.due for it in ready), default=self.clock.now_us())) / 1e6
            assert self.broker.oldest_age(queue) == pytest.approx(age_s)

    @invariant()
    def live_workers_agree(self) -> None:
        now = self.clock.now_us()
        assert {it.owner for it in self.broker.workers()} == {o for o, until in self.leases.items() if until >= now}


def number_of(delivery: Delivery) -> int:
    return int(Message.decode(delivery.frame).body)


class MemoryMachine(BrokerMachine):
    def open(self):
        return MemoryBroker(system=MemorySystem(self.clock.now_us))


class SqliteMachine(BrokerMachine):
    def open(self):
        self.directory = tempfile.mkdtemp()
        broker = open_broker(f"sqlite:///{self.directory}/fastq.db?synchronous=NORMAL")
        broker.system.server.clock = self.clock.now_us
        return broker

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.directory)


TestMemoryAgainstTheModel = MemoryMachine.TestCase
TestMemoryAgainstTheModel.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestSqliteAgainstTheModel = SqliteMachine.TestCase
TestSqliteAgainstTheModel.settings = settings(max_examples=40, stateful_step_count=50, deadline=None)
