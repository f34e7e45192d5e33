"""Shared state, by the suite of its contract, on every system that needs no server."""

from __future__ import annotations

import pytest

from fastq.states import open_state
from fastq.states.memory import MemoryState
from fastq.systems.memory import MemorySystem
from fastq.testing.clocks import FakeClock
from fastq.testing.state import StateConformance


class TestMemoryState(StateConformance):
    @pytest.fixture
    def state(self):
        return MemoryState(system=MemorySystem())

    @pytest.fixture
    def other(self, state):
        return MemoryState(system=state.system)


class TestMemoryStateWithItsClockMovedByHand(TestMemoryState):
    expires_s = 3600.0

    @pytest.fixture
    def clock(self):
        return FakeClock()

    @pytest.fixture
    def state(self, clock):
        system = MemorySystem(clock.now_us)
        clock.watchers.append(system.wake)
        return MemoryState(system=system)


class SqliteStates(StateConformance):
    options = ""

    @pytest.fixture
    def url(self, tmp_path):
        return f"sqlite:///{tmp_path}/fastq.db{self.options}"

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


class TestSqliteState(SqliteStates):
    pass


class TestSqliteStateWithItsClockMovedByHand(SqliteStates):
    expires_s = 3600.0

    @pytest.fixture
    def clock(self):
        return FakeClock()

    @pytest.fixture
    def state(self, url, clock):
        state = open_state(url)
        state.system.server.clock = clock.now_us
        yield state
        state.close()


class TestSqliteStateWithoutBells(SqliteStates):
    @pytest.fixture(autouse=True)
    def no_pipes(self, monkeypatch):
        monkeypatch.delattr("os.mkfifo")
