"""The audit: which processes, descriptors and shared memory there are, and which of them outlived their owners."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_SHARED = Path("/dev/shm")  # noqa: S108 - looked at, not written to


class Process(NamedTuple):
    """A process as the kernel lists it."""

    pid: int
    state: str  # a letter: R running, S sleeping, T stopped, Z a zombie …
    parent: int
    session: int


def processes() -> Iterator[Process]:
    """Yield all processes that there are."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (found := _process(int(entry.name))) is not None:
            yield found


def alive(pid: int) -> bool:
    """Return whether a process lives; a zombie does not."""
    found = _process(pid)
    return found is not None and found.state != "Z"


def children_of(pid: int) -> list[int]:
    """Return the pids of the living children of a process."""
    return [child for child in _children(pid) if alive(child)]


def family(pid: int) -> list[int]:
    """Return a process, if it lives, and all that descend from it."""
    return [pid, *(each for child in _children(pid) for each in family(child))] if alive(pid) else []


def descriptors(pid: int) -> dict[int, str]:
    """Return the open descriptors of a process, and what they are of."""
    found: dict[int, str] = {}
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):  # it was closed meanwhile, as that of this folder is
                found[int(entry.name)] = str(entry.readlink())
    return found


def resident_mb(pid: int) -> float:
    """Return the resident set of a process, in MB of 2^20 bytes; 0.0 if it is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    return 0.0


@dataclass
class Audit:
    """Knows what there was before, and the sessions of the processes that are to leave nothing behind.

    Make it before they start, `include` each of them while it lives, and ask for what is `left` when they have ended.
    """

    folder: Path | None = None  # whose files count too

    def __post_init__(self) -> None:
        self._sessions: set[int] = set()
        self._pids: set[int] = set()
        self._shared = _names(_SHARED)
        self._files = _names(self.folder)

    def include(self, pid: int) -> None:
        """Remember a process, those that descend from it, and the sessions that they lead."""
        for each in family(pid):
            self._pids.add(each)
            found = _process(each)
            if found is not None and found.session == each:
                self._sessions.add(each)

    def zombies(self) -> list[int]:
        """Return those of the processes that have ended, and whose parents have not asked how."""
        return [it.pid for it in processes() if it.state == "Z" and self._is_ours(it)]

    def left(self, *expected: str) -> list[str]:
        """Return what is left, in words; `expected` are names of files that may be there."""
        ours = [it for it in processes() if self._is_ours(it)]
        found = [f"process {it.pid} ({it.state})" for it in ours if it.state != "Z" or it.parent != 1]  # init's to reap
        found += [f"shared memory {name}" for name in _names(_SHARED) - self._shared]
        found += [f"file {name}" for name in _names(self.folder) - self._files - set(expected)]
        return found

    def _is_ours(self, process: Process) -> bool:
        return process.pid in self._pids or process.session in self._sessions


def _process(pid: int) -> Process | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return Process(pid, fields[0], int(fields[1]), int(fields[3]))


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return found


def _names(folder: Path | None) -> set[str]:
    return {entry.name for entry in folder.iterdir()} if folder is not None and folder.is_dir() else set()
