"""The ledger: what producers and tasks did, as they wrote it themselves, whatever became of their processes."""

from __future__ import annotations

import os
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from fastq._speedups import new_id
from fastq.current import current_task
from fastq.result import AsyncResult
from fastq.task import Task

#: What is written: by producers before and behind the sending of a call, by tasks at their beginning and their end.
ATTEMPTED, ACCEPTED, START, END = "attempted", "accepted", "start", "end"


class Line(NamedTuple):
    """What somebody wrote. `at` is in seconds of the monotonic clock, which the processes of a host share."""

    id: str
    word: str
    pid: int
    attempt: int = 1
    at: float = 0.0


class Ledger:
    """A file with a line for each thing that was done: ``ID WORD PID ATTEMPT SECONDS``.

    Any process may write, whatever it is written in: a batch of lines is one write to the end of the file, so none is
    torn, and what was written stays though the writer be killed.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    # -- writing ------------------------------------------------------------------------------------

    def write(self, word: str, ids: Iterable[str], attempt: int = 1) -> None:
        """Write a word about some tasks."""
        behind = f"{word} {os.getpid()} {attempt} {time.monotonic():.6f}\n"
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, "".join(f"{id} {behind}" for id in ids).encode())
        finally:
            os.close(file)

    def note(self, word: str) -> None:
        """Write a word about the task whose code calls this. Raises RuntimeError outside of one."""
        self.write(word, [current_task.id], current_task.attempt)

    @contextmanager
    def sending(self, ids: Sequence[str]) -> Iterator[None]:
        """Note that calls are attempted and, unless an error leaves the block, that they were accepted."""
        self.write(ATTEMPTED, ids)
        yield
        self.write(ACCEPTED, ids)

    def send(self, task: Task[..., Any], arguments: Iterable[Sequence[Any]]) -> list[AsyncResult[Any]]:
        """Call a task with each of some lists of arguments, in one batch, and note it. Raises what sending raises."""
        calls = [(str(uuid.UUID(bytes=new_id())), args) for args in arguments]
        with self.sending([id for id, _ in calls]), task.app.batch():
            return [task.apply_async(args, task_id=id) for id, args in calls]

    # -- reading ------------------------------------------------------------------------------------

    def read(self) -> Iterator[Line]:
        """Yield what was written up to now, in the order in which it was written."""
        if not self.path.exists():
            return
        with self.path.open() as file:
            for row in file:
                id, word, pid, attempt, at = row.split()
                yield Line(id, word, int(pid), int(attempt), float(at))

    def lines(self) -> list[Line]:
        """Return what was written up to now, in the order in which it was written."""
        return list(self.read())

    def starts(self) -> Counter[str]:
        """Return how often each task began."""
        return self._count(START)

    def ends(self) -> Counter[str]:
        """Return how often each task came to its end."""
        return self._count(END)

    def processes(self) -> Mapping[str, Sequence[int]]:
        """Return in which processes each task began, in order."""
        found: dict[str, list[int]] = defaultdict(list)
        for line in self.read():
            if line.word == START:
                found[line.id].append(line.pid)
        return found

    def _count(self, word: str) -> Counter[str]:
        return Counter(line.id for line in self.read() if line.word == word)
