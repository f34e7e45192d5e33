"""``fastq result``: what became of a task."""

from __future__ import annotations

import uuid

import click

from fastq.cli import options
from fastq.cli.showing import show_result, wait_for


def _uuid(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    try:
        return str(uuid.UUID(value))
    except ValueError:
        example = "0199f3a2-5d4e-7c31-8f6b-2a9d0c1e4b57"
        raise click.BadParameter(
            f"{value!r} is not a task id, which is a UUID such as {example}", ctx, parameter
        ) from None


@click.command(
    short_help="Show what became of a task.",
    epilog="""\b
Exit status:
  0  it returned a value
  1  it ended without one: it failed, was revoked or was lost
  4  the result backend can't be used
  5  it has not ended, or was never heard of""",
)
@click.argument("id", callback=_uuid)
@options.wait
@options.timeout
@options.as_json
@options.where
def command(
    id: str, wait: bool, timeout: float | None, as_json: bool,
    app: str | None, folder: str, broker: str | None, backend: str | None,
) -> int:  # fmt: skip
    """Print what the task ID returned, as JSON, on stdout; its state, or its traceback, on stderr."""
    with options.client(app, folder, broker, backend) as client:
        if wait or timeout is not None:
            return show_result(client, id, wait_for(client, id, timeout), as_json=as_json)
        return show_result(client, id, client.backend.load([uuid.UUID(id).bytes])[0], as_json=as_json)
