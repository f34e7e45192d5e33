from __future__ import annotations

import pytest

from fastq.backend import Backend
from fastq.backends import open_backend
from fastq.backends.memory import MemoryBackend
from fastq.systems.memory import MemorySystem
from fastq.testing.backends import BackendConformance
from fastq.testing.clocks import FakeClock


class TestMemoryBackend(BackendConformance):
    expires_s = 3600.0

    @pytest.fixture
    def clock(self):
        return FakeClock()

    @pytest.fixture
    def backend(self, clock):
        return MemoryBackend(system=MemorySystem(clock.now_us), expires_s=self.expires_s)


class TestSqliteBackend(BackendConformance):
    expires_s = 3600.0

    @pytest.fixture
    def clock(self):
        return FakeClock()

    @pytest.fixture
    def backend(self, tmp_path, clock):
        backend = open_backend(f"sqlite:///{tmp_path}/fastq.db", self.expires_s)
        backend.system.server.clock = clock.now_us
        yield backend
        backend.close()


class TestSqliteBackendWithoutBells(TestSqliteBackend):
    @pytest.fixture(autouse=True)
    def no_pipes(self, monkeypatch):
        monkeypatch.delattr("os.mkfifo")


class TestBackendWithoutAWatchOfItsOwn(TestMemoryBackend):
    @pytest.fixture
    def backend(self, clock, monkeypatch):
        monkeypatch.setattr(MemoryBackend, "watch", Backend.watch)
        return MemoryBackend(system=MemorySystem(clock.now_us), expires_s=self.expires_s)
