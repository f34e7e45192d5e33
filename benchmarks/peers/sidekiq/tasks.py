"""Sidekiq: a process for each CPU, each with ten threads. It keeps no results, so it is measured without."""

from pathlib import Path

from benchmarks.peers.foreign import Foreign
from benchmarks.peers.peer import KEEP

HERE = Path(__file__).parent

if KEEP:
    raise NotImplementedError("Sidekiq keeps no results")


class Adapter(Foreign):
    def producer(self) -> list[str]:
        return ["ruby", str(HERE / "producer.rb")]

    def workers(self, children: int) -> list[list[str]]:
        return [["sidekiq", "-r", str(HERE / "jobs.rb"), "-c", "10", "-q", "bench"]] * children
