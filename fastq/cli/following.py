"""How a task is followed until it ends: a bar on a terminal, and a line for each change in a pipe; on stderr."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import click

from fastq.errors import ResultTimeout
from fastq.worker.logs import escape

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.outcome import Outcome
    from fastq.progress import Progress

_LOOK_EVERY_S = 0.2


def follow(app: FastQ, id: str, timeout: float | None) -> Outcome:
    """Show the progress of a task until it has ended. Raises ResultTimeout, and NotSupported where none is kept."""
    key = uuid.UUID(id).bytes
    deadline = None if timeout is None else time.monotonic() + timeout
    shown: Progress | None = None
    with closing(app.backend.watch()) as watch, _display() as show:
        ended = watch.add([key])
        while True:
            progress = app.result(id).progress
            if progress is not None and progress != shown:
                show(progress)
                shown = progress
            if ended:
                return ended[0]
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                raise ResultTimeout(f"Task {id} has not ended within {timeout:g} s; it may still")
            ended = watch.listen(min(now + _LOOK_EVERY_S, deadline or now + _LOOK_EVERY_S))


@contextmanager
def _display() -> Iterator[Callable[[Progress], None]]:
    from rich import progress as rich
    from rich.console import Console
    from rich.table import Column

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _line
        return
    rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # a long note is cut, and not the figures before it
    note = rich.TextColumn("{task.description}", markup=False, table_column=rest)
    columns = (rich.BarColumn(24), rich.MofNCompleteColumn(), rich.TaskProgressColumn(), rich.TimeElapsedColumn(), note)
    with rich.Progress(*columns, console=console, expand=True) as bar:
        row = bar.add_task("", total=None)
        yield lambda it: bar.update(row, completed=it.done, total=it.total, description=escape(it.note))


def _line(progress: Progress) -> None:
    of = "" if progress.total is None else f"/{progress.total:g}"
    click.echo(f"{progress.done:g}{of} {escape(progress.note)}".rstrip(), err=True)
