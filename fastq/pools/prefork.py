"""The pool of processes that are forked from a template, fed through channels, and replaced when they die.

The parent holds no user code. What it knows of its children it has from the template (born, died) and from the
channels (what they run).
"""

from __future__ import annotations

import json
import logging
import os
import select
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from fastq.errors import PoolError
from fastq.pool import Ended, Manifest, Pool, Running
from fastq.pools.lane import MAX_SEATS, SLOTS, Lane, Plan
from fastq.pools.stacks import stacks_of
from fastq.pools.template_process import TemplateProcess, describe

logger = logging.getLogger("fastq.pool")

_TEMPLATE_STARTS = 5  # how often in a row, with nothing ended in between, a template that dies is started again
_NEWS = ("born", "stillborn", "leaving", "silent", "died")  # of children
_ROOM_TO_GROW = 64  # children that there may be beyond those of the start


class PreforkPool(Pool):
    """Runs tasks in processes, as the setting `pool` says.

    * ``prefork``: sync tasks in processes of one run each, async tasks beside them, in a process with an event loop;
    * ``threads``: sync tasks in the threads of one process, async tasks as above;
    * ``asyncio``: all in one process with an event loop, and sync tasks in threads of it.

    `app` and `folder` are what `fastq.discovery.find_app` takes; `overrides` are settings that win over the
    app's own. `log_level` and `json_logs` are what `fastq.worker.logs.set_up` takes, for the pool's processes.
    """

    def __init__(
        self, app: str | None, *, folder: str = ".", overrides: Mapping[str, Any] | None = None, capacity: int = 2000,
        log_level: str = "INFO", json_logs: bool = False,
    ) -> None:  # fmt: skip
        options = {
            "app": app, "folder": folder, "overrides": dict(overrides or {}), "log_level": log_level,
            "json_logs": json_logs,
        }  # fmt: skip
        self._arguments = json.dumps(options)
        self._capacity = capacity
        self._template: TemplateProcess | None = None
        self._manifest: Manifest | None = None
        self._lanes: list[Lane] = []
        self._template_deaths = 0
        self._quiet = False
        self._interrupted, self._interrupt = os.pipe()
        for end in (self._interrupted, self._interrupt):
            os.set_blocking(end, False)
        self._waiting = select.poll()
        self._waiting.register(self._interrupted, select.POLLIN)

    # -- start ------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the import of the app, for which `load` then waits. Raises PoolError."""
        if self._template is None:
            self._template = TemplateProcess(self._arguments)

    def load(self) -> Manifest:
        self.begin()
        assert self._template is not None
        self._manifest = self._template.manifest()
        return self._manifest

    def start(self, children: int) -> None:
        assert self._manifest is not None, "load() comes first"
        for number, plan in enumerate(_plans(self._manifest, children, self._capacity)):
            self._lanes.append(Lane(number, plan, self._order))
            self._waiting.register(self._lanes[-1].fd, select.POLLIN)
        self._open_template()
        for lane in self._lanes:
            lane.tend()
        while any(lane.awaits_births for lane in self._lanes):
            self.collect(None)

    def _open_template(self) -> None:
        assert self._template is not None
        self._template.hand_over([lane.channel.fds() for lane in self._lanes])
        self._waiting.register(self._template.fileno(), select.POLLIN)

    # -- the two directions -------------------------------------------------------------------

    @property
    def lanes(self) -> Sequence[int]:
        return [lane.at_once for lane in self._lanes]

    def submit(self, ticket: int, frame: bytes, lane: int = 0) -> bool:
        return self._lanes[lane].submit(ticket, frame)

    def collect(self, deadline: float | None) -> list[Ended]:
        assert self._template is not None
        while True:
            ready = {fd for fd, _ in self._waiting.poll(self._patience(deadline))}
            ended: list[Ended] = []
            for lane in self._lanes:
                if lane.fd in ready and not lane.ruined:
                    ended += lane.take()
            if ended:
                self._template_deaths = 0
            heard = self._template.fileno() in ready
            if heard:
                ended += self._hear()
                self._template.reap_orphans()
            for lane in self._lanes:
                lane.tend()
            if self._interrupted in ready:
                os.read(self._interrupted, 4096)
                return ended
            if ended or heard or (deadline is not None and time.monotonic() >= deadline):
                return ended

    def withdraw(self) -> list[int]:
        return [ticket for lane in self._lanes for ticket in lane.withdraw()]

    def running(self) -> list[Running]:
        return [run for lane in self._lanes for run in lane.running()]

    def kill(self, tickets: Sequence[int]) -> None:
        wanted = set(tickets)
        for lane in self._lanes:
            lane.kill(wanted)
        self.interrupt()  # `collect` is to see to it that they end

    def resize(self, children: int) -> None:
        self._lanes[0].resize(children)
        self.interrupt()

    def interrupt(self) -> None:
        with suppress(BlockingIOError):
            os.write(self._interrupt, b"!")

    # -- stop ------------------------------------------------------------------------------------

    def stacks(self) -> dict[str, str]:
        pids = {name: pid for lane in self._lanes for name, pid in lane.pids().items()}
        found = stacks_of(pids.values())
        return {name: found.get(pid, "it does not say") for name, pid in pids.items()}

    def quiet(self, deadline: float | None = None) -> None:
        self._quiet = True
        if deadline is not None:
            self._order({"ending": deadline})
        for lane in self._lanes:
            lane.quiet = True
            lane.channel.stop()

    def stop(self, deadline: float) -> None:
        self.quiet()
        while any(lane.alive for lane in self._lanes) and time.monotonic() < deadline:
            self.collect(deadline)
        if self._template is not None:
            self._template.end()
            self._template = None
        for lane in self._lanes:
            lane.channel.close()
        self._lanes = []
        for end in (self._interrupted, self._interrupt):
            with suppress(OSError):
                os.close(end)
        self._interrupted = self._interrupt = -1

    # -- the template -----------------------------------------------------------------------------

    def _order(self, order: dict[str, Any]) -> None:
        if self._template is not None:
            self._template.order(order)

    def _hear(self) -> list[Ended]:
        assert self._template is not None
        news = self._template.news()
        if news is None:
            return self._template_died()
        ended: list[Ended] = []
        for item in sorted(news, key=lambda item: "died" in item):  # who has died, was born before
            process = next((item[what] for what in _NEWS if what in item), -1)
            for lane in self._lanes:
                if lane.owns(process):
                    ended += _told(lane, item)
        return ended

    def _template_died(self) -> list[Ended]:
        """Start another template; the children died with the old one."""
        assert self._template is not None
        self._waiting.unregister(self._template.fileno())
        self._template.end()
        self._template_deaths += 1
        if self._template_deaths > _TEMPLATE_STARTS:
            raise PoolError(
                f"The pool's template process died {self._template_deaths} times in a row: the pool can't go on"
            )
        logger.error("The pool's template process died, and its children with it; starting another")
        ended = [each for lane in self._lanes for each in lane.salvage("died with the template")]
        self._template = TemplateProcess(self._arguments)
        self._template.manifest()
        self._open_template()
        return ended

    def _patience(self, deadline: float | None) -> float | None:
        """Return for how many milliseconds `collect` may sleep."""
        points = [when for lane in self._lanes for when in lane.next_due()]
        if deadline is not None:
            points.append(deadline)
        return max(0.0, (min(points) - time.monotonic()) * 1000) + 0.5 if points else None


def _plans(manifest: Manifest, children: int, capacity: int) -> list[Plan]:
    """Return what lanes an app is to have."""
    kind, at_once = manifest.settings["pool"], int(manifest.settings["async_concurrency"])
    most = max(children, int(manifest.settings["autoscale_max"])) + _ROOM_TO_GROW
    most = max(children, min(most, MAX_SEATS if kind == "prefork" else MAX_SEATS // SLOTS))
    if kind == "asyncio":
        return [_loop(children, most, 0)]
    first = Plan("one" if kind == "prefork" else "threads", children, most, 0, capacity)
    if not any(task.is_async for task in manifest.tasks.values()):
        return [first]
    return [first, _loop(at_once, at_once, first.slots)]


def _loop(at_once: int, most: int, first: int) -> Plan:
    """Plan a loop. Each of its seats maps the channel, which is small, therefore."""
    return Plan("loop", at_once, most, first, min(65_535, 4 * most + 64))


def _told(lane: Lane, news: Mapping[str, Any]) -> list[Ended]:
    """Tell a lane what the template says of one of its processes."""
    if "born" in news:
        lane.born(news["born"], news["pid"])
    elif "stillborn" in news:
        return lane.stillborn(news["stillborn"])
    elif "leaving" in news:
        lane.leaves(news["leaving"])
    elif "silent" in news:
        lane.silent(news["silent"])
    else:
        return lane.died(news["died"], news["status"], describe(news["status"], news["peak_mb"], news["words"]))
    return []
