"""How a subscription with nothing to do waits: in a BLPOP on the wake-up lists of its queues.

A token in such a list wakes one waiter, not all; who takes it and leaves work behind puts in another. It is a hint,
not a promise: a waiter that dies takes its token along, so all of them look again unasked every few seconds.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Sequence

import hiredis

from fastq.systems.redis_nodes import Nodes
from fastq.systems.redis_scripts import LOOK_AGAIN_US
from fastq.systems.redis_wire import Unanswered, Wire, pack

_GRACE_S = 0.5  # what the server may take longer than it was asked to wait
_LOOK_AGAIN_S = LOOK_AGAIN_US / 1e6


class Doze:
    """Waits on the lists `keys`, each group of which is on one server. One thread waits; any may call the others."""

    def __init__(self, nodes: Nodes, keys: Sequence[Sequence[str]]) -> None:
        self._nodes = nodes
        self._keys = self._watched = keys  # those of this wait, and of the next
        self._wires: dict[int, Wire] = {}  # by group; those on which an answer is outstanding are in `_asked`
        self._asked: set[int] = set()
        self._bell = self._rope = -1  # a pipe, made by the first wait
        self._interrupted = False
        self._closing = threading.Lock()

    def wait(self, timeout_s: float) -> None:
        """Return when there may be something to do, after the timeout, or when interrupted."""
        try:
            if self._hang_bell():
                return
            if self._keys is not self._watched:
                self._hang_up()
                self._keys = self._watched
            poll = select.poll()
            poll.register(self._bell, select.POLLIN)
            for group in range(len(self._keys)):
                poll.register(self._ask(group, timeout_s), select.POLLIN)
            # The server ends a BLPOP only 10 times a second, so what is due to the millisecond is not left to it.
            patience_s = timeout_s if timeout_s < _LOOK_AGAIN_S else timeout_s + _GRACE_S
            ready = {descriptor for descriptor, _ in poll.poll(patience_s * 1000)}
            if self._bell in ready:
                os.read(self._bell, 4096)
                self._hang_up()
            for group in sorted(self._asked, key=lambda it: self._wires[it].fileno() not in ready):
                self._hear(group, answered=self._wires[group].fileno() in ready)
        except BaseException:
            self._hang_up()
            raise

    def _hang_bell(self) -> bool:
        """See to it that there is a bell; return whether it was rung before there was one."""
        with self._closing:
            if self._rope < 0:
                self._bell, self._rope = os.pipe()
                os.set_blocking(self._bell, False)
                os.set_blocking(self._rope, False)
            interrupted, self._interrupted = self._interrupted, False
            return interrupted

    def _ask(self, group: int, timeout_s: float) -> int:
        wire = self._wires.get(group)
        if wire is not None and not wire.is_quiet():
            wire.close()
            wire = None
        if wire is None:
            wire = self._wires[group] = self._nodes.connect(self._keys[group][0])
        self._asked.add(group)
        wire.send(pack(("BLPOP", *self._keys[group], f"{max(timeout_s, 0.001):.3f}")))
        return wire.fileno()

    def _hear(self, group: int, *, answered: bool) -> None:
        """Read an answer; have it given now if it has not been. So who is not waiting takes no token.

        Raises Unanswered if it does not come: then the line is dead, and nobody has said so.
        """
        wire, timeout_s = self._wires[group], self._nodes.url.timeout_s
        give_up = time.monotonic() + timeout_s
        while not answered:
            (reply,) = self._nodes.run(self._keys[group][0], pack(("CLIENT", "UNBLOCK", wire.id)), 1)
            if isinstance(reply, hiredis.ReplyError):  # a permission is lacking
                self._asked.discard(group)
                self._wires.pop(group).close()
                return
            answered = wire.ready(timeout_s if reply else 0.001)  # 0: it had been answered, or was not even asked yet
            if not answered and time.monotonic() > give_up:
                raise Unanswered("no answer in the time allowed")
        if isinstance(reply := wire.receive(), hiredis.ReplyError):
            raise reply
        self._asked.discard(group)

    def _hang_up(self) -> None:
        for wire in self._wires.values():
            wire.close()
        self._wires.clear()
        self._asked.clear()

    def watch(self, keys: Sequence[Sequence[str]]) -> None:
        """Wait on other lists from now on; a wait that is under way returns. Any thread may call it."""
        self._watched = keys
        self.interrupt()

    def interrupt(self) -> None:
        """Make a wait, or else the next one, return. Any thread may call it."""
        with self._closing, contextlib.suppress(BlockingIOError):  # it has been rung often enough
            if self._rope >= 0:
                os.write(self._rope, b"!")
            else:
                self._interrupted = True

    def close(self) -> None:
        """Let go. May be called twice."""
        with self._closing:
            bell, rope, self._bell, self._rope = self._bell, self._rope, -1, -1
        self._hang_up()
        for descriptor in (bell, rope):
            if descriptor >= 0:
                os.close(descriptor)
