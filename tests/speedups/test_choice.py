"""Which bodies run, and how a process is told."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from .amqp_bodies import link_class
from .crew import body

TELL = (
    "from fastq import _speedups as s; print(s.body, s.reason, s.Channel.__module__, s.pack_call.__module__, sep='|')"
)
HIDE = "import sys; sys.modules['fastq._speedups.channel_c'] = None; "


def told(wish: str, program: str = TELL) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "FASTQ_SPEEDUPS": wish},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_nought_refuses_the_compiled_bodies() -> None:
    assert told("0").stdout == "python|FASTQ_SPEEDUPS=0|fastq._speedups.channel_py|fastq._speedups.frames_py\n"


def test_one_requires_the_compiled_bodies() -> None:
    body("c", "channel")
    assert told("1").stdout == "c|FASTQ_SPEEDUPS=1|fastq._speedups.channel_c|fastq._speedups.frames_c\n"


def test_without_a_wish_they_are_used_where_they_are() -> None:
    body("c", "channel")
    assert told("").stdout.startswith("c|they are built|")


def test_one_says_what_is_missing() -> None:
    failed = told("1", HIDE + TELL)
    assert "FASTQ_SPEEDUPS=1 asks for the compiled bodies" in failed.stderr
    assert "channel_c" in failed.stderr


def test_it_is_all_or_nothing() -> None:
    answer = told("", HIDE + TELL).stdout.split("|")
    assert answer[0] == "python"
    assert "channel_c" in answer[1]
    assert answer[2:] == ["fastq._speedups.channel_py", "fastq._speedups.frames_py\n"]


@pytest.mark.parametrize("wish", ["2", "yes"])
def test_another_wish_is_refused(wish: str) -> None:
    assert "it takes 0 (Python), 1 (compiled) or nothing" in told(wish).stderr


AMQP = "from fastq import _speedups as s; print(s.body, *s.amqp_body(), s.AmqpLink.__module__, sep='|')"
HIDE_AMQP = "import sys; sys.modules['fastq._speedups.amqp_c'] = None; "


def test_nought_refuses_the_compiled_amqp_link_too() -> None:
    assert told("0", AMQP).stdout == "python|python|FASTQ_SPEEDUPS=0|fastq._speedups.amqp_py\n"


@pytest.mark.parametrize("wish", ["1", ""])
def test_the_compiled_amqp_link_is_used_where_it_is(wish: str) -> None:
    body("c", "channel")
    link_class("c")
    assert told(wish, AMQP).stdout == "c|c|it is built|fastq._speedups.amqp_c\n"


@pytest.mark.parametrize("wish", ["1", ""])
def test_an_amqp_link_that_is_not_built_leaves_the_others_compiled(wish: str) -> None:
    body("c", "channel")
    answer = told(wish, HIDE_AMQP + AMQP).stdout
    assert answer.startswith("c|python|the one on rabbitmq-c can't be loaded: ")
    assert answer.endswith("|fastq._speedups.amqp_py\n")


def test_the_version_says_so_where_amqp_has_another_body_than_the_rest() -> None:
    body("c", "channel")
    link_class("c")
    version = "from fastq.cli import main; main(['--version'])"
    assert "AMQP" not in told("1", version).stdout
    assert "; for AMQP the Python body: the one on rabbitmq-c can't be loaded" in told("1", HIDE_AMQP + version).stdout
