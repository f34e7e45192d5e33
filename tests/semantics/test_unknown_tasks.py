"""Tasks that a worker does not know: a worker that knows them gets them soon, and nothing waits behind them."""

from __future__ import annotations

import logging

import pytest

from fastq import FastQ
from fastq.errors import DeadLettered
from fastq.testing.workers import running_worker
from tests.apps import basic
from tests.ledger import eventually
from tests.semantics.conftest import ROOT, Start

APP = "tests.apps.basic"


@pytest.mark.processes
def test_a_worker_that_knows_the_task_gets_it_soon(app: FastQ, start: Start) -> None:
    with start(unknown_task_grace_s=300):
        results = [app.send_task("tests.apps.fenced.fence") for _ in range(20)]
        eventually(lambda: sum(info.delayed for info in app.broker.queues()) > 0)
        with running_worker(app, "tests.apps.fenced:app", folder=ROOT):
            assert all(result.get(60) > 1 << 32 for result in results)


def test_a_flood_of_them_keeps_no_known_task_waiting_and_is_one_line_of_the_log(
    app: FastQ, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    with app.batch():
        for number in range(3_000):
            app.send_task("newer.task", (number,))
    caplog.set_level(logging.WARNING, "fastq.worker")
    with start():
        assert basic.add.delay(4, 4).get(60) == 8
    assert caplog.text.count("is not known here") == 1


def test_after_its_grace_it_is_a_dead_letter_with_its_original_bytes(app: FastQ, start: Start) -> None:
    frame = b'{"task": "newer.task", "id": "00000000-0000-7000-8000-000000000001"}'
    app.broker.publish_frames("default", [frame])
    with start(unknown_task_grace_s=0.3), pytest.raises(DeadLettered, match="'newer.task' is not known to this worker"):
        app.result("00000000-0000-7000-8000-000000000001").get(20)
    assert [letter.frame for letter in app.broker.dead_letters("default", 9)] == [frame]
