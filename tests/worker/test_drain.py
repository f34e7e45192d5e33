"""A worker that drains its queues, and then stops by itself."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastq import FastQ, State, TaskSet, chain, chord
from fastq.pools.prefork import PreforkPool
from fastq.settings import Settings, fields_of
from fastq.worker.exiting import ExitCode
from fastq.worker.worker import Worker
from tests.apps import canvas

ROOT = str(Path(__file__).parents[2])


@pytest.fixture
def app(tmp_path: Path) -> Iterator[FastQ]:
    app = canvas.app
    before = app.settings
    app.settings = Settings.load({"broker": f"sqlite:///{tmp_path}/fastq.db"})
    yield app
    app.close()
    app.settings = before


def drain(app: FastQ, *queues: str, **settings: Any) -> ExitCode:
    """Run a worker until it stops by itself."""
    changed = replace(app.settings, **{"concurrency": 2, **settings})
    pool = PreforkPool("tests.apps.canvas:app", folder=ROOT, overrides=fields_of(changed))
    worker = Worker(
        broker=app.broker, backend=app.backend, state=lambda: app.state, pool=pool, manifest=pool.load(),
        settings=changed, queues=queues or ("default",), drain=True,
    )  # fmt: skip
    return worker.run()


def test_it_runs_what_there_is_and_stops(app: FastQ) -> None:
    result = TaskSet(canvas.add.s(n, n) for n in range(300)).apply_async()
    assert drain(app) is ExitCode.OK
    assert result.join(1) == [2 * n for n in range(300)]
    assert app.broker.depth("default") == 0


def test_what_follows_is_run_too(app: FastQ) -> None:
    results = [
        chain(canvas.add.s(1, 2), canvas.mul.s(2), canvas.add.s(1)).delay(),
        chord([canvas.add.s(n, n) for n in range(5)], canvas.total.s()).delay(),
        canvas.second_time_lucky.delay(9),
    ]
    assert drain(app) is ExitCode.OK
    assert [result.get(1) for result in results] == [7, 20, 9]


def test_what_is_not_due_and_what_is_in_other_queues_is_not_waited_for(app: FastQ) -> None:
    later = canvas.add.apply_async((1, 2), countdown=600)
    elsewhere = canvas.add.apply_async((1, 2), queue="elsewhere")
    now = canvas.add.delay(3, 4)
    assert drain(app) is ExitCode.OK
    assert now.get(1) == 7
    assert later.state is elsewhere.state is State.PENDING
    assert drain(app, "default", "elsewhere") is ExitCode.OK
    assert elsewhere.get(1) == 3


def test_with_nothing_to_do_it_stops_at_once(app: FastQ) -> None:
    assert drain(app) is ExitCode.OK


def test_what_dies_is_run_again_before_it_stops(app: FastQ) -> None:
    result = canvas.die.delay()
    assert drain(app, max_deliveries=2) is ExitCode.OK
    assert result.state is State.FAILURE
    assert len(app.broker.dead_letters("default", 10)) == 1
