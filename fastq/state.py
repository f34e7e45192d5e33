"""The contract of shared state: what the processes of a cluster know in common, beside messages and outcomes.

It has four parts, each of them small: facts that expire, limits, flows, and logs. Everything is synchronous and in
batches; deadlines are points on `time.monotonic`, None for "without end". Time is the server's. A state is
thread-safe. The names of families, facts, limits, holders and logs are any text of up to 255 characters.

Every method raises StateUnavailable when the server can't be reached or used; then the same call may be made again. If
it had been carried out all the same, entries may so be added twice, or a turn be taken that nobody uses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Limit(NamedTuple):
    """How much of something a whole cluster may do: start per period, or run at once."""

    key: str
    amount: int  # 1 or more
    period_s: float = 0.0  # 0: so many run at once; else: so many start in any period, evenly spread


class Ask(NamedTuple):
    """One task that wants to start under some limits."""

    holder: str  # whoever would run: unique to one delivery of one message
    limits: tuple[Limit, ...]


class Answer(NamedTuple):
    """What became of an ask."""

    wait_s: float  # 0.0: it may start, and holds a slot of each limit on what runs at once
    reserved: bool = False  # it need not ask its limits on starts again: after `wait_s` it has its turn


class Flow(NamedTuple):
    """What is to happen when some tasks have ended."""

    id: bytes  # 16 bytes
    needs: tuple[bytes, ...]  # ids of the tasks that have to end, one or more, each once
    then: bytes  # opaque: what is to be done then


class Arrival(NamedTuple):
    """A task that has ended, and which a flow waits for."""

    flow: bytes
    task: bytes
    failed: bool = False


class Continuation(NamedTuple):
    """A flow all of whose tasks have ended."""

    flow: bytes
    then: bytes
    failed: tuple[bytes, ...]  # the ids of those of its tasks that failed, in the order of their arrival


class Follower(ABC):
    """A reader of one log. One thread reads; any may interrupt."""

    @abstractmethod
    def read(self, deadline: float | None) -> list[bytes]:
        """Return the next entries, in order, waiting for the first; [] at the deadline or after `interrupt`.

        A follower that falls behind what the log keeps goes on with the oldest entry there is.
        """

    @abstractmethod
    def interrupt(self) -> None:
        """Make a `read` that waits, or else the next one, return []. Any thread may call it."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what it holds. May be called twice."""


class SharedState(ABC):
    """A client for the shared state at one URL."""

    # -- facts: small values under a family and a name -------------------------------------------------

    @abstractmethod
    def put(self, family: str, facts: Mapping[str, bytes], expires_s: float) -> None:
        """Keep facts, each in place of what had its name, until they expire."""

    @abstractmethod
    def put_new(self, family: str, name: str, value: bytes, expires_s: float) -> bytes | None:
        """Keep a fact unless there is one of this name; return the value of that one, None if this one was kept."""

    @abstractmethod
    def get(self, family: str, names: Sequence[str]) -> list[bytes | None]:
        """Return the values of facts, in order; None where there is none."""

    @abstractmethod
    def find(self, family: str) -> dict[str, bytes]:
        """Return all facts of a family by name."""

    @abstractmethod
    def delete(self, family: str, names: Sequence[str]) -> int:
        """Delete facts; return how many there were."""

    @abstractmethod
    def delete_if(self, family: str, name: str, value: bytes) -> bool:
        """Delete a fact if it has this value, in one step; return whether it was deleted."""

    @abstractmethod
    def replace_if(self, family: str, name: str, old: bytes, new: bytes, expires_s: float) -> bool:
        """Keep a fact in place of the one of its name if that has the value `old`, in one step; return whether it had.

        So a fact is kept for longer, too: `new` may be the same.
        """

    # -- limits -----------------------------------------------------------------------------------------

    @abstractmethod
    def acquire(self, asks: Sequence[Ask], lease_s: float, horizon_s: float) -> list[Answer]:
        """Answer each ask, in order, by the generic cell rate algorithm (ITU-T I.371) and by counting slots.

        An ask gets all of its limits or none. Where a slot is missing, nothing is taken, and `wait_s` is a guess of up
        to `horizon_s`, which is more than 0. Where only a rate stands against it, its turn is reserved, that of the
        slowest rate, but no slot; unless the turn is more than `horizon_s` away: then nothing is taken, and `wait_s`
        is `horizon_s`. A slot is held for `lease_s` seconds, or until `give_back`; who holds it already, gets it again,
        and who holds all it asks for has had its turn. An amount that was changed since counts from now on.
        """

    @abstractmethod
    def extend(self, asks: Sequence[Ask], lease_s: float) -> None:
        """Hold the slots of these asks for `lease_s` seconds from now, as far as they are held.

        A slot whose lease ended less than a minute ago is held again if nobody has asked for one of that limit since.
        """

    @abstractmethod
    def give_back(self, asks: Sequence[Ask]) -> None:
        """Free the slots of these asks; what was not held is passed over."""

    # -- flows ------------------------------------------------------------------------------------------

    @abstractmethod
    def open_flows(self, flows: Sequence[Flow], expires_s: float) -> None:
        """Keep flows, in one round trip, until they expire. One that is known already stays as it is."""

    @abstractmethod
    def arrive(self, arrivals: Sequence[Arrival]) -> list[Continuation]:
        """Note ends; return the flows among these arrivals that wait for nothing more and are not closed.

        So whoever arrives again after a crash gets the continuation again, until it is closed. An arrival that
        was noted before changes nothing, whether it failed then or not; one at an unknown flow is passed over.
        """

    @abstractmethod
    def close_flows(self, flows: Sequence[bytes]) -> None:
        """Note that the continuations of these flows were carried out; they are forgotten."""

    # -- logs -------------------------------------------------------------------------------------------

    @abstractmethod
    def append(self, log: str, entries: Sequence[bytes], keep: int, expires_s: float) -> None:
        """Add entries to a log. It keeps the last `keep`, or a few more, and vanishes `expires_s` after the last."""

    @abstractmethod
    def follow(self, log: str, *, from_start: bool = False) -> Follower:
        """Return a reader of what is added from now on or, `from_start`, of what is kept and what is added."""

    @abstractmethod
    def close(self) -> None:
        """Let go of connections. May be called twice."""
