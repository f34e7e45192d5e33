"""What the benchmark tasks leave behind, in any contender's worker: how many ran, and when.

A run is counted in a shared file, in a slot of the thread's own, without a lock or a write: some 0.2 µs, the
same for every contender. Threads whose ids differ by a multiple of the number of slots would share one; those
of one worker are near each other.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from pathlib import Path
from threading import get_ident

SLOTS = 4096
FOLDER = Path(os.environ["BENCH_FOLDER"])

_counts, _times = FOLDER / "counts", FOLDER / "times"
_log = os.open(FOLDER / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for _path in (_counts, _times):
    if not _path.exists():
        _path.write_bytes(bytes(8 * SLOTS))
with _counts.open("r+b") as _file:
    _slots = memoryview(mmap.mmap(_file.fileno(), 8 * SLOTS)).cast("Q")
with _times.open("r+b") as _file:
    _latest = memoryview(mmap.mmap(_file.fileno(), 8 * SLOTS)).cast("d")


_mine: dict[int, int] = {}  # this process's threads, and their slots
os.register_at_fork(after_in_child=_mine.clear)


def _slot() -> int:
    thread = get_ident()
    if thread not in _mine:
        _mine[thread] = threading.get_native_id() % SLOTS
    return _mine[thread]


def ran() -> None:
    """Count one run."""
    _slots[_slot()] += 1


def ran_now() -> None:
    """Count one run, and note that it was the latest of its thread."""
    _latest[_slot()] = time.monotonic()
    ran()


def gathered(values: int) -> None:
    """Note that what follows so many tasks was begun, and how long after the latest of them; count it."""
    now = time.monotonic()
    os.write(_log, f"gathered {now - max(_latest)} {values}\n".encode())
    ran()


def began() -> None:
    """Note that a long task runs in this process."""
    os.write(_log, f"began {os.getpid()} {time.monotonic()}\n".encode())


def ended() -> None:
    """Note that a long task has ended, and count it."""
    os.write(_log, f"ended {os.getpid()} {time.monotonic()}\n".encode())
    ran()


def waited(sent: float) -> None:
    """Note how long after `sent`, by the machine's monotonic clock, a task was begun, and count it."""
    os.write(_log, f"waited {time.monotonic() - sent} 0\n".encode())
    ran()


def count() -> int:
    """Return how many runs were counted."""
    return sum(_slots)


def notes(kind: str) -> list[float]:
    """Return the first figures of all notes of a kind."""
    lines = (FOLDER / "log").read_text().splitlines()
    return [float(line.split()[1]) for line in lines if line.startswith(kind)]


def last_note(kind: str) -> float:
    """Return the time of the last note of a kind."""
    lines = (FOLDER / "log").read_text().splitlines()
    return max(float(line.split()[2]) for line in lines if line.startswith(kind))


def forget_notes() -> None:
    """Delete the notes."""
    os.truncate(FOLDER / "log", 0)
