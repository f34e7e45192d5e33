# mypy: ignore-errors
"""Celery: ``prefork`` as people run it; variant ``solo``, two workers of one process each, its quickest."""

import time

from celery import Celery, chord

from benchmarks.peers import tally
from benchmarks.peers.peer import BIN, BROKER, KEEP, RESULT_S, URL, VARIANT, Peer

app = Celery("bench", broker=BROKER, backend=URL if KEEP else None)
app.conf.update(
    # The same durability as the others': a message is given up when its task has ended, also by a killed child.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=not KEEP,
    result_expires=RESULT_S,
    # More than the default of 4 per child is no quicker here, and makes short tasks wait behind long ones.
    worker_prefetch_multiplier=4,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
)


@app.task
def same(value):
    tally.ran()
    return value


@app.task
def size(text):
    tally.ran()
    return len(text)


@app.task
def late(sent):
    tally.waited(sent)


@app.task
def nap(seconds):
    tally.began()
    time.sleep(seconds)
    tally.ended()


@app.task
def member(value):
    tally.ran_now()
    return value


@app.task
def gather(values):
    tally.gathered(len(values))
    return len(values)


class Adapter(Peer):
    tasks = {"same": same, "size": size, "late": late, "nap": nap}  # noqa: RUF012

    def workers(self, children):
        # Without events, gossip, mingle and heartbeat: fewer messages beside the tasks.
        command = [
            str(BIN / "celery"), "-A", "benchmarks.peers.celery.tasks:app", "worker", "--loglevel", "WARNING",
            "--without-gossip", "--without-mingle", "--without-heartbeat",
        ]  # fmt: skip
        if VARIANT == "solo":
            return [[*command, "-P", "solo", "-n", f"solo{number}@bench"] for number in range(children)]
        return [[*command, "-P", "prefork", "-c", str(children)]]

    def send(self, task, argument):
        return self.tasks[task].apply_async((argument,))

    def send_many(self, task, arguments):
        # There is no call for many; one producer for all of them saves taking it from its pool each time.
        with app.producer_pool.acquire(block=True) as producer:
            return [self.tasks[task].apply_async((argument,), producer=producer) for argument in arguments][-1]

    def chord(self, count):
        return chord([member.s(1) for _ in range(count)], gather.s()).apply_async()

    def wait(self, handle, timeout_s):
        return handle.get(timeout=timeout_s)
