"""RabbitMQ, by the suites of all contracts, in a virtual host of its own."""

from __future__ import annotations

import time

import pytest

from fastq.backends.amqp import AmqpBackend
from fastq.brokers.amqp import AmqpBroker
from fastq.testing.backends import SOON_S, BackendConformance, success
from fastq.testing.broker_case import BrokerCase
from fastq.testing.broker_leases import Leasing
from fastq.testing.brokers import BrokerConformance
from fastq.testing.clocks import RealClock
from tests import rabbit_server


@pytest.fixture(scope="module", autouse=True)
def vhost():
    with rabbit_server.own_vhost() as name:
        yield name


@pytest.fixture(autouse=True)
def queues_end_with_their_test(vhost):
    with rabbit_server.queues_deleted(vhost):
        yield


class Watched(AmqpBroker):
    """Knows its subscriptions, so that those that don't renew can be cut off without waiting for heartbeats."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.subscriptions = []

    def subscribe(self, queues, lease_s, about):
        subscription = super().subscribe(queues, lease_s, about)
        self.subscriptions.append((lease_s, subscription))
        return subscription


class SeveringClock(RealClock):
    """Time passes by itself; but where a lease would end in it, the connection behind that lease is cut instead."""

    def __init__(self, broker: Watched) -> None:
        self._broker = broker

    def advance(self, seconds: float) -> None:
        short = [subscription for lease_s, subscription in self._broker.subscriptions if lease_s < seconds]
        for subscription in short:
            sever(subscription)
        if not short and seconds < 10:
            super().advance(seconds)


def sever(subscription) -> None:
    """Cut a subscription's connection as the death of its process does."""
    subscription._intake.link._wire._socket.shutdown(2)


class OnRabbitMq:
    """What the suites of brokers need to know of RabbitMQ."""

    lease_s = 30.0
    tells_release_from_death = False
    finds_delayed = False
    options = "queue_type=classic"

    @pytest.fixture
    def broker(self, request, vhost):
        prefix = rabbit_server.prefix_of(request.node.name)
        broker = Watched(f"{rabbit_server.url_of(vhost)}?prefix={prefix}&{self.options}")
        yield broker
        broker.close()

    @pytest.fixture
    def clock(self, broker):
        return SeveringClock(broker)


class TestClassicQueues(OnRabbitMq, BrokerConformance):
    def test_a_late_worker_may_renew_if_nobody_took_over(self):
        pytest.skip("the server takes over by itself")


class TestQuorumQueues(TestClassicQueues):
    options = "queue_type=quorum"


class TestPrioritiesOfQuorumQueues(OnRabbitMq, BrokerCase):
    options = "queue_type=quorum&priorities=10"
    test_the_higher_priority_goes_first = Leasing.test_the_higher_priority_goes_first
    test_one_message_at_a_time = Leasing.test_the_higher_priority_goes_first_one_message_at_a_time


class Answering(AmqpBackend):
    """Stores for itself, as a worker does for who waits for the task, and returns when what it stored has come."""

    def store(self, outcomes):
        stored = [outcome._replace() for outcome in outcomes]  # what was given is compared with what comes
        for outcome in stored:
            outcome.reply_to = self.reply_to
        last = success()
        last.reply_to = self.reply_to
        super().store([*stored, last])
        give_up = time.monotonic() + SOON_S
        while self.load([last.id]) == [None]:  # one queue and one thread: then the others are there, too
            assert time.monotonic() < give_up
            time.sleep(0.001)


class TestResults(BackendConformance):
    @pytest.fixture
    def backend(self, vhost):
        backend = Answering(rabbit_server.url_of(vhost, "rpc"), expires_s=self.expires_s)
        yield backend
        backend.close()
