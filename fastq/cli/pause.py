"""``fastq pause``: let no worker take messages from queues."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fastq.cli import options
from fastq.errors import ConfigurationError, NotSupported, did_you_mean
from fastq.routing import queue_of_share

if TYPE_CHECKING:
    from fastq.app import FastQ


@click.command(short_help="Let no worker take messages from queues.")
@click.argument("queues", nargs=-1, required=True, callback=options.queue_names, metavar="QUEUE...")
@click.option("--force", is_flag=True, help="Also queues that hold nothing and that nobody serves.")
@options.where
def command(
    queues: tuple[str, ...], force: bool, app: str | None, folder: str, broker: str | None, backend: str | None
) -> int:
    """Let no worker take messages from queues until `fastq resume`. What runs, runs on; messages can be sent.

    It holds for workers that start later, too.
    """
    with options.client(app, folder, broker, backend) as client:
        if not force:
            _check_known(client, queues)
        for queue in queues:
            client.control.pause(queue)
            click.echo(f"{queue}: paused")
    return 0


def _check_known(client: FastQ, queues: tuple[str, ...]) -> None:
    """Raise ConfigurationError for a queue that nobody has heard of: its name may be misspelt."""
    try:
        known = {queue_of_share(queue.name) for queue in client.broker.queues()}
    except NotSupported:
        return
    known |= {queue for worker in client.control.workers().values() for queue in worker["queues"]}
    known |= {task.options.queue for task in client.tasks.values()} | {client.settings.default_queue}
    for queue in queues:
        if queue not in known:
            raise ConfigurationError(
                f"The queue {queue!r} holds nothing, and nobody serves it: {did_you_mean(queue, known)}"
                " (to pause it all the same, add --force)"
            )
