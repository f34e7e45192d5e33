"""The contract of a broker: where messages wait, are leased, and end.

Everything is synchronous and in batches; a batch of one is the special case. Deadlines are points on
`time.monotonic`, None for "without end". A broker is thread-safe; a subscription may be used by three
threads at once: one fetches, one settles, one renews. Any may interrupt it, and choose its queues.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from .completion import System
from .diagnosis import Diagnosis
from .errors import NotSupported
from .message import Message


class Capability(enum.Enum):
    """What not every system can do. Asking for one that is not declared raises NotSupported."""

    DELAY = "delayed delivery"
    PRIORITY = "priorities"
    DEAD_LETTERS = "reading dead letters"
    INSPECT = "counting and listing what is queued"


class Delivery(NamedTuple):
    """One message in the hands of one subscription."""

    frame: bytes  # as it was published, byte for byte
    queue: str
    token: object  # the broker's own handle on the message
    fence: int  # counts the deliveries of this message, from 1: a later delivery has the higher number
    crashes: int = 0  # attempts charged to the message so far
    suspect: bool = False  # a worker died while it held this message: `Subscription.begin` it before it starts


class Action(enum.Enum):
    """What is decided about a delivery."""

    ACK = enum.auto()  # it is done: forget it
    REJECT = enum.auto()  # its process died: back to its place in the queue at once, charged with a crash
    RETRY = enum.auto()  # to the back of the queue, uncharged, with `frame` (if any) and not before `due`
    DEAD = enum.auto()  # to the dead letters, with its original bytes and `reason`


class Decision(NamedTuple):
    """A decision about one delivery."""

    delivery: Delivery
    action: Action = Action.ACK
    frame: bytes = b""  # RETRY: the bytes that replace the message's own, if any
    due: int = 0  # RETRY: microseconds since the epoch
    reason: str = ""  # DEAD: for people


class DeadLetter(NamedTuple):
    """A message that was given up, as it was received."""

    token: str
    queue: str
    reason: str
    died_at: int  # microseconds since the epoch
    frame: bytes


class QueueInfo(NamedTuple):
    """A queue in numbers."""

    name: str
    ready: int
    delayed: int
    leased: int
    dead: int
    oldest_age_s: float  # how long the oldest ready message has waited, 0.0 for none


class WorkerInfo(NamedTuple):
    """A subscription as the broker knows it."""

    owner: str
    lease_left_s: float
    about: Mapping[str, str]  # what the worker said of itself: host, pid, queues, …


class Subscription(ABC):
    """The right of one worker incarnation to messages of some queues, for as long as it renews its lease.

    Rules: a message fetched here is in nobody else's hands until it is settled or released, or the lease
    is lost; and every change is conditional on the lease *and* the delivery's fence.
    """

    owner: str  # unique to this incarnation

    @abstractmethod
    def fetch(self, limit: int, deadline: float | None) -> list[Delivery]:
        """Lease up to `limit` messages at once, waiting until one is there.

        Returns [] at the deadline or after `interrupt`. Raises LeaseLost, BrokerUnavailable.
        """

    @abstractmethod
    def serve(self, queues: Sequence[str]) -> None:
        """From the next fetch on, take messages from these queues; a queue named several times has as many turns.

        What is held stays held, and its lease is kept, whichever queues are served; without any, `fetch` only waits. A
        fetch that waits goes on with the new queues. A turn is to come first in a fetch, which may be filled by the
        first queue alone. Any thread may call it. Raises BrokerUnavailable: then the same call may be made again.
        """

    @abstractmethod
    def begin(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Record, before they start, that these attempts begin; return the ones whose lease was lost.

        Only a message that is begun is charged when its worker dies; it stays a suspect then. It costs a round
        trip, so workers call it for suspects alone: a message that kills its worker is charged from its second
        delivery on, and its neighbours, who were only held, never are.
        """

    @abstractmethod
    def settle(self, decisions: Sequence[Decision]) -> list[Delivery]:
        """Carry out decisions in one round trip; return the deliveries whose lease was lost, untouched.

        Raises BrokerUnavailable: then, of each queue's decisions, all or nothing was done, and the same call may be
        made again. What was done by then, the repetition calls lost.
        """

    def confirm(self) -> bool:
        """Return once it is known that the broker has carried out what was settled before; False if the lease was lost.

        For brokers whose `settle` has no answer. Where it has one, that is known already.
        """
        return True

    @abstractmethod
    def release(self, deliveries: Sequence[Delivery]) -> None:
        """Hand back unstarted work at once: ready for others, in its old place, uncharged."""

    @abstractmethod
    def renew(self) -> None:
        """Extend the lease, and take over what dead workers held. Raises LeaseLost, BrokerUnavailable."""

    @abstractmethod
    def interrupt(self) -> None:
        """Make a `fetch` that waits, or else the next one, return []. Any thread may call it."""

    @abstractmethod
    def close(self) -> None:
        """Release whatever is still held, uncharged, and end the lease. May be called twice."""


class Broker(ABC):
    """A client for one broker URL."""

    capabilities: frozenset[Capability] = frozenset()
    system: System | None = None  # what it shares with a backend of the same server
    #: What makes the bytes that a message is published as: all that `publish` stores goes through it.
    envelope: Callable[[Message], bytes] = staticmethod(Message.encode)

    @abstractmethod
    def publish(self, messages: Sequence[Message]) -> None:
        """Return when the broker has taken responsibility for all of them, each in its `envelope`.

        Raises PublishUnknown if they may or may not have arrived; whatever else is raised, they have not.
        """

    @abstractmethod
    def publish_frames(self, queue: str, frames: Sequence[bytes]) -> None:
        """Queue opaque bytes, due now: for gateways, and for writers that are not fastq."""

    @abstractmethod
    def subscribe(self, queues: Sequence[str], lease_s: float, about: Mapping[str, str]) -> Subscription:
        """Begin a lease of `lease_s` seconds on messages of `queues`, see `Subscription.serve`."""

    @abstractmethod
    def depth(self, queue: str) -> int:
        """Return how many messages of a queue wait, ready and delayed."""

    @abstractmethod
    def oldest_age(self, queue: str) -> float:
        """Return for how many seconds the oldest ready message has waited, 0.0 for none."""

    @abstractmethod
    def purge(self, queue: str) -> int:
        """Delete what waits in a queue, not what is leased; return how many messages that were."""

    def queues(self) -> list[QueueInfo]:
        """Return the queues that hold a message or a dead letter, by name. Needs Capability.INSPECT."""
        raise self._lacks(Capability.INSPECT)

    def workers(self) -> list[WorkerInfo]:
        """Return the live subscriptions. Needs Capability.INSPECT."""
        raise self._lacks(Capability.INSPECT)

    def bury(self, queue: str, frames: Sequence[bytes], reason: str) -> None:
        """Make dead letters of messages that are in nobody's hands: those acknowledged before they could be read.

        Raises as `publish` does. Needs Capability.DEAD_LETTERS.
        """
        raise self._lacks(Capability.DEAD_LETTERS)

    def dead_letters(self, queue: str, limit: int, after: DeadLetter | None = None) -> list[DeadLetter]:
        """Return the oldest dead letters of a queue, or those that follow one, whether it is still there or not.

        Needs Capability.DEAD_LETTERS.
        """
        raise self._lacks(Capability.DEAD_LETTERS)

    def prune_dead(self, queue: str, older_than_s: float, most: int) -> int:
        """Delete the dead letters of a queue that died longer ago, and the oldest beyond so many; 0: none for that.

        One call deletes a thousand or so at most. Return how many it did. Needs Capability.DEAD_LETTERS.
        """
        raise self._lacks(Capability.DEAD_LETTERS)

    def requeue_dead(self, tokens: Iterable[str]) -> int:
        """Put dead letters back, with their crashes forgotten; return how many. Needs DEAD_LETTERS."""
        raise self._lacks(Capability.DEAD_LETTERS)

    def drop_dead(self, tokens: Iterable[str]) -> int:
        """Delete dead letters for good; return how many. Needs DEAD_LETTERS."""
        raise self._lacks(Capability.DEAD_LETTERS)

    def diagnose(self) -> Diagnosis:
        """Return what the system really promises, and what is weak about it. Raises BrokerUnavailable."""
        return Diagnosis(type(self).__name__, "not known: this broker does not say")

    @abstractmethod
    def close(self) -> None:
        """Let go of connections. May be called twice."""

    def _lacks(self, capability: Capability) -> NotSupported:
        return NotSupported(f"{type(self).__name__} does not offer {capability.value}")
