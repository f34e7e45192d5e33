"""The settler: what ended in the pool is stored as a result, and then its message is settled."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence

from fastq.broker import Action, Decision
from fastq.completion import Completed
from fastq.errors import BackendError, BrokerError, ProtocolError, TaskLost
from fastq.failure import Failure
from fastq.outcome import Outcome, State
from fastq.pool import Ended, Pool

from .dispatcher import Dispatcher
from .lease import Lease
from .loop import Loop
from .triage import Flight, dead, failed

logger = logging.getLogger("fastq.worker")

_PATIENCE_S = 60.0  # how long storing and settling is tried again before the messages go back
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0


class Settler(Loop):
    """Collects in batches; a batch is completed before the next is collected, so the pool feels back-pressure."""

    def __init__(self, *, pool: Pool, lease: Lease, max_deliveries: int, fail: Callable[[BaseException], None]) -> None:
        super().__init__("settler", fail)
        self._pool = pool
        self._lease = lease
        self._max_deliveries = max_deliveries
        self.dispatcher: Dispatcher
        self.processed = 0

    def turn(self) -> None:
        """Collect what has ended, decide, complete."""
        ended = self._pool.collect(None)
        if ended:
            flights = self.dispatcher.land([each.ticket for each in ended])
            self.processed += len(ended)
            self.complete([self._decide(flight, each) for flight, each in zip(flights, ended, strict=True) if flight])

    def wake(self) -> None:
        """Make a collect that waits return."""
        self._pool.interrupt()

    def complete(self, batch: Sequence[Completed]) -> None:
        """Store and settle a batch, patiently; past all patience, its messages go back to their queues."""
        give_up = time.monotonic() + _PATIENCE_S
        pause = _FIRST_PAUSE_S
        while True:
            lease = self._lease
            try:
                lost = lease.completion.complete(batch)
            except (BrokerError, BackendError) as error:
                if time.monotonic() > give_up or self.quieted.is_set():
                    logger.error("%d messages can't be settled and will be delivered again: %s", len(batch), error)
                    return
                logger.warning("Settling %d messages failed, and is tried again: %s", len(batch), error)
                self.quieted.wait(random.uniform(0, pause))
                pause = min(pause * 2, _LONGEST_PAUSE_S)
            else:
                for delivery in lost:
                    logger.warning(
                        "A message in %r was taken over by another worker; its end here counts for nothing",
                        delivery.queue,
                    )
                return

    # -- decisions --------------------------------------------------------------------------------

    def _decide(self, flight: Flight, ended: Ended) -> Completed:
        if ended.death:
            return self._broken_off(flight, ended.death)
        try:
            outcome = Outcome.decode(ended.outcome)
            if outcome.id != flight.message.id:
                raise ProtocolError("it is another task's")
        except ProtocolError as error:
            return self._broken_off(flight, f"sent an outcome that can't be read: {error}")
        if outcome.state is State.REFUSED:
            return self._refused(flight, outcome)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("Task %s[%s] ended: %s", flight.message.task, flight.message.uuid, outcome.state)
        return Completed(
            None if flight.early else Decision(flight.delivery), None if flight.message.ignore_result else outcome
        )

    def _broken_off(self, flight: Flight, death: str) -> Completed:
        message = flight.message
        name = f"Task {message.task}[{message.uuid}]"
        if flight.early:
            logger.error("%s is lost: its process %s", name, death)
            return Completed(None, failed(message, TaskLost(f"{name} is lost: its process {death}"), State.LOST))
        if flight.handed_back:
            logger.warning("%s was broken off and goes back to its queue", name)
            return Completed(Decision(flight.delivery, Action.RETRY), None)
        crashes = flight.delivery.crashes + 1
        if crashes >= self._max_deliveries:
            return dead(flight.delivery, message, f"its process {death}, for the {crashes}. time")
        logger.warning(
            "%s goes back to its queue, charged with crash %d of %d: its process %s",
            name,
            crashes,
            self._max_deliveries,
            death,
        )
        return Completed(Decision(flight.delivery, Action.REJECT), None)

    def _refused(self, flight: Flight, outcome: Outcome) -> Completed:
        """A message that the child could not run: give it up."""
        reason = Failure.decode(outcome.body).message
        given_up = dead(flight.delivery, flight.message, reason)
        return given_up._replace(decision=None) if flight.early else given_up
