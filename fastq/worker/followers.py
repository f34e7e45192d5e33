"""Followers: those who wait for the end of a task are told of it, before its message is settled."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from fastq import failpoints
from fastq.backend import Backend
from fastq.broker import Action
from fastq.canvas.then import VALUES, Then
from fastq.completion import Completed
from fastq.errors import (
    BackendError,
    BackendUnavailable,
    BrokerFull,
    BrokerUnavailable,
    EncodingError,
    FastQError,
    ProtocolError,
    PublishUnknown,
    StateUnavailable,
    UpstreamFailed,
)
from fastq.failure import Failure
from fastq.message import Message
from fastq.outcome import Outcome, State
from fastq.packing import is_packed
from fastq.sealing import of_flow
from fastq.settings import Settings
from fastq.state import Arrival, SharedState
from fastq.unique import LOCKS

from .loop import goes_on
from .patience import Patience
from .triage import replacing

logger = logging.getLogger("fastq.worker")

T = TypeVar("T")

_AT_ONCE = 1_000  # messages in one publish, at most
_PASSING = (BackendUnavailable, BrokerUnavailable, BrokerFull, StateUnavailable)


class _End(NamedTuple):
    """A task that has ended, well or not, and that flows wait for."""

    message: Message
    failure: bytes | None  # the body of its outcome; None: it ended well


@dataclass(slots=True)
class _Due:
    """What is to be done because tasks have ended, while it is found out."""

    messages: list[Message] = field(default_factory=list)  # to be published
    values: dict[str, bytes] = field(default_factory=dict)  # to be known before
    failures: dict[bytes, bytes] = field(default_factory=dict)  # by task
    closed: dict[bytes, None] = field(default_factory=dict)  # flows to be closed at the end, in order
    dropped: list[bytes] = field(default_factory=list)  # and those that wait for what will not run


class Followers:
    """Tells flows of ends, and sets off what follows. Both the settler's thread and the fetcher's may use it.

    The order is: outcomes are stored; flows are told; what follows is published; its flows are closed; and then the
    settler settles the messages. Each step may be taken again. So whenever a worker is killed, the message that was
    not settled makes another one do it all once more: what follows is published twice under the same ids, or once.
    """

    def __init__(
        self, *, state: Callable[[], SharedState], backend: Backend, publish: Callable[[Sequence[Message]], None],
        quieted: threading.Event, settings: Settings,
    ) -> None:  # fmt: skip
        self._state = state
        self._backend = backend
        self._publish = publish
        self._quieted = quieted
        self._seals = settings.seals
        self._packing = settings.packing

    def carry_on(self, batch: Sequence[Completed]) -> list[Completed]:
        """Do what follows from a batch; return what is left to be done about it.

        It is patient without end, but for a worker that stops: then it leaves out what will be delivered again. A
        follower that the broker refuses for good fails unrun. Raises ConfigurationError if there can be no shared
        state here.
        """
        waited_for = [each for each in batch if each.message is not None and each.message.extras.flows]
        try:
            if waited_for:
                self._follow(self._stored(waited_for))
            self._unlock(each.message for each in batch if each.message is not None and each.message.extras.unique)
        except _GivenUp as error:
            told = [each for each in batch if each.message is not None]
            logger.error("%d tasks ended, and what follows them has to wait: %s", len(told), error)
            return [each for each in batch if each.message is None or each.decision is None]
        return [_stored_before(each) for each in batch]

    def _unlock(self, messages: Iterable[Message]) -> None:
        """Give up the locks of unique tasks that have ended, as far as they are still theirs."""
        for message in messages:
            self._patiently(
                lambda message=message: self._state().delete_if(LOCKS, message.extras.unique, message.id)  # type: ignore[misc]
            )

    # -- the ends of tasks --------------------------------------------------------------------------------

    def _stored(self, batch: Sequence[Completed]) -> list[_End]:
        """Store outcomes; return how the tasks ended, for all the world."""
        outcomes: dict[bytes, Outcome] = {}
        for each in batch:
            outcome, message = each.outcome, each.message
            if outcome is not None and message is not None:
                outcomes[outcome.id] = outcome if outcome.state is State.SUCCESS else self._named(outcome, message)
        if outcomes:
            self._keep(outcomes)
        # A task that was delivered before may have ended before, and otherwise: that counts, then.
        again = [each.message.id for each in batch if each.message is not None and _came_before(each)]
        if again:
            outcomes.update((each.id, each) for each in self._known(again) if each is not None and each.state.terminal)
        return [_end(each, outcomes.get(each.message.id)) for each in batch if each.message is not None]

    def _named(self, outcome: Outcome, message: Message) -> Outcome:
        """Return the outcome of a task that failed with its name in it: it will stand at others, too."""
        if is_packed(outcome.content_type):  # by a child, or else it is the worker's own
            outcome = self._packing.plain_outcome(outcome)
        failure = Failure.decode(outcome.body)
        named = outcome._replace(body=failure._replace(origin=(message.task, message.uuid)).encode())
        named.reply_to = outcome.reply_to
        return named

    def _keep(self, outcomes: dict[bytes, Outcome]) -> None:
        """Store outcomes; one that the backend refuses for good is replaced by a failure that says so."""
        try:
            self._store(list(outcomes.values()))
        except BackendError:
            for id, outcome in outcomes.items():
                try:
                    self._store([outcome])
                except BackendError as error:
                    logger.error("The outcome of %s is refused, and a failure takes its place: %s", id.hex(), error)
                    outcomes[id] = replacing(outcome, error)
                    with suppress(BackendError):
                        self._store([outcomes[id]])

    def _store(self, outcomes: Sequence[Outcome]) -> None:
        packed = [self._packing.packed_outcome(outcome) for outcome in outcomes]
        self._patiently(lambda: self._backend.store(packed))

    def _known(self, ids: Sequence[bytes]) -> list[Outcome | None]:
        """Return outcomes that were stored; of those that can't be read, or not be trusted, nothing is known."""
        found: list[Outcome | None] = []
        for outcome in self._patiently(lambda: self._backend.load(ids)):
            well = outcome is None or outcome.state is State.SUCCESS  # its value is not looked at here
            try:
                found.append(outcome if outcome is None or well else self._packing.plain_outcome(outcome))
            except EncodingError as error:
                logger.error("What became of a task is passed over: %s", error)
                found.append(None)
        return found

    # -- what follows ---------------------------------------------------------------------------------------

    def _follow(self, ends: Sequence[_End]) -> None:
        """Tell flows, and the flows of those tasks that fail without having run because of it, and so on."""
        due = _Due()
        while ends:
            due.failures.update((end.message.id, end.failure) for end in ends if end.failure is not None)
            ends = self._doom(self._tell(ends, due)) or self._doom(self._set_off(due))
        if due.closed:
            self._patiently(lambda: self._state().close_flows([*due.closed, *due.dropped]))

    def _tell(self, ends: Sequence[_End], due: _Due) -> list[_End]:
        """Tell flows of ends, and add what is due then; return the ends of the tasks that will not run."""
        arrivals = [
            Arrival(flow, end.message.id, end.failure is not None) for end in ends for flow in end.message.extras.flows
        ]
        doomed: list[_End] = []
        for flow, packed, failed in self._patiently(lambda: self._state().arrive(arrivals)):
            if flow in due.closed:
                continue
            due.closed[flow] = None
            try:
                then = self._then(flow, packed)
            except ProtocolError as error:
                logger.error("Flow %s leads nowhere: %s", flow.hex(), error)
                continue
            if not failed:
                due.messages += [later.now() for later in then.run]
                due.dropped += then.dropped
                if then.values:
                    due.values[flow.hex()] = then.values
                continue
            first = failed[0]
            due.messages += [_blaming(later.now(), first) for later in then.on_error]
            if then.run:
                failure = due.failures[first] if first in due.failures else self._failure_of(first)
                doomed += [_End(later.message, failure) for later in then.run]
        return doomed

    def _then(self, flow: bytes, sealed: bytes) -> Then:
        """Return what a flow leads to, if that can be trusted. Raises ProtocolError."""
        if not self._seals.active:
            return Then.decode(sealed)
        opened = self._seals.open(sealed, of_flow(flow))
        then = Then.decode(opened.inner)
        for later in (*then.run, *then.on_error):
            self._seals.check_task(opened, later.message.task)
        return then

    def _failure_of(self, id: bytes) -> bytes:
        """Return the failure of a task that ended some time ago."""
        outcome = self._known([id])[0]
        if outcome is not None and outcome.state is not State.SUCCESS:
            return outcome.body
        return Failure.of(UpstreamFailed("a task failed whose value is needed, and how is not known any more")).encode()

    def _doom(self, ends: Sequence[_End]) -> list[_End]:
        """Store failures of tasks that will not run; return those that others wait for."""
        outcomes = [
            Outcome.of(message, State.FAILURE, failure or b"") for message, failure in ends if not message.ignore_result
        ]
        if outcomes:
            self._keep({outcome.id: outcome for outcome in outcomes})
        for message, _ in ends:
            logger.info("Task %s[%s] does not run: what it follows failed", message.task, message.uuid)
        return [end for end in ends if end.message.extras.flows]

    def _set_off(self, due: _Due) -> list[_End]:
        """Publish messages; what values they are given is known before. Return those that can't be, as failed."""
        messages, due.messages = due.messages, []
        if failpoints.on and messages:
            failpoints.hit("P13")
        if due.values:
            self._patiently(lambda: self._state().put(VALUES, due.values, self._backend.expires_s))
            due.values = {}
        return [
            end for at in range(0, len(messages), _AT_ONCE) for end in self._published(messages[at : at + _AT_ONCE])
        ]

    def _published(self, messages: Sequence[Message]) -> list[_End]:
        """Publish messages; return those that the broker refuses for good, as failed."""
        alone = len(messages) == 1
        passing = (*_PASSING, PublishUnknown) if alone else _PASSING  # of several, one may be why it is not known
        try:
            self._patiently(lambda: self._publish(messages), passing)
        except FastQError as error:
            if not alone:
                return [end for message in messages for end in self._published([message])]
            (message,) = messages
            logger.error("Task %s[%s] can't follow, and fails: %s", message.task, message.uuid, error)
            return [_End(message, Failure.of(error)._replace(origin=(message.task, message.uuid)).encode())]
        return []

    def _patiently(self, step: Callable[[], T], passing: tuple[type[FastQError], ...] = _PASSING) -> T:
        """Take a step, again and again while what keeps it from being taken may pass. Raises what may not."""
        patience = Patience(self._quieted)
        while True:
            goes_on()
            try:
                return step()
            except passing as error:
                if patience.over:
                    raise _GivenUp(str(error)) from error
                logger.warning("What follows the ends of tasks has to wait, and is tried again: %s", error)
                patience.pause()


class _GivenUp(Exception):
    """Raised when the worker stops, and a step can't be taken."""


def _stored_before(completed: Completed) -> Completed:
    """Return what is left to be done where an outcome was stored because flows wait for it."""
    flows = completed.message is not None and completed.message.extras.flows
    return completed._replace(outcome=None) if flows else completed


def _came_before(completed: Completed) -> bool:
    return completed.decision is not None and completed.decision.delivery.fence > 1


def _end(completed: Completed, outcome: Outcome | None) -> _End:
    assert completed.message is not None
    if outcome is not None:
        return _End(completed.message, None if outcome.state is State.SUCCESS else outcome.body)
    gone = completed.decision is not None and completed.decision.action is Action.DEAD
    return _End(completed.message, b"" if gone else None)  # its result is ignored


def _blaming(message: Message, failed: bytes) -> Message:
    """Return a message that is given the failure of a task, if it takes any."""
    return message._replace(extras=message.extras._replace(failed=failed)) if message.extras.failed else message
