"""The solo pool: tasks run one at a time in this very process, for debugging and for tests."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastq.app import FastQ
from fastq.discovery import find_app
from fastq.errors import PoolError
from fastq.execution import close_event_loop, execute
from fastq.message import Message
from fastq.pool import LEFT, Ended, Manifest, Pool, Running
from fastq.pools.child import framed
from fastq.pools.soft_limits import Watch
from fastq.settings import fields_of

logger = logging.getLogger("fastq.pool")


class SoloPool(Pool):
    """Runs tasks in a thread of this process, which imports the app. A debugger finds all in one place.

    Nothing can be broken off here: hard time limits have no effect, and a task that ends its process ends the
    worker. Parameters are those of `PreforkPool`.
    """

    kills = False

    def __init__(
        self, app: str | None, *, folder: str = ".", overrides: Mapping[str, Any] | None = None, capacity: int = 2000
    ) -> None:
        self._path, self._folder, self._overrides = app, folder, dict(overrides or {})
        self._capacity = capacity
        self._app: FastQ
        self._watch: Watch
        self._changed = threading.Condition()
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._running: Running | None = None
        self._ended: list[Ended] = []
        self._interrupted = False
        self._quiet = False
        self._child_ended = False
        self._thread = threading.Thread(target=self._serve, name="fastq-solo", daemon=True)

    def load(self) -> Manifest:
        self._app = find_app(self._path, self._folder)
        self._app.settings = replace(self._app.settings, **self._overrides)
        self._app.lifecycle.begin_worker()
        return Manifest(
            self._app.name, fields_of(self._app.settings), {name: task.info for name, task in self._app.tasks.items()}
        )

    def start(self, children: int) -> None:
        limited = sorted(task.name for task in self._app.tasks.values() if task.info.hard_limit_ms)
        if limited:
            logger.warning(
                "The solo pool can't break off a task: the hard time limit of %s has no effect", ", ".join(limited)
            )
        try:
            self._app.lifecycle.begin_child()
        except Exception as error:
            raise PoolError(f"What the app does on_child_start failed: {type(error).__name__}: {error}") from error
        self._app.lifecycle.ending.announce(0.0)
        self._watch = Watch(self._app.lifecycle.ending)
        self._thread.start()

    # -- the two directions -------------------------------------------------------------------

    @property
    def lanes(self) -> Sequence[int]:
        return [1]

    def submit(self, ticket: int, frame: bytes, lane: int = 0) -> bool:
        with self._changed:
            if self._quiet or len(self._waiting) >= self._capacity:
                return False
            self._waiting.append((ticket, frame))
            self._changed.notify_all()
            return True

    def collect(self, deadline: float | None) -> list[Ended]:
        with self._changed:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            self._changed.wait_for(lambda: self._ended or self._interrupted, left)
            self._interrupted = False
            ended, self._ended = self._ended, []
            return ended

    def withdraw(self) -> list[int]:
        with self._changed:
            back = [ticket for ticket, _ in self._waiting]
            self._waiting.clear()
            return back

    def running(self) -> list[Running]:
        running = self._running
        return [running] if running is not None else []

    def kill(self, tickets: Sequence[int]) -> None:
        if any(run.ticket in tickets for run in self.running()):
            logger.warning("The solo pool can't break off what runs: it runs in the worker's own process")

    def resize(self, children: int) -> None:
        if children != 1:
            raise PoolError(f"The solo pool runs one task at a time, and can't have {children} children")

    def interrupt(self) -> None:
        with self._changed:
            self._interrupted = True
            self._changed.notify_all()

    # -- stop ------------------------------------------------------------------------------------

    def quiet(self, deadline: float | None = None) -> None:
        with self._changed:
            self._quiet = True
            self._changed.notify_all()
        if deadline is not None and self._thread.ident:
            from fastq import soft_limit  # needs asyncio, which not everyone does

            self._app.lifecycle.ending.announce(deadline)
            self._watch.interrupt()
            soft_limit.interrupt()

    def stop(self, deadline: float) -> None:
        self.quiet()
        if self._thread.ident:
            self._thread.join(max(0.0, deadline - time.monotonic()))
            if not self._child_ended and not self._thread.is_alive():
                self._child_ended = True
                self._app.lifecycle.end_child()
                self._app.lifecycle.ending.announce(0.0)

    # -- the thread that runs tasks -----------------------------------------------------------------

    def _serve(self) -> None:
        try:
            self._serve_all()
        finally:
            close_event_loop()
            self._watch.close()

    def _serve_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._quiet)
                if not self._waiting:
                    return
                ticket, frame = self._waiting.popleft()
                self._running = Running(ticket, 0, os.getpid(), time.monotonic())
            ended = self.run(ticket, Message.decode(frame))
            with self._changed:
                self._running = None
                self._ended.append(ended)
                self._changed.notify_all()

    def run(self, ticket: int, message: Message) -> Ended:
        """Run one task to its end."""
        outcome = execute(self._app, message, self._watch.call, ticket)
        frame = framed(message, outcome, self._app.settings.packing)
        return Ended(ticket, frame) if frame else Ended(ticket, b"", LEFT, blameless=True)
