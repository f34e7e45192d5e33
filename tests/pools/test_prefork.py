"""What is the prefork pool's own: how it brakes a crash loop, and how it speaks of deaths."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastq import _speedups
from fastq.errors import AppImportError
from fastq.outcome import Outcome
from fastq.pools.brake import Brake
from fastq.pools.prefork import PreforkPool
from fastq.pools.template_process import describe
from fastq.testing import sample
from fastq.testing.pools import frame
from tests.ledger import alive, children_of, eventually


def test_the_first_deaths_in_a_row_are_replaced_at_once_and_the_next_ever_later() -> None:
    brake = Brake()
    delays = [brake.delay_after_death(0) for _ in range(12)]
    assert delays[:3] == [0, 0, 0]
    assert delays[3:6] == pytest.approx([0.1, 0.2, 0.4])
    assert delays[-1] == 5.0


def test_a_child_that_ended_something_lets_the_brake_go() -> None:
    brake = Brake()
    for _ in range(8):
        brake.delay_after_death(0)
    brake.forgive({1})
    assert brake.delay_after_death(1) == 0
    assert brake.delay_after_death(0) == 0


@pytest.mark.parametrize(
    ("status", "words"),
    [(9, "was killed by SIGKILL"), (139, "was killed by SIGSEGV"), (3 << 8, "exited with status 3")],
)
def test_deaths_are_told_in_words(status: int, words: str) -> None:
    assert describe(status) == words


def test_an_app_that_kills_the_importing_process_is_an_import_error(tmp_path: Path) -> None:
    (tmp_path / "deadly.py").write_text("import os\nos.kill(os.getpid(), 11)\n")
    pool = PreforkPool("deadly", folder=str(tmp_path))
    with pytest.raises(AppImportError, match="killed by SIGSEGV"):
        pool.load()
    pool.stop(time.monotonic())


def test_an_app_that_exits_on_import_is_an_import_error(tmp_path: Path) -> None:
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit('no')\n")
    pool = PreforkPool("leaving", folder=str(tmp_path))
    with pytest.raises(AppImportError, match="SystemExit"):
        pool.load()
    pool.stop(time.monotonic())


_PARENT = """
import sys, time
from fastq.pools.prefork import PreforkPool
pool = PreforkPool("fastq.testing.sample:app")
pool.load()
pool.start(2)
while len(pool._pids) < 2:
    pool.collect(time.monotonic() + 0.1)
print("up", flush=True)
time.sleep(60)
"""


def test_children_do_not_outlive_a_killed_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        (template,) = children_of(parent.pid)
        family = [template, *children_of(template)]
        assert len(family) == 3
        parent.kill()
        parent.wait()
        eventually(lambda: not any(map(alive, family)), 5)


def test_children_do_not_outlive_a_killed_template() -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        (template,) = children_of(parent.pid)
        children = children_of(template)
        os.kill(template, signal.SIGKILL)
        eventually(lambda: not any(map(alive, children)), 5)
        parent.kill()


@pytest.mark.skipif(_speedups.body != "c", reason="only the compiled channel has memory that a child could damage")
@pytest.mark.parametrize("seed", range(8))
def test_a_pool_whose_shared_memory_was_damaged_begins_afresh_and_loses_nothing(seed: int) -> None:
    dice = random.Random(seed)
    pool = PreforkPool("fastq.testing.sample:app")
    pool.load()
    pool.start(2)
    try:
        assert pool._channel is not None
        region = pool._channel.fds()[0]
        frames = {ticket: frame(sample.echo, ticket) for ticket in range(1, 1001)}
        left, ended, give_up = list(frames.items()), [], time.monotonic() + 30
        while len(ended) < len(frames):
            while left and pool.submit(*left[0]):
                del left[0]
            os.pwrite(region, dice.randbytes(64), dice.randrange(0, 64_000, 64))
            ended += pool.collect(give_up)
            assert time.monotonic() < give_up
        assert sorted(each.ticket for each in ended) == sorted(frames)
        assert all(each.death or Outcome.decode(each.outcome).body == b"%d" % each.ticket for each in ended)
    finally:
        pool.stop(time.monotonic())
