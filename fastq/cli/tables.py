"""Tables for people, whose cells may come from anywhere: what they say can't steer the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import click

from fastq.worker.logs import escape

if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def printing() -> Iterator[Console]:
    """Give a console whose output is printed at the end, without spaces at the ends of lines."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 500  # a pipe has no edge to wrap at
    with console.capture() as shown:
        yield console
    click.echo("\n".join(line.rstrip() for line in shown.get().splitlines()))


def print_table(console: Console, title: str, names: Sequence[str], sides: str, rows: Sequence[Sequence[str]]) -> None:
    """Print a table; `sides` has an l or an r for each column, and a capital for one whose cells are never broken."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if not rows:
        console.print(f"\n{title}: none", style="bold")
        return
    console.print(f"\n{title}", style="bold")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name, side in zip(names, sides, strict=True):
        justify: Literal["left", "right"] = "right" if side in "rR" else "left"
        table.add_column(name, justify=justify, overflow="fold", no_wrap=side.isupper())
    for row in rows:
        table.add_row(*(Text(escape(cell)) for cell in row))
    console.print(table)


def duration(seconds: float) -> str:
    """Return a span of time for people."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
