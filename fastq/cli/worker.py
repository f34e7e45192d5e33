"""``fastq worker``: run the tasks of an app."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, NoReturn

import click

from fastq.cli import options
from fastq.cli.failing import status_of
from fastq.errors import FastQError, ProtocolError
from fastq.message import check_queue
from fastq.worker.worker import ExitCode

if TYPE_CHECKING:
    from fastq.pool import Manifest, Pool

logger = logging.getLogger("fastq.worker")

_LEVELS = ("debug", "info", "warning", "error", "critical")


def _one_or_more(ctx: click.Context, parameter: click.Parameter, value: int | None) -> int | None:
    if value is not None and value < 1:
        raise click.BadParameter(f"{value}; it takes 1 or more", ctx, parameter)
    return value


def _queue_names(ctx: click.Context, parameter: click.Parameter, value: str | None) -> list[str] | None:
    if value is None:
        return None
    try:
        return list(dict.fromkeys(check_queue(name.strip()) for name in value.split(",")))
    except ProtocolError as error:
        raise click.BadParameter(str(error), ctx, parameter) from error


@click.command(
    short_help="Run the tasks of an app.",
    epilog="""\b
Exit status:
  0  stopped as asked; nothing was broken off
  1  the worker broke
  2  an option, setting, URL or app path is wrong
  3  the app can't be imported
  4  the broker or the result backend can't be used
  5  stopped as asked, but running tasks had to be broken off""",
)
@options.where
@click.option(
    "-c", "--concurrency", type=int, callback=_one_or_more, metavar="N", help="Children; by default, one for each CPU."
)
@click.option(
    "-Q", "--queues", callback=_queue_names, metavar="A,B", help="Queues to serve, in turn; by default, the app's own."
)
@click.option(
    "--pool",
    type=click.Choice(["prefork"]),
    default="prefork",
    expose_value=False,
    help="What runs the tasks: processes, forked ahead.",
)
@click.option(
    "--grace", type=float, metavar="S", help="How long running tasks may go on after SIGTERM; by default, 30."
)
@click.option(
    "--lease",
    type=float,
    metavar="S",
    help="After how long others take over what a worker holds that went silent; by default, 30.",
)
@click.option(
    "-l", "--loglevel", type=click.Choice(_LEVELS, case_sensitive=False), default="info", show_default=True,
    help="Log from this level on.",
)  # fmt: skip
@click.option("--json-logs", is_flag=True, help="Log a JSON object a line.")
def command(
    app: str | None, folder: str, broker: str | None, backend: str | None, concurrency: int | None,
    queues: list[str] | None, grace: float | None, lease: float | None, loglevel: str, json_logs: bool,
) -> int:  # fmt: skip
    """Run the tasks of an app, in children, until SIGTERM or ^C.

    The app is what -A or FASTQ_APP names, or else the one module below --folder that holds one. This
    process never imports it: a template process does, and forks the children.

    After SIGTERM or ^C, tasks that run may end, and what was not begun goes back to its queue. After a
    second ^C, or SIGQUIT, nothing is waited for.
    """
    from fastq.worker import logs

    logs.set_up(loglevel.upper(), as_json=json_logs)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until the worker runs, and looks after signals itself
    overrides = options.given(broker=broker, backend=backend, concurrency=concurrency, grace_s=grace, lease_s=lease)
    try:
        return _work(app, folder, overrides, queues, loglevel.upper(), json_logs)
    except FastQError as error:
        if not json_logs:
            raise
        logger.critical("%s", error, extra={"exception": getattr(error, "traceback", "")})
        return status_of(error)
    except KeyboardInterrupt:
        logger.info("Stopped before it was ready")
        return ExitCode.OK


def _work(
    app: str | None, folder: str, overrides: dict[str, Any], queues: list[str] | None, level: str, json_logs: bool
) -> ExitCode:
    from fastq.pools.prefork import PreforkPool

    pool = PreforkPool(app, folder=folder, overrides=overrides, log_level=level, json_logs=json_logs)
    try:
        pool.begin()
        _import_ahead(overrides)
        manifest = pool.load()
        return _serve(pool, manifest, queues, plain=json_logs)
    finally:
        pool.stop(time.monotonic())


def _serve(pool: Pool, manifest: Manifest, queues: list[str] | None, *, plain: bool) -> ExitCode:
    from fastq.backends import open_backend
    from fastq.brokers import open_broker
    from fastq.cli.banner import announce
    from fastq.pools.title import Title
    from fastq.settings import Settings
    from fastq.worker.worker import Worker

    settings = Settings(**{**manifest.settings, "accept": tuple(manifest.settings["accept"])})
    children = settings.concurrency or os.cpu_count() or 1
    queues = queues or [settings.default_queue]
    options.check_shared(settings)
    Title(manifest.app, "worker").show(f"with {children} {'child' if children == 1 else 'children'}")
    with (
        closing(open_broker(settings.broker)) as broker,
        closing(open_backend(settings.backend_url, expires_s=settings.result_expires_s)) as backend,
    ):
        worker = Worker(
            broker=broker, backend=backend, pool=pool, manifest=manifest, settings=settings, queues=queues,
            leaving=True,
        )  # fmt: skip
        announce(manifest, settings, queues, children, plain=plain)
        return worker.run(overdue=_give_up)


def _import_ahead(overrides: dict[str, Any]) -> None:
    """Import the broker's library while the template imports the app: the broker is most likely this one."""
    threading.Thread(target=_import_broker, args=(overrides,), name="fastq-import").start()


def _import_broker(overrides: dict[str, Any]) -> None:
    from fastq.brokers import import_broker
    from fastq.settings import Settings

    if os.environ.get("FASTQ_CONFIG"):  # user code, which this process does without
        return
    with suppress(FastQError):  # `load` reports it
        import_broker(Settings.load(overrides).broker)


def _give_up() -> NoReturn:
    """Leave. The words have a thread of their own, because it may be the log that hangs."""
    words = "Stopping hangs: leaving at once. What was in hand goes to others when the lease has run out"
    telling = threading.Thread(target=logger.critical, args=(words,), daemon=True)
    telling.start()
    telling.join(1.0)
    os._exit(ExitCode.UNFINISHED)
