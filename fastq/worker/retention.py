"""Retention: dead letters that are too old, or too many, are deleted."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence

from fastq.broker import Broker
from fastq.errors import BrokerError, NotSupported
from fastq.settings import Settings

from .loop import Loop

logger = logging.getLogger("fastq.worker")

_FIRST_S, _EVERY_S = 60.0, 3600.0  # half as much, up to half as much again, so that workers take turns


class Retention(Loop):
    """Looks after the dead letters of the queues that are served, about once an hour."""

    def __init__(
        self, *, broker: Broker, queues: Sequence[str], settings: Settings, fail: Callable[[BaseException], None]
    ) -> None:
        super().__init__("retention", fail)
        self._broker = broker
        self._queues = list(dict.fromkeys(queues))
        self._expires_s, self._most = settings.dead_letters_expire_s, settings.dead_letters_max
        self._pause_s = _FIRST_S

    def start(self) -> None:
        """Begin, where not all are kept for ever."""
        if self._expires_s or self._most:
            super().start()

    def turn(self) -> None:
        """Wait, and then look through all queues."""
        if self.quieted.wait(self._pause_s * random.uniform(0.5, 1.5)):
            return
        self._pause_s = _EVERY_S
        try:
            for queue in self._queues:
                self.prune(queue)
        except NotSupported:
            self.quieted.set()  # there are none
        except BrokerError as error:
            logger.info("Old dead letters can't be looked for now: %s", error)

    def prune(self, queue: str) -> None:
        """Delete what is too old or too many of a queue, a part at a time. Raises NotSupported, BrokerUnavailable."""
        count = 0
        while not self.quieted.is_set() and (some := self._broker.prune_dead(queue, self._expires_s, self._most)):
            count += some
        if count:
            logger.warning("%d dead letters of %r were too old, or too many, and are deleted", count, queue)
