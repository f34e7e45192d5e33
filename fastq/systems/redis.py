"""The Redis system: one deployment that is broker and backend, opened once a process and shared by both faces."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, cast

import hiredis

from fastq.backend import Backend
from fastq.broker import Delivery, Subscription
from fastq.completion import Completed, Completion
from fastq.errors import FastQError
from fastq.outcome import Outcome
from fastq.systems import redis_results
from fastq.systems.redis_listener import Listener
from fastq.systems.redis_nodes import Nodes
from fastq.systems.redis_scripts import LIST_QUEUES, Script
from fastq.systems.redis_url import RedisUrl
from fastq.systems.redis_wire import ERRORS, Unanswered, explain, pack

_MULTI, _EXEC = pack(("MULTI",)), pack(("EXEC",))
_REMEMBER_S = 10.0  # how long a queue's name is known to be in the list of queues


class Call(NamedTuple):
    """One call of a script; all its keys are on one slot."""

    script: Script
    keys: Sequence[str]
    arguments: Sequence[bytes | str | int]


class RedisSystem:
    """A deployment as this process uses it.

    Rules: whoever opens it closes it. Time is the server's, but for a `clock` that tests put in its place. A
    forked child has connections of its own.
    """

    def __init__(self, url: RedisUrl) -> None:
        self.url = url
        self.nodes = Nodes(url)
        self.clock: Callable[[], int] = lambda: 0  # 0: the server's own
        self.channel = f"{url.prefix}:{url.db}:ends"
        self.listener = Listener(self.nodes, self.channel)
        self._users = 0
        self.reported = False  # whether its durability was logged
        self._listed: dict[str, float] = {}
        self._queues_key = f"{url.prefix}:queues"

    @classmethod
    def open(cls, url: str) -> RedisSystem:
        """Return the system of a URL; each call is to be answered by one of `close`. Connects to nothing yet."""
        key = RedisUrl.parse(url)
        with _opening:
            system = _systems.get(key)
            if system is None:
                system = _systems[key] = cls(key)
            system._users += 1
            return system

    def close(self) -> None:
        """Let go; the last user closes the connections."""
        with _opening:
            self._users -= 1
            if self._users == 0:
                _systems.pop(self.url, None)
                self.listener.close()
                self.nodes.disconnect()

    @property
    def is_cluster(self) -> bool:
        """Whether keys live on several servers, and one script can touch one slot only."""
        return self.url.kind == "cluster"

    def base(self, queue: str) -> str:
        """Return what the keys of a queue begin with."""
        return f"{{{self.url.prefix}:{queue}}}"

    def groups(self, queues: Sequence[str]) -> list[list[str]]:
        """Return queues in groups that one script can serve: all of them, or on a cluster each by itself."""
        if self.is_cluster:
            return [[queue] for queue in queues]
        return [list(queues)] if queues else []

    # -- scripts -------------------------------------------------------------------------------------

    def call(self, script: Script, keys: Sequence[str], *arguments: bytes | str | int) -> Any:
        """Run a script and return its reply. Raises what `translated` translates."""
        (reply,) = self.call_all([Call(script, keys, arguments)])
        return reply

    def call_all(self, calls: Sequence[Call]) -> list[Any]:
        """Run scripts in one round trip and return their replies; on one server, all of them or none.

        On a cluster they run one after the other, and the first to fail ends it.
        """
        if self.is_cluster and len(calls) > 1:
            return [reply for call in calls for reply in self.call_all([call])]
        replies = self._try(calls)
        if any(isinstance(it, hiredis.ReplyError) and "NOSCRIPT" in str(it) for it in replies):
            self._load(calls)
            replies = self._try(calls)
        failures = [reply for reply in replies if isinstance(reply, hiredis.ReplyError)]
        if any("READONLY" in str(failure) for failure in failures):  # a failover: next time find the new master
            self.nodes.disconnect()
            self.nodes.forget()
        if failures and len(failures) < len(replies):  # which takes a server that runs full in between
            raise Unanswered(f"a part of it was refused: {failures[0]}")
        if failures:
            raise failures[0]
        return replies

    def _try(self, calls: Sequence[Call]) -> list[Any]:
        packed = b"".join(script.call(keys, arguments) for script, keys, arguments in calls)
        where = calls[0].keys[0] if calls[0].keys else ""
        if len(calls) == 1:
            return self.nodes.run(where, packed, 1)
        *_, last = self.nodes.run(where, _MULTI + packed + _EXEC, len(calls) + 2)
        if isinstance(last, list):
            return last
        # Discarded, for instance because over `maxmemory` nothing is queued, not even what is about to free some.
        replies: list[Any] = []
        for call in calls:
            replies += self._try([call])
            if isinstance(replies[-1], hiredis.ReplyError):
                break
        return replies

    def _load(self, calls: Sequence[Call]) -> None:
        scripts = {call.script: call.keys[0] if call.keys else "" for call in calls}
        for script, where in scripts.items():
            self.command(where, script.load())

    def command(self, key: str, packed: bytes) -> Any:
        """Run a command that is no script, and return its reply."""
        (reply,) = self.nodes.run(key, packed, 1)
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply

    @contextlib.contextmanager
    def translated(self, unavailable: type[FastQError]) -> Iterator[None]:
        """Make what goes wrong with the server `unavailable`, in words."""
        try:
            yield
        except ERRORS as error:
            raise unavailable(explain(self.url, error)) from error

    # -- the list of queues ---------------------------------------------------------------------------

    def list_queues(self, queues: Iterable[str]) -> None:
        """See to it that queues are in the list of those that people are shown."""
        now = time.monotonic()
        if unknown := [queue for queue in queues if now > self._listed.get(queue, 0.0)]:
            self.call(LIST_QUEUES, [self._queues_key], *unknown)
            self._listed.update(dict.fromkeys(unknown, now + _REMEMBER_S))

    def queue_names(self) -> list[str]:
        """Return the names of all queues that were ever used."""
        return sorted(name.decode() for name in self.command(self._queues_key, pack(("SMEMBERS", self._queues_key))))

    # -- outcomes --------------------------------------------------------------------------------------

    def store(self, outcomes: Sequence[Outcome], expires_s: float) -> None:
        """Keep outcomes."""
        if self.is_cluster:
            self._store_apart(outcomes, expires_s)
            return
        frames = [part for outcome in outcomes for part in (redis_results.kind_of(outcome), outcome.encode())]
        self.call(redis_results.STORE, [], *self.storing(expires_s), *frames)

    def _store_apart(self, outcomes: Sequence[Outcome], expires_s: float) -> None:
        """Keep outcomes that lie on several slots; then count those of groups, which may be repeated."""
        by_bucket: dict[str, list[Outcome]] = {}
        for outcome in outcomes:
            by_bucket.setdefault(redis_results.bucket(self.url.prefix, outcome.id), []).append(outcome)
        storing = self.storing(expires_s)
        ended: dict[bytes, list[bytes]] = {}
        for key, items in by_bucket.items():
            frames = [part for outcome in items for part in (redis_results.kind_of(outcome), outcome.encode())]
            for place in self.call(redis_results.STORE, [key], *storing, *frames):
                ended.setdefault(items[place - 1].group, []).append(items[place - 1].id)
        for group, ids in ended.items():
            self.call(redis_results.COUNT, [self.group_key("c", group)], storing[0], *ids)

    def storing(self, expires_s: float) -> tuple[int, str, str]:
        """Return the first arguments of the scripts that store outcomes."""
        return max(1, round(expires_s * 1000)), self.url.prefix, self.channel

    def group_key(self, kind: str, group: bytes) -> str:
        """Return the key of what is known of a group; see `redis_results` for the kinds."""
        return f"{self.url.prefix}:{kind}:{group.hex()}"

    def completion(self, subscription: Subscription, backend: Backend) -> Completion:
        """Return the completion that settles and stores in one script."""
        # Both are of this system, so the subscription is the one of `fastq.brokers.redis`.
        return _OneScript(cast("RedisLease", subscription), backend)


class RedisLease(Protocol):
    """What completion needs of a subscription."""

    def complete(self, batch: Sequence[Completed], expires_s: float) -> list[Delivery]:
        """Carry out decisions, and store the outcomes of those that were held; return the other deliveries."""


class _OneScript(Completion):
    def __init__(self, lease: RedisLease, backend: Backend) -> None:
        self._lease = lease
        self._backend = backend

    def complete(self, batch: Sequence[Completed]) -> list[Delivery]:
        settled_before = [it.outcome for it in batch if it.decision is None and it.outcome is not None]
        if settled_before:
            self._backend.store(settled_before)
        decided = [it for it in batch if it.decision is not None]
        return self._lease.complete(decided, self._backend.expires_s) if decided else []


_systems: dict[RedisUrl, RedisSystem] = {}
_opening = threading.Lock()


def _after_fork() -> None:
    global _opening
    _opening = threading.Lock()
    for system in _systems.values():
        system.nodes.abandon()
        system.listener.abandon()


os.register_at_fork(after_in_child=_after_fork)
