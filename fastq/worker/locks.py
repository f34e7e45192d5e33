"""Locks: of unique tasks whose latest call is the one that counts, the earlier ones are not run."""

from __future__ import annotations

import logging
import random
import uuid
from collections.abc import Callable, Mapping, Sequence

from fastq.broker import Action, Decision
from fastq.completion import Completed, awaited
from fastq.errors import NotSupported, StateUnavailable, TaskRevoked
from fastq.message import now_us
from fastq.outcome import State
from fastq.pool import TaskInfo
from fastq.state import SharedState
from fastq.unique import LATEST, Latest

from .triage import Flight, failed

logger = logging.getLogger("fastq.worker")

_PAUSE_S = 5.0  # of tasks that wait for the shared state, or for what others do


class Locks:
    """Asks whose locks are whose, once for a batch and only of tasks that want it.

    Whoever takes flights in looks at `active`, and lets `sift` part those that may start.
    """

    def __init__(self, *, state: Callable[[], SharedState], tasks: Mapping[str, TaskInfo]) -> None:
        self._state = state
        self._tasks = [info.name for info in tasks.values() if info.superseded]
        self._lost = False
        self.active = bool(self._tasks)

    def prepare(self) -> None:
        """Raise NotSupported where there are such tasks, and can be no shared state."""
        if not self.active:
            return
        try:
            self._state()
        except NotSupported as error:
            raise NotSupported(f"{', '.join(self._tasks)} can't be unique in the whole cluster: {error}") from error
        except StateUnavailable as error:
            logger.warning("Unique tasks have to wait: %s", error)

    def sift(self, flights: Sequence[Flight]) -> tuple[list[Flight], list[Completed]]:
        """Part flights into those that may start, and those that end here, or have to wait."""
        names = {at: it.message.extras.unique for at, it in enumerate(flights) if it.info.superseded}
        names = {at: name for at, name in names.items() if name}
        if not names:
            return list(flights), []
        try:
            found = dict(zip(names, self._state().get(LATEST, list(names.values())), strict=True))
        except StateUnavailable as error:
            if not self._lost:
                logger.warning("Unique tasks have to wait: %s", error)
            self._lost = True
            wait = [_waiting(flights[at]) for at in names]
            return [flight for at, flight in enumerate(flights) if at not in names], wait
        self._lost = False
        start: list[Flight] = []
        ended: list[Completed] = []
        for at, flight in enumerate(flights):
            value = found.get(at)
            latest = None if value is None else Latest.decode(value)
            if latest is None or latest.task == flight.message.id:
                start.append(flight)
            elif latest.until:
                ended.append(_superseded(flight, latest.task))
            else:
                ended.append(_waiting(flight))  # the latest may never be sent
        return start, ended


def _waiting(flight: Flight) -> Completed:
    due = now_us() + round(random.uniform(0.2, 1.0) * _PAUSE_S * 1e6)
    return Completed(Decision(flight.delivery, Action.RETRY, due=due), None)


def _superseded(flight: Flight, latest: bytes) -> Completed:
    message = flight.message
    reason = f"superseded by {uuid.UUID(bytes=latest)}"
    logger.info("Task %s[%s] does not start: it is %s", message.task, message.uuid, reason)
    return Completed(
        Decision(flight.delivery), failed(message, TaskRevoked(reason), State.REVOKED), awaited(message)
    )  # fmt: skip
