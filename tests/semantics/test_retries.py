"""Retries: a task that asks for another attempt gets it, under its own id, and as often as it may."""

from __future__ import annotations

import time

import pytest

from fastq import FastQ, State
from fastq.errors import MaxRetriesExceeded, TaskError
from tests.apps import retries
from tests.ledger import eventually
from tests.semantics.conftest import Start

APP = "tests.apps.retries"


def test_a_task_that_asks_for_it_is_tried_again(start: Start) -> None:
    with start():
        assert retries.third_time_lucky.delay().get(10) == 3
        assert retries.later.delay().get(10) == 2


def test_while_it_waits_for_another_attempt_it_is_in_retry_and_in_its_queue(app: FastQ, start: Start) -> None:
    with start():
        result = retries.third_time_lucky.delay(countdown=600)
        eventually(lambda: result.state is State.RETRY)
        eventually(lambda: [(info.delayed, info.leased) for info in app.broker.queues()] == [(1, 0)])
    assert not result.ready()
    assert result.result is None


def test_after_the_last_retry_the_error_comes_back_as_itself(start: Start) -> None:
    with start():
        result = retries.never.delay()
        with pytest.raises(KeyError, match="shelf"):
            result.get(10)
        with pytest.raises(MaxRetriesExceeded, match="was tried 1 times"):
            retries.not_once.delay().get(10)


def test_exceptions_that_are_named_lead_to_a_retry_and_their_exceptions_do_not(start: Start) -> None:
    with start():
        assert retries.by_itself.delay("network").get(10) == 3
        result = retries.by_itself.delay("file")
        with pytest.raises(FileNotFoundError):
            result.get(10)


def test_an_early_task_is_tried_again_too(app: FastQ, start: Start) -> None:
    with start():
        assert retries.early.delay().get(10) == 6
    assert app.broker.depth("default") == 0


def test_a_retry_comes_not_before_its_time(start: Start) -> None:
    with start():
        began = time.time()
        assert retries.third_time_lucky.delay(countdown=0.3).get(10) == 3
        assert time.time() - began >= 0.6


def test_a_retry_survives_its_worker(app: FastQ, start: Start) -> None:
    with start():
        result = retries.third_time_lucky.delay(countdown=1)
        eventually(lambda: result.state is State.RETRY)
    with start():
        assert result.get(10) == 3


def test_here_and_now_it_is_tried_again_without_waiting() -> None:
    assert retries.third_time_lucky.apply(kwargs={"countdown": 600}).get() == 3
    with pytest.raises(KeyError):
        retries.never.apply().get()


def test_outside_of_a_task_there_is_nothing_to_retry() -> None:
    with pytest.raises(TaskError, match="No task is running here"):
        retries.third_time_lucky.retry()
