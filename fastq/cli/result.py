"""``fastq result``: what became of a task."""

from __future__ import annotations

import uuid

import click

from fastq.cli import options
from fastq.cli.following import follow as followed
from fastq.cli.showing import show_result, wait_for


@click.command(
    short_help="Show what became of a task.",
    epilog="""\b
Exit status:
  0  it returned a value
  1  it ended without one: it failed, was revoked or was lost
  4  the result backend can't be used
  5  it has not ended, or was never heard of""",
)
@click.argument("id", callback=options.task_id)
@options.wait
@click.option("--follow", is_flag=True, help="Wait until the task has ended, and show how far it is.")
@options.timeout
@options.as_json
@options.where
def command(
    id: str, wait: bool, follow: bool, timeout: float | None, as_json: bool,
    app: str | None, folder: str, broker: str | None, backend: str | None,
) -> int:  # fmt: skip
    """Print what the task ID returned, as JSON, on stdout; its state, or its traceback, on stderr."""
    with options.client(app, folder, broker, backend) as client:
        if follow:
            return show_result(client, id, followed(client, id, timeout), as_json=as_json)
        if wait or timeout is not None:
            return show_result(client, id, wait_for(client, id, timeout), as_json=as_json)
        return show_result(client, id, client.backend.load([uuid.UUID(id).bytes])[0], as_json=as_json)
