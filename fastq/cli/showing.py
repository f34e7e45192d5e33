"""How results are waited for and shown: the value on stdout, what else there is to say on stderr."""

from __future__ import annotations

import json
import time
import uuid
from typing import TYPE_CHECKING, Any

import click

from fastq.cli.failing import Failing
from fastq.errors import ResultTimeout
from fastq.worker.exiting import ExitCode

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.outcome import Outcome


def wait_for(app: FastQ, id: str, timeout: float | None) -> Outcome:
    """Wait until a task has ended. Raises ResultTimeout."""
    deadline = None if timeout is None else time.monotonic() + timeout
    for outcome in app.backend.wait([uuid.UUID(id).bytes], deadline):
        return outcome
    raise ResultTimeout(f"Task {id} has not ended within {timeout:g} s; it may still: fastq result {id} --wait")


def show_result(app: FastQ, id: str, outcome: Outcome | None, *, as_json: bool) -> int:
    """Print what is known of a task, and return the exit status that says it too.

    Raises Failing for a task that ended without a value, unless it is shown as JSON.
    """
    from fastq.outcome import State
    from fastq.result import AsyncResult

    result: AsyncResult[Any] = AsyncResult(id, app, outcome=outcome)
    if outcome is None or not outcome.state.terminal:
        state = State.PENDING if outcome is None else outcome.state
        if as_json:
            click.echo(in_json({"id": id, "state": state.value}))
        else:
            click.echo(f"{state}: task {id} has not ended, or was never heard of here", err=True)
        return ExitCode.UNFINISHED
    seen = {"id": id, "state": outcome.state.value, "finished_at": str(result.finished_at or "")}
    if outcome.state is State.SUCCESS:
        value = result.result
        if not as_json:
            click.echo(f"SUCCESS, {result.finished_at:%Y-%m-%d %H:%M:%S} UTC", err=True)
        click.echo(in_json({**seen, "result": value} if as_json else value))
        return ExitCode.OK
    failure = app.settings.packing.failure_of(outcome)
    if as_json:
        error = {"type": failure.type_name, "message": failure.message, "traceback": failure.traceback}
        click.echo(in_json({**seen, "error": error}))
        return ExitCode.FAILED
    what = failure.type_name.removeprefix("builtins.")
    told = f"{what}: {failure.message}" if failure.message else what
    raise Failing(f"{outcome.state}: task {id} ended with {told}", ExitCode.FAILED, failure.traceback)


def in_json(value: Any) -> str:
    """Return a value as JSON on one line that is safe on a terminal; what JSON has no form for, as Python shows it."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if text.isprintable() else json.dumps(value, default=repr)
