"""Failpoints: read as they are written or refused, and fired where, in whom and as often as is said."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastq import FastQ, failpoints
from fastq.errors import ConfigurationError
from fastq.failpoints import Failpoint
from fastq.testing.faults import Failures


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    role = failpoints.role
    yield
    failpoints.arm("")
    failpoints.enter(role)


def hits(point: str, count: int) -> int:
    """Hit a point so often; return how often it failed."""
    failed = 0
    for _ in range(count):
        try:
            failpoints.hit(point)
        except RuntimeError:
            failed += 1
    return failed


def in_a_fork(what: Callable[[], None]) -> int:
    """Return the exit code of a process that does something."""
    pid = os.fork()
    if pid == 0:
        try:
            what()
        finally:
            os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# -- how they are written -------------------------------------------------------------------------------


def test_a_list_is_read() -> None:
    assert failpoints.parse("P8=kill9:once:child, P12=sleep(0.5):0.1:parent,*=raise") == [
        Failpoint("P8", "kill9", once=True, role="child"),
        Failpoint("P12", "sleep", seconds=0.5, chance=0.1, role="parent"),
        Failpoint("*", "raise"),
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("P8", "an entry is like P8=kill9:once:child"),
        ("P99=kill9", "names 'P99'; did you mean"),
        ("P8=kil9", "did you mean 'kill9'"),
        ("P8=sleep", "sleep takes seconds"),
        ("P8=kill9(3)", "sleep takes seconds, and nothing else does"),
        ("P8=sleep(1.2.3)", "which is no number"),
        ("P8=kill9:twice", "'twice' in 'P8=kill9:twice'; it takes once, a probability"),
        ("P8=kill9:1.5", "it takes once, a probability"),
        ("P8=kill9:0", "it takes once, a probability"),
        ("P8=kill9:once", "`once` takes a folder in FASTQ_FAILPOINTS_DIR"),
    ],
)
def test_what_can_not_be_meant_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        failpoints.arm(text)
    assert complaint in str(caught.value)


def test_a_worker_with_nonsense_in_its_environment_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("from fastq import FastQ\napp = FastQ('shop')\n")
    done = subprocess.run(
        [sys.executable, "-m", "fastq", "worker"], cwd=tmp_path, env={**os.environ, "FASTQ_FAILPOINTS": "P3=explode"},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "FASTQ_FAILPOINTS has the action 'explode'" in done.stderr


# -- when they fire -------------------------------------------------------------------------------------


def test_without_a_word_nothing_is_armed() -> None:
    assert not failpoints.on


def test_only_the_point_that_is_meant_fires() -> None:
    failpoints.arm("P4=raise")
    assert (hits("P4", 3), hits("P5", 3)) == (3, 0)


def test_only_the_role_that_is_meant_is_hit() -> None:
    failpoints.arm("P4=raise:child")
    failpoints.enter("parent")
    assert hits("P4", 3) == 0
    failpoints.enter("child")
    assert hits("P4", 3) == 3


def test_once_is_once_for_all_processes(tmp_path: Path) -> None:
    failures = Failures(tmp_path / "failures", "P4=kill9:once")
    failures.arm()
    codes = [in_a_fork(lambda: failpoints.hit("P4")) for _ in range(3)]
    assert codes == [-signal.SIGKILL, 7, 7]
    (fired,) = failures.fired()
    assert (fired.point, fired.action, fired.role) == ("P4", "kill9", failpoints.role)
    assert fired.at <= time.monotonic()


def test_a_probability_is_drawn_by_the_seed() -> None:
    def drawn(seed: str) -> list[int]:
        failpoints.arm("P4=raise:0.3", seed=seed)
        return [hits("P4", 1) for _ in range(200)]

    assert drawn("1") == drawn("1") != drawn("2")
    assert 30 < sum(drawn("1")) < 90


def test_processes_that_follow_one_another_draw_otherwise(tmp_path: Path) -> None:
    failures = Failures(tmp_path / "failures", "P4=kill9:0.5", seed=4)
    codes = []
    for _ in range(12):
        failures.arm()
        codes.append(in_a_fork(lambda: failpoints.hit("P4")))
    assert set(codes) == {-signal.SIGKILL, 7}


def test_a_star_is_a_quarter_of_the_points_by_the_seed() -> None:
    def chosen(seed: str) -> list[str]:
        failpoints.arm("*=raise", seed=seed)
        return [point for point in failpoints.POINTS if hits(point, 1)]

    assert chosen("3") == chosen("3")
    counts = [len(chosen(str(seed))) for seed in range(50)]
    assert 2.5 < sum(counts) / len(counts) < 6


# -- what they do ---------------------------------------------------------------------------------------


def test_a_process_that_is_stopped_goes_on_when_it_is_told_to(tmp_path: Path) -> None:
    failpoints.arm("P4=stop")
    pid = os.fork()
    if pid == 0:
        failpoints.hit("P4")
        os._exit(3)
    assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
    os.kill(pid, signal.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3


def test_a_process_leaves_with_success() -> None:
    failpoints.arm("P4=exit0")
    assert in_a_fork(lambda: failpoints.hit("P4")) == 0


def test_a_disk_is_full() -> None:
    failpoints.arm("P4=enospc")
    with pytest.raises(OSError, match="says the failpoint P4") as caught:
        failpoints.hit("P4")
    assert caught.value.errno == errno.ENOSPC


def test_a_sleep_sleeps() -> None:
    failpoints.arm("P4=sleep(0.05)")
    began = time.monotonic()
    failpoints.hit("P4")
    assert time.monotonic() - began >= 0.05


def test_an_app_looks_at_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failpoints, "_armed", None)
    monkeypatch.setattr(failpoints, "on", True)
    monkeypatch.setenv("FASTQ_FAILPOINTS", "P0=never")
    with pytest.raises(ConfigurationError, match="'never'"):
        FastQ("shop")
