from __future__ import annotations

import pytest

from fastq.backends import open_backend
from fastq.backends.memory import MemoryBackend
from fastq.brokers import open_broker
from fastq.brokers.memory import MemoryBroker
from fastq.completion import StoreThenSettle, completion_of
from fastq.systems.memory import MemorySystem
from fastq.testing.completion import CompletionConformance


class TestMemoryCompletion(CompletionConformance):
    @pytest.fixture
    def broker(self):
        return MemoryBroker(system=MemorySystem())

    @pytest.fixture
    def backend(self, broker):
        return MemoryBackend(system=broker.system, expires_s=60.0)


class TestSqliteCompletion(CompletionConformance):
    @pytest.fixture
    def broker(self, tmp_path):
        broker = open_broker(f"sqlite:///{tmp_path}/fastq.db")
        yield broker
        broker.close()

    @pytest.fixture
    def backend(self, tmp_path):
        backend = open_backend(f"sqlite:///{tmp_path}/fastq.db", 60.0)
        yield backend
        backend.close()

    def test_broker_and_backend_of_one_url_are_one_system(self, broker, backend, subscription):
        assert broker.system is backend.system
        assert not isinstance(completion_of(subscription, broker.system, backend), StoreThenSettle)


class TestCompletionOverTwoSystems(TestSqliteCompletion):
    @pytest.fixture
    def backend(self):
        return MemoryBackend(system=MemorySystem(), expires_s=60.0)

    def test_broker_and_backend_of_one_url_are_one_system(self, broker, backend, subscription):
        assert isinstance(completion_of(subscription, broker.system, backend), StoreThenSettle)
