"""The watchdog: sees that the worker's loops turn and that what waits is fetched, and does something where not."""

from __future__ import annotations

import enum
import logging
import math
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from fastq.broker import Broker
from fastq.errors import FastQError, WorkerStuck

from .fetcher import Fetcher
from .lease import Lease
from .loop import Loop
from .stacks import stacks_here

logger = logging.getLogger("fastq.worker")

_LOOKS = 10  # within the time after which something counts as stuck
_LONGEST_TICK_S = 5.0
_MOST_QUEUES = 16  # asked at a time how long their oldest message has waited


class Symptom(NamedTuple):
    """Something that is to pass soon. It is known by its words and the time since when it is so."""

    what: str
    since: float
    patience_s: float  # after which it is reported


class Measure(enum.IntEnum):
    """What is done about a symptom that does not pass, one after the other."""

    NOTHING = 0
    REPORT = 1
    RECONNECT = 2
    GIVE_UP = 3


class Judge:
    """Decides from look to look what is to be done; pure arithmetic on points in time.

    A symptom is reported once its patience is over; after half of `span_s` more, the worker is to reconnect, and after
    the other half, to give up. Time counts only as far as it was looked: while the whole worker was stopped, nothing
    could pass.
    """

    def __init__(self, span_s: float, tick_s: float) -> None:
        self._span_s = span_s
        self._tick_s = tick_s
        self._last: float | None = None
        self._ages: dict[tuple[str, float], float] = {}
        self._taken: dict[tuple[str, float], Measure] = {}

    def look(self, symptoms: Iterable[Symptom], now: float) -> tuple[Measure, str]:
        """Return the measure that is due now, and the words of the symptom; each is due once."""
        gap = 0.0 if self._last is None else min(now - self._last, 2 * self._tick_s)
        self._last = now
        seen = {(symptom.what, symptom.since): symptom for symptom in symptoms}
        self._ages = {key: self._ages[key] + gap if key in self._ages else 0.0 for key in seen}
        due = {key: self._measure(self._ages[key] - symptom.patience_s) for key, symptom in seen.items()}
        new = [(measure, key) for key, measure in due.items() if measure > self._taken.get(key, Measure.NOTHING)]
        self._taken = {key: max(measure, self._taken.get(key, measure)) for key, measure in due.items()}
        measure, (what, _) = max(new, default=(Measure.NOTHING, ("", 0.0)))
        return measure, what

    def age(self, what: str, since: float) -> float:
        """Return for how long a symptom has been seen."""
        return self._ages.get((what, since), 0.0)

    @property
    def calm(self) -> bool:
        """Whether nothing was reported that has not passed."""
        return not any(self._taken.values())

    def _measure(self, overdue_s: float) -> Measure:
        if overdue_s < 0 or not math.isfinite(overdue_s):
            return Measure.NOTHING
        return Measure(min(Measure.GIVE_UP, 1 + int(overdue_s / (self._span_s / 2))))


class Watchdog(Loop):
    """Looks at the loops, and at the broker's queues when the fetcher has found nothing in them for long.

    What is reported is logged with the stacks of all threads; then the worker begins another lease, for which a
    subscription connects anew; and then it ends with an error, so that whoever supervises it starts another.
    Of a broker that can't be reached nothing is reported here: whoever uses it tries again, and says so.
    """

    def __init__(
        self, *, broker: Broker, lease: Lease, fetcher: Fetcher, loops: Sequence[Loop], stuck_s: float,
        on_calm: Callable[[], None], calm_every_s: float, fail: Callable[[BaseException], None],
    ) -> None:  # fmt: skip
        """`stuck_s` is the patience; 0: without end. `on_calm` is called while nothing is reported, so often."""
        super().__init__("watchdog", fail)
        self._broker = broker
        self._lease = lease
        self._fetcher = fetcher
        self._loops = loops
        self._stuck_s = stuck_s
        self._tick_s = min(_LONGEST_TICK_S, calm_every_s, stuck_s / _LOOKS or math.inf)
        self._on_calm = on_calm
        self._judge = Judge(stuck_s, self._tick_s)
        self._asking: threading.Thread | None = None
        self._asked_at = -math.inf  # on this watchdog's own count
        #: Since when the fetcher was hungry, and the queue that it overlooks.
        self._overlooked: tuple[float, str] | None = None

    def turn(self) -> None:
        """Wait a little, look, and do what is due."""
        with self.waiting:
            self.quieted.wait(self._tick_s)
        if self.quieted.is_set():
            return
        if self._stuck_s:
            self._act(*self._judge.look(list(self._symptoms()), time.monotonic()))
        if not self._stuck_s or self._judge.calm:
            self._on_calm()

    def _symptoms(self) -> Iterable[Symptom]:
        for loop in self._loops:
            if (since := loop.working_since) is not None:
                yield Symptom(f"a turn of the {loop.name} does not end", since, self._stuck_s)
        if (since := self._fetcher.hungry_since) is None or not self._lease.queues:
            self._overlooked = None
            return
        yield Symptom("hungry", since, math.inf)
        hungry_s = self._judge.age("hungry", since)
        overlooked = self._overlooked
        if overlooked is not None and overlooked[0] == since:
            waits = f"messages wait in {overlooked[1]!r} for more than {self._stuck_s:g} s"
            yield Symptom(f"nothing is fetched, though there are free children, and {waits}", since, self._tick_s)
            self._ask(since)  # once more: it may have been seen just before it was fetched
        elif hungry_s >= self._stuck_s and hungry_s - self._asked_at >= self._stuck_s:
            self._asked_at = hungry_s
            self._ask(since)
        elif hungry_s < self._asked_at:
            self._asked_at = -math.inf

    def _act(self, measure: Measure, what: str) -> None:
        if measure is Measure.REPORT:
            logger.error("The worker may be stuck: %s\n%s", what, stacks_here())
        elif measure is Measure.RECONNECT:
            logger.error("The worker is still stuck, and begins another lease: %s", what)
            threading.Thread(target=_try, args=(self._lease.begin_anew,), name="fastq-reconnect", daemon=True).start()
        elif measure is Measure.GIVE_UP:
            logger.error("The worker is stuck, and another lease has not helped\n%s", stacks_here())
            self._fail(WorkerStuck(f"The worker is stuck: {what}"))

    # -- asking the broker ------------------------------------------------------------------------------

    def _ask(self, since: float) -> None:
        """Find out whether a hungry fetcher overlooks something; in a thread of its own, as this may hang as well."""
        if self._asking is None or not self._asking.is_alive():
            self._asking = threading.Thread(target=_try, args=(self._look, since), name="fastq-asking", daemon=True)
            self._asking.start()

    def _look(self, since: float) -> None:
        known, queue = self._overlooked, None
        try:
            queue = self._overlooked_queue()
        finally:
            if queue is None:
                self._overlooked = None
            elif known is None or known[0] != since:
                self._overlooked = since, queue

    def _overlooked_queue(self) -> str | None:
        queues = sorted(set(self._lease.queues))
        some = random.sample(queues, min(len(queues), _MOST_QUEUES))
        return next((queue for queue in some if self._broker.oldest_age(queue) >= self._stuck_s), None)


def _try(action: Callable[..., None], *args: object) -> None:
    try:
        action(*args)
    except FastQError as error:
        logger.debug("The watchdog could not do what it wanted: %s", error)
