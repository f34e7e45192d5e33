"""Shared state in Redis, by the suite of its contract, on a server of its own."""

from __future__ import annotations

import uuid

import pytest

from fastq.states import open_state
from fastq.testing.clocks import FakeClock, RealClock
from fastq.testing.state import StateConformance
from tests.conftest import require_service
from tests.redis_server import RedisServer, has_redis


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    require_service("Redis", has_redis)
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.kill()


@pytest.fixture
def url(server):
    return f"{server.url}?prefix=t{uuid.uuid4().hex}"


class TestRedisState(StateConformance):
    @pytest.fixture
    def state(self, url):
        state = open_state(url)
        yield state
        state.close()

    @pytest.fixture
    def other(self, state, url):
        other = open_state(url)
        yield other
        other.close()


class TestRedisStateWithItsClockMovedByHand(TestRedisState):
    @pytest.fixture
    def clock(self):
        return FakeClock()

    @pytest.fixture
    def state(self, url, clock):
        state = open_state(url)
        state.system.clock = clock.now_us
        yield state
        state.close()

    def test_a_log_vanishes_some_time_after_its_last_entry(self, state, follow, clock):
        """A log vanishes with its key, by the server's own clock."""
        super().test_a_log_vanishes_some_time_after_its_last_entry(state, follow, RealClock())
