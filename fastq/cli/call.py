"""``fastq call``: call a task by its name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from fastq.cli import options
from fastq.cli.showing import in_json, show_result, wait_for
from fastq.errors import ConfigurationError, UnknownTask, did_you_mean
from fastq.message import check_task
from fastq.systems import mask
from fastq.worker.logs import escape

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.result import AsyncResult


@click.command(
    short_help="Call a task by its name.",
    epilog="Put -- before an argument that begins with a dash: fastq call shop.tasks.add -- -4 4",
)
@click.argument("task")
@click.argument("arguments", nargs=-1)
@click.option(
    "-k", "--kwarg", "named", multiple=True, metavar="K=V", help="A keyword argument: k=text, or k:=json. Repeatable."
)
@options.wait
@options.timeout
@click.option("-q", "--queue", metavar="NAME", help="Send it to this queue.")
@click.option("--countdown", type=float, metavar="S", help="Start it not before so many seconds have passed.")
@options.as_json
@options.where
def command(
    task: str, arguments: tuple[str, ...], named: tuple[str, ...], wait: bool, timeout: float | None,
    queue: str | None, countdown: float | None, as_json: bool,
    app: str | None, folder: str, broker: str | None, backend: str | None,
) -> int:  # fmt: skip
    """Call TASK with ARGUMENTS; print its id or, with --wait, what it returned.

    An argument that is JSON is taken as such, and any other as text; what was understood is shown. With -A
    (or FASTQ_APP) the app's settings and the task's own options hold, and the arguments are checked.
    """
    args, kwargs = [_value(text) for text in arguments], _keywords(named)
    waits = wait or timeout is not None
    with options.client(app, folder, broker, backend) as client:
        result, to = _send(client, task, args, kwargs, queue, countdown, knows_tasks=app is not None, waits=waits)
        shown, at = escape(_shown(client, task, args, kwargs)), escape(mask(client.settings.broker))
        click.echo(f"Sent {shown} to {to} at {at}", err=True)
        if not waits:
            click.echo(json.dumps({"id": result.id, "state": "PENDING"}) if as_json else result.id)
            return 0
        return show_result(client, result.id, wait_for(client, result.id, timeout), as_json=as_json)


def _send(
    app: FastQ, name: str, args: Sequence[Any], kwargs: dict[str, Any], queue: str | None, countdown: float | None,
    *, knows_tasks: bool, waits: bool,
) -> tuple[AsyncResult[Any], str]:  # fmt: skip
    """Publish the call; return its result and its queue."""
    task = _find(app, check_task(name)) if knows_tasks else None
    ignored = task.options.ignore_result if task else app.settings.ignore_result
    if waits and ignored:
        raise ConfigurationError(f"The result of {name} is ignored (ignore_result): there is nothing to wait for")
    if task is None:
        sent = app.send_task(name, args, kwargs, queue=queue, countdown=countdown)
        return sent, queue or app.settings.default_queue
    try:
        return task.apply_async(args, kwargs, queue=queue, countdown=countdown), queue or task.options.queue
    except TypeError as error:  # the arguments don't fit the function
        raise click.UsageError(str(error)) from error


def _find(app: FastQ, name: str) -> Any:
    try:
        return app.find_task(name)
    except UnknownTask as error:
        raise UnknownTask(f"{error}: {did_you_mean(name, app.tasks)}") from None


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _keywords(given: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        as_json = name.endswith(":")
        name = name.removesuffix(":")
        if not equals or not name.isidentifier():
            raise click.UsageError(f"{text!r} is not a keyword argument: it has the form k=text or k:=json")
        try:
            found[name] = json.loads(value, parse_constant=_no_constant) if as_json else value
        except (ValueError, RecursionError) as error:
            raise click.UsageError(f"{value!r}, for {name}, is not JSON ({error}); for text, write {name}=…") from error
    return found


def _shown(app: FastQ, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> str:
    task = app.tasks.get(name)
    return task.shown(args, kwargs) if task is not None and task.options.secret else _as_call(name, args, kwargs)


def _as_call(task: str, args: Sequence[Any], kwargs: dict[str, Any]) -> str:
    return f"{task}({', '.join([*map(in_json, args), *(f'{k}={in_json(v)}' for k, v in kwargs.items())])})"
