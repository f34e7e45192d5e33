"""Where commands go: the one server, the master that sentinels name, or the node of a cluster that has a key's slot."""

from __future__ import annotations

import binascii
import contextlib
import re
import threading
from collections.abc import Iterator
from typing import Any

import hiredis

from fastq.systems.redis_url import RedisUrl
from fastq.systems.redis_wire import Wire, pack

Address = tuple[str, int]

_REDIRECTS = 5  # followed before a cluster is said to be in disorder


class Nodes:
    """The connections of this process to a deployment. Thread-safe: a wire is in one thread's hands at a time."""

    def __init__(self, url: RedisUrl) -> None:
        self.url = url
        self._lock = threading.Lock()
        self._free: dict[Address, list[Wire]] = {}
        self._slots: list[tuple[int, int, Address]] = []  # first slot, last slot, master

    def run(self, key: str, packed: bytes, replies: int) -> list[Any]:
        """Send commands that all concern the slot of `key`, and return the replies; errors among them are values.

        The commands go out in one piece. Raises Unanswered if they may or may not have been carried out.
        """
        answers = self._exchange(self._address(key), packed, replies)
        return answers if self.url.kind != "cluster" else self._redirected(answers, key, packed, replies)

    def _exchange(self, address: Address, packed: bytes, replies: int) -> list[Any]:
        wire = self._take(address)
        try:
            answers = wire.exchange(packed, replies)
        except BaseException:
            wire.close()
            self.forget()
            raise
        self._give_back(wire)
        return answers

    def _redirected(self, answers: list[Any], key: str, packed: bytes, replies: int) -> list[Any]:
        """Return the answers, from where a node of a cluster said that the key is, if it did."""
        for _ in range(_REDIRECTS):
            if (moved := _redirection(answers)) is None:
                break
            if str(answers[0]).startswith("ASK"):  # for this once; ASKING holds for one command, and we send only one
                answers = self._exchange(moved, pack(("ASKING",)) + packed, replies + 1)[1:]
            else:
                self.forget()
                answers = self._exchange(self._address(key), packed, replies)
        return answers

    @contextlib.contextmanager
    def wire(self, key: str) -> Iterator[Wire]:
        """Lend a connection to the server of a key; after an error it is thrown away."""
        wire = self._take(self._address(key))
        try:
            yield wire
        except BaseException:
            wire.close()
            self.forget()
            raise
        self._give_back(wire)

    def connect(self, key: str) -> Wire:
        """Return a new connection to the server of a key; the caller closes it."""
        return self._open(self._address(key))

    def disconnect(self) -> None:
        """Close the connections that nobody has in hand. Later ones are opened as they are needed."""
        with self._lock:
            free, self._free = self._free, {}
        for wires in free.values():
            for wire in wires:
                wire.close()

    def abandon(self) -> None:
        """In a forked child: drop the parent's connections, which the parent goes on using."""
        self._lock = threading.Lock()
        self.disconnect()

    def addresses(self) -> list[Address]:
        """Return the addresses of the servers that take writes."""
        if self.url.kind != "cluster":
            return [self._address("")]
        return sorted({address for _, _, address in self._known_slots()})

    # -- connections ----------------------------------------------------------------------------------

    def _take(self, address: Address) -> Wire:
        while True:
            with self._lock:
                free = self._free.get(address)
                wire = free.pop() if free else None
            if wire is None:
                return self._open(address)
            if wire.is_quiet():
                return wire
            wire.close()  # the server hung up in the meantime

    def _give_back(self, wire: Wire) -> None:
        with self._lock:
            self._free.setdefault(wire.address, []).append(wire)

    def _open(self, address: Address) -> Wire:
        url = self.url
        try:
            return Wire(url, address, login=(url.username, url.password), db=url.db)
        except (OSError, hiredis.HiredisError):
            self.forget()  # it may have moved
            raise

    # -- addresses ------------------------------------------------------------------------------------

    def _address(self, key: str) -> Address:
        if self.url.kind == "sentinel":
            return self._master()
        if self.url.kind != "cluster":
            return self.url.addresses[0]
        slot = slot_of(key)
        for first, last, address in self._known_slots():
            if first <= slot <= last:
                return address
        self.forget()
        raise hiredis.ReplyError(f"CLUSTERDOWN slot {slot} is not served")

    def _master(self) -> Address:
        with self._lock:
            if self._slots:
                return self._slots[0][2]
        url = self.url
        error: Exception = ConnectionError(f"no sentinel knows a master {url.service!r}")
        for sentinel in url.addresses:
            try:
                wire = Wire(url, sentinel, login=(url.sentinel_username, url.sentinel_password), db=0)
                try:
                    command = pack(("SENTINEL", "GET-MASTER-ADDR-BY-NAME", url.service))
                    (found,) = wire.exchange(command, 1)
                finally:
                    wire.close()
            except (OSError, hiredis.HiredisError) as failure:
                error = failure
                continue
            if isinstance(found, hiredis.ReplyError):
                error = found
            elif found:
                with self._lock:
                    self._slots = [(0, 0, (found[0].decode(), int(found[1])))]
                return self._slots[0][2]
        raise error

    def _known_slots(self) -> list[tuple[int, int, Address]]:
        with self._lock:
            if self._slots:
                return self._slots
        error: Exception = ConnectionError("no node answers")
        for address in self.url.addresses:
            try:
                wire = self._open(address)
                try:
                    (ranges,) = wire.exchange(pack(("CLUSTER", "SLOTS")), 1)
                finally:
                    wire.close()
            except (OSError, hiredis.HiredisError) as failure:
                error = failure
                continue
            if isinstance(ranges, hiredis.ReplyError):
                error = ranges
            else:
                # A node may not know its own name yet, and calls itself "".
                slots = [(it[0], it[1], (it[2][0].decode() or address[0], it[2][1])) for it in ranges]
                with self._lock:
                    self._slots = slots
                return slots
        raise error

    def forget(self) -> None:
        """Ask anew where the servers are, when next one is needed."""
        with self._lock:
            self._slots = []


def _redirection(answers: list[Any]) -> Address | None:
    """Return where the first answer says that the key is."""
    if not isinstance(answers[0], hiredis.ReplyError):
        return None
    match = re.fullmatch(r"(?:MOVED|ASK) \d+ (.*):(\d+)", str(answers[0]))
    return (match[1], int(match[2])) if match else None


def slot_of(key: str) -> int:
    """Return a key's slot in a cluster: that of what stands in its first braces, if anything does."""
    start = key.find("{")
    if start >= 0 and (end := key.find("}", start + 1)) > start + 1:
        key = key[start + 1 : end]
    return binascii.crc_hqx(key.encode(), 0) % 16384
