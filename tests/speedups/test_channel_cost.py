"""What a payload costs: system calls in a busy pool, and memory over many."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .crew import Crew, body

BUSY_POOL = textwrap.dedent(
    """
    import os, select, sys
    from fastq._speedups.channel_c import Channel, Seat

    def serve(child):
        seat = Seat(channel.fds(), child)
        while True:
            taken = seat.get(0) or seat.get()
            sum(range(1000))  # one that has nothing to do is faster than the parent, sleeps, and has to be woken
            seat.end(*taken)

    channel = Channel(2, 1000)
    for child in (0, 1):
        if not os.fork():
            try:
                serve(child)
            except EOFError:
                os._exit(0)
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    payload, put, ended, count = bytes(200), 0, 0, int(sys.argv[1])
    while ended < count:
        while put < count and channel.put(put + 1, payload):
            put += 1
        poll.poll()
        ended += len(channel.take())
    channel.stop()
    os.wait(), os.wait()
    """
)


def system_calls(report: Path, count: int) -> int:
    command = ["strace", "-f", "-c", "-o", str(report), sys.executable, "-c", BUSY_POOL, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        pytest.skip(f"strace does not work here: {done.stderr[-200:]}")
    total = re.search(r"^100\.00 +\S+ +\S* +(\d+) .*total$", report.read_text(), re.MULTILINE)
    assert total, report.read_text()
    return int(total[1])


def test_a_busy_pool_makes_fifty_system_calls_in_a_thousand_payloads_at_most(tmp_path: Path) -> None:
    body("c", "channel")
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    idle = system_calls(tmp_path / "idle", 1)
    # Where others take the CPU from the parent, the children find the queue empty: then the pool was not busy.
    counts = (system_calls(tmp_path / f"busy-{run}", 50_001) for run in range(5))
    assert any((busy - idle) / 50 <= 50 for busy in counts)


def settle(pool: Crew, count: int) -> None:
    put = ended = 0
    while ended < count:
        while put < count and pool.channel.put(put + 1, b"x" * 300):
            put += 1
        assert pool.wait()
        ended += len(pool.channel.take())


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("count", [20_000, pytest.param(1_000_000, marks=[pytest.mark.soak, pytest.mark.timeout(300)])])
def test_payloads_leave_no_memory_and_no_descriptors_behind(crew: Callable[..., Crew], count: int) -> None:
    pool = crew(2, 200)
    settle(pool, 5_000)
    memory, files = resident(), len(os.listdir("/proc/self/fd"))
    settle(pool, count)
    assert resident() - memory < 1 << 20
    assert len(os.listdir("/proc/self/fd")) == files


def test_frames_leave_no_memory_behind(frames: Any) -> None:
    call = (b"i" * 16, "shop.add", "default", b"[]" * 500, 1, 0, 5, 10, 20, 30, 40, 1, 0, b"extra")

    def work(count: int) -> None:
        for _ in range(count):
            frames.unpack_call(frames.pack_call(*call))
            try:
                frames.unpack_call(b"rubbish" * 20)
            except ValueError:
                pass

    work(2_000)
    before = resident()
    work(20_000)
    assert resident() - before < 1 << 20
