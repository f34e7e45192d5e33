"""Redis, by the suites of all contracts, on a server of its own."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import settings

from fastq.backends import open_backend
from fastq.backends.memory import MemoryBackend
from fastq.brokers import open_broker
from fastq.completion import StoreThenSettle, completion_of
from fastq.systems.memory import MemorySystem
from fastq.testing.backends import BackendConformance
from fastq.testing.brokers import BrokerConformance
from fastq.testing.clocks import FakeClock
from fastq.testing.completion import CompletionConformance
from tests.conformance.test_broker_model import BrokerMachine
from tests.conftest import require_service
from tests.redis_server import RedisServer, has_redis

_server: list[RedisServer] = []


def own_url() -> str:
    return f"{_server[0].url}?prefix=t{uuid.uuid4().hex}"


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory):
    require_service("Redis", has_redis)
    _server.append(RedisServer(tmp_path_factory.mktemp("redis")).start())
    yield
    _server.pop().kill()


@pytest.fixture
def url():
    return own_url()


class TestRedisBroker(BrokerConformance):
    @pytest.fixture
    def broker(self, url):
        broker = open_broker(url)
        yield broker
        broker.close()


class TestRedisBrokerWithItsClockMovedByHand(BrokerConformance):
    lease_s = 30.0

    @pytest.fixture
    def clock(self):
        return FakeClock()

    @pytest.fixture
    def broker(self, url, clock):
        broker = open_broker(url)
        broker.system.clock = clock.now_us
        yield broker
        broker.close()


class TestRedisBackend(BackendConformance):
    @pytest.fixture
    def backend(self, url):
        backend = open_backend(url, self.expires_s)
        yield backend
        backend.close()


class TestRedisCompletion(CompletionConformance):
    @pytest.fixture
    def broker(self, url):
        broker = open_broker(url)
        yield broker
        broker.close()

    @pytest.fixture
    def backend(self, url):
        backend = open_backend(url, 60.0)
        yield backend
        backend.close()

    def test_broker_and_backend_of_one_url_are_one_system(self, broker, backend, subscription):
        assert broker.system is backend.system
        assert not isinstance(completion_of(subscription, broker.system, backend), StoreThenSettle)


class TestCompletionOverTwoSystems(TestRedisCompletion):
    @pytest.fixture
    def backend(self):
        return MemoryBackend(system=MemorySystem(), expires_s=60.0)

    def test_broker_and_backend_of_one_url_are_one_system(self, broker, backend, subscription):
        assert isinstance(completion_of(subscription, broker.system, backend), StoreThenSettle)


class RedisMachine(BrokerMachine):
    def open(self):
        broker = open_broker(own_url())
        broker.system.clock = self.clock.now_us
        return broker


TestRedisAgainstTheModel = RedisMachine.TestCase
TestRedisAgainstTheModel.settings = settings(max_examples=40, stateful_step_count=50, deadline=None)
del BrokerMachine
