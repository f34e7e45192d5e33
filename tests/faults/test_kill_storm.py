"""Several workers, with children, workers and, in a soak, the broker killed at random: nothing is lost.

What may run twice is what a kill explains: a task whose process died with it.
"""

from __future__ import annotations

import os
import random
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from fastq import FastQ
from fastq.message import Message
from fastq.settings import Settings
from fastq.testing.faults import Verdict, judge
from tests.apps import basic
from tests.conftest import require_service
from tests.hosts import Host
from tests.ledger import Ledger, eventually
from tests.redis_server import RedisServer, has_redis

Record = Callable[[str, Verdict], None]

#: How many tasks the longest storm has; the whole measure takes most of an hour.
MANY = int(os.environ.get("STORM_TASKS", "1000000"))
_AT_ONCE = 10_000


class Storm:
    """Kills on a host, at random from a seed; knows whom it has killed."""

    def __init__(self, host: Host, seed: int) -> None:
        self.host = host
        self.dice = random.Random(seed)
        self.killed: set[int] = set()
        self.kills = 0

    def strike(self) -> None:
        """Kill a child or, three times in ten, a worker, whose place another takes."""
        if self.dice.random() < 0.3:
            victim = self.dice.choice(self.host.workers)
            self.killed.update(self.host.pool_children(victim))
            victim.kill()
            victim.wait()
            self.host.workers.remove(victim)
            self.host.start_worker()
        elif children := self.host.pool_children():
            child = self.dice.choice(children)
            self.killed.add(child)
            os.kill(child, signal.SIGKILL)
        self.kills += 1


def weathered(host: Host, ledger: Ledger, *, tasks: int, seconds: float, every: float, seed: int) -> Verdict:
    """Have a storm pass over workers that are busy for most of it; return what it came to."""
    print(f"the seed is {seed}")
    storm = Storm(host, seed)
    for _ in range(2):
        host.start_worker()
    eventually(lambda: len(host.pool_children()) == 6)  # two, and one with a loop, each
    results = ledger.send(basic.noted, [(seconds * 4 * 0.6 / tasks,)] * tasks)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(every)  # the storm's rhythm; nothing is concluded from it
        storm.strike()
    for result in results:
        result.get(120)
    print(f"{storm.kills} kills")
    return judge(ledger.read(), killed=storm.killed, behind=[f"process {pid}" for pid in host.stop()])


def test_nothing_is_lost_while_children_and_workers_are_killed(
    host: Host, ledger: Ledger, record_verdict: Record
) -> None:
    """Rows 1, 2 and 3."""
    verdict = weathered(host, ledger, tasks=300, seconds=6, every=0.6, seed=7)
    record_verdict("sqlite, a storm of kills", verdict)
    assert verdict.ok, verdict.violations


@pytest.mark.soak
def test_nothing_is_lost_in_a_longer_storm(host: Host, ledger: Ledger, record_verdict: Record) -> None:
    verdict = weathered(host, ledger, tasks=2000, seconds=30, every=1.5, seed=random.randrange(1000))
    record_verdict("sqlite, a longer storm", verdict)
    assert verdict.ok, verdict.violations


# -- a million ------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that loses nothing, to be killed."""
    require_service("Redis", has_redis)
    server = RedisServer(tmp_path / "redis", "appendonly yes", "appendfsync always").start()
    yield server
    server.kill()


@pytest.fixture
def on_redis(server: RedisServer) -> Iterator[FastQ]:
    before = basic.app.settings
    basic.app.settings = Settings.load({"broker": server.url})
    yield basic.app
    basic.app.close()
    basic.app.settings = before


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_nothing_is_lost_of_a_million_tasks_while_all_are_killed(
    server: RedisServer, on_redis: FastQ, ledger: Ledger, tmp_path: Path, record_verdict: Record
) -> None:
    """A kill every two seconds: of a child, a worker or, one time in ten, Redis. `STORM_TASKS`: how many tasks."""
    seed = random.randrange(1000)
    print(f"the seed is {seed}")
    host = Host(on_redis.settings.broker, ledger, tmp_path / "log")
    storm = Storm(host, seed)
    ids: list[str] = []
    try:
        for _ in range(0, MANY, _AT_ONCE):
            ids += [result.id for result in ledger.send(basic.noted, [()] * _AT_ONCE)]
        for _ in range(2):
            host.start_worker()
        began = struck = time.monotonic()
        left = ids
        while left := _unfinished(on_redis, left):
            if time.monotonic() - struck > 2:
                struck = time.monotonic()
                if storm.dice.random() < 0.1:
                    server.restart()
                    storm.kills += 1
                else:
                    storm.strike()
            time.sleep(0.05)  # between two looks; nothing is concluded from it
        print(f"{len(ids)} tasks and {storm.kills} kills in {time.monotonic() - began:.0f} s")
    finally:
        behind = host.stop()
        print(host.log.read_text()[-4000:])
    dead = [Message.decode(it.frame).uuid for it in on_redis.broker.dead_letters("default", 1000)]
    verdict = judge(ledger.read(), dead=dead, behind=[f"process {pid}" for pid in behind])
    record_verdict(f"redis, {len(ids):,} tasks, {storm.kills} kills", verdict)
    assert verdict.ok, verdict.violations


def _unfinished(app: FastQ, ids: Sequence[str]) -> list[str]:
    """Return the ids from the first on whose end is not there; those before it have ended."""
    for at in range(0, len(ids), _AT_ONCE):
        some = ids[at : at + _AT_ONCE]
        outcomes = app.backend.load([uuid.UUID(id).bytes for id in some])
        for place, outcome in enumerate(outcomes):
            if outcome is None or not outcome.state.terminal:
                return list(ids[at + place :])
    return []
