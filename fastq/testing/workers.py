"""A real worker, with real children, inside the test's own process."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fastq.app import FastQ
from fastq.pools.prefork import PreforkPool
from fastq.worker.worker import ExitCode, Worker


class RunningWorker:
    """A worker whose `run` goes on in a thread of its own."""

    def __init__(self, worker: Worker, pool: PreforkPool) -> None:
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
    **settings: Any,
) -> Iterator[RunningWorker]:
    """Run a worker on the app's broker and backend; children import the app from `path`, as for ``-A``.

    `settings` replace the app's own. The broker may be ``memory://``: only the parent, here, uses it.
    """
    pool = PreforkPool(path, folder=folder)
    manifest = pool.load()
    changed = dataclasses.replace(app.settings, concurrency=concurrency, **settings)
    worker = Worker(
        broker=app.broker, backend=app.backend, pool=pool, manifest=manifest, settings=changed, queues=queues
    )  # fmt: skip
    running = RunningWorker(worker, pool)
    try:
        yield running
    finally:
        running.stop(now=True)
