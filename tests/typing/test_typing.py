"""The user API under mypy --strict: what is wrong is reported, and what is right keeps its types."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

CALLS = Path(__file__).with_name("calls.py")
ROOT = CALLS.parents[2]


@pytest.fixture(scope="module")
def reports() -> dict[int, list[str]]:
    """What mypy says, by line."""
    command = [
        sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context", "--no-pretty",
        "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache"), str(CALLS),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.stderr
    assert done.returncode == 1, "there are errors to be found"
    found: dict[int, list[str]] = {}
    for line in done.stdout.splitlines():
        match = re.fullmatch(r"tests/typing/calls\.py:(\d+): (error|note): (.*)", line)
        assert match, line
        if match[2] == "error":
            found.setdefault(int(match[1]), []).append(match[3])
    return found


LINES = CALLS.read_text("utf-8").splitlines()
EXPECTED = {number: line.partition("  # E: ")[2] for number, line in enumerate(LINES, 1) if "  # E: " in line}


@pytest.mark.parametrize("number", EXPECTED, ids=lambda number: LINES[number - 1].partition("  #")[0])
def test_mypy_reports_the_mistake(number: int, reports: dict[int, list[str]]) -> None:
    (said,) = reports[number]

    assert said.startswith(EXPECTED[number])


def test_mypy_is_silent_everywhere_else(reports: dict[int, list[str]]) -> None:
    assert {number: said for number, said in reports.items() if number not in EXPECTED} == {}
