"""Routing: a call goes to the queue that it says, or its task, or a route, and in a fair queue to a share of it."""

from __future__ import annotations

import pytest

from fastq import FastQ
from fastq.errors import ConfigurationError
from tests.apps import routed
from tests.semantics.conftest import Start

APP = "tests.apps.routed"


def test_where_nobody_says_a_queue_the_routes_do(start: Start) -> None:
    with start(queues=["mail", "video", "own", "default", "shop", "other"]):
        assert routed.send_letter.delay().get(10) == "mail"
        assert routed.send_video.delay().get(10) == "video"
        assert routed.send_self.delay().get(10) == "own"
        assert routed.elsewhere.delay().get(10) == "default"
        assert routed.add.delay().get(10) == "shop"
        assert routed.send_letter.apply_async(queue="other").get(10) == "other"


def test_what_is_called_by_its_name_is_routed_by_it() -> None:
    with FastQ(broker="memory://by-name", task_routes="shop.*=shop, *=rest") as app:
        for name in ("shop.add", "shop.sub", "blog.post"):
            app.send_task(name)
        app.send_task("shop.add", queue="other")
        assert {info.name: info.ready for info in app.broker.queues()} == {"shop": 2, "rest": 1, "other": 1}


def test_of_two_queues_with_work_one_has_as_many_turns_as_it_was_named(app: FastQ) -> None:
    for queue in ("a", "b"):
        with app.batch():
            for _ in range(40):
                routed.elsewhere.apply_async(queue=queue)
    subscription = app.broker.subscribe(["a", "b", "a", "a"], 30.0, {})
    came = [subscription.fetch(1, None)[0].queue for _ in range(40)]
    subscription.close()
    assert (came.count("a"), came.count("b")) == (30, 10)


# -- fair queues ------------------------------------


@pytest.fixture
def app(app: FastQ) -> FastQ:
    """The app of the test, with the fair queue that it declares."""
    app.settings = type(app.settings).load({"broker": app.settings.broker, "fair_queues": {"shared": 16}})
    return app


def test_a_call_goes_to_the_share_of_its_key_and_a_retry_stays_there(app: FastQ, start: Start) -> None:
    with start(queues=["shared"]):
        shares = {routed.again.delay("acme").get(10) for _ in range(5)}
        assert len(shares) == 1
        assert shares.pop().startswith("shared:fair-")
        assert routed.of_nobody.delay().get(10)


def test_one_who_weighs_more_has_more_shares(app: FastQ) -> None:
    with app.batch():
        for _ in range(200):
            routed.work.delay("big")
    assert len(app.broker.queues()) == 4


def test_fair_by_without_a_fair_queue_is_an_error_that_says_how(app: FastQ) -> None:
    with pytest.raises(ConfigurationError, match=r"routed\.work has fair_by: its queue takes fair_queues={'mail': 16}"):
        routed.work.apply_async(("acme",), queue="mail")
