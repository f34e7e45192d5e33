"""The worker: puts fetcher, dispatcher, settler and lease around a pool, runs them, and stops them in order."""

from __future__ import annotations

import enum
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence

from fastq.backend import Backend
from fastq.broker import Broker
from fastq.errors import BrokerError
from fastq.pool import Manifest, Pool
from fastq.settings import Settings

from .dispatcher import Dispatcher
from .fetcher import Fetcher
from .lease import Lease
from .settler import Settler
from .stopping import Wish, Wishes
from .triage import Triage
from .window import Window

logger = logging.getLogger("fastq.worker")

_MOST_IN_HAND = 2000
_CLEANUP_S = 4.0  # what stopping may take beyond the grace period


class ExitCode(enum.IntEnum):
    """What the process's exit status says."""

    OK = 0  # stopped as asked, nothing was broken off
    FAILED = 1  # the worker broke
    USAGE = 2  # an option, setting, URL or app path is wrong
    APP = 3  # the app can't be imported
    BROKER = 4  # the broker or the backend can't be used
    UNFINISHED = 5  # stopped as asked, but running tasks had to be broken off


class Worker:
    """One worker incarnation. `run` lives until a signal or `stop_soon`; everything it starts it also ends.

    `pool` has loaded its app, and `manifest` is what it found. With `leaving`, the process ends when `run` does.
    """

    def __init__(
        self, *, broker: Broker, backend: Backend, pool: Pool, manifest: Manifest, settings: Settings,
        queues: Sequence[str], leaving: bool = False,
    ) -> None:  # fmt: skip
        self._broker = broker
        self._pool = pool
        self._settings = settings
        self._children = settings.concurrency or os.cpu_count() or 1
        self._wishes = Wishes(leaving=leaving)
        self._failure: BaseException | None = None
        about = {
            "app": manifest.app, "host": socket.gethostname(), "pid": str(os.getpid()), "queues": ",".join(queues),
            "children": str(self._children),
        }  # fmt: skip
        self._lease = Lease(
            broker=broker, backend=backend, queues=queues, lease_s=settings.lease_s, about=about, fail=self._fail
        )
        self._settler = Settler(pool=pool, lease=self._lease, max_deliveries=settings.max_deliveries, fail=self._fail)
        self._dispatcher = Dispatcher(
            pool=pool, triage=Triage(manifest.tasks, settings), window=Window(self._children, _MOST_IN_HAND),
            children=self._children, lease=self._lease, complete=self._settler.complete,
        )  # fmt: skip
        self._settler.dispatcher = self._dispatcher
        self._lease.on_lost = self._dispatcher.forsake
        self._fetcher = Fetcher(lease=self._lease, dispatcher=self._dispatcher, fail=self._fail)

    def run(self, overdue: Callable[[], None] | None = None) -> ExitCode:
        """Work until told to stop. Raises what broke the worker, if something did.

        `overdue` is called from another thread if stopping takes longer than the grace period and 5 seconds,
        as it may when the broker hangs.
        """
        with self._wishes:
            try:
                self.start()
                wish = self._wishes.wait(Wish.NOTHING)
            except BaseException:
                self._wind_down(0.0)
                raise
            if wish is Wish.FINISH:
                logger.info("Stopping: what runs may end within %g s, the rest goes back", self._settings.grace_s)
            grace_s = 0.0 if wish >= Wish.NOW else self._settings.grace_s
            last_resort = threading.Timer(grace_s + _CLEANUP_S + 0.5, overdue or (lambda: None))
            last_resort.daemon = True
            last_resort.start()
            finished = self._wind_down(grace_s)
            last_resort.cancel()
        if self._failure is not None:
            raise self._failure
        return ExitCode.OK if finished else ExitCode.UNFINISHED

    def start(self) -> None:
        """Start the children and the loops."""
        self._pool.start(self._children)
        for loop in (self._lease, self._settler, self._fetcher):
            loop.start()
        logger.info("Ready")

    def stop_soon(self, *, now: bool = False) -> None:
        """Ask `run` to stop: at once, or when what runs has ended. Any thread may call this."""
        self._wishes.send(Wish.NOW if now else Wish.FINISH)

    @property
    def processed(self) -> int:
        """How many attempts have ended here."""
        return self._settler.processed

    # -- stopping, step by step --------------------------------------------------------------------

    def _wind_down(self, grace_s: float) -> bool:
        """Stop everything within `grace_s` and a little; return whether all that ran could end."""
        self._fetcher.quiet()
        self._hand_back_unstarted()
        self._pool.quiet()
        finished = self._let_end(time.monotonic() + grace_s)
        if not finished:
            self._dispatcher.break_off()
            self._dispatcher.wait_until_empty(time.monotonic() + 1)
        end = time.monotonic() + _CLEANUP_S
        self._fetcher.stop(1)
        self._hand_back_unstarted()  # what a last fetch brought in
        self._settler.stop(end - time.monotonic() - 2)
        self._lease.stop(end - time.monotonic() - 1)
        self._pool.stop(time.monotonic() + 1)
        self._lease.close()
        logger.info("Stopped; %d attempts ended here", self.processed)
        return finished

    def _let_end(self, deadline: float) -> bool:
        """Wait until all that runs has ended; not beyond the deadline, a second ^C or a failure."""
        while not self._dispatcher.wait_until_empty(min(deadline, time.monotonic() + 0.1)):
            self._hand_back_unstarted()  # what a child that died had not begun
            if time.monotonic() >= deadline or self._wishes.wait(Wish.FINISH, time.monotonic()) > Wish.FINISH:
                return False
        return True

    def _hand_back_unstarted(self) -> None:
        flights = self._dispatcher.withdraw()
        acked = [flight for flight in flights if flight.early and flight.admitted]
        held = [flight.delivery for flight in flights if not (flight.early and flight.admitted)]
        try:
            if held:
                self._lease.subscription.release(held)
            if acked:  # forgotten at the broker by now, and not begun
                self._broker.publish([flight.message for flight in acked])
        except BrokerError as error:
            logger.error("%d messages could not be handed back; their lease will run out: %s", len(flights), error)

    def _fail(self, error: BaseException) -> None:
        logger.critical("The worker can't go on: %s", error)
        self._failure = self._failure or error
        self._wishes.send(Wish.FAILED)
