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
from fastq.errors import AppImportError, PoolError
from fastq.failure import Failure
from fastq.message import Message
from fastq.outcome import Outcome, State
from fastq.pool import Ended, Manifest
from fastq.pools.brake import Brake
from fastq.pools.lane import Lane
from fastq.pools.prefork import PreforkPool, _plans
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
print("up", flush=True)
time.sleep(60)
"""


def test_children_do_not_outlive_a_killed_parent() -> None:
    """Row 3."""
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


@pytest.mark.parametrize("working", [True, False])
def test_a_pool_gives_up_a_template_that_dies_again_and_again_before_anything_has_ended(working: bool) -> None:
    pool = PreforkPool("fastq.testing.sample:app")
    pool.load()
    pool.start(1)

    def lose_a_template() -> None:
        template = pool._template
        assert template is not None
        os.kill(template._process.pid, signal.SIGKILL)
        while pool._template is template:
            pool.collect(None)

    try:
        for ticket in range(1, 7):
            if not working and ticket == 6:
                with pytest.raises(PoolError, match="died 6 times in a row"):
                    lose_a_template()
                return
            lose_a_template()
            if working:
                assert pool.submit(ticket, frame(sample.echo, ticket))
                eventually(lambda: pool.collect(time.monotonic() + 0.1), 30)
    finally:
        pool.stop(time.monotonic() + 1)


_CROWDED = """
import os
from fastq.testing.sample import app

def fork(fork=os.fork, refusals=iter(range(4))):
    if next(refusals, None) is not None:
        raise BlockingIOError(11, "Resource temporarily unavailable")
    return fork()

os.fork = fork
"""


@pytest.mark.parametrize("kind", ["prefork", "threads"])
def test_a_fork_that_fails_is_tried_again_and_costs_nothing_else(kind: str, tmp_path: Path) -> None:
    """Row 51."""
    (tmp_path / "crowded.py").write_text(_CROWDED)
    pool = PreforkPool("crowded", folder=str(tmp_path), overrides={"pool": kind})
    pool.load()
    pool.start(1)
    try:
        assert pool.submit(1, frame(sample.echo, 7))
        ended: list[Ended] = []
        give_up = time.monotonic() + 30
        while not ended:
            ended = pool.collect(give_up)
            assert time.monotonic() < give_up
        assert [(each.ticket, Outcome.decode(each.outcome).body) for each in ended] == [(1, b"7")]
        assert pool._template_deaths == 0
    finally:
        pool.stop(time.monotonic() + 1)


_CRAMPED = """
import resource
from fastq import FastQ

app = FastQ("cramped", broker="memory://")

@app.task
def much():
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    return "x" * 10_000_000

@app.task
async def much_later():
    return much()
"""


@pytest.mark.parametrize("kind", ["prefork", "threads", "asyncio"])
@pytest.mark.parametrize("task", ["much", "much_later"])
def test_an_outcome_for_which_there_is_no_room_is_a_failure_and_costs_no_child(
    kind: str, task: str, tmp_path: Path
) -> None:
    (tmp_path / "cramped.py").write_text(_CRAMPED)
    message = Message(_speedups.new_id(), f"cramped.{task}", "default", b"[[],{}]")
    pool = PreforkPool("cramped", folder=str(tmp_path), overrides={"pool": kind})
    pool.load()
    pool.start(1)
    try:
        assert pool.submit(1, message.encode(), lane=len(pool.lanes) - 1 if task == "much_later" else 0)
        ended: list[Ended] = []
        give_up = time.monotonic() + 30
        while not ended:
            ended = pool.collect(give_up)
            assert time.monotonic() < give_up
        (end,) = ended
        outcome = Outcome.decode(end.outcome)
        assert (end.death, outcome.id, outcome.state) == ("", message.id, State.FAILURE)
        assert "for which there is no room" in Failure.decode(outcome.body).message
    finally:
        pool.stop(time.monotonic() + 1)


@pytest.mark.skipif(_speedups.body != "c", reason="only the compiled channel has memory that a child could damage")
@pytest.mark.parametrize("seed", range(8))
def test_a_pool_whose_shared_memory_was_damaged_begins_afresh_and_loses_nothing(seed: int) -> None:
    """Row 17."""
    dice = random.Random(seed)
    pool = PreforkPool("fastq.testing.sample:app")
    pool.load()
    pool.start(2)
    try:
        region = pool._lanes[0].channel.fds()[0]
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


@pytest.mark.parametrize(("kind", "children"), [("prefork", 4095), ("threads", 1023), ("asyncio", 1000)])
def test_a_pool_has_as_many_seats_as_a_channel_can_have_and_says_what_is_too_many(kind: str, children: int) -> None:
    settings = {"pool": kind, "async_concurrency": 100, "autoscale_max": 0}
    for number in (children, 1):
        (plan,) = _plans(Manifest("app", settings), number, 2000)
        assert plan.most >= number
        Lane(0, plan, lambda order: None).channel.close()
    with pytest.raises(PoolError, match="4095"):
        Lane(0, _plans(Manifest("app", settings), 4096, 2000)[0], lambda order: None)
