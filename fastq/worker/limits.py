"""Limits: which tasks may start under what the whole cluster may do, and which go back to wait at the broker."""

from __future__ import annotations

import hashlib
import itertools
import logging
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence

from fastq.backoff import longest_pause
from fastq.broker import Action, Decision
from fastq.completion import Completed
from fastq.errors import NotSupported, StateUnavailable
from fastq.message import now_us
from fastq.pool import TaskInfo
from fastq.rates import parse_limit, parse_rate
from fastq.routing import queue_of_share
from fastq.settings import Settings
from fastq.state import Answer, Ask, Limit, SharedState

from .line import Line
from .loop import Loop
from .triage import Flight

logger = logging.getLogger("fastq.worker")

_HORIZON_S = 10.0  # turns are reserved so far ahead
_LATE_S = 1.0  # a reserved turn that is missed by more than this, and by more than the limit's interval, is lost
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0  # of tasks that wait for the shared state
_MANY_LINES = 1_000  # before those that are over are forgotten
_MOST_KEY = 255  # characters of a key


class Limits(Loop):
    """Asks the shared state for flights under limits; its loop holds their slots, and gives them back.

    Rules: whoever takes flights in looks at `active`, and lets `sift` part those that may start; whoever sees flights
    end in any way looks at `holding`, and calls `free`. A slot that could not be given back is free when its lease
    has run out, as are those of a worker that died.
    """

    def __init__(
        self, *, state: Callable[[], SharedState], tasks: Mapping[str, TaskInfo], settings: Settings,
        fail: Callable[[BaseException], None],
    ) -> None:  # fmt: skip
        super().__init__("limits", fail)
        self._state = state
        self._lease_s = settings.lease_s
        self._reframe = settings.reframe
        self._by_task = {name: info.limits for name, info in tasks.items() if info.limits}
        self._declared = dict(self._by_task)
        self._by_queue = _limits_of_queues(settings.queue_limits)
        self.active = bool(self._by_task or self._by_queue)
        self._holders = map(f"{uuid.uuid4().hex}:{{}}".format, itertools.count())
        self._held: dict[str, Ask] = {}
        self._ended: list[Ask] = []  # whose slots are to be given back
        self._extend_at = 0.0  # a point on the monotonic clock, as is the next
        self._ask_again_at = 0.0
        self._lines: dict[tuple[str, ...], Line] = {}
        self._look_over = _MANY_LINES
        self._failures = 0
        self._changing = threading.Condition()

    @property
    def holding(self) -> bool:
        """Whether any flight holds a slot."""
        return bool(self._held)

    def prepare(self) -> None:
        """Raise NotSupported where there are limits, and can be no shared state."""
        if not self.active:
            return
        try:
            self._state()
        except NotSupported as error:
            names = [*self._by_task, *(f"the queue {queue}" for queue in self._by_queue)]
            raise NotSupported(f"{', '.join(names)} can't be limited in the whole cluster: {error}") from error
        except StateUnavailable as error:
            logger.warning("Tasks under limits have to wait: %s", error)

    def start(self) -> None:
        """Begin to hold slots, where there may be any."""
        if self.active:
            super().start()

    def override(self, task: str, rate: str | None) -> None:
        """Limit the starts of a task to this rate, whatever it was declared with; None: to what that was.

        Raises ConfigurationError, among them NotSupported, and StateUnavailable.
        """
        declared = self._declared.get(task, ())
        if rate is None:
            limits = declared
        else:
            self._state()
            limits = (Limit("", *parse_rate(rate)), *(limit for limit in declared if not limit.period_s))
        with self._changing:
            self._by_task = {name: known for name, known in self._by_task.items() if name != task}
            if limits:
                self._by_task[task] = limits
            self.active = bool(self._by_task or self._by_queue)
        self.start()

    # -- before a start --------------------------------------------------------------------------

    def sift(self, flights: Sequence[Flight]) -> tuple[list[Flight], list[Completed]]:
        """Part flights into those that may start, which hold their slots then, and those that go back to wait."""
        asks = {at: ask for at, flight in enumerate(flights) if (ask := self._ask_of(flight)) is not None}
        if not asks:
            return list(flights), []
        try:
            answers = self._answered(list(asks.values()))
        except StateUnavailable as error:
            return self._without_state(flights, asks, error)
        now = time.monotonic()
        start: list[Flight] = []
        wait: list[Completed] = []
        given = dict(zip(asks, answers, strict=True))
        for at, flight in enumerate(flights):
            if at not in given:
                start.append(flight)
                continue
            answer, line = given[at], self._line(asks[at], now)
            if answer.reserved or not answer.wait_s:
                line.started(1, now)
            if answer.reserved:
                wait.append(self._sent_back(flight, answer.wait_s, reserved=True))
            elif answer.wait_s:
                wait.append(self._sent_back(flight, line.wait(now, least_s=_horizon_of(answer)), reserved=False))
            else:
                self._hold(flight, asks[at])
                start.append(flight)
        return start, wait

    def _answered(self, asks: Sequence[Ask]) -> list[Answer]:
        if time.monotonic() < self._ask_again_at:
            raise StateUnavailable("It could not be asked a moment ago")
        answers = self._state().acquire(asks, self._lease_s, _HORIZON_S)
        if self._failures:
            logger.info("Limits can be asked for again")
        self._failures = 0
        return answers

    def _without_state(
        self, flights: Sequence[Flight], asks: Mapping[int, Ask], error: StateUnavailable
    ) -> tuple[list[Flight], list[Completed]]:
        if not self._failures:
            logger.warning("Tasks under limits have to wait: %s", error)
        now = time.monotonic()
        if now >= self._ask_again_at:  # a server that hangs is not to keep other tasks waiting again and again
            self._failures += 1
            self._ask_again_at = now + longest_pause(self._failures, _FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        pause = self._ask_again_at - now
        wait = [self._sent_back(flights[at], pause * random.uniform(1.0, 1.5), reserved=False) for at in asks]
        return [flight for at, flight in enumerate(flights) if at not in asks], wait

    def _sent_back(self, flight: Flight, wait_s: float, *, reserved: bool) -> Completed:
        """Return what sends a message back until it is to come again: with its turn reserved, or without."""
        message = flight.message
        due = now_us() + round(wait_s * 1e6)
        frame = b""
        if reserved:
            frame = self._reframe(message._replace(eta=due, extras=message.extras._replace(reserved=True)))
        elif message.extras.reserved:
            frame = self._reframe(message._replace(extras=message.extras._replace(reserved=False)))
        return Completed(Decision(flight.delivery, Action.RETRY, frame, due), None)

    def _ask_of(self, flight: Flight) -> Ask | None:
        """Return what a flight has to ask for; None if it needs not ask."""
        message = flight.message
        own = self._by_task.get(message.task, ())
        limits = self._by_queue.get(queue_of_share(flight.delivery.queue), ()) if self._by_queue else ()
        if own:
            apart = message.extras.limit_key if flight.info.limited_by_key else ""
            key = _fitting(f"task:{message.task} {apart}" if apart else f"task:{message.task}")
            limits += tuple(limit._replace(key=key) for limit in own)
        if message.extras.reserved and not _is_late(message.eta, limits):
            limits = tuple(limit for limit in limits if not limit.period_s)
        return Ask(next(self._holders), limits) if limits else None

    def _line(self, ask: Ask, now: float) -> Line:
        keys = tuple(limit.key for limit in ask.limits)
        line = self._lines.get(keys)
        if line is None:
            if len(self._lines) >= self._look_over:
                self._lines = {key: line for key, line in self._lines.items() if not line.is_over(now)}
                self._look_over = max(_MANY_LINES, 2 * len(self._lines))
            line = self._lines[keys] = Line(now)
        return line

    # -- slots ---------------------------------------------------------------------------------------

    def _hold(self, flight: Flight, ask: Ask) -> None:
        slots = tuple(limit for limit in ask.limits if not limit.period_s)
        if slots:
            flight.ask = Ask(ask.holder, slots)
            with self._changing:
                self._held[ask.holder] = flight.ask

    def free(self, flights: Iterable[Flight | None]) -> None:
        """Have the slots given back of flights that are in hand no more."""
        with self._changing:
            asks = [self._held.pop(it.ask.holder) for it in flights if it and it.ask and it.ask.holder in self._held]
            if asks:
                self._ended += asks
                self._changing.notify_all()

    def forget(self, flights: Iterable[Flight]) -> None:
        """Hold the slots of flights no longer: they are free when their lease ends, and what ran has ended by then."""
        with self._changing:
            for flight in flights:
                if flight.ask is not None:
                    self._held.pop(flight.ask.holder, None)

    def turn(self) -> None:
        """Give back the slots of what has ended; hold those of what is in hand, three times in their lease's span."""
        with self._changing:
            left = self._extend_at - time.monotonic()
            self._changing.wait_for(lambda: self._ended or self.quieted.is_set(), max(0.0, left))
        self._give_back()
        if time.monotonic() >= self._extend_at:
            self._extend_at = time.monotonic() + self._lease_s / 3
            self._extend()

    def wake(self) -> None:
        """Make a turn that waits return."""
        with self._changing:
            self._changing.notify_all()

    def stop(self, timeout_s: float) -> bool:
        """Give back what is left, and end; return whether the last turn has ended."""
        ended = super().stop(timeout_s)
        self._give_back()
        return ended

    def _give_back(self) -> None:
        with self._changing:
            asks, self._ended = self._ended, []
        if asks:
            try:
                self._state().give_back(asks)
            except StateUnavailable as error:
                logger.warning("%d slots can't be given back, and are free when their lease ends: %s", len(asks), error)

    def _extend(self) -> None:
        with self._changing:
            asks = list(self._held.values())
        if asks:
            try:
                self._state().extend(asks, self._lease_s)
            except StateUnavailable as error:
                logger.warning("%d slots can't be held for longer: %s", len(asks), error)


def _limits_of_queues(pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[Limit, ...]]:
    found: dict[str, tuple[Limit, ...]] = {}
    for queue, text in pairs:
        limit = Limit(_fitting(f"queue:{queue}"), *parse_limit(text, f"queue_limits of {queue}"))
        found[queue] = (*found.get(queue, ()), limit)
    return found


def _is_late(turn_us: int, limits: Iterable[Limit]) -> bool:
    """Return whether a turn was missed, so that starting now could be too much at once."""
    interval_s = max((limit.period_s / limit.amount for limit in limits), default=0.0)
    return now_us() - turn_us > max(_LATE_S, interval_s) * 1e6


def _horizon_of(answer: Answer) -> float:
    """Return for how long it is no use to ask again: nothing is known of slots, but of turns."""
    return answer.wait_s if answer.wait_s >= _HORIZON_S else 0.0


def _fitting(key: str) -> str:
    """Return a key that the shared state takes: a longer one is told by its digest."""
    return key if len(key) <= _MOST_KEY else f"digest:{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}"
