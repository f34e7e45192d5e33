"""The queues of the memory system: what is ready, delayed, leased and dead. Not locked; times are microseconds."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fastq.broker import Action, DeadLetter, Decision, Delivery, QueueInfo


@dataclass(slots=True)
class Stored:
    """A message as it is kept."""

    seq: int
    queue: str
    rank: int  # 9 - priority: the lowest goes first
    due: int  # when it is, or became, ready
    frame: bytes
    fence: int = 0
    crashes: int = 0
    suspect: bool = False
    began: bool = False
    reason: str = ""
    died_at: int = 0
    burial: int = 0  # numbers the dead letters in the order of their death


@dataclass(slots=True)
class Lease:
    """A subscription's lease and what it holds."""

    owner: str
    lease_us: int
    about: Mapping[str, str]
    until: int
    held: dict[int, Stored] = field(default_factory=dict)


@dataclass(slots=True)
class _Queue:
    ready: list[tuple[int, int, int]] = field(default_factory=list)  # a heap of (rank, due, seq)
    delayed: list[tuple[int, int]] = field(default_factory=list)  # a heap of (due, seq)
    dead: dict[int, Stored] = field(default_factory=dict)  # by the number of their burial


class Queues:
    """Owns every message. Rule: a message is in one heap, or held by one lease, or dead."""

    def __init__(self) -> None:
        self.leases: dict[str, Lease] = {}
        self._queues: dict[str, _Queue] = {}
        self._waiting: dict[int, Stored] = {}
        self._last_seq = 0
        self._last_burial = 0

    def publish(self, queue: str, frame: bytes, rank: int, due: int, now: int) -> None:
        """Add a message."""
        self._last_seq += 1
        self._put(Stored(self._last_seq, queue, rank, max(due, now), frame), now)

    def claim(self, lease: Lease, queue: str, limit: int, now: int) -> list[Delivery]:
        """Lease up to `limit` ready messages of a queue."""
        self._promote(queue, now)
        ready = self._queue(queue).ready
        return [self._hand_over(lease, heapq.heappop(ready)[2]) for _ in range(min(limit, len(ready)))]

    def _hand_over(self, lease: Lease, seq: int) -> Delivery:
        stored = self._waiting.pop(seq)
        stored.fence += 1
        lease.held[seq] = stored
        return Delivery(stored.frame, stored.queue, seq, stored.fence, stored.crashes, stored.suspect)

    def next_due(self, queues: Sequence[str], spare: Lease | None) -> int:
        """Return when the next delayed message is due, or the next lease but `spare` ends; 0 for never."""
        moments = [delayed[0][0] for queue in queues if (delayed := self._queue(queue).delayed)]
        moments += [lease.until for lease in self.leases.values() if lease is not spare]
        return min(moments, default=0)

    def holds(self, lease: Lease, delivery: Delivery) -> Stored | None:
        """Return what the lease holds for a delivery, if it still does."""
        stored = lease.held.get(delivery.token) if lease.owner in self.leases else None  # type: ignore[call-overload]
        return stored if stored is not None and stored.fence == delivery.fence else None

    def settle(self, lease: Lease, decision: Decision, now: int) -> bool:
        """Carry out a decision; return whether the lease held the message."""
        stored = self.holds(lease, decision.delivery)
        if stored is None:
            return False
        del lease.held[stored.seq]
        stored.began = False
        if decision.action is Action.REJECT:
            stored.crashes += 1
            self._put(stored, now)
        elif decision.action is Action.RETRY:
            stored.frame = decision.frame or stored.frame
            stored.due = max(decision.due, now)
            self._put(stored, now)
        elif decision.action is Action.DEAD:
            self._bury(stored, decision.reason, now)
        return True

    def _bury(self, stored: Stored, reason: str, now: int) -> None:
        self._last_burial += 1
        stored.reason, stored.died_at, stored.burial = reason, now, self._last_burial
        self._queue(stored.queue).dead[stored.burial] = stored

    def release(self, lease: Lease, deliveries: Iterable[Delivery], now: int) -> None:
        """Put back, in their old place, those that the lease still holds."""
        for delivery in deliveries:
            if stored := self.holds(lease, delivery):
                del lease.held[stored.seq]
                stored.began = False
                self._put(stored, now)

    def end(self, lease: Lease, now: int, *, died: bool) -> None:
        """End a lease and put back what it holds; if its owner died, mark and charge."""
        self.leases.pop(lease.owner, None)
        for stored in lease.held.values():
            if died:
                stored.suspect = True
                stored.crashes += stored.began
            stored.began = False
            self._put(stored, now)
        lease.held = {}

    def sweep(self, now: int, spare: Lease) -> bool:
        """End the leases that have passed, but for one; return whether there were any."""
        passed = [lease for lease in self.leases.values() if lease.until < now and lease is not spare]
        for lease in passed:
            self.end(lease, now, died=True)
        return bool(passed)

    def _put(self, stored: Stored, now: int) -> None:
        self._waiting[stored.seq] = stored
        queue = self._queue(stored.queue)
        if stored.due > now:
            heapq.heappush(queue.delayed, (stored.due, stored.seq))
        else:
            heapq.heappush(queue.ready, (stored.rank, stored.due, stored.seq))

    def _promote(self, name: str, now: int) -> None:
        queue = self._queue(name)
        while queue.delayed and queue.delayed[0][0] <= now:
            due, seq = heapq.heappop(queue.delayed)
            heapq.heappush(queue.ready, (self._waiting[seq].rank, due, seq))

    def _queue(self, name: str) -> _Queue:
        return self._queues.setdefault(name, _Queue())

    # -- what people ask ---------------------------------------------------------------------------

    def depth(self, name: str) -> int:
        """Return how many messages wait."""
        queue = self._queue(name)
        return len(queue.ready) + len(queue.delayed)

    def oldest_us(self, name: str, now: int) -> int:
        """Return for how long the oldest ready message has waited."""
        self._promote(name, now)
        return max(0, now - min((due for _, due, _ in self._queue(name).ready), default=now))

    def frames(self) -> list[bytes]:
        """Return what waits, in the order of publishing."""
        return [self._waiting[seq].frame for seq in sorted(self._waiting)]

    def purge(self, name: str) -> int:
        """Delete what waits; return how many that were."""
        queue = self._queue(name)
        seqs = [seq for *_, seq in queue.ready] + [seq for _, seq in queue.delayed]
        for seq in seqs:
            del self._waiting[seq]
        queue.ready, queue.delayed = [], []
        return len(seqs)

    def infos(self, now: int) -> list[QueueInfo]:
        """Return the queues that hold something, in numbers."""
        leased: dict[str, int] = {}
        for lease in self.leases.values():
            for stored in lease.held.values():
                leased[stored.queue] = leased.get(stored.queue, 0) + 1
        infos = []
        for name in sorted(self._queues):
            age_s = self.oldest_us(name, now) / 1e6
            queue = self._queues[name]
            info = QueueInfo(name, len(queue.ready), len(queue.delayed), leased.get(name, 0), len(queue.dead), age_s)
            if any(info[1:5]):
                infos.append(info)
        return infos

    def bury(self, name: str, frame: bytes, reason: str, now: int) -> None:
        """Add a dead letter."""
        self._last_seq += 1
        self._bury(Stored(self._last_seq, name, 9, now, frame), reason, now)

    def dead_letters(self, name: str, limit: int, after: int) -> list[DeadLetter]:
        """Return the oldest dead letters after a number."""
        dead = [stored for stored in self._queue(name).dead.values() if stored.burial > after][:limit]
        return [DeadLetter(str(it.burial), it.queue, it.reason, it.died_at, it.frame) for it in dead]

    def prune_dead(self, name: str, before: int, most: int) -> int:
        """Delete the dead letters from before a moment, and the oldest beyond so many; return how many."""
        dead = self._queue(name).dead
        surplus = len(dead) - most if most else 0
        old = [key for at, (key, it) in enumerate(dead.items()) if it.died_at < before or at < surplus]
        for key in old:
            del dead[key]
        return len(old)

    def requeue_dead(self, tokens: Iterable[str], now: int) -> int:
        """Put dead letters back at the end of their queues; return how many."""
        letters = self._take_dead(tokens)
        for stored in letters:
            stored.crashes, stored.suspect, stored.due = 0, False, now
            self._put(stored, now)
        return len(letters)

    def drop_dead(self, tokens: Iterable[str]) -> int:
        """Delete dead letters; return how many."""
        return len(self._take_dead(tokens))

    def _take_dead(self, tokens: Iterable[str]) -> list[Stored]:
        wanted = set(tokens)
        taken: list[Stored] = []
        for queue in self._queues.values():
            taken += [queue.dead.pop(burial) for burial in list(queue.dead) if str(burial) in wanted]
        return taken
