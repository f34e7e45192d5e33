"""The pools, by the suite of the pool contract."""

from fastq.pool import Pool
from fastq.pools.prefork import PreforkPool
from fastq.pools.solo import SoloPool
from fastq.testing.pools import PoolConformance


class TestPrefork(PoolConformance):
    def make_pool(self, app: str, folder: str) -> Pool:
        return PreforkPool(app, folder=folder)


class TestThreads(PoolConformance):
    isolates = False

    def make_pool(self, app: str, folder: str) -> Pool:
        return PreforkPool(app, folder=folder, overrides={"pool": "threads"})


class TestAsyncio(PoolConformance):
    isolates = False

    def make_pool(self, app: str, folder: str) -> Pool:
        return PreforkPool(app, folder=folder, overrides={"pool": "asyncio"})


class TestSolo(PoolConformance):
    survives_death = False
    at_once = 1

    def make_pool(self, app: str, folder: str) -> Pool:
        return SoloPool(app, folder=folder)
