"""Options of tasks about limits, uniqueness and fair shares: what can't be is an error where it is written."""

from __future__ import annotations

from typing import Any

import pytest

from fastq import FastQ
from fastq.errors import ConfigurationError
from fastq.message import Message
from fastq.pool import TaskInfo
from fastq.state import Limit


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rate_limit": "often"}, "rate_limit is 'often'; it takes a number, a slash and a unit: '10/s', '100/m'"),
        ({"rate_limit": "0/s"}, "rate_limit is '0/s'"),
        ({"rate_limit": "-1/s"}, "rate_limit is '-1/s'"),
        ({"rate_limit": "1.5/s"}, "rate_limit is '1.5/s'"),
        ({"rate_limit": "10/w"}, "rate_limit is '10/w'"),
        ({"rate_limit": ""}, "rate_limit is ''"),
        ({"max_concurrency": 0}, "max_concurrency is 0; it takes 1 to 1,000,000"),
        ({"max_concurrency": True}, "max_concurrency is True"),
        ({"max_concurrency": "5"}, "max_concurrency is '5'"),
        ({"limit_by": "tenant"}, "limit_by keeps limits apart: say rate_limit or max_concurrency, too"),
        ({"limit_by": 5, "max_concurrency": 1}, "limit_by is 5; it takes the names of arguments"),
        ({"limit_by": "tenat", "max_concurrency": 1}, "limit_by names 'tenat', .* did you mean 'tenant'"),
        ({"unique": "tenat"}, "unique names 'tenat', which is no argument of"),
        ({"unique": 5}, "unique is 5; it takes the names of arguments"),
        ({"unique_for": 5}, "unique_for and on_duplicate are for unique tasks: say unique='args', too"),
        ({"on_duplicate": "reject"}, "unique_for and on_duplicate are for unique tasks"),
        ({"unique": "args", "unique_for": 0}, "unique_for is 0; it takes seconds, more than 0"),
        ({"unique": "args", "on_duplicate": "replce"}, "on_duplicate is 'replce'; did you mean 'replace'"),
        ({"unique": "args", "on_duplicate": "debounce"}, "on_duplicate='debounce' waits for unique_for seconds"),
        ({"fair_by": "tenat"}, "fair_by names 'tenat'"),
        ({"fair_weights": {"a": 2}}, "fair_weights is for those whom fair_by tells apart"),
        (
            {"fair_by": "tenant", "fair_weights": {"a": 0}},
            "fair_weights is {'a': 0}; it takes weights, 1 to 100, by key",
        ),
        ({"fair_by": "tenant", "fair_weights": {"a": 101}}, "fair_weights is"),
        ({"fair_by": "tenant", "fair_weights": ["a"]}, "fair_weights is"),
    ],
    ids=repr,
)
def test_an_option_that_can_not_be_is_an_error_that_says_what_can(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):

        @FastQ().task(**options)
        def task(tenant: str) -> None: ...


@pytest.mark.parametrize(
    ("rate", "limit"),
    [
        ("10/s", Limit("", 10, 1.0)),
        ("100 / m", Limit("", 100, 60.0)),
        ("1000/h", Limit("", 1000, 3600.0)),
        ("5/d", Limit("", 5, 86_400.0)),
        ("7", Limit("", 7, 1.0)),
    ],
)
def test_a_rate_is_so_many_in_a_second_a_minute_an_hour_or_a_day(rate: str, limit: Limit) -> None:
    @FastQ().task(name="shop.add", rate_limit=rate)
    def add() -> None: ...

    assert add.info.limits == (limit._replace(key="task:shop.add"),)


def test_what_a_worker_has_to_know_of_a_task_without_options_is_nothing() -> None:
    @FastQ().task(name="shop.add")
    def add() -> None: ...

    assert add.info == TaskInfo("shop.add")
    assert add._call((), None).keys is None


def message(task: Any, *args: Any, **options: Any) -> Message:
    made = task._call(args, None, options).message(task.app.settings)
    assert Message.decode(made.encode()).extras == made.extras
    return made


def test_a_message_carries_the_key_that_its_limits_are_kept_apart_by() -> None:
    @FastQ().task(max_concurrency=1, limit_by=["tenant", "number"])
    def bill(tenant: str, number: int = 7) -> None: ...

    assert message(bill, "acme").extras.limit_key == '["acme",7]'
    assert message(bill, "acme", limit_key="vip").extras.limit_key == "vip"
    assert len(message(bill, "two words").extras.limit_key) == 32


def test_a_key_that_limits_can_not_use_is_an_error() -> None:
    @FastQ().task(max_concurrency=1)
    def bill(tenant: str) -> None: ...

    with pytest.raises(ConfigurationError, match="limit_key is for tasks with limit_by, and .*bill has none"):
        bill.apply_async(("acme",), limit_key="vip")


def test_what_a_function_of_the_arguments_raises_comes_to_the_caller() -> None:
    @FastQ().task(max_concurrency=1, limit_by=lambda url: url.split("/")[2])
    def fetch(url: str) -> None: ...

    assert message(fetch, "https://example.org/page").extras.limit_key == "example.org"
    with pytest.raises(IndexError):
        fetch.delay("nowhere")


def test_a_debounced_call_waits_unless_it_says_when() -> None:
    @FastQ().task(unique="page", on_duplicate="debounce", unique_for=60)
    def index(page: str) -> None: ...

    waiting, at_once = message(index, "home"), message(index, "home", countdown=0)
    assert waiting.eta == waiting.enqueued_at + 60_000_000
    assert at_once.eta <= at_once.enqueued_at + 1_000_000
    assert waiting.extras.unique == at_once.extras.unique != message(index, "about").extras.unique
