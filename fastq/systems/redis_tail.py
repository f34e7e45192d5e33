"""How a follower waits for entries of a log: in an XREAD that blocks, on a connection of its own.

The question stays asked when a read ends without an answer, at its deadline or interrupted, and the next read goes
on waiting for the answer. So an idle follower sends one command every few seconds, however often it reads.
"""

from __future__ import annotations

import os
import select
import threading
import time
from typing import Any

import hiredis

from fastq.systems.redis_nodes import Nodes
from fastq.systems.redis_wire import ERRORS, Unanswered, Wire, pack

_BLOCK_S = 5.0  # how long the server waits for an entry: whoever has died is noticed then
_AT_ONCE = 1000
_BEFORE_ALL = (0, 0)

Place = tuple[int, int]  # an entry's id: its millisecond, and its number within that


class Tail:
    """A place in the stream `key`. One thread reads; any may interrupt."""

    def __init__(self, nodes: Nodes, key: str, *, from_start: bool) -> None:
        self._nodes = nodes
        self._key = key
        self._place = _BEFORE_ALL if from_start else self._end()
        self._wire: Wire | None = None  # with a question asked on it, since `_asked_at`
        self._asked_at = 0.0
        self._bell, self._rope = os.pipe()
        os.set_blocking(self._bell, False)
        os.set_blocking(self._rope, False)
        self._closing = threading.Lock()

    def _end(self) -> Place:
        newest = self._command("XREVRANGE", self._key, "+", "-", "COUNT", 1)
        return _place_of(newest[0][0]) if newest else _BEFORE_ALL

    def read(self, deadline: float | None) -> list[bytes]:
        """Return the next entries; see the contract of followers. Raises what `explain` explains."""
        if self._was_rung():
            return []
        if deadline is not None and deadline <= time.monotonic():
            # What is asked already may be answered in a moment, but what was added before is to be found now.
            return self._new_of(self._command("XREAD", "COUNT", _AT_ONCE, "STREAMS", self._key, _text_of(self._place)))
        is_old = self._wire is not None
        while True:
            try:
                entries = self._wait(self._asked(), deadline)
            except ERRORS:
                self._hang_up()
                if not is_old:
                    raise
                is_old = False  # the server may have been restarted since it was asked
                continue
            except BaseException:
                self._hang_up()
                raise
            if entries is None:
                return []
            if entries:
                return entries

    def _asked(self) -> Wire:
        """Return the connection on which the next entries are asked for."""
        wire = self._wire
        if wire is None:
            wire = self._nodes.connect(self._key)
            self._ask(wire)
            self._wire = wire
        return wire

    def _ask(self, wire: Wire) -> None:
        block_ms = round(_BLOCK_S * 1000)
        question = ("XREAD", "COUNT", _AT_ONCE, "BLOCK", block_ms, "STREAMS", self._key, _text_of(self._place))
        self._asked_at = time.monotonic()
        wire.send(pack(question))

    def _wait(self, wire: Wire, deadline: float | None) -> list[bytes] | None:
        """Return the entries of the next answer; None at the deadline or when interrupted."""
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        poll.register(wire.fileno(), select.POLLIN)
        now, give_up = time.monotonic(), self._asked_at + _BLOCK_S + self._nodes.url.timeout_s
        until = give_up if deadline is None else min(deadline, give_up)
        ready = {descriptor for descriptor, _ in poll.poll(max(0.0, until - now) * 1000)}
        if self._bell in ready and self._was_rung():
            return None
        if wire.fileno() not in ready:
            if time.monotonic() >= give_up:
                raise Unanswered("no answer in the time allowed")
            return None
        reply = wire.receive()
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        entries = self._new_of(reply)
        self._ask(wire)
        return entries

    def _new_of(self, reply: Any) -> list[bytes]:
        """Return the entries in an answer that were not read yet, and go on from the last."""
        entries: list[bytes] = []
        for id, fields in _listed(reply):
            place = _place_of(id)
            if place > self._place:
                self._place = place
                entries.append(fields[1])
        return entries

    def _command(self, *words: str | int) -> Any:
        (reply,) = self._nodes.run(self._key, pack(words), 1)
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply

    def _was_rung(self) -> bool:
        try:
            return bool(os.read(self._bell, 4096))
        except BlockingIOError:
            return False

    def _hang_up(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()
            self._nodes.forget()  # it may have moved

    def interrupt(self) -> None:
        """Make a read that waits, or else the next one, return nothing. Any thread may call it."""
        with self._closing:
            if self._rope >= 0:
                try:
                    os.write(self._rope, b"!")
                except BlockingIOError:  # it has been rung often enough
                    pass

    def close(self) -> None:
        """Let go. May be called twice."""
        with self._closing:
            bell, rope, self._bell, self._rope = self._bell, self._rope, -1, -1
        self._hang_up()
        for descriptor in (bell, rope):
            if descriptor >= 0:
                os.close(descriptor)


def _listed(reply: Any) -> list[tuple[bytes, list[bytes]]]:
    """Return the entries of the one stream in an answer to XREAD."""
    return next(iter(reply.values())) if reply else []


def _place_of(id: bytes) -> Place:
    ms, _, number = id.partition(b"-")
    return int(ms), int(number)


def _text_of(place: Place) -> str:
    return f"{place[0]}-{place[1]}"
