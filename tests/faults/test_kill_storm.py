"""Several workers on one SQLite file, with children and workers killed at random: nothing is lost.

What may run twice is what a kill explains: a task whose process died with it.
"""

import os
import random
import signal
import time
from collections import defaultdict

import pytest

from fastq import TaskSet
from tests.apps import basic
from tests.hosts import Host
from tests.ledger import Ledger, eventually


def storm(host: Host, ledger: Ledger, *, tasks: int, seconds: float, every: float, seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(2):
        host.start_worker()
    eventually(lambda: len(host.pool_children()) == 6)  # two, and one with a loop, each
    pause = seconds * 4 * 0.6 / tasks  # the work lasts through most of the storm
    result = TaskSet(basic.noted.s(pause) for _ in range(tasks)).apply_async()
    killed: set[int] = set()
    kills = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(every)  # the storm's rhythm; nothing is concluded from it
        if dice.random() < 0.3:
            victim = dice.choice(host.workers)
            killed.update(host.pool_children(victim))
            victim.kill()
            victim.wait()
            host.workers.remove(victim)
            host.start_worker()
        elif children := host.pool_children():
            victim_pid = dice.choice(children)
            killed.add(victim_pid)
            os.kill(victim_pid, signal.SIGKILL)
        kills += 1
    result.join(120)
    report = judge(ledger, {each.id for each in result}, killed)
    print(f"{tasks} tasks, {kills} kills, {report}")


def judge(ledger: Ledger, ids: set[str], killed: set[int]) -> str:
    """Check that every task ended, and that whatever ran again had been running in a process that was killed."""
    starts: dict[str, list[int]] = defaultdict(list)
    for id, word, pid in ledger.lines():
        if word == "start":
            starts[id].append(pid)
    assert set(starts) == ids, "every task started, and nothing else"
    assert set(ledger.ends()) == ids, "every task ended"
    unexplained = {id: pids for id, pids in starts.items() if sum(pid not in killed for pid in pids) > 1}
    assert not unexplained, "a task runs once in processes that nobody kills"
    return f"{sum(len(pids) > 1 for pids in starts.values())} ran again, each after a kill"


def test_nothing_is_lost_while_children_and_workers_are_killed(host: Host, ledger: Ledger) -> None:
    storm(host, ledger, tasks=300, seconds=6, every=0.6, seed=7)
    assert host.stop() == []


@pytest.mark.soak
def test_nothing_is_lost_in_a_longer_storm(host: Host, ledger: Ledger) -> None:
    storm(host, ledger, tasks=2000, seconds=30, every=1.5, seed=random.randrange(1000))
    assert host.stop() == []
