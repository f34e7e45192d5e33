"""A worker may begin another lease at any time, as its watchdog has it do: it goes on, and nothing is lost."""

from __future__ import annotations

from fastq import FastQ
from tests.apps import canvas
from tests.ledger import eventually
from tests.semantics.conftest import Start

APP = "tests.apps.canvas"


def test_a_worker_that_waits_for_messages_goes_on_with_another_lease(start: Start) -> None:
    with start() as running:
        assert canvas.add.delay(1, 2).get(20) == 3
        eventually(lambda: running.worker._fetcher.hungry_since is not None)
        before = running.worker._lease.subscription
        running.worker._lease.begin_anew()
        assert running.worker._lease.subscription is not before
        assert canvas.add.delay(3, 4).get(20) == 7


def test_what_was_in_hand_is_delivered_again(app: FastQ, start: Start) -> None:
    results = canvas.add.map(range(300))
    with start(concurrency=2) as running:
        for ended in (0, 20, 60):
            eventually(lambda ended=ended: running.worker.processed > ended)
            running.worker._lease.begin_anew()
        assert [result.get(30) for result in results] == list(range(300))
    assert app.broker.depth("default") == 0
