"""Workers are killed while workflows run: a callback comes under one id, at least once, and with the right value."""

from __future__ import annotations

import random
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastq import FastQ, chord
from fastq.settings import Settings
from fastq.testing.workers import running_worker
from tests.apps import canvas as tasks
from tests.apps.dying_worker import STEPS
from tests.conftest import require_service
from tests.hosts import ROOT, Host
from tests.ledger import Ledger
from tests.redis_server import RedisServer, has_redis, one_for_all

APP = "tests.apps.canvas:app"


@pytest.fixture(scope="module", autouse=True)
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer | None]:
    """One Redis for the module, started before the first test looks at what it leaves behind."""
    yield from one_for_all(tmp_path_factory.mktemp("redis"))


@pytest.fixture(params=["sqlite", "redis"])
def app(request: pytest.FixtureRequest, tmp_path: Path, redis_server: RedisServer | None) -> Iterator[FastQ]:
    before = tasks.app.settings
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/kills.db"
    else:
        require_service("Redis", has_redis)
        assert redis_server is not None
        url = f"{redis_server.url}?prefix=t{uuid.uuid4().hex}"
    tasks.app.settings = Settings.load({"broker": url, "lease_s": 1.0})
    yield tasks.app
    tasks.app.close()
    tasks.app.settings = before


def ids_in(path: Path) -> list[str]:
    """Return the ids of the callbacks that ran, in order."""
    return [line.split(" ", 1)[0] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("step", STEPS)
def test_a_worker_that_is_killed_between_two_steps_loses_no_callback(app: FastQ, step: str, tmp_path: Path) -> None:
    """Row 52."""
    notes = tmp_path / "notes"
    callback = tasks.total.s() | tasks.append.s(str(notes))
    result = chord([tasks.add.s(n) for n in range(5)], callback).delay(1)

    command = [sys.executable, "-m", "tests.apps.dying_worker", app.settings.broker, step]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60).returncode == -9
    with running_worker(app, APP, folder=str(ROOT), concurrency=2):
        assert result.get(30) == 1

    assert set(ids_in(notes)) == {result.id}
    assert all("[15]" in line for line in notes.read_text().splitlines())


def test_a_storm_of_kills_loses_no_chord_and_makes_none_twice(app: FastQ, ledger: Ledger, tmp_path: Path) -> None:
    """Row 52."""
    host = Host(app.settings.broker, ledger, tmp_path / "log", lease_s=1, app=APP)
    dice = random.Random(5)
    files = [tmp_path / f"chord{number}" for number in range(25)]
    try:
        for _ in range(2):
            host.start_worker()
        results = []
        for file in files:
            members = [tasks.add.s(n) | tasks.mul.s(2) for n in range(8)]
            results.append(chord(members, tasks.total.s() | tasks.append.s(str(file))).delay(1))
            time.sleep(dice.random() / 4)  # the storm's rhythm; nothing is concluded from it
            if dice.random() < 0.4:
                victim = dice.choice(host.workers)
                victim.kill()
                victim.wait()
                host.workers.remove(victim)
                host.start_worker()
        for file, result in zip(files, results, strict=True):
            assert result.get(60) == 1
            assert set(ids_in(file)) == {result.id}
            assert all("[72]" in line for line in file.read_text().splitlines())
    finally:
        left = host.stop()
        print((tmp_path / "log").read_text()[-4000:])
    assert left == []
