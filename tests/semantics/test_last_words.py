"""Last words: a dead letter says how the process died that ran it, with how much memory, and where its code was."""

from __future__ import annotations

import re

import pytest

from fastq import FastQ
from fastq.broker import DeadLetter
from fastq.errors import DeadLettered, TaskLost
from fastq.pools.last_words import LastWords, heart_of
from tests.apps import poison
from tests.semantics.conftest import Start

pytestmark = pytest.mark.parametrize("url", ["sqlite"], indirect=True)  # what is shown here is no matter of the system
APP = "tests.apps.poison"


def letter_of(app: FastQ) -> DeadLetter:
    (letter,) = app.broker.dead_letters("default", 9)
    return letter


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_the_reason_of_a_dead_letter_has_the_stack_of_the_crash(app: FastQ, start: Start, pool: str) -> None:
    with start(max_deliveries=2, pool=pool), pytest.raises(DeadLettered, match="read_nothing"):
        poison.segfault.delay().get(20)
    first, *stack = letter_of(app).reason.split("\n")
    assert re.fullmatch(r"crash 2 of 2: its process was killed by SIGSEGV, having had up to \d+ MB", first)
    assert stack[0] == "Fatal Python error: Segmentation fault"
    assert stack[1].startswith("Current thread 0x")
    assert any(line.endswith("in read_nothing") and "tests/apps/poison.py" in line for line in stack)
    assert len(letter_of(app).reason) < 2_200


def test_a_coroutine_that_crashes_its_process_has_last_words(app: FastQ, start: Start) -> None:
    with start(max_deliveries=1), pytest.raises(DeadLettered, match=r"SIGABRT(?s:.*)in abort_later"):
        poison.abort_later.delay().get(20)


def test_an_early_task_that_is_lost_has_last_words(start: Start) -> None:
    with start(), pytest.raises(TaskLost, match=r"was killed by SIGABRT(?s:.*)in abort"):
        poison.abort.delay().get(20)


def test_a_process_that_took_too_much_memory_shows_how_much(app: FastQ, start: Start) -> None:
    with start(max_deliveries=1), pytest.raises(DeadLettered):
        poison.swell.delay(200).get(20)
    found = re.fullmatch(
        r"crash 1 of 1: its process was killed by SIGKILL, having had up to (\d+) MB", letter_of(app).reason
    )
    assert found
    assert 200 < int(found[1]) < 1_000


def test_a_process_that_leaves_by_itself_shows_its_status(app: FastQ, start: Start) -> None:
    with start(max_deliveries=1), pytest.raises(DeadLettered, match="its process exited with status 3"):
        poison.leave.delay().get(20)


def test_what_a_task_writes_there_is_bounded_and_escaped(app: FastQ, start: Start) -> None:
    with start(max_deliveries=1), pytest.raises(DeadLettered):
        poison.forge.delay().get(20)
    reason = letter_of(app).reason
    assert r"Fatal Python error: \x1b[2J\xff" in reason
    assert len(reason) < 2_200
    assert reason.replace("\n", "").isprintable()


def test_a_task_can_ask_how_often_it_has_killed_its_process(start: Start) -> None:
    with start():
        assert poison.second_thoughts.delay().get(20) == 1


def test_nothing_is_told_of_a_child_that_wrote_nothing(url: str) -> None:
    words = LastWords()
    words.expect(1)
    assert (words.of(1), words.of(1), words.of(2)) == ("", "", "")
    assert heart_of(b"\n\nThread 0x1 (most recent call first):\n  File ...\n\nExtension modules: x") == ""


def test_beyond_some_hundreds_children_have_no_last_words(url: str) -> None:
    words = LastWords()
    for number in range(300):
        words.expect(number)
    assert len(words._files) == 256
    for number in range(300):
        assert words.of(number) == ""
