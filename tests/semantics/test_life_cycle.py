"""The life of a worker's processes: what an app does when they begin and end."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fastq.errors import AppImportError, PoolError
from fastq.pools.prefork import PreforkPool
from fastq.pools.solo import SoloPool
from tests.apps import around
from tests.ledger import eventually
from tests.semantics.conftest import ROOT, Start

APP = "tests.apps.around"


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The ledger that the app writes to."""
    path = tmp_path / "ledger"
    path.touch()
    monkeypatch.setenv("LEDGER", str(path))
    return path


def pids(lines: Path, word: str) -> list[int]:
    return [int(line.split()[1]) for line in lines.read_text().splitlines() if line.startswith(f"{word} ")]


@pytest.mark.processes
def test_each_process_says_when_it_begins_and_when_it_ends(start: Start, lines: Path) -> None:
    with start(concurrency=2) as worker:
        assert around.echo.delay(1).get(10) == 1
        eventually(lambda: len(pids(lines, "child-start")) >= 2)
        worker.stop()
    assert len(pids(lines, "worker-start")) == 1
    assert sorted(pids(lines, "child-stop")) == sorted(pids(lines, "child-start"))
    assert not set(pids(lines, "worker-start")) & set(pids(lines, "child-start"))


@pytest.mark.processes
def test_a_child_that_cannot_begin_is_tried_again(
    start: Start, lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REFUSE", "child")
    monkeypatch.setenv("GATE", str(tmp_path / "gate"))
    with start():
        result = around.echo.delay(1)
        eventually(lambda: len(pids(lines, "refused")) >= 3)
        (tmp_path / "gate").touch()
        assert result.get(20) == 1
    assert "OSError: no database" in capfd.readouterr().err


@pytest.mark.parametrize("kind", [PreforkPool, SoloPool])
def test_a_worker_that_cannot_begin_says_why(
    lines: Path, monkeypatch: pytest.MonkeyPatch, kind: type[PreforkPool | SoloPool]
) -> None:
    monkeypatch.setenv("REFUSE", "worker")
    pool = kind(f"{APP}:app", folder=ROOT)
    with pytest.raises(AppImportError, match="on_worker_start failed: OSError: no database") as caught:
        pool.load()
    pool.stop(time.monotonic())
    assert "in worker_starts" in caught.value.traceback


def test_the_one_process_of_a_solo_pool_begins_and_ends_as_both(lines: Path) -> None:
    pool = SoloPool(f"{APP}:app", folder=ROOT)
    pool.load()
    pool.start(1)
    pool.stop(time.monotonic() + 20)
    pool.stop(time.monotonic())
    words = [line.split()[0] for line in lines.read_text().splitlines()]
    assert words == ["worker-start", "child-start", "child-stop"]


def test_a_solo_pool_that_cannot_begin_says_why(lines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFUSE", "child")
    monkeypatch.setenv("GATE", "nowhere")
    pool = SoloPool(f"{APP}:app", folder=ROOT)
    pool.load()
    with pytest.raises(PoolError, match="on_child_start failed: OSError: no database"):
        pool.start(1)
    pool.stop(time.monotonic())
