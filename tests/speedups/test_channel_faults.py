"""What the channel survives: dead, stopped, forked and scribbling children, and systems that refuse."""

from __future__ import annotations

import errno
import mmap
import os
import random
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from fastq._speedups import channel_py

from .crew import Crew, body, echo

CrewMaker = Callable[..., Crew]


# -- random deaths ----------------------------------------------------------------------------------------


class Storm:
    """Puts payloads, settles them exactly once, and does harm to children in between."""

    def __init__(self, crew: Crew, seed: int) -> None:
        self.crew = crew
        self.random = random.Random(seed)
        self.out: dict[int, bytes] = {}  # ticket: payload, of all that is not settled
        self.ticket = 0
        self.ended = self.doubtful = self.deaths = 0
        self.again: list[int] = []
        self.stopped: set[int] = set()

    def run(self, harm: Callable[[], None], *, times: int = 1, seconds: float = 0) -> None:
        """Do harm at least so many times and for so long, and settle what is out."""
        end = next_harm = self.settled_at = time.monotonic()
        end += seconds
        while self.out or times > 0 or time.monotonic() < end:
            if times > 0 or time.monotonic() < end:
                self.put_some()
                if time.monotonic() >= next_harm:
                    harm()
                    times -= 1
                    next_harm = time.monotonic() + self.random.random() * 0.006
            else:
                self.go_on()
            self.put_again()
            self.crew.wait(0.05)
            self.settle(self.crew.channel.take())
            stuck = self.out and time.monotonic() - self.settled_at > 10
            assert not stuck, f"{len(self.out)} out, {self.crew.channel.running()}"
        self.go_on()
        assert self.ended + self.doubtful == self.ticket
        assert self.doubtful <= self.deaths

    def put_some(self) -> None:
        for _ in range(30):
            size = 80 if self.random.random() < 0.97 else self.random.choice([0, 16_384, 16_385, 70_000])
            payload = self.random.randbytes(size)
            if not self.crew.channel.put(self.ticket + 1, payload):
                return
            self.ticket += 1
            self.out[self.ticket] = payload

    def put_again(self) -> None:
        while self.again and self.crew.channel.put(self.again[-1], self.out[self.again[-1]]):
            self.again.pop()

    def settle(self, ended: list[tuple[int, int, bytes]]) -> None:
        for _, ticket, outcome in ended:
            assert outcome == self.out.pop(ticket)[::-1]
            self.ended += 1
            self.settled_at = time.monotonic()

    def kill(self) -> None:
        child = self.random.choice(list(self.crew.pids))
        self.crew.kill(child)
        self.stopped.discard(child)
        self.deaths += 1
        burial = self.crew.channel.bury(child)
        self.settle(burial.ended)
        if burial.running:
            del self.out[burial.running]
            self.doubtful += 1
        self.again += burial.unbegun
        self.crew.fork(child)

    def stop_or_go_on(self) -> None:
        child = self.random.choice(list(self.crew.pids))
        if child in self.stopped:
            os.kill(self.crew.pids[child], signal.SIGCONT)
            self.stopped.remove(child)
        elif len(self.stopped) + 1 < len(self.crew.pids):
            os.kill(self.crew.pids[child], signal.SIGSTOP)
            self.stopped.add(child)
        elif self.random.random() < 0.3:
            self.kill()

    def go_on(self) -> None:
        for child in self.stopped:
            os.kill(self.crew.pids[child], signal.SIGCONT)
        self.stopped.clear()


def test_killed_children_leave_every_ticket_ended_once_or_in_doubt(crew: CrewMaker) -> None:
    storm = Storm(crew(3, 200), seed=1)
    storm.run(storm.kill, times=100)
    assert storm.deaths == 100


def test_stopped_children_hold_up_nobody_else(crew: CrewMaker) -> None:
    storm = Storm(crew(3, 200), seed=2)
    if isinstance(storm.crew.channel, channel_py.Channel):
        pytest.skip("a child of the Python body that is stopped with the lock does: its docstring says so")
    storm.run(storm.stop_or_go_on, times=300)


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [11, 12])
def test_a_minute_of_kills(crew: CrewMaker, seed: int) -> None:
    storm = Storm(crew(4, 500), seed)
    storm.run(storm.kill, seconds=60)


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_minute_of_stops_and_kills(crew: CrewMaker) -> None:
    storm = Storm(crew(4, 500), seed=13)
    if isinstance(storm.crew.channel, channel_py.Channel):
        pytest.skip("a child of the Python body that is stopped with the lock does: its docstring says so")
    storm.run(lambda: storm.random.choice([storm.kill, storm.stop_or_go_on, storm.stop_or_go_on])(), seconds=60)


def test_a_sleeper_that_is_stopped_when_it_is_woken_does_not_keep_the_payload_waiting(crew: CrewMaker) -> None:
    pool = crew(2, 10)
    for ticket in (1, 2, 3, 4):
        pool.channel.put(ticket, b"x")
    pool.collect(4)
    time.sleep(0.05)  # both sleep; the lowest is woken first
    os.kill(pool.pids[0], signal.SIGSTOP)
    pool.channel.put(5, b"x")
    before = time.monotonic()
    assert [(child, ticket) for child, ticket, _ in pool.collect(1)] == [(1, 5)]
    assert time.monotonic() - before < 0.5


# -- damage ----------------------------------------------------------------------------------------------------


def damage(file: int, size: int, chance: random.Random, flips: int) -> None:
    with mmap.mmap(file, size) as region:
        for _ in range(flips):
            # Most of the region is payload areas that hold nothing: aim at the front as often as anywhere.
            at = chance.randrange(min(size, 30_000)) if chance.random() < 0.5 else chance.randrange(size)
            region[at] ^= chance.randrange(1, 256)


def ride_out_damage(make: CrewMaker, seed: int) -> bool:
    """Put, damage the region, and settle; True if the damage was found."""
    chance = random.Random(seed)
    pool = make(2, 40)
    file, size = pool.channel.fds()[0], os.fstat(pool.channel.fds()[0]).st_size
    out = {ticket: chance.randbytes(chance.choice([10, 300, 3000])) for ticket in range(1, 400)}
    waiting = list(out)
    settled: list[int] = []
    found = False

    def settle(ended: list[tuple[int, int, bytes]]) -> None:
        for _, ticket, outcome in ended:
            assert outcome == out[ticket][::-1], "damage came through"
            settled.append(ticket)

    deadline = time.monotonic() + 30
    while len(settled) < len(out):
        assert time.monotonic() < deadline, f"stuck with {len(settled)} of {len(out)}, seed {seed}"
        while waiting and pool.channel.put(waiting[-1], out[waiting[-1]]):
            waiting.pop()
        if chance.random() < 0.3 and len(settled) < 300:
            damage(file, size, chance, chance.randrange(1, 200))
        pool.wait(0.02)
        dead = [child for child, pid in pool.pids.items() if os.waitpid(pid, os.WNOHANG)[0]]
        for child in dead:
            del pool.pids[child]
        try:
            for child in dead:
                burial = pool.channel.bury(child)
                settle(burial.ended)
                settled += [burial.running] if burial.running else []
                waiting += burial.unbegun
                pool.fork(child)
            settle(pool.channel.take())
        except BufferError:
            found = True
            for child in list(pool.pids):
                pool.kill(child)
            salvage = pool.channel.rebuild()
            settle(salvage.ended)
            settled += salvage.doubtful
            waiting += salvage.unbegun
            for child in (0, 1):
                pool.fork(child)
    assert sorted(settled) == sorted(out)
    return found


@pytest.mark.parametrize("seeds", [range(25)], ids=["25 seeds"])
def test_a_damaged_region_is_found_and_rebuilt_and_nothing_is_lost(
    crew: CrewMaker, seeds: range, capfd: pytest.CaptureFixture[str]
) -> None:
    """Row 17."""
    body("c", "channel")
    if crew(1, 1).channels is channel_py:
        pytest.skip("the Python body has no region")
    found = [ride_out_damage(crew, seed) for seed in seeds]
    capfd.readouterr()  # children that found the damage first
    assert any(found)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_thousand_damaged_regions(crew: CrewMaker, capfd: pytest.CaptureFixture[str]) -> None:
    if crew(1, 1).channels is channel_py:
        pytest.skip("the Python body has no region")
    for seed in range(1000, 2000):
        ride_out_damage(crew, seed)
    capfd.readouterr()


def test_a_child_that_shrinks_the_shared_memory_is_refused(crew: CrewMaker) -> None:
    pool = crew()
    with pytest.raises(OSError, match="not permitted"):
        os.ftruncate(pool.channel.fds()[0], 0)


# -- tasks that tread on the child -----------------------------------------------------------------------------


def test_a_fork_of_a_child_can_not_speak(crew: CrewMaker) -> None:
    """Row 11."""

    def run(seat: Any) -> None:
        ticket, _ = seat.get()
        pid = os.fork()
        if not pid:
            said = 0
            for call in (lambda: seat.end(ticket, b"stolen"), seat.get):
                try:
                    call()
                except EOFError:
                    said += 1
            os._exit(said)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        seat.end(ticket, b"%d" % code)

    pool = crew(1, 4, run=run)
    pool.channel.put(1, b"x")
    assert pool.collect(1) == [(0, 1, b"2")]


@pytest.mark.parametrize("payload", [b"small", b"large" * 100_000])
def test_a_task_that_closes_every_descriptor_costs_its_child_at_most(crew: CrewMaker, payload: bytes) -> None:
    def run(seat: Any) -> None:
        ticket, _ = seat.get()
        os.closerange(3, 256)
        try:
            seat.end(ticket, payload)
        except OSError as error:
            os._exit(error.errno or 1)

    pool = crew(1, 4, run=run)
    pool.channel.put(1, b"x")
    assert pool.reap(0) == errno.EBADF
    burial = pool.channel.bury(0)
    assert [burial.running] + [ticket for _, ticket, _ in burial.ended] in ([1], [0, 1])
    pool.fork(0, run=echo)
    pool.channel.put(2, b"y")
    assert pool.collect(1)[0][1] == 2


def test_a_file_that_a_task_opens_under_a_descriptor_of_the_channel_is_not_written_to(tmp_path: Any) -> None:
    """Row 12."""
    pool = Crew(body("c", "channel"), 1, 4, run=lambda seat: tread(seat, tmp_path / "own"))
    try:
        pool.channel.put(1, b"x")
        assert pool.reap(0) == errno.EBADF
        assert (tmp_path / "own").read_bytes() == b""
        assert [ticket for _, ticket, _ in pool.channel.bury(0).ended] == [1]
    finally:
        pool.close()


def tread(seat: Any, path: Any) -> None:
    ticket, _ = seat.get()
    own = os.open(path, os.O_CREAT | os.O_RDWR)
    for number in range(3, 64):
        if number != own:
            os.dup2(own, number)
    try:
        seat.end(ticket, b"small")
    except OSError as error:
        os._exit(error.errno or 1)


def test_the_parent_may_have_threads(crew: CrewMaker) -> None:
    """Row 14."""
    pool = crew(2, 100)
    back: list[int] = []
    over = threading.Event()

    def take() -> None:
        while len(back) < 3000 and not over.is_set():
            pool.wait(1)
            back.extend(ticket for _, ticket, _ in pool.channel.take())

    thread = threading.Thread(target=take)
    thread.start()
    try:
        ticket = 1
        while ticket <= 3000:
            ticket += pool.channel.put(ticket, b"x")
            pool.channel.running()
        thread.join(20)
    finally:
        over.set()
        thread.join()
    assert sorted(back) == list(range(1, 3001))


# -- systems that refuse -----------------------------------------------------------------------------------------


def test_without_memfd_a_file_takes_its_place(crew: CrewMaker, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    def forbidden(*_: object) -> int:
        raise PermissionError(errno.EPERM, "seccomp")

    monkeypatch.setattr(os, "memfd_create", forbidden)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    pool = crew()
    for ticket, payload in ((1, b"x"), (2, b"y" * 5_000_000)):
        assert pool.channel.put(ticket, payload)
        assert [back for _, _, back in pool.collect(1)] == [payload]
    assert os.listdir(tmp_path) == []


FULL_DISK = """
import errno, os, tempfile
def forbidden(*_):
    raise PermissionError(errno.EPERM, "seccomp")
os.memfd_create = forbidden
tempfile.tempdir = "{folder}"
from {module} import Channel
try:
    Channel(2, 2000)
except OSError as error:
    assert error.errno == errno.ENOSPC, error
    print("refused")
channel = Channel(1, 4)
try:
    channel.put(1, b"x" * 5_000_000)
except OSError as error:
    assert error.errno == errno.ENOSPC, error
    print("refused")
print(channel.put(2, b"x"), channel.withdraw())
"""


def test_a_full_disk_is_an_error_and_no_signal(channels: ModuleType, tmp_path: Any) -> None:
    """On a small file system in a mount namespace of its own."""
    program = FULL_DISK.format(folder=tmp_path, module=channels.__name__)
    mount = f'mount -t tmpfs -o size=128k none {tmp_path} && exec {sys.executable} -c "$0"'
    command = ["unshare", "--mount", "sh", "-c", mount, program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mount namespace here: {done.stderr}")
    wanted = "refused\nTrue [2]\n" if channels is channel_py else "refused\nrefused\nTrue [2]\n"
    assert done.stdout == wanted, done.stderr


def test_without_descriptors_making_a_channel_is_an_error_that_leaves_nothing(channels: ModuleType) -> None:
    """Row 51."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    try:
        for more in range(1, 5):
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + more, hard))
            with pytest.raises(OSError):
                channels.Channel(1, 4).close()
    except pytest.fail.Exception:
        pass  # this many were enough
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_bell_full_of_rings_wakes_too(crew: CrewMaker) -> None:
    pool = crew(1, 4)
    if isinstance(pool.channel, channel_py.Channel):
        pytest.skip("the Python body has no bell")
    bell = pool.channel.fds()[1]
    while select.select([], [bell], [], 0)[1]:
        os.write(bell, b"!" * 512)
    pool.channel.put(1, b"x")
    assert [ticket for _, ticket, _ in pool.collect(1)] == [1]
