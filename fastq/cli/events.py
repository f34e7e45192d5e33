"""``fastq events``: watch what becomes of tasks and workers."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

import click

from fastq.cli import options
from fastq.cli.tables import duration
from fastq.worker.logs import escape

if TYPE_CHECKING:
    from fastq.events import Event

_COLOURS = {
    "succeeded": "green", "failed": "red", "lost": "red", "retried": "yellow", "revoked": "yellow", "started": "cyan",
    "dropped": "red",
}  # fmt: skip


@click.command(short_help="Watch what becomes of tasks and workers.")
@click.option("-k", "--kind", "kinds", multiple=True, metavar="KIND", help="Only this kind: failed, say. Repeatable.")
@click.option("-t", "--task", default="", metavar="PATTERN", help="Only of these tasks: shop.add, or 'shop.*'.")
@click.option("-q", "--queue", default="", metavar="NAME", help="Only of this queue.")
@click.option("--worker", default="", metavar="NAME", help="Only what this worker reports.")
@click.option("--id", default="", metavar="ID", help="Only of this task.")
@click.option("--from-start", is_flag=True, help="Begin with what was kept, some thousands.")
@click.option("--timeout", type=float, metavar="S", help="End when there was nothing for so many seconds.")
@options.as_json
@options.where
def command(
    kinds: tuple[str, ...], task: str, queue: str, worker: str, id: str, from_start: bool, timeout: float | None,
    as_json: bool, app: str | None, folder: str, broker: str | None, backend: str | None,
) -> int:  # fmt: skip
    """Follow the events that workers and callers report which have the setting events, as with `fastq worker -E`.

    A line for people at a terminal, a JSON object a line in a pipe, or with --json.
    """
    for_people = sys.stdout.isatty() and not as_json
    chosen = {"task": task, "queue": queue, "worker": worker, "id": id}
    with (
        options.client(app, folder, broker, backend) as client,
        client.events(kinds, **chosen, from_start=from_start, timeout=timeout) as events,
    ):
        if for_people:  # who waits in vain is to know why
            click.secho("Listening to workers and callers that have the setting events; ^C ends it", dim=True, err=True)
        for event in events:
            click.echo(_line(event) if for_people else json.dumps(_named(event)))
    return 0


def _named(event: Event) -> dict[str, object]:
    return {name: value for name, value in event._asdict().items() if value or name == "kind"}


def _line(event: Event) -> str:
    when = time.strftime("%H:%M:%S", time.localtime(event.at))
    what, _, happened = event.kind.partition("-")
    parts = [f"{when}.{int(event.at % 1 * 1000):03d}", click.style(f"{happened:9}", fg=_COLOURS.get(happened))]
    if what == "task":
        parts.append(escape(f"{event.task}[{event.id}]"))
        if event.attempt > 1:
            parts.append(f"attempt {event.attempt}")
        if event.runtime_s:
            short = f"{event.runtime_s * 1000:.3g} ms"
            parts.append(f"in {short if event.runtime_s < 1 else duration(event.runtime_s)}")
        if event.queue and happened in ("sent", "received"):
            parts.append(f"in {escape(event.queue)}")
    elif what == "worker":
        parts.append(escape(event.worker))
        counts = {name: event.numbers[name] for name in ("running", "reserved", "processed") if name in event.numbers}
        parts.append(escape(", ".join(f"{value} {name}" for name, value in counts.items())))
    else:
        parts.append(escape(f"{event.numbers.get('count', '?')} events, by {event.worker or 'a caller'}"))
    if event.detail:
        parts.append(click.style(escape(event.detail), fg=_COLOURS.get(happened)))
    return " ".join(parts)
