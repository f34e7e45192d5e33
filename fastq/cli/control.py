"""``fastq control``: tell workers what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from fastq.cli import options
from fastq.cli.answers import check_answered, print_json, whom
from fastq.worker.logs import escape

if TYPE_CHECKING:
    from fastq.broadcast import Replies
    from fastq.control import Control


@click.group(short_help="Tell workers what to do.", invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Tell workers that run what to do. What is said of queues and rates of tasks holds for later workers, too."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@command.command("pool-grow", short_help="Give workers more children.")
@click.argument("n", type=click.IntRange(min=1), default=1)
@whom
@options.as_json
@options.where
def pool_grow(n: int, **others: Any) -> int:
    """Give each worker N more children, 1 by default."""
    return _tell(lambda control, whom: control.pool_grow(n, **whom), _children, **others)


@command.command("pool-shrink", short_help="Take children from workers.")
@click.argument("n", type=click.IntRange(min=1), default=1)
@whom
@options.as_json
@options.where
def pool_shrink(n: int, **others: Any) -> int:
    """Take N children from each worker, 1 by default, once they have ended what they run."""
    return _tell(lambda control, whom: control.pool_shrink(n, **whom), _children, **others)


@command.command("add-consumer", short_help="Let workers serve another queue.")
@click.argument("queue")
@whom
@options.as_json
@options.where
def add_consumer(queue: str, **others: Any) -> int:
    """Let workers serve QUEUE besides, until they stop or are told otherwise."""
    return _tell(lambda control, whom: control.add_consumer(queue, **whom), _serves, **others)


@command.command("cancel-consumer", short_help="Let workers leave a queue.")
@click.argument("queue")
@whom
@options.as_json
@options.where
def cancel_consumer(queue: str, **others: Any) -> int:
    """Let workers serve QUEUE no more. What runs, runs on."""
    return _tell(lambda control, whom: control.cancel_consumer(queue, **whom), _serves, **others)


@command.command("shutdown", short_help="Let workers stop.")
@click.option("--now", is_flag=True, help="Don't wait for what runs: it goes back to its queue.")
@whom
@options.as_json
@options.where
def shutdown(now: bool, **others: Any) -> int:
    """Let workers stop, as after SIGTERM: what runs may end."""
    return _tell(lambda control, whom: control.shutdown(now=now, **whom), str, **others)


@command.command("rate-limit", short_help="Change how often a task may start.")
@click.argument("task")
@click.argument("rate")
@options.where
def rate_limit(task: str, rate: str, app: str | None, folder: str, broker: str | None, backend: str | None) -> int:
    """Let TASK start at RATE in the whole cluster, such as 10/s or 100/m; "declared" is what its code says.

    It holds from now on, and for workers that start later, too.
    """
    with options.client(app, folder, broker, backend) as client:
        client.control.rate_limit(task, None if rate == "declared" else rate)
    shown = f"{rate}/s" if rate.isdigit() else rate  # as Celery's rates are read
    click.echo(f"{escape(task)} starts {'as it was declared' if rate == 'declared' else f'at {shown}'}")
    return 0


def _tell(
    tell: Callable[[Control, dict[str, Any]], Replies[Any]], shown: Callable[[Any], str], *,
    destination: tuple[str, ...], timeout: float, as_json: bool,
    app: str | None, folder: str, broker: str | None, backend: str | None,
) -> int:  # fmt: skip
    with options.client(app, folder, broker, backend) as client:
        replies = tell(client.control, {"destination": destination or None, "timeout": timeout})
        if as_json:
            print_json(replies)
        check_answered(client, replies, timeout)
    if not as_json:
        for worker, answer in sorted(replies.items()):
            click.echo(f"{escape(worker)}: {escape(shown(answer))}")
    return 0


def _children(count: int) -> str:
    return f"{count} {'child' if count == 1 else 'children'}"


def _serves(queues: list[str]) -> str:
    return f"serves {', '.join(queues) or 'no queue'}"
