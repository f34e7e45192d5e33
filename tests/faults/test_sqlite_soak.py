"""Processes that publish, claim, settle and are killed at random moments, on one SQLite file."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import threading
import time
import traceback
from collections import Counter
from pathlib import Path

import pytest

from fastq.backends import open_backend
from fastq.broker import Action, Decision
from fastq.brokers import open_broker
from fastq.completion import Completed, completion_of
from fastq.errors import LeaseLost
from fastq.message import Message
from fastq.outcome import Outcome, State
from fastq.testing.broker_case import call

SOAK_S = float(os.environ.get("SOAK_S", "300"))
PROCESSES = 8
LEASE_S = 1.0
QUEUES = ["a", "b"]


@pytest.mark.parametrize("options", ["", "?journal_mode=DELETE"])
@pytest.mark.timeout(60)
def test_killed_processes_lose_nothing_in_a_few_seconds(tmp_path, options):
    """Row 32."""
    soak(tmp_path, options, 5.0)


@pytest.mark.soak
@pytest.mark.timeout(SOAK_S * 2 + 120)
def test_killed_processes_lose_nothing_in_minutes(tmp_path):
    soak(tmp_path, "", SOAK_S)


def soak(directory: Path, options: str, duration_s: float) -> None:
    url = f"sqlite:///{directory}/fastq.db{options}"
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    broker, backend = open_broker(url), open_backend(url, 86_400.0)
    try:
        kills = run_and_kill(url, directory, chance, duration_s)
        left = drain(broker)
        ledger = Ledger.read(directory)
        check(ledger, left, broker, backend)
        check_file(directory / "fastq.db")
    finally:
        backend.close()
        broker.close()
    assert not Path(f"{directory}/fastq.db-bells").exists()
    print(f"{kills} kills, {len(ledger.accepted)} accepted, {len(ledger.finished)} finished, {len(left)} left")
    assert kills > duration_s
    assert len(ledger.finished) > 100


def run_and_kill(url: str, directory: Path, chance: random.Random, duration_s: float) -> int:
    stop = directory / "stop"
    children = {start(url, directory, stop, chance.random()) for _ in range(PROCESSES)}
    try:
        kills, end = 0, time.monotonic() + duration_s
        while time.monotonic() < end:
            threading.Event().wait(chance.uniform(0.02, 0.3))
            victim = chance.choice(sorted(children))
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            children.remove(victim)
            kills += 1
            children.add(start(url, directory, stop, chance.random()))
        stop.touch()
        while children:
            pid = children.pop()
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, Ledger.read(directory).troubles
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return kills


def start(url: str, directory: Path, stop: Path, seed: float) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        live(url, Pen(directory / f"ledger.{os.getpid()}.{seed}"), stop, random.Random(seed))
        status = 0
    finally:
        os._exit(status)


class Pen:
    """Writes a ledger: a line is one write, so it is there in full though its writer be killed."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, word: str, ids: list[bytes]) -> None:
        if ids:
            os.write(self._fd, "".join(f"{word} {id.hex()}\n" for id in ids).encode())

    def trouble(self) -> None:
        os.write(self._fd, f"trouble {traceback.format_exc()!r}\n".encode())


def live(url: str, pen: Pen, stop: Path, chance: random.Random) -> None:
    """One process: publish, work, and mishandle messages in every way that is allowed."""
    try:
        broker, backend = open_broker(url), open_backend(url, 86_400.0)
        while not stop.exists():
            with contextlib.suppress(LeaseLost):
                work(broker, backend, pen, stop, chance)
        backend.close()
        broker.close()
    except BaseException:
        pen.trouble()
        raise


def work(broker, backend, pen: Pen, stop: Path, chance: random.Random) -> None:
    subscription = broker.subscribe(QUEUES, LEASE_S, {})
    completion = completion_of(subscription, broker.system, backend)
    renewed = time.monotonic()
    while not stop.exists():
        if time.monotonic() - renewed > LEASE_S / 3:
            subscription.renew()
            renewed = time.monotonic()
        if broker.depth("a") + broker.depth("b") < 500:
            publish(broker, pen, chance)
        deliveries = subscription.fetch(chance.randint(1, 30), time.monotonic() + 0.05)
        pen.write("started", [Message.decode(it.frame).id for it in deliveries])
        suspects = [it for it in deliveries if it.suspect]
        lost = subscription.begin(suspects) if suspects else []
        deliveries = [it for it in deliveries if it not in lost]
        if chance.random() < 0.1:
            subscription.release(deliveries)
        elif chance.random() < 0.95:  # the rest is held until the lease ends
            complete(completion, subscription, deliveries, pen, chance)
    subscription.close()


def publish(broker, pen: Pen, chance: random.Random) -> None:
    now_us = time.time_ns() // 1000
    messages = [
        call(chance.choice(QUEUES), body=os.urandom(chance.choice([10, 100, 9000])), priority=chance.randint(0, 9))
        ._replace(eta=chance.choice([0, 0, now_us + 100_000]))
        for _ in range(chance.randint(1, 20))
    ]  # fmt: skip
    ids = [message.id for message in messages]
    pen.write("attempted", ids)
    broker.publish(messages)
    pen.write("accepted", ids)


def complete(completion, subscription, deliveries, pen: Pen, chance: random.Random) -> None:
    batch = []
    for it in deliveries:
        action = chance.choices([Action.ACK, Action.REJECT, Action.RETRY, Action.DEAD], [90, 4, 4, 2])[0]
        state = State.SUCCESS if action is Action.ACK else State.RETRY
        outcome = Outcome(
            Message.decode(it.frame).id, state, f"{subscription.owner} {it.fence}".encode(), attempt=it.fence
        )
        batch.append(Completed(Decision(it, action, reason="soaked"), outcome))
    lost = {id(it) for it in completion.complete(batch)}
    done = [it.outcome.id for it in batch if it.decision.action is Action.ACK and id(it.decision.delivery) not in lost]
    pen.write("finished", done)


class Ledger:
    """What the processes said of themselves."""

    def __init__(self) -> None:
        self.attempted: set[bytes] = set()
        self.accepted: set[bytes] = set()
        self.started: set[bytes] = set()
        self.finished: Counter[bytes] = Counter()
        self.troubles: list[str] = []

    @classmethod
    def read(cls, directory: Path) -> Ledger:
        ledger = cls()
        for path in directory.glob("ledger.*"):
            for line in path.read_text().splitlines():
                word, _, rest = line.partition(" ")
                if word == "trouble":
                    ledger.troubles.append(rest)
                elif word == "finished":
                    ledger.finished[bytes.fromhex(rest)] += 1
                else:
                    getattr(ledger, word).add(bytes.fromhex(rest))
        return ledger


def drain(broker) -> list[bytes]:
    """Take over whatever is left, and return its ids."""
    subscription = broker.subscribe(QUEUES, 60.0, {})
    left: list[bytes] = []
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < LEASE_S + 0.5:
        deliveries = subscription.fetch(1000, time.monotonic() + 0.1)
        if deliveries:
            left += [Message.decode(it.frame).id for it in deliveries]
            assert subscription.settle([Decision(it) for it in deliveries]) == []
            quiet_since = time.monotonic()
    subscription.close()
    return left


def check(ledger: Ledger, left: list[bytes], broker, backend) -> None:
    dead = [Message.decode(it.frame).id for queue in QUEUES for it in broker.dead_letters(queue, 1_000_000)]
    assert ledger.troubles == []
    assert ledger.started <= ledger.attempted
    assert max(ledger.finished.values()) == 1, "two workers were both told that they had settled one message"
    finished = set(ledger.finished)
    assert not finished & set(left), "a settled message was still in a queue"
    assert not finished & set(dead), "a settled message was among the dead letters"
    assert len(set(left)) == len(left)
    gone = ledger.accepted - finished - set(left) - set(dead)
    # A worker may be killed after it has settled and before it could write so: then the outcome is there.
    outcomes = backend.load(sorted(gone))
    lost = [outcome for outcome in outcomes if outcome is None or outcome.state is not State.SUCCESS]
    assert lost == [], f"{len(lost)} messages were lost"
    ends = backend.load(sorted(finished))
    assert [end for end in ends if end is None or end.state is not State.SUCCESS] == []
    assert broker.queues() == [] or all(info[1:4] == (0, 0, 0) for info in broker.queues())
    assert broker.workers() == []


def check_file(path: Path) -> None:
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
