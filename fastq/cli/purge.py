"""``fastq purge``: delete what waits in queues."""

from __future__ import annotations

import sys

import click

from fastq.cli import options
from fastq.routing import family
from fastq.systems import mask
from fastq.worker.logs import escape


@click.command(short_help="Delete what waits in queues.")
@click.argument("queues", nargs=-1, required=True, callback=options.queue_names, metavar="QUEUE...")
@click.option("-y", "--yes", is_flag=True, help="Don't ask.")
@options.where
def command(
    queues: tuple[str, ...], yes: bool, app: str | None, folder: str, broker: str | None, backend: str | None
) -> int:
    """Delete the messages that wait in queues, due and delayed. What workers have in hand is left alone.

    A queue that is shared fairly is emptied with its shares.

    Asks first. Where nobody can be asked, in a script, --yes is needed.
    """
    with options.client(app, folder, broker, backend) as client:
        shares = client.settings.shares
        if not yes:
            waiting = {queue: sum(map(client.broker.depth, family(queue, shares))) for queue in queues}
            depths = ", ".join(f"{depth} in {queue}" for queue, depth in waiting.items())
            at = escape(mask(client.settings.broker))
            if not sys.stdin.isatty():
                raise click.UsageError(f"Nothing was deleted ({depths}, at {at}): nobody can be asked here; add --yes")
            click.confirm(f"Delete what waits for good ({depths}, at {at})?", abort=True, err=True)
        for queue in queues:
            count = sum(map(client.broker.purge, family(queue, shares)))
            click.echo(f"{queue}: {count} {'message' if count == 1 else 'messages'} deleted")
    return 0
