"""A real worker, with real children, inside the test's own process."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fastq.app import FastQ
from fastq.pool import Pool
from fastq.pools.prefork import PreforkPool
from fastq.pools.solo import SoloPool
from fastq.settings import fields_of
from fastq.worker.exiting import ExitCode
from fastq.worker.worker import Worker


class RunningWorker:
    """A worker whose `run` goes on in a thread of its own."""

    def __init__(self, worker: Worker, pool: Pool) -> None:
        self.worker = worker
        self.pool = pool
        self.exit: ExitCode | BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="fastq-test-worker")
        self._thread.start()

    def stop(self, *, now: bool = False) -> ExitCode:
        """Ask the worker to stop, wait until it has, and return its exit code; raise what broke it."""
        self.worker.stop_soon(now=now)
        self._thread.join()
        if isinstance(self.exit, BaseException):
            raise self.exit
        assert self.exit is not None
        return self.exit

    def _run(self) -> None:
        try:
            self.exit = self.worker.run()
        except BaseException as error:  # noqa: BLE001 - `stop` raises it, in the test's own thread
            self.exit = error


@contextmanager
def running_worker(
    app: FastQ,
    path: str,
    *,
    folder: str = ".",
    concurrency: int = 1,
    queues: Sequence[str] = ("default",),
    name: str = "",
    **settings: Any,
) -> Iterator[RunningWorker]:
    """Run a worker on the app's broker, backend and state; children import the app from `path`, as for ``-A``.

    `settings` replace the app's own, here and in the children, who otherwise have those of this process's app. The
    broker may be ``memory://`` if only the parent, here, uses it, as it is with ``pool="solo"``.
    """
    changed = dataclasses.replace(app.settings, concurrency=concurrency, **settings)
    kind = SoloPool if changed.pool == "solo" else PreforkPool
    pool = kind(path, folder=folder, overrides=fields_of(changed))
    manifest = pool.load()
    try:
        worker = Worker(
            broker=app.broker, backend=app.backend, state=lambda: app.state, pool=pool, manifest=manifest,
            settings=changed, queues=queues, name=name,
        )  # fmt: skip
    except BaseException:
        pool.stop(time.monotonic())
        raise
    running = RunningWorker(worker, pool)
    try:
        yield running
    finally:
        running.stop(now=True)
