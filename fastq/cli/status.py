"""``fastq status``: queues and workers in numbers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from fastq.cli import options
from fastq.cli.tables import duration, print_table, printing
from fastq.errors import NotSupported, StateUnavailable
from fastq.systems import mask
from fastq.worker.logs import escape

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.broker import QueueInfo, WorkerInfo


@click.command(short_help="Show queues and workers in numbers.")
@options.as_json
@options.where
def command(as_json: bool, app: str | None, folder: str, broker: str | None, backend: str | None) -> int:
    """Show what waits in the queues, which of them are paused, and which workers are alive."""
    with options.client(app, folder, broker, backend) as client:
        url = mask(client.settings.broker)
        queues, workers = client.broker.queues(), client.broker.workers()
        paused, present = _said(client)
    abouts = [_present_about(worker, present) for worker in workers]
    if as_json:
        seen = {
            "broker": url,
            "queues": [queue._asdict() for queue in queues],
            "paused": paused,
            "workers": [{**worker._asdict(), "about": about} for worker, about in zip(workers, abouts, strict=True)],
        }
        click.echo(json.dumps(seen))
    else:
        _show(url, queues, paused, list(zip(abouts, workers, strict=True)))
    return 0


def _said(client: FastQ) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """Return what the shared state says: which queues are paused since when, and what workers say of themselves."""
    try:
        return client.control.paused(), client.control.workers()
    except NotSupported:
        pass
    except StateUnavailable as error:
        click.echo(f"Which queues are paused is not known: {escape(str(error))}", err=True)
    return {}, {}


def _present_about(worker: WorkerInfo, present: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """Return what a worker says of itself; its queues, as they are now."""
    about = dict(worker.about)
    if said := present.get(about.get("name", "")):
        about["queues"] = ",".join(said["queues"])
        about["children"] = str(said["children"])
    return about


def _show(
    url: str, queues: Sequence[QueueInfo], paused: Mapping[str, float],
    workers: Iterable[tuple[Mapping[str, str], WorkerInfo]],
) -> None:  # fmt: skip
    with printing() as console:
        console.print(escape(url), style="dim")
        names: tuple[str, ...] = ("queue", "ready", "delayed", "leased", "dead", "oldest")
        sides = "lrrrrr"
        rows: list[tuple[str, ...]] = [
            (q.name, f"{q.ready:,}", f"{q.delayed:,}", f"{q.leased:,}", f"{q.dead:,}",
             duration(q.oldest_age_s) if q.ready else "") for q in queues
        ]  # fmt: skip
        if paused:
            names, sides = (*names, "paused for"), f"{sides}r"
            rows = list(_with_pauses(rows, paused))
        print_table(console, "Queues", names, sides, rows)
        print_table(
            console, "Workers", ("name", "app", "children", "queues", "lease left"), "llrlr",
            [(_name(about), about.get("app", ""), about.get("children", ""),
              ", ".join(dict.fromkeys(about.get("queues", "").split(","))), duration(worker.lease_left_s))
             for about, worker in workers],
        )  # fmt: skip


def _with_pauses(rows: Iterable[tuple[str, ...]], paused: Mapping[str, float]) -> Iterator[tuple[str, ...]]:
    """Yield rows of queues, and of those that are paused and empty, with how long they have been paused."""
    left = dict(paused)
    for row in rows:
        since = left.pop(row[0], None)
        yield (*row, "" if since is None else duration(max(0.0, time.time() - since)))
    for queue, since in left.items():
        yield (queue, "0", "0", "0", "0", "", duration(max(0.0, time.time() - since)))


def _name(about: Mapping[str, str]) -> str:
    """Return a worker's name, and where it is if the name does not say so."""
    where = f"{about.get('host', '?')}:{about.get('pid', '?')}"
    name = about.get("name", "")
    return name if where in name else f"{name} ({where})"
