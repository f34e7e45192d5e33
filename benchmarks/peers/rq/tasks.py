# mypy: ignore-errors
"""RQ: a pool of two workers that run tasks in their own process; forking for each task is slower still."""

import time

from redis import Redis
from rq import Queue

from benchmarks.peers import tally
from benchmarks.peers.peer import BIN, KEEP, RESULT_S, URL, Peer


def same(value):
    tally.ran()
    return value


def size(text):
    tally.ran()
    return len(text)


def late(sent):
    tally.waited(sent)


def nap(seconds):
    tally.began()
    time.sleep(seconds)
    tally.ended()


class Adapter(Peer):
    tasks = {"same": same, "size": size, "late": late, "nap": nap}  # noqa: RUF012

    def __init__(self):
        self.queue = Queue("bench", connection=Redis.from_url(URL))
        self.result_s = RESULT_S if KEEP else 0

    def workers(self, children):
        return [
            [
                str(BIN / "rq"), "worker-pool", "--url", URL, "--num-workers", str(children), "--quiet",
                "--worker-class", "rq.worker.SimpleWorker", "bench",
            ]
        ]  # fmt: skip

    def send(self, task, argument):
        return self.queue.enqueue(self.tasks[task], argument, result_ttl=self.result_s)

    def send_many(self, task, arguments):
        function, ttl = self.tasks[task], self.result_s
        return self.queue.enqueue_many(
            [Queue.prepare_data(function, (argument,), result_ttl=ttl) for argument in arguments]
        )[-1]

    def wait(self, handle, timeout_s):
        return handle.latest_result(timeout=int(timeout_s)).return_value
