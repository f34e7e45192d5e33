"""``fastq status``: queues and workers in numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from fastq.cli import options
from fastq.systems import mask
from fastq.worker.logs import escape

if TYPE_CHECKING:
    from rich.console import Console

    from fastq.broker import QueueInfo, WorkerInfo


@click.command(short_help="Show queues and workers in numbers.")
@options.as_json
@options.where
def command(as_json: bool, app: str | None, folder: str, broker: str | None, backend: str | None) -> int:
    """Show what waits in the queues, and which workers are alive."""
    with options.client(app, folder, broker, backend) as client:
        url = mask(client.settings.broker)
        queues, workers = client.broker.queues(), client.broker.workers()
    if as_json:
        seen = {
            "broker": url,
            "queues": [queue._asdict() for queue in queues],
            "workers": [{**worker._asdict(), "about": dict(worker.about)} for worker in workers],
        }
        click.echo(json.dumps(seen))
    else:
        _show(url, queues, workers)
    return 0


def _show(url: str, queues: Iterable[QueueInfo], workers: Iterable[WorkerInfo]) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 500  # a pipe has no edge to wrap at
    with console.capture() as shown:
        _print(console, url, queues, workers)
    click.echo("\n".join(line.rstrip() for line in shown.get().splitlines()))


def _print(console: Console, url: str, queues: Iterable[QueueInfo], workers: Iterable[WorkerInfo]) -> None:
    console.print(escape(url), style="dim")
    _table(
        console, "Queues", ("queue", "ready", "delayed", "leased", "dead", "oldest"), "lrrrrr",
        [(q.name, f"{q.ready:,}", f"{q.delayed:,}", f"{q.leased:,}", f"{q.dead:,}",
          _duration(q.oldest_age_s) if q.ready else "") for q in queues],
    )  # fmt: skip
    _table(
        console, "Workers", ("app", "host", "pid", "children", "queues", "lease left"), "llrrlr",
        [(*(w.about.get(key, "") for key in ("app", "host", "pid", "children")),
          w.about.get("queues", "").replace(",", ", "), _duration(w.lease_left_s)) for w in workers],
    )  # fmt: skip


def _table(console: Console, title: str, names: tuple[str, ...], sides: str, rows: list[tuple[str, ...]]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if not rows:
        console.print(f"\n{title}: none", style="bold")
        return
    console.print(f"\n{title}", style="bold")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name, side in zip(names, sides, strict=True):
        table.add_column(name, justify="right" if side == "r" else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(escape(cell)) for cell in row))
    console.print(table)


def _duration(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
