"""Every example runs, with a worker that was started as its first line says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.terminal import environment, worker

EXAMPLES = Path(__file__).parent.parent / "examples"
WITHOUT_WORKER = {"standard_library"}  # which brings its own, and has tests of its own


@pytest.mark.parametrize(
    "example", sorted(each for each in EXAMPLES.glob("*.py") if each.stem not in WITHOUT_WORKER), ids=lambda x: x.stem
)
def test_an_example_runs(example: Path, tmp_path: Path) -> None:
    (tmp_path / example.name).write_text(example.read_text("utf-8"))
    with worker("-A", example.stem, folder=tmp_path):
        ended = subprocess.run(
            [sys.executable, example.name], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip()
