"""Stacks of pool children: where each of their threads is, written down at a signal, though all of Python hangs."""

from __future__ import annotations

import faulthandler
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_SIGNAL = signal.SIGUSR2
_NAME = "fastq-stacks"
_PATIENCE_S = 0.5  # for all of them together
_LOOK_S = 0.01


def prepare() -> None:
    """In a child: write the stacks of all threads, when asked, into a file in memory that the parent finds in /proc.

    Elsewhere than on Linux they go to stderr.
    """
    signal.signal(_SIGNAL, signal.SIG_IGN)  # until all is ready
    with suppress(OSError, ValueError, AttributeError):
        if hasattr(os, "memfd_create"):
            file = os.memfd_create(_NAME)
            fcntl.fcntl(file, fcntl.F_SETFL, os.O_APPEND)  # the parent empties it
            faulthandler.register(_SIGNAL, file)
        else:
            faulthandler.register(_SIGNAL, sys.stderr)


def stacks_of(pids: Iterable[int]) -> dict[int, str]:
    """Ask children where they are; who does not say so in half a second, because it is stopped, say, is left out."""
    files = {pid: file for pid in pids if (file := _file_of(pid)) is not None}
    try:
        for pid in files:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, _SIGNAL)
        return _written(files)
    finally:
        for file in files.values():
            os.close(file)


def is_stopped(pid: int) -> bool:
    """Return whether a process was stopped by a signal; one that a debugger has stopped is not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("latin-1")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] == "T"


def _file_of(pid: int) -> int | None:
    """Open the file of a child, empty; None if it has none: then it is no child of ours any more, or never was."""
    with suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            if f"memfd:{_NAME}" in str(link.readlink()):
                file = os.open(link, os.O_RDWR | os.O_CLOEXEC)
                os.truncate(file, 0)
                return file
    return None


def _written(files: dict[int, int]) -> dict[int, str]:
    """Return what children have written, once there is nothing to come."""
    give_up = time.monotonic() + _PATIENCE_S
    sizes = dict.fromkeys(files, 0)
    while time.monotonic() < give_up:
        time.sleep(_LOOK_S)
        before, sizes = sizes, {pid: os.fstat(file).st_size for pid, file in files.items()}
        if all(sizes.values()) and sizes == before:
            break
    texts = {pid: os.pread(file, sizes[pid], 0) for pid, file in files.items()}
    return {pid: text.decode("ascii", "backslashreplace").strip() for pid, text in texts.items() if text}
