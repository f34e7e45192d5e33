"""Fair shares: who sends much keeps nobody waiting who sends little."""

from __future__ import annotations

import dataclasses

import pytest

from fastq import FastQ
from fastq.routing import share_of, turns
from tests.apps import routed
from tests.semantics.conftest import Start

APP = "tests.apps.routed"
FLOOD = 2_000


@pytest.fixture
def app(app: FastQ) -> FastQ:
    """The app of the test, with the fair queue that it declares."""
    app.settings = dataclasses.replace(app.settings, fair_queues=(("shared", "16"),))
    return app


def test_who_sends_little_is_done_long_before_who_sent_much_before(app: FastQ, start: Start) -> None:
    assert share_of("shared", 16, "flood") != share_of("shared", 16, "trickle")
    with app.batch():
        flood = [routed.work.delay("flood") for _ in range(FLOOD)]
    trickle = [routed.work.delay("trickle") for _ in range(20)]
    nobody = [routed.of_nobody.delay() for _ in range(20)]
    with start(queues=["shared"]):
        came = sorted(
            [(result.get(30), "trickle") for result in trickle]
            + [(result.get(30), "nobody") for result in nobody]
            + [(result.get(30), "flood") for result in flood]
        )
    order = [whose for _, whose in came]
    for whose in ("trickle", "nobody"):
        last = max(at for at, each in enumerate(order) if each == whose)
        assert order[:last].count("flood") < FLOOD / 4


def test_who_weighs_more_is_served_more_often(app: FastQ, start: Start) -> None:
    with app.batch():
        for _ in range(400):
            routed.work.delay("big")
            routed.work.delay("trickle")
    subscription = app.broker.subscribe(turns(["shared"], {"shared": 16}), 30.0, {})
    taken = [delivery.queue for _ in range(40) for delivery in subscription.fetch(8, None)]
    subscription.close()
    ours = share_of("shared", 16, "trickle")
    assert 2 <= sum(queue != ours for queue in taken) / taken.count(ours) <= 8, "four, if the dice are fair"


def test_a_fair_queue_that_is_paused_is_paused_with_all_its_shares(app: FastQ, start: Start) -> None:
    with start(queues=["shared"]):
        assert routed.work.delay("a").get(10)
        app.control.pause("shared")
        assert app.control.inspect().ping(), "and so it has heard what was said before"
        results = [routed.work.delay(tenant) for tenant in "abcdefgh"]
        assert app.control.inspect().ping()
        assert not any(result.ready() for result in results)
        app.control.resume("shared")
        assert all(result.get(10) for result in results)
