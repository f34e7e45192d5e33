"""``fastq worker``: run the tasks of an app."""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import signal
import sys
import threading
import time
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from fastq.cli import options
from fastq.cli.failing import status_of
from fastq.errors import ConfigurationError, FastQError, ProtocolError
from fastq.routing import queues_of
from fastq.worker.exiting import ExitCode
from fastq.worker.systemd import ServiceManager

if TYPE_CHECKING:
    from fastq.pool import Manifest, Pool

logger = logging.getLogger("fastq.worker")

_LEVELS = ("debug", "info", "warning", "error", "critical")


@dataclass(frozen=True)
class _Asked:
    """What is asked of the worker beside its settings."""

    queues: list[str] | None
    name: str
    drain: bool
    plain: bool  # no panel
    manager: ServiceManager


def _one_or_more(ctx: click.Context, parameter: click.Parameter, value: int | None) -> int | None:
    if value is not None and value < 1:
        raise click.BadParameter(f"{value}; it takes 1 or more", ctx, parameter)
    return value


def _bounds(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    try:
        least, most = map(int, value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r}; it takes two numbers, as in 2,10", ctx, parameter) from None
    if not 1 <= least <= most:
        raise click.BadParameter(f"{value!r}; the first is 1 or more, and the second not less", ctx, parameter)
    return least, most


def _queue_names(ctx: click.Context, parameter: click.Parameter, value: str | None) -> list[str] | None:
    if value is None:
        return None
    try:
        return queues_of(value)
    except (ProtocolError, ConfigurationError) as error:
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
  5  stopped as asked, but running tasks had to be broken off
  6  a part of it hung, and the watchdog ended it""",
)
@options.where
@click.option(
    "-c", "--concurrency", type=int, callback=_one_or_more, metavar="N", help="Children; by default, one for each CPU."
)
@click.option(
    "--async-concurrency",
    type=int,
    callback=_one_or_more,
    metavar="N",
    help="Async tasks at once, beside the children; by default, 100.",
)
@click.option("--autoscale", callback=_bounds, metavar="MIN,MAX", help="Have as many children as there is work for.")
@click.option(
    "--max-tasks-per-child", type=int, callback=_one_or_more, metavar="N", help="Replace a child after N tasks."
)
@click.option("--max-memory-per-child", type=float, metavar="MB", help="Replace a child that holds more.")
@click.option("--max-child-age", type=float, metavar="S", help="Replace a child after this time.")
@click.option(
    "-Q",
    "--queues",
    callback=_queue_names,
    metavar="A:3,B",
    help="Queues to serve, in turn, and how many turns; by default, the app's own.",
)
@click.option(
    "--pool",
    type=click.Choice(["prefork", "threads", "asyncio", "solo"]),
    help="What runs the tasks: processes, threads or a loop in one of them, or this process; by default, prefork.",
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
@click.option("--drain", is_flag=True, help="Stop when the queues hold nothing that is due.")
@click.option("-n", "--name", default="", metavar="NAME", help="What others call it; by default, fastq@HOST:PID.")
@click.option("-E", "--events", is_flag=True, help="Report what becomes of tasks: fastq events.")
@click.option(
    "-l", "--loglevel", type=click.Choice(_LEVELS, case_sensitive=False), default="info", show_default=True,
    help="Log from this level on.",
)  # fmt: skip
@click.option("--json-logs", is_flag=True, help="Log a JSON object a line.")
def command(
    app: str | None, folder: str, broker: str | None, backend: str | None, concurrency: int | None,
    async_concurrency: int | None, autoscale: tuple[int, int] | None, max_tasks_per_child: int | None,
    max_memory_per_child: float | None, max_child_age: float | None, pool: str | None,
    queues: list[str] | None, grace: float | None, lease: float | None, drain: bool, name: str, events: bool,
    loglevel: str, json_logs: bool,
) -> int:  # fmt: skip
    """Run the tasks of an app, in children, until SIGTERM or ^C.

    The app is what -A or FASTQ_APP names, or else the one module below --folder that holds one. This
    process never imports it: a template process does, and forks the children; but for the solo pool.

    After SIGTERM or ^C, tasks that run may end, and what was not begun goes back to its queue. After a
    second ^C, or SIGQUIT, nothing is waited for. SIGUSR1 logs where all threads are.
    """
    from fastq.worker import logs

    logs.set_up(loglevel.upper(), as_json=json_logs)
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            faulthandler.enable()
    asked = _Asked(queues, name, drain, json_logs, ServiceManager.of_this_process())
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until the worker runs, and looks after signals itself
    overrides = options.given(
        broker=broker, backend=backend, concurrency=concurrency, grace_s=grace, lease_s=lease, events=events or None,
        pool=pool, async_concurrency=async_concurrency, max_tasks_per_child=max_tasks_per_child,
        max_memory_per_child_mb=max_memory_per_child, max_child_age_s=max_child_age,
    )  # fmt: skip
    if autoscale is not None:
        overrides.update(autoscale_min=autoscale[0], autoscale_max=autoscale[1])
    try:
        return _work(app, folder, overrides, asked, loglevel.upper())
    except FastQError as error:
        if not json_logs:
            raise
        logger.critical("%s", error, extra={"exception": getattr(error, "traceback", "")})
        return status_of(error)
    except KeyboardInterrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # the end of the process is not to be ended with another status
        logger.info("Stopped before it was ready")
        return ExitCode.OK


def _work(app: str | None, folder: str, overrides: dict[str, Any], asked: _Asked, level: str) -> ExitCode:
    from fastq.pools.prefork import PreforkPool

    if overrides.get("pool") == "solo":
        return _work_alone(app, folder, overrides, asked)
    pool = PreforkPool(app, folder=folder, overrides=overrides, log_level=level, json_logs=asked.plain)
    try:
        pool.begin()
        _import_ahead(overrides)
        manifest = pool.load()
        if manifest.settings["pool"] != "solo":
            return _serve(pool, manifest, asked)
    finally:
        pool.stop(time.monotonic())
    return _work_alone(app, folder, overrides, asked)


def _work_alone(app: str | None, folder: str, overrides: dict[str, Any], asked: _Asked) -> ExitCode:
    from fastq.pools.solo import SoloPool

    pool = SoloPool(app, folder=folder, overrides=overrides)
    manifest = pool.load()
    try:
        return _serve(pool, manifest, asked)
    finally:
        pool.stop(time.monotonic())


def _serve(pool: Pool, manifest: Manifest, asked: _Asked) -> ExitCode:
    from fastq.backends import open_backend
    from fastq.brokers import open_broker
    from fastq.cli.banner import announce
    from fastq.pools.title import Title
    from fastq.settings import settings_of
    from fastq.states import open_state
    from fastq.worker.worker import Worker

    settings = settings_of(manifest.settings)
    children = settings.children
    queues = asked.queues or [settings.default_queue]
    options.check_shared(settings)
    Title(manifest.app, "worker").show(f"with {children} {'child' if children == 1 else 'children'}")
    with ExitStack() as opened:
        broker = opened.enter_context(closing(open_broker(settings.broker, settings.envelope)))
        backend = opened.enter_context(closing(open_backend(settings.backend_url, expires_s=settings.result_expires_s)))
        worker = Worker(
            broker=broker, backend=backend,
            state=lambda: opened.enter_context(closing(open_state(*settings.state_urls))),
            pool=pool, manifest=manifest, settings=settings, queues=queues, name=asked.name, leaving=True,
            drain=asked.drain, manager=asked.manager,
        )  # fmt: skip
        announce(manifest, settings, queues, children, plain=asked.plain)
        _calm_the_collector()
        return worker.run(overdue=_give_up)


def _calm_the_collector() -> None:
    """Let the garbage collector look seldom: thousands of messages pass at a time, and hardly any is part of a cycle.

    It took a quarter of a busy parent's processor time (``benchmarks.load``, drain).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _import_ahead(overrides: dict[str, Any]) -> None:
    """Import the broker's library while the template imports the app, if it is known which broker that will name."""
    threading.Thread(target=_import_broker, args=(overrides,), name="fastq-import").start()


def _import_broker(overrides: dict[str, Any]) -> None:
    from fastq.brokers import import_broker
    from fastq.settings import Settings

    if os.environ.get("FASTQ_CONFIG"):  # user code, which this process does without
        return
    with suppress(FastQError):  # `load` reports it
        broker = Settings.load(overrides).broker
        # The default is what most apps replace in their code, unless it was used here before. A library costs 12 MB.
        if broker != Settings.broker or Path(broker.removeprefix("sqlite:///")).exists():
            import_broker(broker)


def _give_up(status: ExitCode = ExitCode.UNFINISHED) -> NoReturn:
    """Leave. The words have a thread of their own, because it may be the log that hangs."""
    words = "Stopping hangs: leaving at once. What was in hand goes to others when the lease has run out"
    telling = threading.Thread(target=logger.critical, args=(words,), daemon=True)
    telling.start()
    telling.join(1.0)
    os._exit(status)
