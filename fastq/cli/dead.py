"""``fastq dead``: the messages that were given up."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fastq.cli import options
from fastq.cli.failing import Failing
from fastq.cli.tables import duration, print_table, printing
from fastq.worker.exiting import ExitCode
from fastq.worker.logs import escape_lines

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.deadletters import DeadLetters, Letter

F = TypeVar("F", bound=Callable[..., Any])

_AGES = {"s": 1, "min": 60, "h": 3600, "d": 86_400}


def _age(ctx: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    number = value.rstrip("abcdefghijklmnopqrstuvwxyz")
    try:
        return float(number) * _AGES[value[len(number) :] or "s"]
    except (KeyError, ValueError):
        raise click.BadParameter(f"{value!r}; it takes an age such as 90s, 15min, 6h or 7d", ctx, parameter) from None


_FILTERS = (
    click.option("-q", "--queue", metavar="NAME", help="Only those of this queue."),
    click.option("-t", "--task", metavar="PATTERN", help="Only those of these tasks: shop.add, or 'shop.*'."),
    click.option("-r", "--reason", metavar="TEXT", help="Only those whose reason contains this."),
    click.option("--older", "older_than_s", metavar="AGE", callback=_age, help="Only those that died longer ago: 7d."),
    click.option("--newer", "newer_than_s", metavar="AGE", callback=_age, help="Only those that died since: 2h."),
)  # fmt: skip


def _filters(command: F) -> F:
    for option in reversed(_FILTERS):
        command = option(command)
    return command


@click.group(short_help="Look at messages that were given up, and deal with them.", invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Look at the messages that were given up, and put them back, change them or drop them.

    A dead letter is named by its token, or by the id of its task.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@command.command("list", short_help="List dead letters.")
@_filters
@click.option("-n", "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")
@options.as_json
@options.where
def list_command(
    limit: int, as_json: bool, app: str | None, folder: str, broker: str | None, backend: str | None, **filters: Any
) -> int:
    """List dead letters, of each queue the oldest first."""
    with options.client(app, folder, broker, backend) as client:
        letters = _dead(client).find(limit=limit, **filters)
        if as_json:
            _print_json(client, letters)
        else:
            _print_table(letters)
    return 0


@command.command("show", short_help="Show a dead letter whole.")
@click.argument("name", metavar="TOKEN")
@options.as_json
@options.where
def show_command(
    name: str, as_json: bool, app: str | None, folder: str, broker: str | None, backend: str | None
) -> int:
    """Show a dead letter: where it was, why and when it died, its arguments, and its bytes if it is no message."""
    with options.client(app, folder, broker, backend) as client:
        letter = _named(client, [name])[0]
        if as_json:
            _print_json(client, [letter])
            return 0
        told = _dead(client).export(letter)
        if letter.message is not None:
            del told["frame"]
    width = max(map(len, told))
    for key, value in told.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        click.echo(f"{click.style(f'{key:{width}}', dim=True)}  {escape_lines(text, ' ' * (width + 2))}")
    return 0


@command.command("requeue", short_help="Put dead letters back into their queues.")
@click.argument("names", nargs=-1, metavar="[TOKEN]...")
@_filters
@click.option("--all", "everything", is_flag=True, help="All that fit the filters, or all there are.")
@options.where
def requeue_command(
    names: tuple[str, ...], everything: bool, app: str | None, folder: str, broker: str | None, backend: str | None,
    **filters: Any,
) -> int:  # fmt: skip
    """Put dead letters back into their queues, as new: their crashes and their failures are forgotten."""
    with options.client(app, folder, broker, backend) as client:
        count = _dead(client).requeue(_chosen(client, names, filters, everything)())
    click.echo(f"{_letters(count)} put back")
    return 0


@command.command("edit", short_help="Put a dead letter back with other arguments.")
@click.argument("name", metavar="TOKEN")
@click.option("--args", "args_json", metavar="JSON", help="The new positional arguments: '[4, 4]'.")
@click.option("--kwargs", "kwargs_json", metavar="JSON", help="The new keyword arguments: '{\"x\": 4}'.")
@click.option("--to", "queue", metavar="QUEUE", help="The queue to put it into.")
@options.where
def edit_command(
    name: str, args_json: str | None, kwargs_json: str | None, queue: str | None,
    app: str | None, folder: str, broker: str | None, backend: str | None,
) -> int:  # fmt: skip
    """Put a dead letter back with other arguments, or into another queue. Its id stays the same."""
    args, kwargs = _json("--args", args_json, list), _json("--kwargs", kwargs_json, dict)
    if args is None and kwargs is None and queue is None:
        raise click.UsageError("Nothing is to be changed: give --args, --kwargs or --to, or use requeue")
    with options.client(app, folder, broker, backend) as client:
        letter = _named(client, [name])[0]
        _dead(client).edit(letter, args=args, kwargs=kwargs, queue=queue)
    click.echo(f"{letter.id} put into {queue or letter.queue}")
    return 0


@command.command("drop", short_help="Delete dead letters for good.")
@click.argument("names", nargs=-1, metavar="[TOKEN]...")
@_filters
@click.option("--all", "everything", is_flag=True, help="All that fit the filters, or all there are.")
@click.option("-y", "--yes", is_flag=True, help="Don't ask.")
@options.where
def drop_command(
    names: tuple[str, ...], everything: bool, yes: bool, app: str | None, folder: str, broker: str | None,
    backend: str | None, **filters: Any,
) -> int:  # fmt: skip
    """Delete dead letters for good. Asks first; where nobody can be asked, --yes is needed."""
    with options.client(app, folder, broker, backend) as client:
        chosen = _chosen(client, names, filters, everything)
        found = sum(1 for _ in chosen())
        if found and not yes:
            if not sys.stdin.isatty():
                raise click.UsageError(f"Nothing was deleted ({_letters(found)}): nobody can be asked here; add --yes")
            click.confirm(f"Delete {_letters(found)} for good?", abort=True, err=True)
        count = _dead(client).drop(islice(chosen(), found))
    click.echo(f"{_letters(count)} deleted")
    return 0


@command.command("export", short_help="Print dead letters as JSON, one a line.")
@_filters
@options.where
def export_command(app: str | None, folder: str, broker: str | None, backend: str | None, **filters: Any) -> int:
    """Print dead letters, whole, as one JSON object a line."""
    with options.client(app, folder, broker, backend) as client:
        _print_json(client, _dead(client).walk(**filters))
    return 0


# -- steps ----------------------------------------------------------------------------------------


def _dead(client: FastQ) -> DeadLetters:
    from fastq.deadletters import DeadLetters

    return DeadLetters(client)


def _named(client: FastQ, names: Sequence[str]) -> list[Letter]:
    try:
        return [_dead(client).get(name) for name in names]
    except LookupError as error:
        raise Failing(f"{error.args[0]}; they are listed by: fastq dead list", ExitCode.FAILED) from error


def _chosen(
    client: FastQ, names: Sequence[str], filters: dict[str, Any], everything: bool
) -> Callable[[], Iterable[Letter]]:
    """Return what yields the letters that are meant, each time that it is called."""
    if names:
        if everything or any(value is not None for value in filters.values()):
            raise click.UsageError("Tokens, or filters with --all: not both")
        letters = _named(client, names)
        return lambda: letters
    if not everything:
        raise click.UsageError("Which ones? Give tokens, or --all, with filters if need be")
    return partial(_dead(client).walk, **filters)


def _json(option: str, text: str | None, kind: type) -> Any:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"{option} is not JSON: {error}") from error
    if not isinstance(value, kind):
        raise click.UsageError(f"{option} takes {'an array' if kind is list else 'an object'}")
    return value


def _letters(count: int) -> str:
    return f"{count} dead {'letter' if count == 1 else 'letters'}"


def _print_json(client: FastQ, letters: Iterable[Letter]) -> None:
    for letter in letters:
        click.echo(json.dumps(_dead(client).export(letter)))


def _print_table(letters: Sequence[Letter]) -> None:
    now = datetime.now(timezone.utc)
    rows = [
        (
            letter.token,
            letter.queue,
            letter.task or "?",
            f"{duration((now - letter.died_at).total_seconds())} ago",
            letter.reason.partition("\n")[0],
        )
        for letter in letters
    ]
    with printing() as console:
        print_table(console, "Dead letters", ("token", "queue", "task", "died", "reason"), "lllrl", rows)
