"""BullMQ: a process for each CPU, each with a hundred jobs at once, which no-ops take no time of."""

import sys
from pathlib import Path

from benchmarks.peers.foreign import Foreign

HERE = Path(__file__).parent
# Node looks for modules from the folder of the file that runs, so the files are copied beside them.
HOME = Path(sys.prefix) / "node"


class Adapter(Foreign):
    def producer(self) -> list[str]:
        return ["node", str(HOME / "producer.mjs")]

    def workers(self, children: int) -> list[list[str]]:
        return [["node", str(HOME / "worker.mjs")]] * children
