"""What a worker does when it is told to, from afar."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from fastq.broker import Broker
from fastq.completion import Completed
from fastq.errors import ConfigurationError, TaskRevoked, did_you_mean
from fastq.message import check_queue
from fastq.pool import Running
from fastq.routing import queue_of_share, turns

from .dispatcher import Dispatcher
from .lease import Lease
from .revocations import Revocation, Revocations
from .triage import Flight, revoked

logger = logging.getLogger("fastq.worker")


class Commands:
    """Carries out commands, and keeps to what was revoked and paused; all in the thread of the controller.

    `queues` are those to be served, as often as they have a turn, and `shares` the numbers of shares of the fair ones.
    `about` gives what the worker says of itself.
    """

    def __init__(
        self, *, broker: Broker, lease: Lease, dispatcher: Dispatcher, revocations: Revocations,
        complete: Callable[[Sequence[Completed]], None], processed: Callable[[], int], resize: Callable[[int], int],
        limit_rate: Callable[[str, str | None], None], stop: Callable[[bool], None], tasks: Collection[str],
        queues: Sequence[str], shares: Mapping[str, int], about: Callable[[], Mapping[str, Any]],
        stacks: Callable[[], Mapping[str, str]],
    ) -> None:  # fmt: skip
        self._broker = broker
        self._lease = lease
        self._dispatcher = dispatcher
        self._revocations = revocations
        self._complete = complete
        self._processed = processed
        self._resize = resize
        self._limit_rate = limit_rate
        self._stop = stop
        self._tasks = tasks
        self._queues = list(queues)
        self._shares = shares
        self._about = about
        self._stacks = stacks
        self._rates: dict[str, str] = {}
        self._paused: frozenset[str] = frozenset()
        self._serving_anew = False  # whether the broker has still to be told what is served
        self._began = time.monotonic()
        self._known: dict[str, Callable[..., Any]] = {
            command.__name__: command
            for command in (
                self.ping, self.active, self.reserved, self.scheduled, self.registered, self.stats, self.stacks,
                self.revoke, self.revoke_by_header, self.rate_limit, self.pause, self.resume, self.add_consumer,
                self.cancel_consumer, self.pool_grow, self.pool_shrink, self.shutdown,
            )
        }  # fmt: skip

    def carry_out(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Do what a command says and return the answer. Raises whatever keeps it from being done."""
        command = self._known.get(name)
        if command is None:
            raise ConfigurationError(f"There is no command {name!r:.60}: {did_you_mean(name, self._known)}")
        return command(**arguments)

    @property
    def about(self) -> dict[str, Any]:
        """What the worker says of itself now."""
        return {**self._about(), "queues": self._served(), "paused": sorted(self._paused.intersection(self._queues))}

    # -- questions -------------------------------------------------------------------------------

    def ping(self) -> str:
        """Answer."""
        return "pong"

    def active(self) -> list[dict[str, Any]]:
        """Return what runs."""
        return [_shown(flight, run) for flight, run in self._dispatcher.in_hand() if run is not None]

    def reserved(self) -> list[dict[str, Any]]:
        """Return what is in hand and has not begun."""
        return [_shown(flight, None) for flight, run in self._dispatcher.in_hand() if run is None]

    def scheduled(self) -> dict[str, int]:
        """Return how many delayed messages the queues served here have at the broker."""
        delayed = dict.fromkeys(self._queues, 0)
        for queue in self._broker.queues():
            if (name := queue_of_share(queue.name)) in delayed:
                delayed[name] += queue.delayed
        return delayed

    def registered(self) -> list[str]:
        """Return the tasks that can run here."""
        return sorted(self._tasks)

    def stats(self) -> dict[str, Any]:
        """Return numbers."""
        in_hand = self._dispatcher.in_hand()
        running = sum(run is not None for _, run in in_hand)
        return {
            **self.about,
            "uptime_s": round(time.monotonic() - self._began, 3),
            "running": running,
            "reserved": len(in_hand) - running,
            "processed": self._processed(),
            "revoked": self._revocations.known,
        }

    def stacks(self) -> dict[str, str]:
        """Return where the threads of the worker's processes are."""
        return dict(self._stacks())

    # -- tasks -----------------------------------------------------------------------------------
    def revoke(self, ids: Iterable[str], terminate: bool = False) -> None:
        """Let tasks not be run any more."""
        self._revoke(Revocation.of((uuid.UUID(id).bytes for id in ids), ()), terminate=terminate)

    def revoke_by_header(self, header: str, value: Any, terminate: bool = False) -> None:
        """Let tasks with a header not be run any more."""
        self._revoke(Revocation.of((), [(header, value)]), terminate=terminate)

    def know_revoked(self, all: Revocation, broken_off: Revocation) -> None:
        """Know what is revoked, all of it; what is `broken_off` is not to run on, either."""
        self._end(self._revocations.replace(all), terminate=False)
        self._end(broken_off, terminate=True)

    def _revoke(self, some: Revocation, *, terminate: bool) -> None:
        self._revocations.add(some)
        self._end(some, terminate=terminate)

    def _end(self, some: Revocation, *, terminate: bool) -> None:
        """End what is in hand of some revoked tasks."""

        def chosen(flight: Flight) -> bool:
            return some.covers(flight.message)

        if not some.ids and not some.headers:
            return
        back = self._dispatcher.take_back(chosen)
        ends = [revoked(flight.delivery, flight.message) for flight in back]
        if ends:
            if self._dispatcher.reporter is not None:
                self._dispatcher.reporter.turned_away(ends)
            acked = [flight.acked for flight in back]
            self._complete([end._replace(decision=None) if was else end for end, was in zip(ends, acked, strict=True)])
        if terminate:
            self._dispatcher.end_running(chosen, lambda _: TaskRevoked("revoked, and broken off while it ran"))

    def rate_limit(self, task: str, rate: str | None) -> None:
        """Start a task so often at most; with None, as it was declared."""
        if rate is None:
            self._rates.pop(task, None)
        else:
            self._rates[task] = rate
        self._limit_rate(task, rate)

    def know_rates(self, rates: Mapping[str, str]) -> None:
        """Know which tasks have another rate than that of their declaration, all of them."""
        for task in self._rates.keys() - rates.keys():
            self.rate_limit(task, None)
        for task, rate in rates.items():
            if self._rates.get(task) != rate:
                try:
                    self.rate_limit(task, rate)
                except ConfigurationError as error:
                    logger.warning("The rate of %s can't be kept to: %s", task, error)

    # -- queues ----------------------------------------------------------------------------------

    def pause(self, queue: str) -> None:
        """Take nothing from a queue, and start nothing that came from it."""
        self.know_paused(self._paused | {queue})

    def resume(self, queue: str) -> None:
        """Take messages from a queue again, if it is one of ours."""
        self.know_paused(self._paused - {queue})

    def know_paused(self, queues: Collection[str]) -> None:
        """Know which queues are paused, all of them."""
        if queues == self._paused:
            return
        self._paused = frozenset(queues)
        self._serve()

    def add_consumer(self, queue: str) -> list[str]:
        """Serve another queue; return which are served."""
        if check_queue(queue) not in self._queues:
            self._queues.append(queue)
            self._serve()
        return self._served()

    def cancel_consumer(self, queue: str) -> list[str]:
        """Serve a queue no more; return which are served."""
        if queue not in self._queues:
            raise ConfigurationError(f"The queue {queue!r:.60} is not served here: {did_you_mean(queue, self._queues)}")
        self._queues = [each for each in self._queues if each != queue]
        self._serve()
        return self._served()

    def serve_anew(self) -> None:
        """Tell the broker which queues are served, if it could not be told when that changed."""
        if self._serving_anew:
            self._serve()

    def _serve(self) -> None:
        """Serve what is to be served, and give back what is in hand of other queues and has not begun."""
        served = [queue for queue in self._queues if queue not in self._paused]
        self._dispatcher.paused = self._paused
        self._serving_anew = True
        self._lease.serve(turns(served, self._shares))
        self._serving_anew = False
        self._dispatcher.hand_back(
            self._dispatcher.take_back(lambda flight: queue_of_share(flight.delivery.queue) not in served)
        )

    def _served(self) -> list[str]:
        return list(dict.fromkeys(self._queues))

    # -- the worker ------------------------------------------------------------------------------

    def pool_grow(self, n: int) -> int:
        """Have more children; return how many there are then."""
        return self._resize(n)

    def pool_shrink(self, n: int) -> int:
        """Have fewer children; return how many will be left."""
        return self._resize(-n)

    def shutdown(self, now: bool = False) -> str:
        """Stop, soon or now."""
        self._stop(now)
        return "stopping"


def _shown(flight: Flight, run: Running | None) -> dict[str, Any]:
    message = flight.message
    shown: dict[str, Any] = {
        "id": message.uuid, "task": message.task, "queue": flight.delivery.queue, "attempt": message.attempt,
        "child": 0, "pid": 0, "runs_s": 0.0,
    }  # fmt: skip
    if run is not None:
        shown.update(child=run.child, pid=run.pid, runs_s=round(time.monotonic() - run.since, 3))
    return shown
