"""The ledger of what tasks did, as they wrote it themselves, and the check that nothing was lost."""

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path


class Ledger:
    """Lines of ``task-id word pid``, in the order they were written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def lines(self) -> list[tuple[str, str, int]]:
        rows = (line.split() for line in self.path.read_text().splitlines())
        return [(id, word, int(pid)) for id, word, pid in rows]

    def starts(self) -> Counter[str]:
        return Counter(id for id, word, _ in self.lines() if word == "start")

    def ends(self) -> Counter[str]:
        return Counter(id for id, word, _ in self.lines() if word == "end")


def eventually(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until a condition holds; fail when it has not within `seconds`."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "it never came true"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Return whether a process lives; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def children_of(pid: int) -> list[int]:
    """Return the pids of the living children of a process."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        text = " ".join(Path(f"/proc/{pid}/task/{each}/children").read_text() for each in tasks)
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [each for each in map(int, text.split()) if alive(each)]
