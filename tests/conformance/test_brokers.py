from __future__ import annotations

import pytest

from fastq.broker import Broker
from fastq.brokers import open_broker
from fastq.brokers.memory import MemoryBroker
from fastq.systems.memory import MemorySystem
from fastq.systems.sql import WORKERS
from fastq.testing.brokers import BrokerConformance
from fastq.testing.clocks import FakeClock


class TestMemoryBroker(BrokerConformance):
    @pytest.fixture
    def broker(self):
        return MemoryBroker(system=MemorySystem())


class TestMemoryBrokerWithItsClockMovedByHand(BrokerConformance):
    lease_s = 30.0

    @pytest.fixture
    def clock(self):
        return FakeClock()

    @pytest.fixture
    def broker(self, clock):
        system = MemorySystem(clock.now_us)
        clock.watchers.append(system.wake)
        return MemoryBroker(system=system)


class SqliteBrokers(BrokerConformance):
    options = ""

    @pytest.fixture
    def broker(self, tmp_path):
        broker: Broker = open_broker(f"sqlite:///{tmp_path}/fastq.db{self.options}")
        yield broker
        broker.close()


class TestSqliteBroker(SqliteBrokers):
    pass


class TestSqliteBrokerWithItsClockMovedByHand(SqliteBrokers):
    lease_s = 30.0

    @pytest.fixture
    def clock(self):
        return FakeClock()

    @pytest.fixture
    def broker(self, tmp_path, clock):
        broker = open_broker(f"sqlite:///{tmp_path}/fastq.db")
        broker.system.server.clock = clock.now_us
        clock.watchers.append(lambda: broker.system.ring(WORKERS))
        yield broker
        broker.close()


class TestSqliteBrokerWithAnotherJournal(SqliteBrokers):
    options = "?journal_mode=DELETE"


class TestSqliteBrokerWithoutBells(SqliteBrokers):
    @pytest.fixture(autouse=True)
    def no_pipes(self, monkeypatch):
        monkeypatch.delattr("os.mkfifo")
