"""``fastq revoke``: let tasks not be run."""

from __future__ import annotations

import json
from typing import Any

import click

from fastq.cli import options


def _header(ctx: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> list[tuple[str, Any]]:
    found = []
    for text in value:
        name, equals, given = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{text!r} has not the form name=value", ctx, parameter)
        try:
            found.append((name, json.loads(given)))
        except ValueError:
            found.append((name, given))
    return found


def _ids(ctx: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> list[str]:
    return [options.task_id(ctx, parameter, each) for each in value]


@click.command(short_help="Let tasks not be run.")
@click.argument("ids", nargs=-1, callback=_ids, metavar="[ID]...")
@click.option(
    "--header", "headers", multiple=True, callback=_header, metavar="NAME=VALUE",
    help="All tasks with this header; a value that is JSON is taken as such. Repeatable.",
)  # fmt: skip
@click.option("--terminate", is_flag=True, help="Break them off if they run.")
@click.option("--expires", type=float, metavar="S", help="Forget it after so many seconds; by default, 7 days.")
@options.where
def command(
    ids: list[str], headers: list[tuple[str, Any]], terminate: bool, expires: float | None,
    app: str | None, folder: str, broker: str | None, backend: str | None,
) -> int:  # fmt: skip
    """Let the tasks with these IDs not be run, wherever they wait, whether a worker is there now or not."""
    if not ids and not headers:
        raise click.UsageError("Say which tasks: by their ids, or by --header")
    expiry = options.given(expires_s=expires)
    with options.client(app, folder, broker, backend) as client:
        if ids:
            client.control.revoke(ids, terminate=terminate, **expiry)
        for name, value in headers:
            client.control.revoke_by_header(name, value, terminate=terminate, **expiry)
    tasks = [f"{len(ids)} {'task' if len(ids) == 1 else 'tasks'}"] if ids else []
    tasks += [f"all tasks with {name}={json.dumps(value)}" for name, value in headers]
    click.echo(f"Revoked: {', '.join(tasks)}")
    return 0
