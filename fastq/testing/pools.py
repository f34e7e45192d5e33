"""The conformance suite of the pool contract: subclass it, and give it a pool.

>>> class TestMyPool(PoolConformance):
...     def make_pool(self, app, folder):
...         return MyPool(app, folder=folder)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastq.errors import AppImportError, AppNotFound, PoolError
from fastq.outcome import Outcome, State
from fastq.pool import Ended, Pool
from fastq.testing import sample

_PATIENCE_S = 20.0


class PoolConformance:
    """What every pool does. The pools under test run `fastq.testing.sample` with two children."""

    #: Whether the pool survives its tasks: those that kill their process, and those that are killed.
    survives_death = True
    #: Whether each task has its process to itself, so that no other is broken off with it.
    isolates = True
    #: How many of two tasks run at once.
    at_once = 2

    def make_pool(self, app: str, folder: str) -> Pool:
        """Return a new pool that is not loaded yet. To be overridden."""
        raise NotImplementedError("a subclass gives the pool")

    @pytest.fixture
    def pool(self) -> Iterator[Pool]:
        """A pool that runs."""
        pool = self.make_pool("fastq.testing.sample:app", ".")
        pool.load()
        pool.start(2)
        yield pool
        pool.stop(time.monotonic())

    # -- loading ---------------------------------------------------------------------------

    def test_loading_says_what_is_in_the_app(self) -> None:
        pool = self.make_pool("fastq.testing.sample:app", ".")
        manifest = pool.load()
        pool.stop(time.monotonic())
        assert manifest.app == "sample"
        assert manifest.settings["broker"] == "memory://sample"
        assert set(manifest.tasks) == set(sample.app.tasks)
        assert manifest.tasks["fastq.testing.sample.die"].ack == "early"

    def test_an_app_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        pool = self.make_pool("no_such_module:app", str(tmp_path))
        with pytest.raises(AppNotFound, match="no_such_module"):
            pool.load()
        pool.stop(time.monotonic())

    def test_an_app_that_raises_on_import_shows_its_own_traceback(self, tmp_path: Path) -> None:
        (tmp_path / "broken_app.py").write_text("def deep():\n    return 1 / 0\ndeep()\n")
        pool = self.make_pool("broken_app", str(tmp_path))
        with pytest.raises(AppImportError, match="ZeroDivisionError") as caught:
            pool.load()
        pool.stop(time.monotonic())
        assert "in deep" in caught.value.traceback
        assert "importlib" not in caught.value.traceback

    # -- running ------------------------------------------------------------------------------

    def test_every_ticket_comes_back_once_with_its_outcome(self, pool: Pool) -> None:
        ended = run(pool, {ticket: frame(sample.echo, ticket) for ticket in range(1, 501)})
        assert sorted(each.ticket for each in ended) == list(range(1, 501))
        assert all(Outcome.decode(each.outcome).body == b"%d" % each.ticket for each in ended)
        assert pool.collect(time.monotonic()) == []

    def test_an_exception_is_an_outcome(self, pool: Pool) -> None:
        (ended,) = run(pool, {1: frame(sample.fail, "no stock")})
        assert Outcome.decode(ended.outcome).state is State.FAILURE

    def test_large_messages_pass_both_ways(self, pool: Pool) -> None:
        text = "x" * 3_000_000
        (ended,) = run(pool, {1: frame(sample.echo, text)})
        assert len(Outcome.decode(ended.outcome).body) == len(text) + 2

    def test_no_ticket_waits_behind_a_long_task_while_a_child_is_idle(self, pool: Pool, tmp_path: Path) -> None:
        if self.at_once < 2:
            pytest.skip("this pool runs one task at a time")
        gate = tmp_path / "gate"
        submit(pool, {1: frame(sample.wait_for, str(gate))})
        ended = run(pool, {ticket: frame(sample.echo, 0) for ticket in range(2, 102)})
        assert sorted(each.ticket for each in ended) == list(range(2, 102))
        gate.touch()
        assert [each.ticket for each in collect(pool, 1)] == [1]

    def test_what_runs_is_known(self, pool: Pool, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        began = time.monotonic()
        submit(pool, {7: frame(sample.wait_for, str(gate))})
        wait_until(lambda: [run.ticket for run in pool.running()] == [7])
        (running,) = pool.running()
        assert began - 0.01 <= running.since <= time.monotonic()
        gate.touch()
        (ended,) = collect(pool, 1)
        assert Outcome.decode(ended.outcome).body == b"%d" % running.pid
        wait_until(lambda: not pool.running())

    def test_a_pool_without_room_says_so_and_takes_nothing(self, pool: Pool, tmp_path: Path) -> None:
        """Row 50."""
        gate = tmp_path / "gate"
        accepted = 0
        while pool.submit(accepted + 1, frame(sample.wait_for, str(gate))):
            accepted += 1
            assert accepted < 100_000
        gate.touch()
        ended = collect(pool, accepted)
        assert sorted(each.ticket for each in ended) == list(range(1, accepted + 1))

    # -- collecting --------------------------------------------------------------------------------

    def test_collecting_ends_at_the_deadline(self, pool: Pool) -> None:
        deadline = time.monotonic() + 0.05
        while time.monotonic() < deadline:
            assert pool.collect(deadline) == []

    def test_an_interrupt_ends_collecting_even_if_it_came_before(self, pool: Pool) -> None:
        collect_until_quiet(pool)
        pool.interrupt()
        assert pool.collect(None) == []
        timer = threading.Timer(0.05, pool.interrupt)
        timer.start()
        assert pool.collect(None) == []
        timer.join()

    # -- taking back and breaking off ------------------------------------------------------------------

    def test_what_has_not_begun_can_be_taken_back(self, pool: Pool, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        submit(pool, {ticket: frame(sample.wait_for, str(gate)) for ticket in range(1, 11)})
        wait_until(lambda: len(pool.running()) == self.at_once)
        running = {run.ticket for run in pool.running()}
        assert sorted([*pool.withdraw(), *running]) == list(range(1, 11))
        gate.touch()
        assert {each.ticket for each in collect(pool, self.at_once)} == running
        assert pool.collect(time.monotonic()) == []

    def test_a_killed_ticket_comes_back_as_broken_off(self, pool: Pool, tmp_path: Path) -> None:
        if not self.survives_death:
            pytest.skip("this pool can't break anything off")
        submit(pool, {1: frame(sample.wait_for, str(tmp_path / "never"))})
        wait_until(lambda: bool(pool.running()))
        pool.kill([1])
        (ended,) = collect(pool, 1)
        assert (ended.ticket, ended.outcome) == (1, b"")
        assert ended.death
        assert len(run(pool, {2: frame(sample.echo, 2)})) == 1

    def test_who_is_broken_off_along_with_another_is_blameless(self, pool: Pool, tmp_path: Path) -> None:
        if not self.survives_death:
            pytest.skip("this pool can't break anything off")
        gate = tmp_path / "gate"
        submit(pool, {ticket: frame(sample.wait_for, str(gate)) for ticket in (1, 2)})
        wait_until(lambda: len(pool.running()) == 2)
        pool.kill([1])
        (killed, *others) = sorted(collect(pool, 1 if self.isolates else 2))
        assert (killed.ticket, killed.outcome, killed.blameless) == (1, b"", False)
        assert [(each.ticket, each.outcome, each.blameless) for each in others] == [(2, b"", True)] * len(others)
        gate.touch()
        if self.isolates:
            assert [(each.ticket, bool(each.outcome)) for each in collect(pool, 1)] == [(2, True)]
        assert len(run(pool, {3: frame(sample.echo, 3)})) == 1

    def test_a_kill_that_comes_too_late_for_one_ticket_blames_no_other(self, pool: Pool) -> None:
        if not self.survives_death:
            pytest.skip("this pool can't break anything off")
        left = {ticket: frame(sample.echo, ticket) for ticket in range(1, 2001)}
        killed: set[int] = set()
        ended: list[Ended] = []
        give_up = time.monotonic() + 3 * _PATIENCE_S
        while len(ended) < 2000:
            while left and pool.submit(min(left), left[min(left)]):
                del left[min(left)]
            if len(killed) < 12 and len(ended) > 100 * len(killed) and (running := pool.running()):
                killed.add(running[0].ticket)
                pool.kill([running[0].ticket])
            ended += pool.collect(give_up)
            assert time.monotonic() < give_up
        assert sorted(each.ticket for each in ended) == list(range(1, 2001))
        assert all(each.blameless or each.ticket in killed for each in ended if each.death)

    def test_a_death_breaks_off_one_ticket_and_disturbs_no_other(self, pool: Pool) -> None:
        if not self.survives_death:
            pytest.skip("this pool does not survive the death of a task's process")
        if not self.isolates:
            pytest.skip("this pool runs several tasks in a process")
        frames = {n: frame(sample.echo, n) if n % 20 else frame(sample.die) for n in range(1, 101)}
        ended = run(pool, frames)
        assert sorted(each.ticket for each in ended) == list(range(1, 101))
        assert sorted(each.ticket for each in ended if not each.outcome) == [20, 40, 60, 80, 100]
        assert all("SIGKILL" in each.death for each in ended if not each.outcome)

    def test_a_death_breaks_off_what_its_process_ran_and_loses_nothing_else(self, pool: Pool) -> None:
        if not self.survives_death:
            pytest.skip("this pool does not survive the death of a task's process")
        ended = run(pool, {n: frame(sample.echo, n) if n % 20 else frame(sample.die) for n in range(1, 101)})
        assert sorted(each.ticket for each in ended) == list(range(1, 101))
        assert {20, 40, 60, 80, 100} <= {each.ticket for each in ended if each.death}

    # -- size -----------------------------------------------------------------------------------------------

    def test_a_pool_grows_and_shrinks(self, pool: Pool, tmp_path: Path) -> None:
        if self.at_once < 2:
            pool.resize(1)
            with pytest.raises(PoolError, match="one task at a time"):
                pool.resize(2)
            return
        pool.resize(4)
        gates = [tmp_path / "first", tmp_path / "second"]
        submit(pool, {ticket: frame(sample.wait_for, str(gates[0])) for ticket in range(1, 7)})
        wait_until(lambda: bool(pool.collect(time.monotonic()) or len(pool.running()) == 4))
        assert pool.lanes[0] == 4
        pool.resize(1)
        gates[0].touch()
        assert len(collect(pool, 6)) == 6
        settle(pool)
        submit(pool, {ticket: frame(sample.wait_for, str(gates[1])) for ticket in (7, 8, 9)})
        wait_until(lambda: bool(pool.running()))
        assert len(pool.withdraw()) == 2
        gates[1].touch()
        assert len(collect(pool, 1)) == 1
        with pytest.raises(PoolError, match="can't have 5000"):
            pool.resize(5000)

    # -- stopping -------------------------------------------------------------------------------------------

    def test_a_quiet_pool_lets_what_runs_end(self, pool: Pool, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        submit(pool, {1: frame(sample.wait_for, str(gate))})
        wait_until(lambda: bool(pool.running()))
        pool.quiet()
        pool.quiet()
        gate.touch()
        assert [bool(each.outcome) for each in collect(pool, 1)] == [True]
        pool.stop(time.monotonic() + _PATIENCE_S)
        pool.stop(time.monotonic())

    def test_what_runs_is_told_by_when_it_is_to_end(self, pool: Pool) -> None:
        submit(pool, {1: frame(sample.wait_to_be_told)})
        wait_until(lambda: bool(pool.running()))
        pool.quiet(time.monotonic() + _PATIENCE_S)
        (ended,) = collect(pool, 1)
        assert 0 < float(Outcome.decode(ended.outcome).body) <= _PATIENCE_S

    def test_what_can_be_interrupted_leaves_without_an_outcome_and_without_blame(self, pool: Pool) -> None:
        submit(pool, {1: frame(sample.wait_for_ever)})
        wait_until(lambda: bool(pool.running()))
        pool.quiet(time.monotonic() + _PATIENCE_S)
        (ended,) = collect(pool, 1)
        assert (ended.ticket, ended.outcome, ended.blameless) == (1, b"", True)
        assert ended.death

    def test_the_processes_of_a_pool_say_where_they_are(self, pool: Pool) -> None:
        assert all(isinstance(text, str) for text in pool.stacks().values())


# -- steps ------------------------------------------------------------------------------------------------


def frame(task: object, *args: object) -> bytes:
    """Return the frame of a call of one of the sample's tasks."""
    assert hasattr(task, "_call")
    encoded: bytes = task._call(args, None).message(sample.app.settings).encode()
    return encoded


def submit(pool: Pool, frames: dict[int, bytes]) -> None:
    """Hand frames over, all of which have room."""
    for ticket, each in frames.items():
        assert pool.submit(ticket, each)


def run(pool: Pool, frames: dict[int, bytes]) -> list[Ended]:
    """Hand frames over as there is room, and collect as many ends."""
    left = list(frames.items())
    ended: list[Ended] = []
    give_up = time.monotonic() + _PATIENCE_S
    while len(ended) < len(frames):
        while left and pool.submit(*left[0]):
            del left[0]
        ended += pool.collect(give_up)
        assert time.monotonic() < give_up, f"{len(frames) - len(ended)} tickets did not come back"
    return ended


def collect(pool: Pool, count: int) -> list[Ended]:
    """Collect `count` ends."""
    give_up = time.monotonic() + _PATIENCE_S
    ended: list[Ended] = []
    while len(ended) < count:
        ended += pool.collect(give_up)
        assert time.monotonic() < give_up, f"{count - len(ended)} tickets did not come back"
    return ended


def settle(pool: Pool) -> None:
    """Let those leave that are too many: an idle one notices within a second or so."""
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        assert pool.collect(deadline) == []


def collect_until_quiet(pool: Pool) -> None:
    """Let the news of the pool's start come in."""
    run(pool, {1: frame(sample.echo, 0), 2: frame(sample.echo, 0)})
    deadline = time.monotonic() + 0.05
    while time.monotonic() < deadline:
        pool.collect(deadline)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    give_up = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up, "it never came true"
        time.sleep(0.002)
