# mypy: ignore-errors
"""Huey: four processes for two CPUs, since each waits for Redis one message at a time."""

import time

from huey import RedisHuey, SqliteHuey

from benchmarks.peers import tally
from benchmarks.peers.peer import BIN, KEEP, URL, Peer

if URL.startswith("sqlite"):
    huey = SqliteHuey("bench", filename=URL.removeprefix("sqlite:///"), results=KEEP, fsync=True)
else:
    # notify_result makes waiting for a result a BLPOP in place of polling.
    huey = RedisHuey("bench", url=URL, results=KEEP, notify_result=KEEP)


@huey.task()
def same(value):
    tally.ran()
    return value


@huey.task()
def size(text):
    tally.ran()
    return len(text)


@huey.task()
def late(sent):
    tally.waited(sent)


@huey.task()
def nap(seconds):
    tally.began()
    time.sleep(seconds)
    tally.ended()


class Adapter(Peer):
    tasks = {"same": same, "size": size, "late": late, "nap": nap}  # noqa: RUF012

    def workers(self, children):
        # On SQLite it polls, so it is told to do so often; on Redis it blocks.
        return [
            [
                str(BIN / "huey_consumer"), "benchmarks.peers.huey.tasks.huey", "--quiet", "--no-periodic",
                "--worker-type", "process", "--workers", str(max(children, 4)),
                "--delay", "0.002", "--max-delay", "0.01", "--health-check-interval", "1",
            ]
        ]  # fmt: skip

    def send(self, task, argument):
        return self.tasks[task](argument)

    def wait(self, handle, timeout_s):
        return handle.get(blocking=True, timeout=timeout_s, max_delay=0.01)
