"""A lane of a pool: a channel, the processes that serve it, and the accounts of who has what.

What was handed over the lane keeps itself, so that a dead process costs at most the runs that were going on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastq._speedups import Channel
from fastq.errors import PoolError
from fastq.pool import LEFT, Ended, Running
from fastq.pools.brake import Brake
from fastq.pools.stacks import is_stopped, stacks_of

logger = logging.getLogger("fastq.pool")

MAX_SEATS = 4095  # at a channel
SLOTS = 4  # processes that share the seats of many: one that serves, and some that end what they began
_CANCEL_S = 2.0  # how long a run may take to end that was told to
_CANCEL_S_AT_THE_END = 0.4  # and when the pool is to stop


@dataclass(frozen=True)
class Plan:
    """What a lane is to be.

    `serves` says what its processes are: "one" run each, "threads", or a "loop". `at_once` and `most` are how many
    runs there are at once, now and after `resize`. `first` is the number of its first process; the numbers up to
    `first` + `slots` are its own.
    """

    serves: str
    at_once: int
    most: int
    first: int
    capacity: int

    @property
    def slots(self) -> int:
        """How many processes there may be, those that are leaving among them."""
        return self.most if self.serves == "one" else SLOTS

    @property
    def seats(self) -> int:
        """How many places at the channel a process has."""
        return 1 if self.serves == "one" else self.most


class Lane:
    """Owns a channel; `order` takes orders for the template. Its methods are for the thread that collects, but for
    `submit`, `withdraw`, `running`, `kill` and `resize`.
    """

    def __init__(self, number: int, plan: Plan, order: Callable[[dict[str, Any]], None]) -> None:
        self._number = number
        self._plan = plan
        self._order = order
        try:
            self.channel = Channel(plan.slots * plan.seats, plan.capacity)
        except (OSError, ValueError) as error:
            raise PoolError(f"The pool's channel can't be made: {error}") from error
        self.fd = self.channel.fileno()
        self.at_once = plan.at_once
        self.ruined = False  # the channel is damaged, and its processes are to die before it can be rebuilt
        self.quiet = False
        self._pids: dict[int, int] = {}  # process: pid, while it lives
        self._unborn: set[int] = set()  # processes whose fork was ordered, and of which nothing was heard yet
        self._leaving: set[int] = set()
        self._forks: list[float] = []  # when further processes are to be forked
        self._condemned: dict[int, set[int]] = {}  # process: the tickets for whose sake it is killed
        self._cancelled: dict[int, float] = {}  # ticket: by when it is to have ended
        self._frames: dict[int, bytes] = {}  # ticket: frame, of everything that is not ended yet
        self._again: deque[int] = deque()  # tickets to be put into the channel once more
        self._moving = threading.Lock()  # of tickets between `_again` and the channel, which are in one of them
        self._brake = Brake()

    def owns(self, process: int) -> bool:
        """Return whether a process is one of this lane's."""
        return 0 <= process - self._plan.first < self._plan.slots

    @property
    def alive(self) -> bool:
        """Whether there are processes."""
        return bool(self._pids)

    @property
    def awaits_births(self) -> bool:
        """Whether there are processes of which nothing was heard yet."""
        return bool(self._unborn)

    # -- the two directions -----------------------------------------------------------------------

    def submit(self, ticket: int, frame: bytes) -> bool:
        """As `Pool.submit`."""
        if self._again:
            return False
        self._frames[ticket] = frame
        try:
            if self.channel.put(ticket, frame):
                return True
        except OSError as error:  # a large one needs memory beside the channel
            logger.warning("There is no room for a message of %d bytes in the pool: %s", len(frame), error)
        del self._frames[ticket]
        return False

    def take(self) -> list[Ended]:
        """Return what has ended."""
        try:
            return self._ended(self.channel.take())
        except BufferError as damage:
            self._ruin(damage)
            return self._rebuilt()

    def withdraw(self) -> list[int]:
        """As `Pool.withdraw`."""
        with self._moving:
            back = [*self.channel.withdraw(), *self._again]
            self._again.clear()
            for ticket in back:
                self._frames.pop(ticket, None)
        return back

    def running(self) -> list[Running]:
        """As `Pool.running`; children are numbered within the lane."""
        return [
            Running(ticket, seat, self._pids.get(self._process(seat), 0), since)
            for seat, ticket, since in self.channel.running()
        ]

    def kill(self, tickets: set[int]) -> None:
        """As `Pool.kill`."""
        for run in self.running():
            if run.ticket not in tickets:
                continue
            process = self._process(run.child)
            if self._plan.serves == "loop":
                patience_s = _CANCEL_S_AT_THE_END if self.quiet else _CANCEL_S
                self._cancelled[run.ticket] = time.monotonic() + patience_s
                self._order({"tell": process, "cancel": run.ticket})
            else:
                self._condemn(process, run.ticket)

    # -- the processes ------------------------------------------------------------------------------

    def resize(self, at_once: int) -> None:
        """As `Pool.resize`."""
        if not 1 <= at_once <= self._plan.most:
            raise PoolError(f"The pool was started for 1 to {self._plan.most} children, and can't have {at_once}")
        self.at_once = at_once
        if self._plan.serves != "one":
            for process in self._pids:
                self._order({"tell": process, "size": at_once})

    def tend(self) -> None:
        """Do what is due: hand over again, fork, send away, and kill what did not end when it was told to."""
        now = time.monotonic()
        if self._again and not self.ruined:
            with self._moving:
                while self._again and self.channel.put(self._again[0], self._frames[self._again[0]]):
                    self._again.popleft()
        if self._cancelled:
            self._kill_uncancelled(now)
        if self.quiet or self.ruined:
            return
        staying = (self._pids.keys() | self._unborn) - self._leaving
        wanted = self.at_once if self._plan.serves == "one" else 1
        lacking = wanted - len(staying) - len(self._forks)
        if lacking > 0:
            self._forks += [now] * lacking
        for process in sorted(staying, reverse=True)[: max(0, -lacking)]:
            if self._forks:
                self._forks.pop()
            else:
                self._leaving.add(process)
                self._order({"leave": process})
        if self._forks:
            self._fork_due(now)

    def next_due(self) -> list[float]:
        """Return the points in time at which `tend` has something to do."""
        return [*(self._forks if self._vacant() else ()), *self._cancelled.values()]

    def born(self, process: int, pid: int) -> None:
        """Note that a process lives."""
        self._unborn.discard(process)
        self._pids[process] = pid
        if self.ruined:
            self._order({"kill": process})

    def stillborn(self, process: int) -> list[Ended]:
        """Note that a process could not be forked; `tend` tries again, the later the more often it fails."""
        self._unborn.discard(process)
        if self.ruined:
            return self._rebuilt()
        if not self.quiet:
            self._forks.append(time.monotonic() + self._brake.delay_after_death(process))
        return []

    def leaves(self, process: int) -> None:
        """Note that a process takes nothing more and will end."""
        if process in self._pids:
            self._leaving.add(process)

    def died(self, process: int, status: int, death: str) -> list[Ended]:
        """Settle the accounts of a dead process; `death` says how it died, in its first line, and more below."""
        pid = self._pids.pop(process, 0)
        left = process in self._leaving
        self._leaving.discard(process)
        if self.ruined:
            return self._rebuilt()
        try:
            ended, broken = self._buried(process, death)
        except BufferError as damage:
            self._ruin(damage)
            return self._rebuilt()
        if self.quiet:
            return ended
        if not broken and status == 0:
            logger.info("Pool child %d (pid %d) has left%s", process, pid, "" if left else "; it is replaced")
            return ended
        delay = self._brake.delay_after_death(process)
        how, _, words = death.partition("\n")
        pause = f"; its successor waits {delay:.1f} s" if delay else ""
        logger.warning("Pool child %d (pid %d) %s%s%s", process, pid, how, pause, words and f"\n{words}")
        self._forks.append(time.monotonic() + delay)
        return ended

    def silent(self, process: int) -> None:
        """Replace a process that does not answer; not one that may be busy, unless it was stopped by a signal."""
        pid = self._pids.get(process, 0)
        stopped = is_stopped(pid)
        busy = any(self._process(run.child) == process for run in self.running())
        if not pid or self.quiet or (busy and not stopped):
            return
        where = "" if stopped else "\n" + stacks_of([pid]).get(pid, "Where it is, it does not say")
        logger.error(
            "Pool child %d (pid %d) %s, and is replaced%s",
            process, pid, "was stopped" if stopped else "does not answer", where,
        )  # fmt: skip
        self._order({"kill": process})

    def pids(self) -> dict[str, int]:
        """Return the processes, by what they are called."""
        return {f"child {process} (pid {pid})": pid for process, pid in list(self._pids.items())}

    def salvage(self, death: str) -> list[Ended]:
        """When all processes are dead: settle the accounts of all; `tend` has them forked again."""
        for each in (self._pids, self._unborn, self._leaving, self._forks, self._condemned, self._cancelled):
            each.clear()
        salvage = self.channel.rebuild()
        ended = self._ended(salvage.ended)
        ended += [
            Ended(ticket, b"", death) for ticket in salvage.doubtful if self._frames.pop(ticket, None) is not None
        ]
        with self._moving:
            self._again.extend(ticket for ticket in salvage.unbegun if ticket in self._frames)
        self.ruined = False
        return ended

    # -- steps ----------------------------------------------------------------------------------------

    def _process(self, seat: int) -> int:
        return self._plan.first + seat // self._plan.seats

    def _buried(self, process: int, death: str) -> tuple[list[Ended], bool]:
        """Return what a dead process had ended or broken off, and whether there was any of the latter."""
        ended: list[Ended] = []
        broken = False
        guilty = self._condemned.pop(process, None)
        first = (process - self._plan.first) * self._plan.seats
        for seat in range(first, first + self._plan.seats):
            burial = self.channel.bury(seat)
            ended += self._ended(burial.ended)
            if burial.running and self._frames.pop(burial.running, None) is not None:
                blameless = guilty is not None and burial.running not in guilty
                ended.append(Ended(burial.running, b"", death, blameless))
                broken = True
            with self._moving:
                self._again.extend(ticket for ticket in burial.unbegun if ticket in self._frames)
        return ended, broken

    def _ended(self, taken: Sequence[tuple[int, int, bytes]]) -> list[Ended]:
        self._brake.forgive({self._process(seat) for seat in {seat for seat, _, _ in taken}})
        frames = self._frames
        # Ended's own constructor, which NamedTuple writes in Python, takes three times as long.
        new = tuple.__new__
        return [
            new(Ended, (ticket, outcome, "" if outcome else LEFT, not outcome))
            for _, ticket, outcome in taken
            if frames.pop(ticket, None) is not None
        ]

    def _condemn(self, process: int, ticket: int) -> None:
        self._condemned.setdefault(process, set()).add(ticket)
        self._brake.forgive({process})
        self._order({"kill": process})

    def _kill_uncancelled(self, now: float) -> None:
        over = {ticket for ticket, by in list(self._cancelled.items()) if by <= now or ticket not in self._frames}
        late = {ticket for ticket in over if ticket in self._frames}
        for ticket in over:
            self._cancelled.pop(ticket, None)
        for run in self.running() if late else ():
            if run.ticket in late:
                self._condemn(self._process(run.child), run.ticket)

    def _fork_due(self, now: float) -> None:
        plan = self._plan
        due = sum(when <= now for when in self._forks)
        for process in self._vacant()[:due]:
            self._forks.remove(min(self._forks))
            self._condemned.pop(process, None)
            self._unborn.add(process)
            self._order({
                "fork": process, "lane": self._number, "serves": plan.serves, "size": self.at_once,
                "seat": (process - plan.first) * plan.seats,
            })  # fmt: skip

    def _vacant(self) -> list[int]:
        """Return the numbers that no process has."""
        taken = self._pids.keys() | self._unborn
        return [each for each in range(self._plan.first, self._plan.first + self._plan.slots) if each not in taken]

    def _ruin(self, damage: BufferError) -> None:
        """Have a damaged channel made afresh: whoever wrote into it, no process that sees it may live on."""
        logger.error("The pool begins afresh: %s", damage)
        self.ruined = True
        for process in self._pids:
            self._order({"kill": process})

    def _rebuilt(self) -> list[Ended]:
        if self._pids or self._unborn:
            return []
        return self.salvage("was killed, because the pool's shared memory was damaged")
