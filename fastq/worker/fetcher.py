"""The fetcher: brings messages from the broker to the dispatcher, as many as there is room for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from fastq.broker import Delivery
from fastq.errors import BrokerError, LeaseLost

from .dispatcher import Dispatcher
from .lease import Lease
from .loop import Loop
from .patience import Backoff

logger = logging.getLogger("fastq.worker")


class Fetcher(Loop):
    """Fetches in batches, for ever; a broker that fails is asked again after a pause with full jitter."""

    def __init__(self, *, lease: Lease, dispatcher: Dispatcher, fail: Callable[[BaseException], None]) -> None:
        super().__init__("fetcher", fail)
        self._lease = lease
        self._dispatcher = dispatcher
        self._backoff = Backoff()

    def turn(self) -> None:
        """Fetch once."""
        room = self._dispatcher.wait_for_room()
        if not room:
            return
        try:
            deliveries = self._fetch(room)
        except BrokerError as error:
            pause = self._backoff.failed()
            logger.warning("Fetching failed, and is tried again in %.1f s: %s", pause, error)
            self.quieted.wait(pause)
        else:
            if self._backoff.worked():
                logger.info("Fetching works again")
            if deliveries:
                self._dispatcher.take_in(deliveries)

    def wake(self) -> None:
        """Make a fetch that waits return."""
        self._dispatcher.quiet()
        self._lease.subscription.interrupt()

    def _fetch(self, room: int) -> Sequence[Delivery]:
        subscription = self._lease.subscription
        try:
            return subscription.fetch(room, None)
        except LeaseLost:
            self._lease.lost(subscription)
            return []
