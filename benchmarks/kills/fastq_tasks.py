"""fastq as a contender; as a program it sends tasks. The variants are ``late`` and ``early``."""

from __future__ import annotations

import os
import signal
import sys
import time

from fastq import FastQ
from fastq.testing.faults import Ledger

app = FastQ("kills", broker=os.environ["KILLS_URL"], ack=os.environ["KILLS_VARIANT"], ignore_result=True)
ledger = Ledger(os.environ["KILLS_LEDGER"])


@app.task
def nap(seconds: float) -> None:
    ledger.note("start")
    time.sleep(seconds)
    ledger.note("end")


@app.task
def pill() -> None:
    ledger.note("start")
    os.kill(os.getpid(), signal.SIGKILL)


def main(count: int, seconds: float, pills: int) -> None:
    """Send pills and naps, one by one."""
    for _ in range(pills):
        ledger.send(pill, [()])
    for _ in range(count):
        ledger.send(nap, [(seconds,)])


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
