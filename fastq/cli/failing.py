"""How errors end a command: one line that a person can act on, and an exit status that a script can."""

from __future__ import annotations

import os

import click

from fastq.errors import (
    AppImportError,
    BackendError,
    BrokerError,
    ConfigurationError,
    EncodingError,
    FastQError,
    ProtocolError,
    ResultTimeout,
    StateUnavailable,
    UnknownTask,
    UnknownWorker,
    WorkerStuck,
)
from fastq.worker.exiting import ExitCode
from fastq.worker.logs import escape, escape_lines

_STATUSES: tuple[tuple[type[FastQError], ExitCode], ...] = (
    (AppImportError, ExitCode.APP),
    (ConfigurationError, ExitCode.USAGE),
    (EncodingError, ExitCode.USAGE),  # arguments that can't be carried
    (ProtocolError, ExitCode.USAGE),  # names that are none
    (UnknownTask, ExitCode.USAGE),
    (UnknownWorker, ExitCode.USAGE),
    (BrokerError, ExitCode.BROKER),
    (BackendError, ExitCode.BROKER),
    (StateUnavailable, ExitCode.BROKER),
    (ResultTimeout, ExitCode.UNFINISHED),
    (WorkerStuck, ExitCode.STUCK),
)


#: Whether output is coloured; None: where it goes to a terminal. Rich reads the variable itself (https://no-color.org).
COLOURED = False if os.environ.get("NO_COLOR") else None


class Failing(Exception):
    """Raised to end a command with a line and a status of its own, after a traceback from elsewhere."""

    def __init__(self, message: str, status: ExitCode, traceback: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.traceback = traceback


def status_of(error: BaseException) -> ExitCode:
    """Return the exit status that an error ends a command with."""
    if isinstance(error, Failing):
        return error.status
    if isinstance(error, click.ClickException):
        return ExitCode.USAGE
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), ExitCode.FAILED)


def show_error(error: BaseException) -> None:
    """Print an error on stderr: a traceback only where it is that of the user's code."""
    if traceback := getattr(error, "traceback", ""):
        click.echo(escape_lines(traceback.rstrip("\n")), err=True)
    text = " ".join(error.format_message().split()) if isinstance(error, click.ClickException) else str(error)
    if isinstance(error, click.UsageError) and error.ctx is not None:
        text = f"{text.rstrip('.')} (see {error.ctx.command_path} --help)"
    click.echo(f"{click.style('Error:', fg='red', bold=True)} {escape(text)}", err=True, color=COLOURED)
