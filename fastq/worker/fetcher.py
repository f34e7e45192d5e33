"""The fetcher: brings messages from the broker to the dispatcher, as many as there is room for."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

from fastq.errors import BrokerError, LeaseLost

from .dispatcher import Dispatcher
from .lease import Lease
from .loop import Loop

logger = logging.getLogger("fastq.worker")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 15.0


class Fetcher(Loop):
    """Fetches in batches, for ever; a broker that fails is asked again after a pause with full jitter."""

    def __init__(self, *, lease: Lease, dispatcher: Dispatcher, fail: Callable[[BaseException], None]) -> None:
        super().__init__("fetcher", fail)
        self._lease = lease
        self._dispatcher = dispatcher
        self._failures = 0

    def turn(self) -> None:
        """Fetch once."""
        room = self._dispatcher.wait_for_room()
        if not room:
            return
        subscription = self._lease.subscription
        try:
            deliveries = subscription.fetch(room, None)
        except LeaseLost:
            self._lease.lost(subscription)
        except BrokerError as error:
            pause = random.uniform(0, min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0**self._failures))
            self._failures += 1
            logger.warning("Fetching failed, and is tried again in %.1f s: %s", pause, error)
            self.quieted.wait(pause)
        else:
            if self._failures:
                logger.info("Fetching works again")
            self._failures = 0
            if deliveries:
                self._dispatcher.take_in(deliveries)

    def wake(self) -> None:
        """Make a fetch that waits return."""
        self._dispatcher.quiet()
        self._lease.subscription.interrupt()
