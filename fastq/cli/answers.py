"""What workers answer: the options that say whom to ask, and how answers are shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fastq.cli.failing import Failing
from fastq.systems import mask
from fastq.worker.exiting import ExitCode
from fastq.worker.logs import escape

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.broadcast import Replies

F = TypeVar("F", bound=Callable[..., Any])


def _seconds(ctx: click.Context, parameter: click.Parameter, value: float) -> float:
    if not 0 < value <= 3600:
        raise click.BadParameter(f"{value:g}; it takes seconds, more than 0", ctx, parameter)
    return value


_WHOM = (
    click.option("-d", "--destination", multiple=True, metavar="WORKER",
                 help="Only this worker, by its name; by default, all. Repeatable."),
    click.option("--timeout", type=float, default=1.0, show_default=True, callback=_seconds, metavar="S",
                 help="How long to wait for answers."),
)  # fmt: skip


def whom(command: F) -> F:
    """Add the options that say which workers are meant, and how long to wait for them."""
    for option in reversed(_WHOM):
        command = option(command)
    return command


def check_answered(client: FastQ, replies: Replies[Any], timeout: float) -> None:
    """Say who did not answer. Raises Failing if nobody did."""
    for name in replies.silent:
        click.echo(f"{escape(name)} did not answer within {timeout:g} s", err=True)
    if not replies:
        count = len(replies.silent)
        asked = f"{count} {'was' if count == 1 else 'were'} asked" if count else "there is none"
        where = " or ".join(dict.fromkeys(map(mask, client.settings.state_urls)))
        raise Failing(f"No worker answers at {where}: {asked}", ExitCode.FAILED)


def print_json(value: object) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value))
