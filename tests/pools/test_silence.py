"""Children that go silent: they are replaced, and say where they hang; those that are only busy are left alone."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastq import FastQ
from fastq.errors import DeadLettered
from fastq.pools.page import LEAVE, READY
from fastq.pools.stacks import is_stopped, stacks_of
from fastq.pools.template import Template
from fastq.testing.workers import RunningWorker, running_worker
from tests.apps import silent
from tests.hosts import in_memory
from tests.ledger import alive, eventually

ROOT = str(Path(__file__).parents[2])
Start = Callable[..., AbstractContextManager[RunningWorker]]


@pytest.fixture
def app() -> Iterator[FastQ]:
    with in_memory(silent.app) as app:
        yield app


@pytest.fixture
def start(app: FastQ) -> Start:
    def start(**options: Any) -> AbstractContextManager[RunningWorker]:
        return running_worker(app, "tests.apps.silent:app", folder=ROOT, **{"child_silence_s": 0.6, **options})

    return start


@pytest.mark.parametrize("pool", ["prefork", "threads", "asyncio"])
def test_a_child_that_was_stopped_is_replaced(start: Start, pool: str, caplog: pytest.LogCaptureFixture) -> None:
    with start(pool=pool):
        stopped = silent.pid.delay().get(20)
        os.kill(stopped, signal.SIGSTOP)
        eventually(lambda: not alive(stopped), 40)
        assert silent.pid.delay().get(20) != stopped
    assert f"(pid {stopped}) was stopped, and is replaced" in caplog.text


def test_a_child_that_hangs_between_two_tasks_is_replaced_and_says_where(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    with start():
        hanging = silent.leave_a_thread_that_holds_the_gil.delay().get(20)
        eventually(lambda: not alive(hanging), 40)
        assert silent.pid.delay().get(20) != hanging
    assert f"(pid {hanging}) does not answer" in caplog.text
    assert "in hold_it" in caplog.text


def test_a_child_that_is_busy_is_left_alone_whatever_it_does(start: Start) -> None:
    with start():
        before = silent.pid.delay().get(20)
        assert silent.hold_the_gil.delay(2000).get(20) == before
        assert silent.pid.delay().get(20) == before


def test_a_task_that_stops_its_process_is_charged(start: Start) -> None:
    with start(max_deliveries=1), pytest.raises(DeadLettered, match="SIGKILL"):
        silent.stop_myself.delay().get(40)


def test_a_template_tells_who_has_not_answered_since_the_last_time(app: FastQ) -> None:
    control, far = socket.socketpair()
    far.setblocking(False)
    app.settings = replace(app.settings, child_silence_s=100.0)
    template = Template(app, control)
    page = template._page

    def ask(late_s: float = 0.0) -> list[int]:
        """Let a round begin; return who is told to be silent."""
        template._ask_at = time.monotonic() - late_s
        template._ask_children()
        with suppress(BlockingIOError):
            return [json.loads(line)["silent"] for line in far.recv(4096).splitlines()]
        return []

    template._children = {1001: 1, 1002: 2, 1003: 3}
    page.answered[1] = page.answered[2] = READY  # the third is not ready yet
    for _ in range(600):
        assert ask() == []
        page.answered[1], page.answered[2] = page.asked[1], page.asked[2]
    assert page.asked[3] == 0
    assert ask() == []
    page.answered[1] = page.asked[1]
    assert ask() == [2]
    assert ask(late_s=60.0) == []  # all may have been stopped
    assert ask() == [1, 2]
    page.asked[1] = page.asked[2] = LEAVE
    assert ask() == []
    for end in (control, far):
        end.close()
    os.close(template._woken)
    os.close(template._wake)


# -- stacks ------------------------------------------------------------------------------------------


def test_a_child_says_where_it_is_though_it_holds_the_gil(start: Start) -> None:
    with start() as running:
        silent.hold_the_gil.delay(600_000)
        eventually(lambda: any("in hold_the_gil" in text for text in running.worker.stacks().values()))
        assert "Thread fastq-settler:" in running.worker.stacks()[f"worker (pid {os.getpid()})"]


def test_each_time_a_child_says_only_where_it_is_now(start: Start) -> None:
    with start():
        pid = silent.pid.delay().get(20)
        first, second = stacks_of([pid]), stacks_of([pid])
    assert first[pid].count("most recent call first") == second[pid].count("most recent call first")


def test_who_is_stopped_says_nothing_and_who_is_no_child_is_not_asked(start: Start) -> None:
    with start(child_silence_s=0):
        pid = silent.pid.delay().get(20)
        assert not is_stopped(pid)
        os.kill(pid, signal.SIGSTOP)
        try:
            eventually(lambda: is_stopped(pid))
            assert stacks_of([pid, 1]) == {}
        finally:
            os.kill(pid, signal.SIGCONT)
        assert silent.pid.delay().get(20) == pid
