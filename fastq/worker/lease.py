"""The lease: the worker's subscription, renewed for as long as the worker lives, and begun again when lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from fastq.backend import Backend
from fastq.backoff import Backoff
from fastq.broker import Broker, Delivery, Subscription
from fastq.completion import Completion, completion_of
from fastq.errors import BrokerError, LeaseLost
from fastq.message import Message

from .loop import Loop

logger = logging.getLogger("fastq.worker")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 5.0  # before it is renewed once more


class Lease(Loop):
    """Owns the subscription. Whoever uses it reads `subscription` anew each time: it may be another by then.

    What an old subscription fetched can't be settled through a new one: the broker calls it lost.
    """

    def __init__(
        self, *, broker: Broker, backend: Backend, queues: Sequence[str], lease_s: float, about: Mapping[str, str],
        fail: Callable[[BaseException], None], guard: Callable[[Completion], Completion] = lambda inner: inner,
    ) -> None:  # fmt: skip
        super().__init__("lease", fail)
        self._guard = guard
        self._broker = broker
        self._backend = backend
        self._queues = queues
        self._lease_s = lease_s
        self._about = about
        self._beginning = threading.Lock()
        self._left: list[Delivery] = []  # what is to be handed back
        self._leaving = threading.Lock()  # of that
        self._given_up: Subscription | None = None
        self._backoff = Backoff(_FIRST_PAUSE_S, min(_LONGEST_PAUSE_S, lease_s / 3))
        self.on_lost: Callable[[], None] = lambda: None
        self.on_renewed: Callable[[], None] = lambda: None
        self._begin()

    def turn(self) -> None:
        """Renew, three times in the span of a lease, and hand back what could not be handed back before."""
        pause = self._lease_s / 3
        try:
            self._renew()
        except BrokerError as error:
            logger.warning("The lease could not be renewed: %s", error)
            pause = self._backoff.failed()
        else:
            self._backoff.worked()
        with self.waiting:
            self.quieted.wait(pause)

    def lost(self, subscription: Subscription, why: str = "was lost") -> None:
        """Note that a subscription's lease was lost: give up what it held, and begin another.

        Raises BrokerUnavailable if none can begin now: whoever uses the old one hears again that it was lost.
        """
        with self._beginning:
            if subscription is not self.subscription:
                return  # somebody else saw it first
            logger.critical("The lease of %g s %s: what was in hand is given up", self._lease_s, why)
            self.on_lost()
            with self._leaving:
                self._left.clear()
            self._begin()
            subscription.interrupt()
            subscription.close()

    def begin_anew(self) -> None:
        """Give up a lease that is of no use, because its subscription hangs, say, and begin another.

        What it held goes back at once, uncharged. Raises BrokerUnavailable: then it is not renewed, but tried again.
        """
        self._given_up = self.subscription
        self.lost(self._given_up, "is given up")

    def serve(self, queues: Sequence[str]) -> None:
        """Fetch from these queues from now on; what is held stays held. Raises BrokerUnavailable."""
        with self._beginning:
            self._queues = queues
            self.subscription.serve(queues)

    @property
    def queues(self) -> Sequence[str]:
        """The queues that are served now, as often as they have a turn."""
        return self._queues

    def hand_back(self, deliveries: Sequence[Delivery]) -> None:
        """Give messages back that are not settled here: to their places in their queues, uncharged.

        What can't be given back now is given back later: the lease, which goes on, would keep it from everyone.
        """
        with self._leaving:
            self._left += deliveries
        self._release()

    def publish(self, messages: Sequence[Message]) -> None:
        """Queue messages that follow from those in hand. Raises what `Broker.publish` raises."""
        self._broker.publish(messages)

    def bury(self, delivery: Delivery, reason: str) -> None:
        """Make a dead letter of a message that is in nobody's hands any more. Raises what `Broker.bury` raises."""
        self._broker.bury(delivery.queue, [delivery.frame], reason)

    def close(self) -> None:
        """End the lease; what is still held goes back to the queues, uncharged."""
        try:
            self.subscription.close()
        except BrokerError as error:
            logger.warning("The lease could not be ended, and will run out: %s", error)

    def _renew(self) -> None:
        subscription = self.subscription
        if subscription is self._given_up:
            self.lost(subscription, "is given up")
            return
        try:
            subscription.renew()
        except LeaseLost:
            self.lost(subscription)
        else:
            self._release()
            self.on_renewed()

    def _release(self) -> None:
        with self._leaving:
            left, self._left = self._left, []
        try:
            if left:
                self.subscription.release(left)
        except BrokerError as error:
            logger.warning("%d messages can't be handed back yet: %s", len(left), error)
            with self._leaving:
                self._left += left

    def _begin(self) -> None:
        self.subscription: Subscription = self._broker.subscribe(self._queues, self._lease_s, self._about)
        inner = completion_of(self.subscription, self._broker.system, self._backend)
        self.completion: Completion = self._guard(inner)
