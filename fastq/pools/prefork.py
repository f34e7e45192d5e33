"""The prefork pool: children forked from a template, fed through one channel, replaced when they die.

The parent holds no user code. What it knows of a child it has from the template (born, died) and from the
channel (what it runs); what it handed over it keeps itself, so that a dead child or template costs at
most the runs that were going on.
"""

from __future__ import annotations

import json
import logging
import os
import select
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from fastq._speedups import Channel
from fastq.errors import PoolError
from fastq.pool import Ended, Manifest, Pool, Running
from fastq.pools.brake import Brake
from fastq.pools.template_process import TemplateProcess, describe

logger = logging.getLogger("fastq.pool")

_TEMPLATE_STARTS = 5  # how often a template that dies is started again before the pool gives up


class PreforkPool(Pool):
    """Runs tasks in processes.

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
        self._channel: Channel | None = None
        self._size = 0
        self._pids: dict[int, int] = {}  # child: pid, while it lives
        self._frames: dict[int, bytes] = {}  # ticket: frame, of everything that is not ended yet
        self._again: deque[int] = deque()  # tickets to be put into the channel once more
        self._brake = Brake()
        self._wanted: list[tuple[float, int]] = []  # (when, child) to be forked
        self._unborn: set[int] = set()  # children whose fork was ordered, and of which nothing was heard yet
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
        return self._template.manifest()

    def start(self, children: int) -> None:
        assert self._template is not None, "load() comes first"
        try:
            self._channel = Channel(children, self._capacity)
        except OSError as error:
            raise PoolError(f"The pool's channel can't be made: {error}") from error
        self._size = children
        self._waiting.register(self._channel.fileno(), select.POLLIN)
        self._open_template()
        for child in range(children):
            self._fork(child)
        while self._unborn:
            self.collect(None)

    def _open_template(self) -> None:
        assert self._template is not None
        assert self._channel is not None
        self._template.hand_over(self._channel.fds())
        self._waiting.register(self._template.fileno(), select.POLLIN)

    # -- the two directions -------------------------------------------------------------------

    def submit(self, ticket: int, frame: bytes) -> bool:
        assert self._channel is not None
        if self._again:
            return False
        self._frames[ticket] = frame
        if self._channel.put(ticket, frame):
            return True
        del self._frames[ticket]
        return False

    def collect(self, deadline: float | None) -> list[Ended]:
        assert self._channel is not None
        assert self._template is not None
        while True:
            ready = {fd for fd, _ in self._waiting.poll(self._patience(deadline))}
            ended = self._take() if self._channel.fileno() in ready else []
            heard = self._template.fileno() in ready
            if heard:
                ended += self._hear()
            self._put_again()
            self._fork_wanted()
            if self._interrupted in ready:
                os.read(self._interrupted, 4096)
                return ended
            if ended or heard or (deadline is not None and time.monotonic() >= deadline):
                return ended

    def withdraw(self) -> list[int]:
        assert self._channel is not None
        back = [*self._channel.withdraw(), *self._again]
        self._again.clear()
        for ticket in back:
            self._frames.pop(ticket, None)
        return back

    def running(self) -> list[Running]:
        if self._channel is None:
            return []
        return [
            Running(ticket, child, self._pids.get(child, 0), since) for child, ticket, since in self._channel.running()
        ]

    def kill(self, tickets: Sequence[int]) -> None:
        assert self._template is not None
        wanted = set(tickets)
        for run in self.running():
            if run.ticket in wanted:
                self._brake.forgive({run.child})
                self._template.order({"kill": run.child})

    def interrupt(self) -> None:
        with suppress(BlockingIOError):
            os.write(self._interrupt, b"!")

    # -- stop ------------------------------------------------------------------------------------

    def quiet(self) -> None:
        self._quiet = True
        if self._channel is not None:
            self._channel.stop()

    def stop(self, deadline: float) -> None:
        self.quiet()
        if self._channel is not None:
            while self._pids and time.monotonic() < deadline:
                self.collect(deadline)
        if self._template is not None:
            self._template.end()
            self._template = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        for end in (self._interrupted, self._interrupt):
            with suppress(OSError):
                os.close(end)
        self._interrupted = self._interrupt = -1

    # -- what the template says ---------------------------------------------------------------------

    def _hear(self) -> list[Ended]:
        assert self._template is not None
        news = self._template.news()
        if news is None:
            return self._template_died()
        deaths = []
        for item in news:
            if "born" in item:
                self._born(item)
            elif "died" in item:
                self._pids.pop(item["died"], None)
                deaths.append((item["died"], item["pid"], describe(item["status"])))
        ended = []
        for child, pid, death in deaths:
            try:
                ended += self._bury(child, death)
            except BufferError as damage:
                return ended + self._rebuild(damage)
            self._replace(child, pid, death)
        return ended

    def _born(self, news: Mapping[str, int]) -> None:
        self._unborn.discard(news["born"])
        self._pids[news["born"]] = news["pid"]

    def _bury(self, child: int, death: str) -> list[Ended]:
        assert self._channel is not None
        burial = self._channel.bury(child)
        ended = self._ended(burial.ended)
        if burial.running and self._frames.pop(burial.running, None) is not None:
            ended.append(Ended(burial.running, b"", death))
        self._again.extend(ticket for ticket in burial.unbegun if ticket in self._frames)
        return ended

    def _replace(self, child: int, pid: int, death: str) -> None:
        if self._quiet:
            return
        delay = self._brake.delay_after_death(child)
        pause = f"; its successor waits {delay:.1f} s" if delay else ""
        logger.warning("Pool child %d (pid %d) %s%s", child, pid, death, pause)
        self._wanted.append((time.monotonic() + delay, child))

    def _template_died(self) -> list[Ended]:
        """Start another template; the children died with the old one."""
        assert self._template is not None
        self._waiting.unregister(self._template.fileno())
        self._template.end()
        self._template_deaths += 1
        if self._template_deaths > _TEMPLATE_STARTS:
            raise PoolError(f"The pool's template process died {self._template_deaths} times: the pool can't go on")
        logger.error("The pool's template process died, and its children with it; starting another")
        ended = self._salvage("died with the template")
        self._template = TemplateProcess(self._arguments)
        self._template.manifest()
        self._open_template()
        return ended

    def _rebuild(self, damage: BufferError) -> list[Ended]:
        """Make a damaged channel afresh: whoever wrote into it, no child that sees it may live on."""
        assert self._template is not None
        logger.error("The pool begins afresh: %s", damage)
        for child in self._pids:
            self._template.order({"kill": child})
        while self._pids or self._unborn:
            news = self._template.news()
            if news is None:
                return self._template_died()
            for item in news:
                if "born" in item:
                    self._born(item)
                    self._template.order({"kill": item["born"]})
                self._pids.pop(item.get("died", -1), None)
        return self._salvage("was killed, because the pool's shared memory was damaged")

    def _salvage(self, death: str) -> list[Ended]:
        """When all children are dead: settle the accounts of all, and have all forked again."""
        assert self._channel is not None
        self._pids.clear()
        self._unborn.clear()
        salvage = self._channel.rebuild()
        ended = self._ended(salvage.ended)
        ended += [
            Ended(ticket, b"", death) for ticket in salvage.doubtful if self._frames.pop(ticket, None) is not None
        ]
        self._again.extend(ticket for ticket in salvage.unbegun if ticket in self._frames)
        if not self._quiet:
            self._wanted = [(0.0, child) for child in range(self._size)]
        return ended

    # -- steps ------------------------------------------------------------------------------------------

    def _take(self) -> list[Ended]:
        assert self._channel is not None
        try:
            return self._ended(self._channel.take())
        except BufferError as damage:
            return self._rebuild(damage)

    def _ended(self, taken: Sequence[tuple[int, int, bytes]]) -> list[Ended]:
        self._brake.forgive({child for child, _, _ in taken})
        frames = self._frames
        # Ended's own constructor, which NamedTuple writes in Python, takes three times as long.
        new = tuple.__new__
        return [
            new(Ended, (ticket, outcome, "")) for _, ticket, outcome in taken if frames.pop(ticket, None) is not None
        ]

    def _put_again(self) -> None:
        assert self._channel is not None
        while self._again and self._channel.put(self._again[0], self._frames[self._again[0]]):
            self._again.popleft()

    def _fork(self, child: int) -> None:
        assert self._template is not None
        self._unborn.add(child)
        self._template.order({"fork": child})

    def _fork_wanted(self) -> None:
        if not self._wanted or self._quiet:
            return
        now = time.monotonic()
        for _, child in [wish for wish in self._wanted if wish[0] <= now]:
            self._fork(child)
        self._wanted = [wish for wish in self._wanted if wish[0] > now]

    def _patience(self, deadline: float | None) -> float | None:
        """Return for how many milliseconds `collect` may sleep."""
        points = [when for when, _ in self._wanted] + ([deadline] if deadline is not None else [])
        return max(0.0, (min(points) - time.monotonic()) * 1000) + 0.5 if points else None
