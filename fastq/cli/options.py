"""Options that several commands take, and the app that they stand for."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fastq.errors import ConfigurationError, ProtocolError
from fastq.message import check_queue

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

_WHERE = (
    click.option("-A", "--app", envvar="FASTQ_APP", show_envvar=True, metavar="MODULE:APP",
                 help="The app, as shop.tasks:app; its module alone is enough where it holds one app."),
    click.option("--folder", default=".", metavar="DIR", help="Where the app's modules are; by default, here."),
    click.option("--broker", metavar="URL", help="Use this broker, whatever the app and the settings say."),
    click.option("--backend", metavar="URL", help="Use this result backend; by default, the broker's URL."),
)  # fmt: skip

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
wait = click.option("--wait", is_flag=True, help="Wait until the task has ended.")
timeout = click.option("--timeout", type=float, metavar="S", help="Wait, for so many seconds at most.")


def where(command: F) -> F:
    """Add the options that say which app, which broker and which backend."""
    for option in reversed(_WHERE):
        command = option(command)
    return command


def client(app: str | None, folder: str, broker: str | None, backend: str | None) -> FastQ:
    """Return the app that a command speaks for: the one named, or else one with no tasks and just settings.

    Naming an app imports its module, here.
    """
    from fastq.app import FastQ
    from fastq.discovery import find_app
    from fastq.worker import logs

    logs.set_up("ERROR", as_json=False)
    overrides = given(broker=broker, backend=backend)
    if app is None:
        sys.path.insert(0, folder)  # for the module that FASTQ_CONFIG may name
        found = FastQ(**overrides)
    else:
        found = find_app(app, folder)
        found.settings = replace(found.settings, **overrides)
    check_shared(found.settings)
    return found


def task_id(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    """Return a task id as it is written. Raises click.BadParameter for what is none."""
    try:
        return str(uuid.UUID(value))
    except ValueError:
        example = "0199f3a2-5d4e-7c31-8f6b-2a9d0c1e4b57"
        raise click.BadParameter(
            f"{value!r} is not a task id, which is a UUID such as {example}", ctx, parameter
        ) from None


def queue_names(ctx: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Return queue names, each once. Raises click.BadParameter for what is none."""
    try:
        return tuple(dict.fromkeys(map(check_queue, value)))
    except ProtocolError as error:
        raise click.BadParameter(str(error), ctx, parameter) from error


def check_shared(settings: Settings) -> None:
    """Raise ConfigurationError for a broker that no other process can use."""
    if settings.broker.startswith("memory:"):
        raise ConfigurationError(
            f"{settings.broker} lives inside one process, and a worker is another: use sqlite:///fastq.db, say"
        )


def given(**options: Any) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in options.items() if value is not None}
