"""The lease: the worker's subscription, renewed for as long as the worker lives, and begun again when lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from fastq.backend import Backend
from fastq.broker import Broker, Subscription
from fastq.completion import Completion, completion_of
from fastq.errors import BrokerError, LeaseLost

from .loop import Loop

logger = logging.getLogger("fastq.worker")

_TRY_AGAIN_S = 1.0


class Lease(Loop):
    """Owns the subscription. Whoever uses it reads `subscription` anew each time: it may be another by then.

    What an old subscription fetched can't be settled through a new one: the broker calls it lost.
    """

    def __init__(
        self, *, broker: Broker, backend: Backend, queues: Sequence[str], lease_s: float, about: Mapping[str, str],
        fail: Callable[[BaseException], None],
    ) -> None:  # fmt: skip
        super().__init__("lease", fail)
        self._broker = broker
        self._backend = backend
        self._queues = queues
        self._lease_s = lease_s
        self._about = about
        self._beginning = threading.Lock()
        self.on_lost: Callable[[], None] = lambda: None
        self._begin()

    def turn(self) -> None:
        """Renew, three times in the span of a lease."""
        subscription = self.subscription
        pause = self._lease_s / 3
        try:
            subscription.renew()
        except LeaseLost:
            self.lost(subscription)
        except BrokerError as error:
            logger.warning("The lease could not be renewed: %s", error)
            pause = min(pause, _TRY_AGAIN_S)
        self.quieted.wait(pause)

    def lost(self, subscription: Subscription) -> None:
        """Note that a subscription's lease was lost: give up what it held, and begin another."""
        with self._beginning:
            if subscription is not self.subscription:
                return  # somebody else saw it first
            logger.critical("The lease of %g s was lost: what was in hand is given up", self._lease_s)
            self.on_lost()
            self._begin()
            subscription.interrupt()
            subscription.close()

    def close(self) -> None:
        """End the lease; what is still held goes back to the queues, uncharged."""
        try:
            self.subscription.close()
        except BrokerError as error:
            logger.warning("The lease could not be ended, and will run out: %s", error)

    def _begin(self) -> None:
        self.subscription: Subscription = self._broker.subscribe(self._queues, self._lease_s, self._about)
        self.completion: Completion = completion_of(self.subscription, self._broker.system, self._backend)
