"""The pools, by the suite of the pool contract."""

from fastq.pool import Pool
from fastq.pools.prefork import PreforkPool
from fastq.testing.pools import PoolConformance


class TestPrefork(PoolConformance):
    def make_pool(self, app: str, folder: str) -> Pool:
        return PreforkPool(app, folder=folder)
