"""The timekeeper: breaks off what runs past its hard time limit, from outside, whatever its process is doing."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence

from fastq.errors import TimeLimitExceeded
from fastq.pool import Pool

from .loop import Loop
from .triage import Flight

logger = logging.getLogger("fastq.worker")


class Timekeeper(Loop):
    """Watches the tickets of flights that have a limit; without any, it sleeps, and costs nothing.

    It wakes when the first of them may be due, and learns from the pool since when they run.
    """

    def __init__(self, *, pool: Pool, fail: Callable[[BaseException], None]) -> None:
        super().__init__("timekeeper", fail)
        self._pool = pool
        self._changed = threading.Condition()
        self._watched: dict[int, Flight] = {}
        self._look_at = math.inf  # a point on the monotonic clock

    @property
    def busy(self) -> bool:
        """Whether anything is watched."""
        return bool(self._watched)

    def watch(self, ticket: int, flight: Flight) -> None:
        """Take a flight that has a limit under watch, when its ticket goes to the pool."""
        if not self._pool.kills:
            return
        with self._changed:
            self._watched[ticket] = flight
            first = time.monotonic() + flight.hard_limit_s
            if first < self._look_at:
                self._look_at = first
                self._changed.notify_all()

    def landed(self, tickets: Sequence[int]) -> None:
        """Watch no more for these tickets."""
        with self._changed:
            for ticket in tickets:
                self._watched.pop(ticket, None)

    def turn(self) -> None:
        """Wait until a flight may be due, and break off those that are."""
        with self._changed:
            with self.waiting:
                while not self.quieted.is_set() and (left := self._look_at - time.monotonic()) > 0:
                    self._changed.wait(min(left, threading.TIMEOUT_MAX))
            if self.quieted.is_set():
                return
            since = {run.ticket: run.since for run in self._pool.running()} if self._watched else {}
            now = time.monotonic()
            ends = {ticket: since.get(ticket, now) + each.hard_limit_s for ticket, each in self._watched.items()}
            overdue = {ticket: self._watched.pop(ticket) for ticket, end in ends.items() if end <= now}
            self._look_at = min((end for end in ends.values() if end > now), default=math.inf)
        if overdue:
            self._break_off(overdue)

    def wake(self) -> None:
        """Make a turn that waits return."""
        with self._changed:
            self._changed.notify_all()

    def _break_off(self, overdue: dict[int, Flight]) -> None:
        for flight in overdue.values():
            message, limit_s = flight.message, flight.hard_limit_s
            logger.error("Task %s[%s] is broken off at its time limit of %g s", message.task, message.uuid, limit_s)
            name = f"Task {message.task}[{message.uuid}]"
            flight.sentence = TimeLimitExceeded(f"{name} was broken off at its time limit of {limit_s:g} s")
        self._pool.kill(list(overdue))
