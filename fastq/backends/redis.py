"""The result backend in Redis: redis://host:port/db, and the other URLs of docs/redis.rst."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import hiredis

from fastq.backend import Backend, Watch
from fastq.errors import BackendUnavailable
from fastq.outcome import Outcome
from fastq.systems.redis import RedisSystem
from fastq.systems.redis_listener import LOOK_AGAIN_S, Waiter
from fastq.systems.redis_results import bucket
from fastq.systems.redis_wire import pack

_PIPELINE = 500  # commands sent before their answers are read, lest both ends wait for the other to read


class RedisBackend(Backend):
    """A face on the RedisSystem of the URL."""

    def __init__(self, url: str, *, expires_s: float) -> None:
        self.expires_s = expires_s
        self._redis = RedisSystem.open(url)
        self.system = None if self._redis.is_cluster else self._redis
        self._close: Callable[[], None] | None = self._redis.close

    def store(self, outcomes: Sequence[Outcome]) -> None:
        if outcomes:
            with self._redis.translated(BackendUnavailable):
                self._redis.store(outcomes, self.expires_s)

    def load(self, ids: Sequence[bytes]) -> list[Outcome | None]:
        known = {outcome.id: outcome for outcome in self.known(ids)}
        return [known.get(id) for id in ids]

    def known(self, ids: Iterable[bytes]) -> list[Outcome]:
        """Return what is known of these ids, in their order."""
        by_bucket: dict[str, list[bytes]] = {}
        for id in ids:
            by_bucket.setdefault(bucket(self._redis.url.prefix, id), []).append(id)
        commands = [(key, pack(("HMGET", key, *members))) for key, members in by_bucket.items()]
        found = zip(by_bucket.values(), self._all(commands), strict=True)
        frames = {id: frame for members, frames in found for id, frame in zip(members, frames, strict=True)}
        return [Outcome.decode(frame) for id in ids if (frame := frames[id]) is not None]

    def _all(self, commands: Sequence[tuple[str, bytes]]) -> list[Any]:
        """Run commands and return their replies; on one server, in few round trips."""
        with self._redis.translated(BackendUnavailable):
            size = 1 if self._redis.is_cluster else _PIPELINE
            replies: list[Any] = []
            for at in range(0, len(commands), size):
                part = commands[at : at + size]
                replies += self._redis.nodes.run(part[0][0], b"".join(packed for _, packed in part), len(part))
            for reply in replies:
                if isinstance(reply, hiredis.ReplyError):
                    raise reply
            return replies

    # -- waiting --------------------------------------------------------------------------------------

    def wait(self, ids: Sequence[bytes], deadline: float | None) -> Iterator[Outcome]:
        pending = dict.fromkeys(ids)
        if not pending:
            return
        waiter, listener = Waiter(pending), self._redis.listener
        with self._redis.translated(BackendUnavailable):
            listener.join(waiter)
        try:
            # It is told of whatever ends from here on, so it looks for what had ended before.
            yield from self._taken(pending, self.known(pending))
            while pending:
                with self._redis.translated(BackendUnavailable):
                    ends = listener.hear(waiter, deadline)
                if ends:
                    yield from self._taken(pending, self.heard(ends, pending))
                elif deadline is not None and time.monotonic() >= deadline:
                    return
                else:
                    yield from self._taken(pending, self.known(pending))
        finally:
            listener.leave(waiter)

    def heard(self, ends: Sequence[tuple[bytes, bytes]], pending: Collection[bytes]) -> Iterator[Outcome]:
        """Return the outcomes that were told of, in that order."""
        wanted = [(id, frame) for id, frame in ends if id in pending]
        asked = {outcome.id: outcome for outcome in self.known([id for id, frame in wanted if not frame])}
        for id, frame in wanted:
            if outcome := Outcome.decode(frame) if frame else asked.get(id):
                yield outcome

    def _taken(self, pending: dict[bytes, None], arrived: Iterable[Outcome]) -> Iterator[Outcome]:
        for outcome in arrived:
            if outcome.state.terminal and outcome.id in pending:
                del pending[outcome.id]
                yield outcome

    def watch(self) -> Watch:
        return _RedisWatch(self, self._redis)

    # -- forgetting, groups ---------------------------------------------------------------------------

    def forget(self, ids: Sequence[bytes]) -> None:
        commands: list[tuple[str, bytes]] = []
        for outcome in self.known(dict.fromkeys(ids)):
            key = bucket(self._redis.url.prefix, outcome.id)
            commands.append((key, pack(("HDEL", key, outcome.id))))
            if outcome.group:
                counted = self._redis.group_key("c", outcome.group)
                commands.append((counted, pack(("SREM", counted, outcome.id))))
        self._all(commands)

    def create_group(self, group: bytes, ids: Sequence[bytes]) -> None:
        key = self._redis.group_key("g", group)
        expires_ms = max(1, round(self.expires_s * 1000))
        self._all([(key, pack(("SET", key, b"".join(ids), "PX", expires_ms)))])

    def group_members(self, group: bytes) -> list[bytes]:
        key = self._redis.group_key("g", group)
        members = self._all([(key, pack(("GET", key)))])[0] or b""
        return [members[at : at + 16] for at in range(0, len(members), 16)]

    def group_completed(self, group: bytes) -> int:
        key = self._redis.group_key("c", group)
        return int(self._all([(key, pack(("SCARD", key)))])[0])

    def close(self) -> None:
        close, self._close = self._close, None
        if close is not None:
            close()


class _RedisWatch(Watch):
    """One waiter at the ear of the process, whose ids come and go."""

    def __init__(self, backend: RedisBackend, redis: RedisSystem) -> None:
        self._backend = backend
        self._redis = redis
        self._waiter = Waiter(())
        self._look_at = time.monotonic() + LOOK_AGAIN_S

    def add(self, ids: Sequence[bytes]) -> list[Outcome]:
        with self._redis.translated(BackendUnavailable):
            self._redis.listener.join(self._waiter, ids)
        # It is told of whatever ends from here on, so it looks for what had ended before.
        return [outcome for outcome in self._backend.known(ids) if outcome.state.terminal]

    def drop(self, ids: Sequence[bytes]) -> None:
        self._redis.listener.disregard(self._waiter, ids)

    def listen(self, deadline: float) -> list[Outcome]:
        with self._redis.translated(BackendUnavailable):
            ends = self._redis.listener.hear(self._waiter, deadline)
        now = time.monotonic()
        if not ends and now >= deadline and now < self._look_at:
            return []
        self._look_at = now + LOOK_AGAIN_S
        pending = self._waiter.ids.copy()
        arrived = self._backend.heard(ends, pending) if ends else self._backend.known(pending)
        return [outcome for outcome in arrived if outcome.state.terminal]

    def close(self) -> None:
        self._redis.listener.leave(self._waiter)
