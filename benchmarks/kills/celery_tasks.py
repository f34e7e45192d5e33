# mypy: ignore-errors
"""Celery as a contender; as a program it sends tasks. Runs in Celery's own environment, without fastq.

The variants: ``default``; ``acks_late``; and ``rejecting``, which is ``acks_late`` with ``reject_on_worker_lost``.
"""

import os
import signal
import sys
import time

from celery import Celery, uuid

VARIANT = os.environ["KILLS_VARIANT"]
app = Celery("kills", broker=os.environ["KILLS_URL"])
app.conf.update(
    task_acks_late=VARIANT in ("acks_late", "rejecting"),
    task_reject_on_worker_lost=VARIANT == "rejecting",
    task_ignore_result=True,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
)


def write(word, id):
    """Write a line of the ledger, see `fastq.testing.faults.ledger`."""
    file = os.open(os.environ["KILLS_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{id} {word} {os.getpid()} 1 {time.monotonic():.6f}\n".encode())
    os.close(file)


@app.task(bind=True, name="kills.nap")
def nap(self, seconds):
    write("start", self.request.id)
    time.sleep(seconds)
    write("end", self.request.id)


@app.task(bind=True, name="kills.pill")
def pill(self):
    write("start", self.request.id)
    os.kill(os.getpid(), signal.SIGKILL)


def main(count, seconds, pills):
    for number in range(count + pills):
        id = uuid()
        write("attempted", id)
        if number < pills:
            pill.apply_async(task_id=id)
        else:
            nap.apply_async((seconds,), task_id=id)
        write("accepted", id)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
