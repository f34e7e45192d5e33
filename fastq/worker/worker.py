"""The worker: puts fetcher, dispatcher, settler and lease around a pool, runs them, and stops them in order."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from fastq import __version__, failpoints
from fastq.backend import Backend
from fastq.broker import Broker
from fastq.errors import ConfigurationError, NotSupported, PoolError, WorkerStuck
from fastq.pool import Manifest, Pool
from fastq.routing import shown, turns
from fastq.settings import Settings
from fastq.state import SharedState

from .autoscaler import Autoscaler
from .commands import Commands
from .control import Controller
from .dispatcher import Dispatcher
from .exiting import ExitCode
from .fetcher import Fetcher
from .guard import guard_of
from .lease import Lease
from .limits import Limits
from .locks import Locks
from .replays import Replays
from .reporter import Reporter
from .retention import Retention
from .settler import Settler
from .stacks import stacks_here
from .stopping import Wish, Wishes
from .systemd import ServiceManager
from .timekeeper import Timekeeper
from .triage import Triage
from .watchdog import Watchdog

logger = logging.getLogger("fastq.worker")

_MOST_IN_HAND = 2000
_MOST_OF_SHARES = 8  # messages in one fetch, where queues are shared fairly: their turns are to be short
_CLEANUP_S = 4.0  # what stopping may take beyond the grace period


class Worker:
    """One worker incarnation. `run` lives until a signal or `stop_soon`; everything it starts it also ends.

    `pool` has loaded its app, and `manifest` is what it found. `state` opens the shared state, for what needs it, and
    raises NotSupported if there can be none. `name` is what commands and events call it, by default fastq@host:pid.
    With `leaving`, the process ends when `run` does. With `drain`, it stops by itself when its queues hold nothing that
    is due. `manager` is told how it goes.
    """

    def __init__(
        self, *, broker: Broker, backend: Backend, state: Callable[[], SharedState], pool: Pool, manifest: Manifest,
        settings: Settings, queues: Sequence[str], name: str = "", leaving: bool = False, drain: bool = False,
        manager: ServiceManager | None = None,
    ) -> None:  # fmt: skip
        self._broker = broker
        self._open_state = state
        self._state: SharedState | None = None
        self._opening = threading.Lock()
        self._pool = pool
        self._settings = settings
        self._children = settings.children
        self._resizing = threading.RLock()
        self._failure: BaseException | None = None
        self._app = manifest.app
        self.name = _checked_name(name) if name else f"fastq@{socket.gethostname()}:{os.getpid()}"
        about = {
            "app": manifest.app, "name": self.name, "host": socket.gethostname(), "pid": str(os.getpid()),
            "queues": shown(queues), "children": str(self._children),
        }  # fmt: skip
        locks = Locks(state=self.state, tasks=manifest.tasks)
        self._limits = Limits(state=self.state, tasks=manifest.tasks, settings=settings, fail=self._fail)
        for gate in (locks, self._limits):
            gate.prepare()
        replays = Replays()
        self._lease = Lease(
            broker=broker, backend=backend, queues=turns(queues, settings.shares), lease_s=settings.lease_s,
            about=about, fail=self._fail, guard=guard_of(settings, replays),
        )  # fmt: skip
        self._retention = Retention(
            broker=broker, queues=turns(queues, settings.shares), settings=settings, fail=self._fail
        )
        self._manager = manager or ServiceManager()
        self._leaving = leaving
        self._wishes = Wishes(leaving=leaving, on_stacks=self._log_stacks)
        self._stacks_at = 0.0
        self._settler = Settler(
            pool=pool, lease=self._lease, backend=backend, state=self.state, settings=settings,
            fail=self._fail,
        )  # fmt: skip
        self._timekeeper = Timekeeper(pool=pool, fail=self._fail)
        triage = Triage(manifest.tasks, settings, self.state, replays)
        self._dispatcher = Dispatcher(
            pool=pool, triage=triage, locks=locks, limits=self._limits, lease=self._lease, most_in_hand=_MOST_IN_HAND,
            timekeeper=self._timekeeper, complete=self._settler.complete,
            most_at_once=_MOST_OF_SHARES if any(queue in settings.shares for queue in queues) else _MOST_IN_HAND,
        )  # fmt: skip
        self._settler.dispatcher = self._dispatcher
        self._lease.on_lost = self._dispatcher.forsake
        self._lease.on_renewed = self._dispatcher.broker_answers
        self._autoscaler: Autoscaler | None = None
        if settings.autoscale_max:
            self._autoscaler = Autoscaler(
                dispatcher=self._dispatcher, least=settings.autoscale_min, most=settings.autoscale_max,
                resize=self.resize, fail=self._fail,
            )  # fmt: skip
        self._fetcher = Fetcher(
            lease=self._lease, dispatcher=self._dispatcher, fail=self._fail, idle=self._is_idle,
            drained=self._have_drained if drain else None,
        )  # fmt: skip
        self._watchdog = Watchdog(
            broker=broker, lease=self._lease, fetcher=self._fetcher, stuck_s=settings.watchdog_s,
            loops=(self._fetcher, self._settler, self._lease, self._timekeeper), fail=self._fail,
            on_calm=self._manager.alive, calm_every_s=self._manager.every_s / 2,
        )  # fmt: skip
        self._commands = commands = Commands(
            broker=broker, lease=self._lease, dispatcher=self._dispatcher, revocations=triage.revocations,
            complete=self._settler.complete, processed=lambda: self.processed, resize=self._resize,
            limit_rate=self._limits.override, stop=lambda now: self.stop_soon(now=now), tasks=manifest.tasks,
            queues=queues, shares=settings.shares, about=self._about, stacks=self.stacks,
        )  # fmt: skip
        self._controller = Controller(
            open_state=self.state, seals=settings.seals, commands=commands, fail=self._fail
        )  # fmt: skip
        self._reporter: Reporter | None = None
        if settings.events:
            self._reporter = self._dispatcher.reporter = self._settler.reporter = Reporter(
                worker=self.name, state=self.state, in_hand=self._dispatcher.in_hand, numbers=commands.stats,
                fail=self._fail,
            )  # fmt: skip

    def run(self, overdue: Callable[[ExitCode], None] = lambda _: None) -> ExitCode:
        """Work until told to stop. Raises what broke the worker, if something did.

        `overdue` is called from another thread, with the exit status that is right then, if stopping takes longer than
        the grace period and 5 seconds, as it may when the broker hangs, or if a process that is leaving is still there.
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
            self._manager.stopping("Stopping", grace_s + _CLEANUP_S + 1)
            end = time.monotonic() + grace_s + _CLEANUP_S + 0.5
            last_resort = _call_at(end, overdue, self._status(finished=False))
            finished = self._wind_down(grace_s)
            last_resort.cancel()
        if self._leaving:  # connections may still have to be closed
            soon = time.monotonic() + 0.5
            _call_at(max(soon, min(end, soon + _CLEANUP_S)), overdue, self._status(finished=finished))
        if self._failure is not None:
            raise self._failure
        return self._status(finished=finished)

    def start(self) -> None:
        """Start the children and the loops."""
        failpoints.enter("parent")
        self._pool.start(self._children)
        self._dispatcher.begin()
        self.resize(self._children)
        if self._settings.control:
            self._controller.start()  # before the first fetch: it knows what is revoked and paused
        for optional in (self._reporter, self._autoscaler):
            if optional is not None:
                optional.start()
        for loop in (self._lease, self._limits, self._settler, self._timekeeper, self._fetcher, self._retention):
            loop.start()
        self._watchdog.start()
        logger.info("Ready")
        about = self._commands.about
        children = "1 child" if about["children"] == 1 else f"{about['children']} children"
        self._manager.ready(f"{children} of {about['app']} for {', '.join(about['queues'])}")

    def stop_soon(self, *, now: bool = False) -> None:
        """Ask `run` to stop: at once, or when what runs has ended. Any thread may call this."""
        self._wishes.send(Wish.NOW if now else Wish.FINISH)

    def state(self) -> SharedState:
        """Return the shared state, which is opened once. Raises NotSupported, MissingExtra, StateUnavailable."""
        with self._opening:
            if self._state is None:
                self._state = self._open_state()
            return self._state

    def resize(self, children: int) -> None:
        """Have so many children. Any thread may call this. Raises PoolError for a number that the pool can't have."""
        with self._resizing:
            self._dispatcher.resize(children, spare=int(children < self._settings.autoscale_max))
            self._children = children

    def stacks(self) -> dict[str, str]:
        """Return where the threads of the worker's processes are, by what the processes are called."""
        return {f"worker (pid {os.getpid()})": stacks_here(), **self._pool.stacks()}

    @property
    def processed(self) -> int:
        """How many attempts have ended here."""
        return self._settler.processed

    # -- stopping, step by step --------------------------------------------------------------------

    def _wind_down(self, grace_s: float) -> bool:
        """Stop everything within `grace_s` and a little; return whether all that ran could end."""
        deadline = time.monotonic() + grace_s
        if self._autoscaler is not None:
            self._autoscaler.stop(1)
        self._fetcher.quiet()
        unstarted = self._dispatcher.withdraw()
        self._pool.quiet(deadline)  # first: to hand back may take a while
        self._dispatcher.hand_back(unstarted)
        finished = self._let_end(deadline)
        if not finished:
            self._dispatcher.break_off()
            self._dispatcher.wait_until_empty(time.monotonic() + 1)
        end = time.monotonic() + _CLEANUP_S
        self._watchdog.stop(1)
        self._fetcher.stop(1)
        self._hand_back_unstarted()  # what a last fetch brought in
        self._settler.stop(end - time.monotonic() - 2)
        self._timekeeper.stop(1)
        self._limits.stop(1)
        self._retention.stop(1)
        self._controller.stop(1)
        if self._reporter is not None:
            self._reporter.stop(1)
        self._lease.stop(end - time.monotonic() - 1)
        self._pool.stop(time.monotonic() + 1)
        self._lease.close()
        logger.info("Stopped; %d %s ended here", self.processed, "attempt" if self.processed == 1 else "attempts")
        return finished

    def _let_end(self, deadline: float) -> bool:
        """Wait until all that runs has ended; not beyond the deadline, a second ^C or a failure."""
        while not self._dispatcher.wait_until_empty(min(deadline, time.monotonic() + 0.1)):
            self._hand_back_unstarted()  # what a child that died had not begun
            if time.monotonic() >= deadline or self._wishes.wait(Wish.FINISH, time.monotonic()) > Wish.FINISH:
                return False
        return True

    def _status(self, *, finished: bool) -> ExitCode:
        if self._failure is not None:
            return ExitCode.STUCK if isinstance(self._failure, WorkerStuck) else ExitCode.FAILED
        return ExitCode.OK if finished else ExitCode.UNFINISHED

    def _hand_back_unstarted(self) -> None:
        self._dispatcher.hand_back(self._dispatcher.withdraw())

    # -- draining ----------------------------------------------------------------------------------

    def _is_idle(self) -> bool:
        """Return whether nothing is in hand, and all that follows from what was is at the broker."""
        return self._dispatcher.is_empty and self._settler.idle  # in this order

    def _have_drained(self) -> None:
        logger.info("The queues hold nothing that is due: stopping")
        self.stop_soon()

    # -- remote control ----------------------------------------------------------------------------

    def _about(self) -> dict[str, Any]:
        return {
            "name": self.name, "app": self._app, "host": socket.gethostname(), "pid": os.getpid(),
            "version": __version__, "children": self._children,
        }  # fmt: skip

    def _resize(self, by: int) -> int:
        with self._resizing:
            try:
                self.resize(self._children + by)
            except PoolError as error:
                raise NotSupported(str(error)) from error
            return self._children

    def _log_stacks(self) -> None:
        """Log where all threads are, though not more than once a second."""
        if time.monotonic() - self._stacks_at >= 1.0:
            for name, stacks in self.stacks().items():
                logger.warning("Stacks of %s:\n%s", name, stacks)
            self._stacks_at = time.monotonic()

    def _fail(self, error: BaseException) -> None:
        logger.critical("The worker can't go on: %s", error)
        self._failure = self._failure or error
        self._wishes.send(Wish.FAILED)


def _call_at(when: float, function: Callable[[ExitCode], None], status: ExitCode) -> threading.Timer:
    """Have a function called, unless the process has ended by then; `when` is on `time.monotonic`."""
    timer = threading.Timer(when - time.monotonic(), function, (status,))
    timer.daemon = True
    timer.start()
    return timer


def _checked_name(name: str) -> str:
    if not name.isprintable() or " " in name or len(name) > 200:
        raise ConfigurationError(f"{name!r:.60} is no name for a worker: up to 200 printable characters, no spaces")
    return name
