"""The contract of completion: outcomes are stored, then their messages are settled.

Where broker and backend are the same system, it may do both in one step; neither contract knows the other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from . import failpoints
from .outcome import Outcome

if TYPE_CHECKING:
    from .backend import Backend
    from .broker import Decision, Delivery, Subscription
    from .message import Message


class Completed(NamedTuple):
    """What is to be done about one delivery, and what is to be remembered of its run."""

    decision: Decision | None  # None: it was settled before it ran
    outcome: Outcome | None  # None: nothing is to be remembered
    message: Message | None = None  # of a task that has ended for good, where others wait for it: see `awaited`


def awaited(message: Message) -> Message | None:
    """Return a message that has come to its end, for `Completed`, if there is somebody to be told of it."""
    return message if message.extras.flows or message.extras.unique else None


class Completion(ABC):
    """Stores outcomes and settles deliveries, in that order or at once."""

    @abstractmethod
    def complete(self, batch: Sequence[Completed]) -> list[Delivery]:
        """Carry out a batch; return the deliveries whose lease was lost.

        Raises BackendUnavailable or BrokerUnavailable: then the same call may be made again.
        """


class System(Protocol):
    """A server that serves as broker and as backend, and can complete in one step."""

    def completion(self, subscription: Subscription, backend: Backend) -> Completion:
        """Return the one-step completion for a subscription and a backend of this system."""


class StoreThenSettle(Completion):
    """Completion over two systems: an outcome is durable before its message is forgotten."""

    def __init__(self, subscription: Subscription, backend: Backend) -> None:
        self._subscription = subscription
        self._backend = backend

    def complete(self, batch: Sequence[Completed]) -> list[Delivery]:
        outcomes = [completed.outcome for completed in batch if completed.outcome is not None]
        if outcomes:
            self._backend.store(outcomes)
            if failpoints.on:
                failpoints.hit("P11")
        decisions = [completed.decision for completed in batch if completed.decision is not None]
        return self._subscription.settle(decisions) if decisions else []


def completion_of(subscription: Subscription, system: System | None, backend: Backend) -> Completion:
    """Return the best completion there is; `system` is that of the subscription's broker."""
    if system is not None and system is backend.system:
        return system.completion(subscription, backend)
    return StoreThenSettle(subscription, backend)
