"""How callers hear of outcomes: one connection a process on the channel of ends, read by one of those who wait.

There is no thread of its own. Among the waiters one leads: it reads the connection and hands round what is told;
when it has what it waits for, another leads on. When nobody waits, the channel is unsubscribed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

import hiredis

from fastq.systems.redis_nodes import Nodes
from fastq.systems.redis_results import told
from fastq.systems.redis_wire import Unanswered, Wire, pack

#: How long a waiter trusts in being told: the backstop for what was published while a connection broke.
LOOK_AGAIN_S = 5.0

End = tuple[bytes, bytes]  # an id, and its outcome's frame if that was sent along


class Waiter:
    """One caller that waits for the outcomes of `ids`; one thread hears."""

    def __init__(self, ids: Iterable[bytes]) -> None:
        self.ids = set(ids)
        self.ends: list[End] = []
        self.missed = False  # something may have been told that was not heard: look
        self.called = threading.Event()


class Listener:
    """The ear of one process. Thread-safe."""

    def __init__(self, nodes: Nodes, channel: str) -> None:
        self._nodes = nodes
        self._channel = channel
        self._lock = threading.Lock()
        self._waiters: set[Waiter] = set()
        self._interested: dict[bytes, set[Waiter]] = {}
        self._leader: Waiter | None = None
        self._wire: Wire | None = None
        self._listens = False

    def join(self, waiter: Waiter, more: Iterable[bytes] = ()) -> None:
        """Let a waiter hear of whatever ends from now on, and of `more` ids; who has joined already may join again."""
        with self._lock:
            try:
                self._listen()
            except BaseException:
                self._hang_up()
                raise
            self._waiters.add(waiter)
            waiter.ids.update(more)
            for id in more or waiter.ids:
                self._interested.setdefault(id, set()).add(waiter)

    def leave(self, waiter: Waiter) -> None:
        """Let a waiter go; the last one unsubscribes."""
        with self._lock:
            self._waiters.discard(waiter)
            self._forget(waiter, waiter.ids)
            self._resign(waiter)
            if not self._waiters and self._wire is not None:
                try:
                    self._wire.send(pack(("UNSUBSCRIBE", self._channel)))  # its answer is read by the next
                    self._listens = False
                except OSError:
                    self._hang_up()

    def disregard(self, waiter: Waiter, ids: Iterable[bytes]) -> None:
        """Let a waiter hear of some ids no more."""
        with self._lock:
            self._forget(waiter, ids)
            waiter.ids.difference_update(ids)

    def hear(self, waiter: Waiter, deadline: float | None) -> list[End]:
        """Return what ended of a waiter's ids, in order; [] at the deadline, or when it had better look itself."""
        look_again = time.monotonic() + LOOK_AGAIN_S
        until = look_again if deadline is None else min(deadline, look_again)
        try:
            while True:
                with self._lock:
                    ends, waiter.ends = waiter.ends, []
                    missed, waiter.missed = waiter.missed, False
                    left = until - time.monotonic()
                    if ends or missed or left <= 0:
                        return ends
                    if leads := self._leader in (None, waiter):
                        self._leader = waiter
                    waiter.called.clear()
                if leads:
                    self._lead(left)
                else:
                    waiter.called.wait(left)
        finally:
            with self._lock:
                self._resign(waiter)

    def close(self) -> None:
        """Hang up; whoever still waits looks, and joins anew."""
        with self._lock:
            self._hang_up()

    def abandon(self) -> None:
        """In a forked child: drop the parent's connection."""
        self.__init__(self._nodes, self._channel)  # type: ignore[misc]  # as new: nobody waits in this process

    # -- steps, under the lock but for `_lead` ----------------------------------------------------------

    def _listen(self) -> None:
        if self._wire is not None and not self._listens and not self._drain(self._wire):
            self._hang_up()
        if self._wire is None:
            self._wire = self._nodes.connect(self._channel)
        if not self._listens:
            self._subscribe(self._wire)
            self._listens = True

    def _drain(self, wire: Wire) -> bool:
        """Read what was told while nobody listened; return whether the connection lives."""
        try:
            while not wire.is_quiet():
                wire.pushed(0)
        except OSError:
            return False
        return True

    def _subscribe(self, wire: Wire) -> None:
        wire.send(pack(("SUBSCRIBE", self._channel)))
        give_up = time.monotonic() + self._nodes.url.timeout_s
        while time.monotonic() < give_up:
            for message in wire.pushed(give_up - time.monotonic()):
                if isinstance(message, hiredis.ReplyError):
                    raise message
                if message[0] == b"subscribe":
                    return
        raise Unanswered("no answer in the time allowed")

    def _lead(self, timeout_s: float) -> None:
        wire = self._wire
        try:
            if wire is None:
                raise Unanswered("the connection was closed")
            messages = wire.pushed(timeout_s)
        except (OSError, ValueError, hiredis.HiredisError):  # ValueError: it was closed under our hands
            with self._lock:
                if wire is self._wire:
                    self._hang_up()
                self._listen()
            return
        with self._lock:
            for message in messages:
                if isinstance(message, hiredis.PushNotification) and message[0] == b"message":
                    self._hand_round(told(message[2]))

    def _hand_round(self, ends: Iterable[End]) -> None:
        interested = self._interested
        for end in ends:
            for waiter in interested.get(end[0], ()):
                waiter.ends.append(end)
                waiter.called.set()

    def _forget(self, waiter: Waiter, ids: Iterable[bytes]) -> None:
        for id in ids:
            if others := self._interested.get(id):
                others.discard(waiter)
                if not others:
                    del self._interested[id]

    def _resign(self, waiter: Waiter) -> None:
        if self._leader is waiter:
            self._leader = None
            for other in self._waiters:
                if other is not waiter:
                    other.called.set()  # it will lead
                    break

    def _hang_up(self) -> None:
        wire, self._wire, self._listens = self._wire, None, False
        if wire is not None:
            wire.close()
        for waiter in self._waiters:
            waiter.missed = True
            waiter.called.set()
