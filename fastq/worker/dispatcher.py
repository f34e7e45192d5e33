"""The dispatcher: takes deliveries in, hands those that can run to the pool, and knows what is in flight."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from fastq import failpoints
from fastq.broker import Decision, Delivery
from fastq.completion import Completed
from fastq.errors import BrokerError, FastQError, PublishUnknown
from fastq.pool import Pool, Running, ticket_of
from fastq.routing import queue_of_share

from .lanes import Lanes
from .lease import Lease
from .limits import Limits
from .locks import Locks
from .reporter import Reporter
from .timekeeper import Timekeeper
from .triage import Flight, Triage, lost

logger = logging.getLogger("fastq.worker")

_MOST_PUT_ASIDE = 500  # messages in one fetch, most of which have to wait


class Dispatcher:
    """Owns the flights. A flight waits in the backlog, then is in the pool, and lands once.

    The fetcher's thread takes in, the settler's lands; both hand over what the pool has room for.
    """

    def __init__(
        self, *, pool: Pool, triage: Triage, locks: Locks, limits: Limits, lease: Lease, most_in_hand: int,
        timekeeper: Timekeeper, most_at_once: int,
        complete: Callable[[Sequence[Completed]], None],
    ) -> None:  # fmt: skip
        self._pool = pool
        self._triage = triage
        self._locks = locks
        self._limits = limits
        self._most_in_hand = most_in_hand
        self._lanes: Lanes
        self._lease = lease
        self._timekeeper = timekeeper
        self._complete = complete
        self._most_at_once = most_at_once
        self._room = 0  # for how many there was room when they were fetched
        self._appetite = 0  # how many to fetch for which there is no room, because so many do not start
        self._serials = itertools.count(1)
        self._taking_in = threading.Lock()  # comes before `_changed`
        self._changed = threading.Condition()
        self._backlog: deque[Flight] = deque()
        self._in_pool: dict[int, Flight] = {}
        self._quiet = False
        self._untold = False  # whether there is something of whose start the broker could not be told
        self.reporter: Reporter | None = None
        self.paused: frozenset[str] = frozenset()  # queues of which nothing is to start

    def begin(self) -> None:
        """Get ready, once the pool has started."""
        self._lanes = Lanes(self._pool.lanes, self._most_in_hand)

    # -- in ------------------------------------------------------------------------------------

    def wait_for_room(self) -> int:
        """Return how many messages to fetch, waiting until it is worth a fetch; 0 after `quiet`."""
        with self._changed:
            while not self._quiet:
                if room := self._lanes.room(self._held(), time.monotonic()):
                    self._room = min(room, self._most_at_once)
                    return max(self._room, self._appetite)
                self._changed.wait(0.1)  # the window changes with time, too
            return 0

    def take_in(self, deliveries: Sequence[Delivery]) -> None:
        """Sort deliveries, settle those that are not to run, and hand over the others."""
        with self._taking_in:
            try:
                flights, done = self._sifted(deliveries)
            except BaseException:
                self._lease.hand_back(deliveries)  # which would be kept from everyone
                raise
            if self.reporter is not None:
                self.reporter.received(flights)
            with self._changed:
                self._backlog.extend(flights)
                self._hand_over()
            if failpoints.on and flights:
                failpoints.hit("P5")
        if done:
            self._complete(done)
            if self.reporter is not None:
                self.reporter.turned_away(done)

    # -- out -----------------------------------------------------------------------------------

    def land(self, tickets: Sequence[int]) -> list[Flight | None]:
        """Return the flights of tickets that came back, and hand over what there is room for now."""
        with self._changed:
            flights = [self._in_pool.pop(ticket, None) for ticket in tickets]
            self._lanes.ended(flights, time.monotonic())
            if self._timekeeper.busy:
                self._timekeeper.landed(tickets)
            self._hand_over()
            self._changed.notify_all()
        return flights

    def withdraw(self) -> list[Flight]:
        """Take back everything that has not started."""
        with self._changed:
            tickets = [ticket for ticket in self._pool.withdraw() if ticket in self._in_pool]
            back = [self._in_pool.pop(ticket) for ticket in tickets]
            self._timekeeper.landed(tickets)
            back += self._backlog
            self._backlog.clear()
            self._changed.notify_all()
        self.free(back)
        return back

    def take_back(self, chosen: Callable[[Flight], bool]) -> list[Flight]:
        """Take back those of the chosen that have not started; the others keep their order.

        What is being taken in now is among them, if it is chosen; what comes later is a matter of triage, and of
        `paused`.
        """
        with self._taking_in, self._changed:
            if not any(map(chosen, (*self._in_pool.values(), *self._backlog))):
                return []
            tickets = [ticket for ticket in self._pool.withdraw() if ticket in self._in_pool]
            unstarted = [self._in_pool.pop(ticket) for ticket in tickets]
            self._timekeeper.landed(tickets)
            unstarted += self._backlog
            back: list[Flight] = []
            self._backlog = deque()
            for flight in unstarted:
                (back if chosen(flight) else self._backlog).append(flight)
            self._hand_over()
            self._changed.notify_all()
        self.free(back)
        return back

    def free(self, flights: Sequence[Flight | None]) -> None:
        """Give back what flights held that are not in hand any more."""
        if self._limits.holding:
            self._limits.free(flights)

    def hand_back(self, flights: Sequence[Flight]) -> None:
        """Give flights that were taken back to their queues again, uncharged."""
        acked = [flight.message for flight in flights if flight.acked]
        self._lease.hand_back([flight.delivery for flight in flights if not flight.acked])
        try:
            if acked:  # forgotten at the broker by now, and not begun
                self._lease.publish(acked)
        except PublishUnknown as error:
            logger.error("%d early tasks may be lost, or run elsewhere: %s", len(acked), error)
        except FastQError as error:
            self._complete([lost(message, f"it could not be handed back: {error}") for message in acked])

    def end_running(self, chosen: Callable[[Flight], bool], sentence: Callable[[Flight], FastQError]) -> None:
        """Kill what runs of the chosen; the sentence is its end, and it is not charged."""
        with self._changed:
            condemned = {ticket: flight for ticket, flight in self._in_pool.items() if chosen(flight)}
            for flight in condemned.values():
                flight.sentence = sentence(flight)
            if condemned:
                self._pool.kill(list(condemned))

    def in_hand(self) -> list[tuple[Flight, Running | None]]:
        """Return the flights and, of those that run, who runs them."""
        with self._changed:
            running = {run.ticket: run for run in self._pool.running()}
            begun = [(flight, running.get(ticket)) for ticket, flight in self._in_pool.items()]
            return begun + [(flight, None) for flight in self._backlog]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is in hand; what has landed may not be settled yet."""
        with self._changed:
            return not self._in_pool and not self._backlog

    def load(self) -> tuple[int, int]:
        """Return how many children the first lane has, and how many flights are in hand for it."""
        with self._changed:
            return self._lanes.windows[0].children, self._held()[0]

    def resize(self, children: int, *, spare: int) -> None:
        """Have so many children in the first lane, and as many flights for them, and some to spare.

        Raises what `Pool.resize` raises.
        """
        with self._changed:
            self._pool.resize(children)
            window = self._lanes.windows[0]
            window.children, window.spare = children, spare
            self._hand_over()
            self._changed.notify_all()

    def break_off(self) -> None:
        """Kill what runs; late tasks go back to their queues uncharged, early ones are lost."""
        with self._changed:
            for flight in self._in_pool.values():
                flight.handed_back = True
            self._pool.kill(list(self._in_pool))

    def forsake(self) -> None:
        """Give up what is in hand without a trace: the lease is lost, and others have it by now.

        What is acknowledged goes on: nobody else has it.
        """
        with self._changed:
            withdrawn = [ticket for ticket in self._pool.withdraw() if ticket in self._in_pool]
            unstarted = [*(self._in_pool.pop(ticket) for ticket in withdrawn), *self._backlog]
            running = {ticket: flight for ticket, flight in self._in_pool.items() if not flight.acked}
            for ticket in running:
                del self._in_pool[ticket]
            self._timekeeper.landed([*withdrawn, *running])
            self._limits.forget(flight for flight in (*unstarted, *running.values()) if not flight.acked)
            self._pool.kill(list(running))
            self._backlog = deque(flight for flight in unstarted if flight.acked)
            self._hand_over()
            self._changed.notify_all()

    def look_again(self) -> None:
        """Hand over what there is room for by now."""
        with self._changed:
            self._hand_over()

    def broker_answers(self) -> None:
        """Have what could not start, because the broker could not be told of it, looked at again by the settler."""
        if self._untold:
            self._untold = False
            self._pool.interrupt()

    def wait_until_empty(self, deadline: float) -> bool:
        """Wait until nothing is in flight; return False at the deadline."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._in_pool, max(0.0, deadline - time.monotonic()))

    def quiet(self) -> None:
        """Let nobody wait for room, and hand nothing more over."""
        with self._changed:
            self._quiet = True
            self._changed.notify_all()

    def _sifted(self, deliveries: Sequence[Delivery]) -> tuple[list[Flight], list[Completed]]:
        """Part deliveries into those that are to run, and those about which something else is decided."""
        if self.paused:
            deliveries = self._without_paused(deliveries)
        sorted_out = [self._triage.sort(delivery) for delivery in deliveries]
        flights = [each for each in sorted_out if isinstance(each, Flight)]
        done = [each for each in sorted_out if isinstance(each, Completed)]
        crowded = self._appetite > 0  # then most are to be put aside, whether there is room for them or not
        if self._lanes.several and not crowded:
            flights = self._within_lanes(flights)
        if self._locks.active:
            flights, others = self._locks.sift(flights)
            done += others
        if self._limits.active:
            flights = self._within_limits(flights, done)
        if self._lanes.several and crowded:
            flights = self._within_lanes(flights)
        return flights, done

    def _within_lanes(self, flights: list[Flight]) -> list[Flight]:
        """Return the flights that there is room for in their lanes; the others go back to their places."""
        with self._changed:
            flights, surplus = self._lanes.sift(flights, self._held(), time.monotonic())
        if surplus:
            self.free(surplus)
            self.hand_back(surplus)
        return flights

    def _within_limits(self, flights: list[Flight], done: list[Completed]) -> list[Flight]:
        """Return the flights that limits let start, and add to `done` what becomes of the others.

        Where few may start, many are looked at next time, so that a crowd before a limit is put aside soon, and what
        stands behind it gets its turn. What there is no room for then goes back to its place.
        """
        start, wait = self._limits.sift(flights)
        done += wait
        crowded = len(wait) > len(start)
        self._appetite = min(_MOST_PUT_ASIDE, 2 * max(self._room, self._appetite)) if crowded else 0
        surplus = start[max(1, self._room) :]
        if surplus:
            self.free(surplus)
            self.hand_back(surplus)
        return start[: max(1, self._room)]

    def _without_paused(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Give back what was fetched from a queue that is paused by now; return the others."""
        back = [delivery for delivery in deliveries if queue_of_share(delivery.queue) in self.paused]
        if back:
            self._lease.hand_back(back)
        return [delivery for delivery in deliveries if queue_of_share(delivery.queue) not in self.paused]

    # -- steps, under the lock -------------------------------------------------------------------

    def _held(self) -> list[int]:
        """Return how many flights are in hand in each lane."""
        if not self._lanes.several:
            return [len(self._in_pool) + len(self._backlog)]
        counts = [0] * len(self._lanes.windows)
        for flight in (*self._in_pool.values(), *self._backlog):
            counts[flight.lane] += 1
        return counts

    def _hand_over(self) -> None:
        if not self._lanes.several:
            while self._backlog and not self._quiet and self._goes(self._backlog[0]):
                self._backlog.popleft()
            return
        full: set[int] = set()
        kept: deque[Flight] = deque()
        while self._backlog and not self._quiet:
            flight = self._backlog.popleft()
            if flight.lane in full or not self._goes(flight):
                full.add(flight.lane)
                kept.append(flight)
        self._backlog.extendleft(reversed(kept))

    def _goes(self, flight: Flight) -> bool:
        """Hand a flight over if there is room for it; return False if it has to wait."""
        if flight.careful and not flight.admitted:
            if not self._has_idle_child(flight.lane) or not self._admit(flight):
                return False
            if not flight.admitted:
                self.free([flight])
                return True
        ticket = ticket_of(next(self._serials), flight.delivery.fence)
        self._in_pool[ticket] = flight
        if not self._pool.submit(ticket, flight.frame, flight.lane):
            del self._in_pool[ticket]
            return False
        if flight.info.hard_limit_ms or flight.message.extras.hard_limit_ms:
            self._timekeeper.watch(ticket, flight)
        return True

    def _has_idle_child(self, lane: int) -> bool:
        children = self._lanes.windows[lane].children
        return len(self._in_pool) < children or sum(each.lane == lane for each in self._in_pool.values()) < children

    def _admit(self, flight: Flight) -> bool:
        """Tell the broker of a start before it happens; return whether it could be told.

        An early task is acknowledged; of a suspect, the attempt is recorded, so that it is charged if it kills
        this worker. If the message is in other hands by now, the flight is not admitted.
        """
        subscription = self._lease.subscription
        try:
            tell = [flight.delivery]
            gone = subscription.settle([Decision(flight.delivery)]) if flight.early else subscription.begin(tell)
        except BrokerError as error:
            logger.warning("Task %s[%s] can't start yet: %s", flight.message.task, flight.message.uuid, error)
            self._untold = True
            return False
        if failpoints.on:
            failpoints.hit("P7")
        if gone:
            logger.warning("Task %s[%s] is in other hands; not started", flight.message.task, flight.message.uuid)
        elif flight.early and flight.info.strict_early and not subscription.confirm():
            logger.error(
                "Task %s[%s] is not started: whether its acknowledgement has arrived is not known; it may come again",
                flight.message.task,
                flight.message.uuid,
            )
            return True
        flight.admitted = not gone
        if flight.acked:
            self._triage.replays.ended([flight.delivery.frame])
        return True
