"""The settler: what ended in the pool is stored as a result, and then its message is settled."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from fastq import failpoints
from fastq.backend import Backend
from fastq.broker import Action, Decision, Delivery
from fastq.completion import Completed, awaited
from fastq.errors import (
    BackendError,
    BackendUnavailable,
    BrokerError,
    BrokerFull,
    BrokerUnavailable,
    ConfigurationError,
    FastQError,
    ProtocolError,
    PublishUnknown,
    TaskRevoked,
)
from fastq.failure import Failure
from fastq.message import NO_EXTRAS, Message, next_attempt, now_us
from fastq.outcome import Outcome, State
from fastq.pool import Ended, Pool
from fastq.settings import Settings
from fastq.state import SharedState

from .dispatcher import Dispatcher
from .followers import Followers
from .lease import Lease
from .loop import Loop
from .patience import Patience
from .reporter import Reporter
from .triage import Flight, dead, failed, lost, replacing

logger = logging.getLogger("fastq.worker")

_PATIENCE_S = 60.0  # how long storing and settling is tried again before the messages go back


class Settler(Loop):
    """Collects in batches; a batch is completed before the next is collected, so the pool feels back-pressure."""

    def __init__(
        self, *, pool: Pool, lease: Lease, backend: Backend, state: Callable[[], SharedState], settings: Settings,
        fail: Callable[[BaseException], None],
    ) -> None:  # fmt: skip
        super().__init__("settler", fail)
        self._pool = pool
        self._lease = lease
        self._followers = Followers(
            state=state, backend=backend, publish=lease.publish, quieted=self.quieted, settings=settings
        )
        self._max_deliveries = settings.max_deliveries
        self._reframe = settings.reframe
        self.dispatcher: Dispatcher
        self.reporter: Reporter | None = None
        self.processed = 0
        self.idle = True  # whether what landed is settled, and what follows from it published

    def turn(self) -> None:
        """Collect what has ended, decide, complete."""
        self.idle = True
        with self.waiting:
            ended = self._pool.collect(None)
        self.idle = False
        if not ended:
            self.dispatcher.look_again()
            return
        flights = self.dispatcher.land([each.ticket for each in ended])
        self.processed += len(ended)
        patience = Patience(self.quieted, _PATIENCE_S)
        try:
            ends = [self._decide(flight, each, patience) for flight, each in zip(flights, ended, strict=True) if flight]
            if logger.isEnabledFor(logging.DEBUG):
                _tell(flights, ended)
            if failpoints.on:
                failpoints.hit("P10")
            self.complete(ends)
        except BaseException:
            self._lease.hand_back([flight.delivery for flight in flights if flight and not flight.acked])
            raise
        finally:
            self.dispatcher.free(flights)
        if self.reporter is not None:
            self.reporter.ended(flights, ended, ends)

    def wake(self) -> None:
        """Make a collect that waits return."""
        self._pool.interrupt()

    def complete(self, batch: Sequence[Completed]) -> None:
        """Store and settle a batch, patiently; past all patience, its messages go back to their queues."""
        if any(each.message is not None for each in batch):
            try:
                batch = self._followers.carry_on(batch)
            except ConfigurationError as error:
                self._fail(error)
                return
        for delivery in self._completed(batch):
            logger.warning(
                "A message in %r was taken over by another worker; its end here counts for nothing", delivery.queue
            )

    def _completed(self, batch: Sequence[Completed], *, replaced: bool = False) -> list[Delivery]:
        """Complete a batch; return its deliveries that are in other hands. What can't be settled goes back.

        `replaced` says that the outcomes are not those that the tasks came to.
        """
        patience = Patience(self.quieted, _PATIENCE_S)
        while True:
            try:
                gone = self._lease.completion.complete(batch)
                if failpoints.on:
                    failpoints.hit("P12")
                return gone
            except (BrokerError, BackendUnavailable) as error:
                if patience.over:
                    self._give_up(batch, error)
                    return []
                logger.warning("Settling %d messages failed, and is tried again: %s", len(batch), error)
                patience.pause()
            except BackendError as error:
                if len(batch) > 1:
                    return [gone for each in batch for gone in self._completed([each], replaced=replaced)]
                return self._completed_otherwise(batch[0], error, replaced=replaced)

    def _completed_otherwise(self, refused: Completed, error: BackendError, *, replaced: bool) -> list[Delivery]:
        """Complete what has an outcome that the backend never takes: with a failure in its place, or as a dead letter.

        To run the task once more would lead to the same refusal.
        """
        decision, outcome, _ = refused
        if outcome is not None and outcome.state.terminal and not replaced:
            logger.error("The outcome of %s is refused, and a failure takes its place: %s", outcome.id.hex(), error)
            return self._completed([refused._replace(outcome=replacing(outcome, error))], replaced=True)
        if decision is None:
            logger.error("The outcome of an early task is refused, and lost: %s", error)
            return []
        if decision.action is not Action.DEAD and (outcome is None or outcome.state.terminal):
            decision = Decision(decision.delivery, Action.DEAD, reason=f"its outcome can't be stored: {error}")
            logger.error("A message in %r goes to the dead letters: %s", decision.delivery.queue, decision.reason)
        return self._completed([Completed(decision, None)], replaced=True)

    def _give_up(self, batch: Sequence[Completed], error: Exception) -> None:
        held = [each.decision.delivery for each in batch if each.decision is not None]
        if held:
            logger.error("%d messages can't be settled, and go back to their queues: %s", len(held), error)
            self._lease.hand_back(held)
        if results := [each.outcome for each in batch if each.decision is None and each.outcome is not None]:
            logger.error("%d results of early tasks can't be stored, and are lost: %s", len(results), error)

    # -- decisions --------------------------------------------------------------------------------

    def _decide(self, flight: Flight, ended: Ended, patience: Patience) -> Completed:
        if ended.death:
            return self._broken_off(flight, ended.death, blameless=ended.blameless)
        try:
            outcome = Outcome.decode(ended.outcome)
            if outcome.id != flight.message.id:
                raise ProtocolError("it is another task's")
        except ProtocolError as error:
            return self._broken_off(flight, f"sent an outcome that can't be read: {error}")
        if flight.message.reply_to:
            outcome.reply_to = flight.message.reply_to
        if outcome.state is State.REFUSED:
            return self._refused(flight, outcome, patience)
        if outcome.state is State.RETRY:
            return self._again(flight, outcome, patience)
        message = flight.message
        # Not through __new__, which NamedTuple writes in Python and which takes three times as long.
        decision = None if flight.early else tuple.__new__(Decision, (flight.delivery, Action.ACK, b"", 0, ""))
        kept = None if message.ignore_result else outcome
        waited_for = None if message.extras is NO_EXTRAS else awaited(message)
        return tuple.__new__(Completed, (decision, kept, waited_for))

    def _again(self, flight: Flight, outcome: Outcome, patience: Patience) -> Completed:
        """The task asks for another attempt: it waits in its queue, in place of this one."""
        message = flight.message
        wait_s = max(0, outcome.due - now_us()) / 1e6
        logger.info("Task %s[%s] is tried again in %.1f s", message.task, message.uuid, wait_s)
        following = next_attempt(message, outcome.due)
        kept = None if message.ignore_result else outcome
        if flight.early:
            problem = self._publish(following, patience)
            return lost(message, f"it asked to be tried again, and {problem}") if problem else Completed(None, kept)
        try:
            frame = self._reframe(following)
        except ProtocolError as error:  # there are no more attempts than can be counted
            return dead(flight.delivery, message, f"its next attempt can't be a message: {error}")
        return Completed(Decision(flight.delivery, Action.RETRY, frame, outcome.due), kept)

    def _publish(self, attempt: Message, patience: Patience) -> str:
        """Publish the next attempt of an early task, whose own message is gone; return why that can't be, if so."""
        while True:
            try:
                self._lease.publish([attempt])
            except PublishUnknown as error:  # to publish it twice could start it once too often
                name = f"Task {attempt.task}[{attempt.uuid}]"
                logger.error("%s asked to be tried again, which may or may not happen: %s", name, error)
            except FastQError as error:
                if not isinstance(error, (BrokerUnavailable, BrokerFull)) or patience.over:
                    return f"attempt {attempt.attempt} could not be published: {error}"
                logger.warning("Trying a task again has to wait: %s", error)
                patience.pause()
                continue
            return ""

    def _broken_off(self, flight: Flight, death: str, *, blameless: bool = False) -> Completed:
        message = flight.message
        name = f"Task {message.task}[{message.uuid}]"
        if flight.sentence is not None:
            state = State.REVOKED if isinstance(flight.sentence, TaskRevoked) else State.FAILURE
            decision = None if flight.early else Decision(flight.delivery)
            return Completed(decision, failed(message, flight.sentence, state), awaited(message))
        if flight.early:
            return lost(message, f"its process {death}")
        if flight.handed_back or blameless:
            logger.warning("%s was broken off and goes back to its queue", name)
            return Completed(Decision(flight.delivery, Action.RETRY), None)
        crashes = flight.delivery.crashes + 1
        if crashes >= self._max_deliveries:
            return dead(flight.delivery, message, f"crash {crashes} of {self._max_deliveries}: its process {death}")
        how = death.partition("\n")[0]  # the pool has told the rest
        logger.warning(
            "%s goes back to its queue, charged with crash %d of %d: its process %s",
            name,
            crashes,
            self._max_deliveries,
            how,
        )
        return Completed(Decision(flight.delivery, Action.REJECT), None)

    def _refused(self, flight: Flight, outcome: Outcome, patience: Patience) -> Completed:
        """A message that the child could not run: give it up."""
        reason = Failure.decode(outcome.body).message
        ended = dead(flight.delivery, flight.message, reason)
        if not flight.early:
            return ended
        problem = self._bury(flight.delivery, reason, patience)
        if problem:
            return lost(flight.message, f"{reason}; it should be a dead letter, and {problem}")
        return ended._replace(decision=None)

    def _bury(self, delivery: Delivery, reason: str, patience: Patience) -> str:
        """Make a dead letter of what was acknowledged before it ran; return why that can't be, if so."""
        while True:
            try:
                self._lease.bury(delivery, reason)
            except FastQError as error:
                passing = isinstance(
                    error, (BrokerUnavailable, BrokerFull, PublishUnknown)
                )  # twice is better than never
                if not passing or patience.over:
                    return f"can't become one: {error}"
                logger.warning("A message has to wait to become a dead letter: %s", error)
                patience.pause()
                continue
            return ""


def _tell(flights: Sequence[Flight | None], ended: Sequence[Ended]) -> None:
    for flight, each in zip(flights, ended, strict=True):
        if flight and each.outcome:
            logger.debug("Task %s[%s] ended: %s", flight.message.task, flight.message.uuid, _state(each.outcome))


def _state(frame: bytes) -> str:
    try:
        return str(Outcome.decode(frame).state)
    except ProtocolError:
        return "unreadable"
