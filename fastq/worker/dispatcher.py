"""The dispatcher: takes deliveries in, hands those that can run to the pool, and knows what is in flight."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from fastq.broker import Decision, Delivery
from fastq.completion import Completed
from fastq.errors import BrokerError
from fastq.pool import Pool

from .lease import Lease
from .triage import Flight, Triage
from .window import Window

logger = logging.getLogger("fastq.worker")


class Dispatcher:
    """Owns the flights. A flight waits in the backlog, then is in the pool, and lands once.

    The fetcher's thread takes in, the settler's lands; both hand over what the pool has room for.
    """

    def __init__(
        self, *, pool: Pool, triage: Triage, window: Window, children: int, lease: Lease,
        complete: Callable[[Sequence[Completed]], None],
    ) -> None:  # fmt: skip
        self._pool = pool
        self._triage = triage
        self._window = window
        self._children = children
        self._lease = lease
        self._complete = complete
        self._tickets = itertools.count(1)
        self._changed = threading.Condition()
        self._backlog: deque[Flight] = deque()
        self._in_pool: dict[int, Flight] = {}
        self._quiet = False

    # -- in ------------------------------------------------------------------------------------

    def wait_for_room(self) -> int:
        """Return how many messages to fetch, waiting until it is worth a fetch; 0 after `quiet`."""
        with self._changed:
            while not self._quiet:
                held = len(self._in_pool) + len(self._backlog)
                size = self._window.size(time.monotonic())
                if held < self._children or size - held > size // 4:
                    return size - held
                self._changed.wait(0.1)  # the window changes with time, too
            return 0

    def take_in(self, deliveries: Sequence[Delivery]) -> None:
        """Sort deliveries, settle those that are not to run, and hand over the others."""
        sorted_out = [self._triage.sort(delivery) for delivery in deliveries]
        if done := [each for each in sorted_out if isinstance(each, Completed)]:
            self._complete(done)
        with self._changed:
            self._backlog.extend(each for each in sorted_out if isinstance(each, Flight))
            self._hand_over()

    # -- out -----------------------------------------------------------------------------------

    def land(self, tickets: Sequence[int]) -> list[Flight | None]:
        """Return the flights of tickets that came back, and hand over what there is room for now."""
        with self._changed:
            flights = [self._in_pool.pop(ticket, None) for ticket in tickets]
            self._window.ended(len(tickets), time.monotonic())
            self._hand_over()
            self._changed.notify_all()
        return flights

    def withdraw(self) -> list[Flight]:
        """Take back everything that has not started."""
        with self._changed:
            back = [self._in_pool.pop(ticket) for ticket in self._pool.withdraw() if ticket in self._in_pool]
            back += self._backlog
            self._backlog.clear()
            self._changed.notify_all()
        return back

    def break_off(self) -> None:
        """Kill what runs; late tasks go back to their queues uncharged, early ones are lost."""
        with self._changed:
            for flight in self._in_pool.values():
                flight.handed_back = True
            self._pool.kill(list(self._in_pool))

    def forsake(self) -> None:
        """Give up everything in hand without a trace: the lease is lost, and others have it by now."""
        with self._changed:
            self._pool.withdraw()
            self._backlog.clear()
            running = list(self._in_pool)
            self._in_pool.clear()
            self._pool.kill(running)
            self._changed.notify_all()

    def wait_until_empty(self, deadline: float) -> bool:
        """Wait until nothing is in flight; return False at the deadline."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._in_pool, max(0.0, deadline - time.monotonic()))

    def quiet(self) -> None:
        """Let nobody wait for room, and hand nothing more over."""
        with self._changed:
            self._quiet = True
            self._changed.notify_all()

    # -- steps, under the lock -------------------------------------------------------------------

    def _hand_over(self) -> None:
        while self._backlog and not self._quiet:
            flight = self._backlog[0]
            if flight.careful and not flight.admitted:
                if len(self._in_pool) >= self._children or not self._admit(flight):
                    return
                if not flight.admitted:
                    self._backlog.popleft()
                    continue
            ticket = next(self._tickets)
            self._in_pool[ticket] = flight
            if not self._pool.submit(ticket, flight.frame):
                del self._in_pool[ticket]
                return
            self._backlog.popleft()

    def _admit(self, flight: Flight) -> bool:
        """Tell the broker of a start before it happens; return whether it could be told.

        An early task is acknowledged; of a suspect, the attempt is recorded, so that it is charged if it kills
        this worker. If the message is in other hands by now, the flight is not admitted.
        """
        subscription = self._lease.subscription
        try:
            tell = [flight.delivery]
            lost = subscription.settle([Decision(flight.delivery)]) if flight.early else subscription.begin(tell)
        except BrokerError as error:
            logger.warning("Task %s[%s] can't start yet: %s", flight.message.task, flight.message.uuid, error)
            return False
        if lost:
            logger.warning("Task %s[%s] is in other hands; not started", flight.message.task, flight.message.uuid)
        flight.admitted = not lost
        return True
