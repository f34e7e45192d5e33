"""Which bodies run, and how a process is told."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

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
