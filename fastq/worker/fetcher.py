"""The fetcher: brings messages from the broker to the dispatcher, as many as there is room for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from fastq import failpoints
from fastq.backoff import Backoff
from fastq.broker import Delivery
from fastq.errors import BrokerError, LeaseLost

from .dispatcher import Dispatcher
from .lease import Lease
from .loop import Loop

logger = logging.getLogger("fastq.worker")

_AT_ONCE_S = 0.05  # within this, room was there without having been waited for
_LOOK_AGAIN_S = 0.2  # where nothing was due, and something runs that may bring more


class Fetcher(Loop):
    """Fetches in batches, for ever; a broker that fails is asked again after a pause with full jitter.

    With `drained`, it does not wait for messages: when its queues have nothing that is due, and `idle` says that
    nothing is in hand that could bring more, `drained` is called, and nothing is fetched any more.
    """

    def __init__(
        self, *, lease: Lease, dispatcher: Dispatcher, fail: Callable[[BaseException], None],
        idle: Callable[[], bool], drained: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        super().__init__("fetcher", fail)
        self._lease = lease
        self._dispatcher = dispatcher
        self._idle = idle
        self._drained = drained
        self._backoff = Backoff()
        #: Since when there is room, and nothing came, on `time.monotonic`; None while that is not so.
        self.hungry_since: float | None = None

    def turn(self) -> None:
        """Fetch once."""
        room = self._wait_for_room()
        if not room:
            return
        idle = self._drained is not None and self._idle()
        try:
            deliveries = self._fetch(room)
        except BrokerError as error:
            self.hungry_since = None
            pause = self._backoff.failed()
            logger.warning("Fetching failed, and is tried again in %.1f s: %s", pause, error)
            with self.waiting:
                self.quieted.wait(pause)
            return
        if self._backoff.worked():
            logger.info("Fetching works again")
        if deliveries:
            self.hungry_since = None
            if failpoints.on:
                failpoints.hit("P4")
            self._dispatcher.take_in(deliveries)
        elif self._drained is not None:
            self._nothing_due(idle=idle)

    def wake(self) -> None:
        """Make a fetch that waits return."""
        self._dispatcher.quiet()
        self._lease.subscription.interrupt()

    def _wait_for_room(self) -> int:
        hungry_since, self.hungry_since = self.hungry_since, None
        before = time.monotonic()
        with self.waiting:
            room = self._dispatcher.wait_for_room()
        now = time.monotonic()
        if room:
            self.hungry_since = now if hungry_since is None or now - before > _AT_ONCE_S else hungry_since
        return room

    def _fetch(self, room: int) -> Sequence[Delivery]:
        subscription = self._lease.subscription
        try:
            with self.waiting:
                return subscription.fetch(room, None if self._drained is None else time.monotonic())
        except LeaseLost:
            self._lease.lost(subscription)
            return []

    def _nothing_due(self, *, idle: bool) -> None:
        """Look again soon, or be done; what was idle before the last look could not have brought more since."""
        with self.waiting:
            if idle and self._drained is not None:
                self._drained()
                self.quieted.wait()
            else:
                self.quieted.wait(_LOOK_AGAIN_S)
