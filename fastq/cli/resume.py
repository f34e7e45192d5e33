"""``fastq resume``: let workers take messages from paused queues again."""

from __future__ import annotations

import click

from fastq.cli import options
from fastq.errors import ConfigurationError, did_you_mean


@click.command(short_help="Let workers take messages from paused queues again.")
@click.argument("queues", nargs=-1, required=True, callback=options.queue_names, metavar="QUEUE...")
@options.where
def command(queues: tuple[str, ...], app: str | None, folder: str, broker: str | None, backend: str | None) -> int:
    """Let workers take messages from paused queues again."""
    with options.client(app, folder, broker, backend) as client:
        paused = client.control.paused()
        for queue in queues:
            if queue not in paused:
                raise ConfigurationError(f"The queue {queue!r} is not paused: {did_you_mean(queue, paused)}")
        for queue in queues:
            client.control.resume(queue)
            click.echo(f"{queue}: resumed")
    return 0
