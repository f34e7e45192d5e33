"""The command line. `main` is the command ``fastq``; each of its commands is a module of the same name here."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from fastq import __version__, _speedups
from fastq.cli.failing import COLOURED, Failing, show_error, status_of
from fastq.errors import FastQError, did_you_mean

_COMMANDS = (
    "worker", "call", "result", "status", "purge", "dead", "revoke", "pause", "resume", "inspect", "control", "events",
    "doctor",
)  # fmt: skip
_INTERRUPTED = 130  # what shells say of a process that ended by ^C


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; errors that are not our own bugs are one line on stderr."""
    try:
        return int(fastq.main(arguments, prog_name="fastq", standalone_mode=False, color=COLOURED) or 0)
    except (FastQError, Failing, click.ClickException) as error:
        show_error(error)
        return status_of(error)
    except (KeyboardInterrupt, click.Abort):
        click.echo(err=True)
        return _INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone; nor is there anyone to flush the rest to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


class _Commands(click.Group):
    """Imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"fastq.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and name not in _COMMANDS:
            raise click.UsageError(f"There is no command {name!r}: {did_you_mean(name, _COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)


def _show_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        import platform  # which is slow to import on Python 3.10

        python = f"{platform.python_implementation()} {platform.python_version()}"
        amqp, why = _speedups.amqp_body()
        apart = "" if amqp == _speedups.body else f"; for AMQP the Python body: {why}"
        click.echo(f"fastq {__version__} ({python}, {bodies()}{apart})")
        ctx.exit()


def bodies() -> str:
    """Say which bodies run in this process, and why."""
    return f"{'compiled' if _speedups.body == 'c' else 'Python'} bodies: {_speedups.reason}"


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Settings come from options, from the app, from FASTQ_* variables and from [tool.fastq] in pyproject.toml.",
)
@click.option(
    "-V", "--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version,
    help="Show the version, and which bodies run.",
)  # fmt: skip
@click.pass_context
def fastq(ctx: click.Context) -> None:
    """Run tasks in the background: workers, calls, results and queues."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
