"""The pool channel over sockets: one dispatch queue that every child pulls from, with exact accounting.

The parent makes a `Channel` before there are children and passes its descriptors on; every child opens a
`Seat` on them. Payloads are opaque and known by a ticket, a number above zero that the parent chooses.

* Dispatch is one datagram socket with many readers: whichever child is idle takes the next payload.
* A child takes under a file lock and, before it lets go, writes the ticket into its place on the board,
  a small shared file. So a payload is in the socket, or on the board, or was taken by a child that died
  in between, and the parent, holding the lock, can tell which: there is no doubt about who has what.
* An ended payload goes back as one datagram, before the place on the board is cleared.
* A payload too large for a datagram travels as a file without a name, whose descriptor the datagram carries.

What this body can't do: a child that is *stopped* (SIGSTOP) while it holds the lock keeps its siblings from
taking more until it goes on or is killed; the window is three system calls.
"""

from __future__ import annotations

import array
import errno
import fcntl
import mmap
import os
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import NamedTuple

#: Payloads up to this size travel inside a datagram.
INLINE_LIMIT = 60_000

MAX_CHILDREN, MAX_CAPACITY = 4095, 65_535

_HEAD = struct.Struct("<QIB")  # ticket, child, kind
_INLINE, _IN_FILE = 0, 1
_BUFFER = INLINE_LIMIT + _HEAD.size
_PLACE = 8  # a child's place on the board, in 8-byte words: ticket, since (µs of the monotonic clock)
_FD_SPACE = socket.CMSG_SPACE(array.array("i").itemsize)
_taking = threading.Lock()  # the file lock is a process's, and its threads may have a seat each
_SOCKET_TYPE = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_DGRAM


class Burial(NamedTuple):
    """What became of a dead child's payloads."""

    ended: list[tuple[int, int, bytes]]  # (child, ticket, payload), from any child, as `Channel.take` returns them
    running: int  # the ticket it was running, or 0
    unbegun: list[int]  # tickets that are out of the channel without having begun


class Salvage(NamedTuple):
    """What became of all payloads when the channel was rebuilt."""

    ended: list[tuple[int, int, bytes]]
    doubtful: list[int]  # tickets that may have begun, and of which no outcome was found
    unbegun: list[int]


class Channel:
    """The parent's end. One thread may `take` and `bury` while another puts and withdraws."""

    def __init__(self, children: int, capacity: int) -> None:
        """Make a channel for up to `children` seats and `capacity` payloads that wait or run.

        Raises OSError when the system has no descriptors or memory left, ValueError for numbers out of range.
        """
        if not (0 < children <= MAX_CHILDREN and 0 < capacity <= MAX_CAPACITY):
            raise ValueError(
                f"a channel has 1 to {MAX_CHILDREN} children and a capacity of 1 to {MAX_CAPACITY}, "
                f"not {children} and {capacity}"
            )
        self._children = children
        self._capacity = capacity
        with ExitStack() as undo:
            self._board_file = nameless_file("fastq-board", children * _PLACE * 8)
            undo.callback(os.close, self._board_file)
            self._board = mmap.mmap(self._board_file, 0)
            undo.callback(self._board.close)
            pairs = []
            for _ in range(2):
                pairs.append(socket.socketpair(socket.AF_UNIX, _SOCKET_TYPE))
                undo.callback(_close_all, pairs[-1])
            undo.pop_all()
        self._places = memoryview(self._board).cast("Q")
        (self._dispatch, self._dispatch_far), (self._ended, self._ended_far) = pairs
        for end in (self._dispatch, self._dispatch_far, self._ended):
            end.setblocking(False)
        for end in (self._dispatch, self._ended_far):
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self._mutex = threading.Lock()
        self._inside: set[int] = set()  # handed over, and neither ended nor taken back
        self._ended_buffer = bytearray(_BUFFER)
        self._dispatch_buffer = bytearray(_BUFFER)

    def fds(self) -> tuple[int, ...]:
        """Return the descriptors that a child needs; they are to be inherited under the same numbers."""
        return (self._board_file, self._dispatch_far.fileno(), self._ended_far.fileno())

    def put(self, ticket: int, payload: bytes) -> bool:
        """Hand over a payload; returns False, and does nothing, when the channel is full, stopped or damaged."""
        _check_ticket(ticket)
        self._check_open()
        with self._mutex:
            if len(self._inside) >= self._capacity:
                return False
            self._inside.add(ticket)  # before it is sent: its end may be back, in another thread, at once
            try:
                _send(self._dispatch, ticket, 0, payload)
            except OSError as error:
                self._inside.discard(ticket)
                if isinstance(error, (BlockingIOError, BrokenPipeError)):
                    return False
                raise
            return True

    def fileno(self) -> int:
        """Return a descriptor that is readable while an ended payload waits for `take`."""
        return self._ended.fileno()

    def take(self) -> list[tuple[int, int, bytes]]:
        """Return (child, ticket, payload) of the ended payloads that are there, without waiting.

        Raises BufferError when the shared memory is damaged: kill the children, then `rebuild`. (This body
        has next to nothing in shared memory, and never does.)
        """
        self._check_open()
        return self._drain_ended(1000)

    def withdraw(self) -> list[int]:
        """Take back everything that no child has taken yet, and return its tickets in order."""
        self._check_open()
        with self._mutex:
            return self._drain_dispatch()

    def running(self) -> list[tuple[int, int, float]]:
        """Return (child, ticket, since) for every child that has a payload; `since` is monotonic seconds."""
        self._check_open()
        found = []
        for child in range(self._children):
            ticket, since = self._places[child * _PLACE], self._places[child * _PLACE + 1]
            if ticket:
                found.append((child, ticket, since / 1e6))
        return found

    def bury(self, child: int) -> Burial:
        """Settle the accounts of a dead child, before another takes its place: what it ended, what it was
        running, what it never began.

        In this body everything that was waiting comes back too, among `unbegun`, and is to be handed over again.
        Raises BufferError like `take`.
        """
        self._check_open()
        if not 0 <= child < self._children:
            raise ValueError(f"there is no child {child}")
        with self._mutex:
            fcntl.lockf(self._board_file, fcntl.LOCK_EX)  # no living child is between socket and board now
            try:
                unbegun = self._drain_dispatch()
                running = self._places[child * _PLACE]
                self._places[child * _PLACE] = 0
                held = {ticket for _, ticket, _ in self.running()}
                ended = self._drain_ended()  # after the board: a ticket leaves the board when its end is sent
            finally:
                fcntl.lockf(self._board_file, fcntl.LOCK_UN)
            if running not in self._inside:
                running = 0
            strays = self._inside - held - {running}
            self._inside &= held
            return Burial(ended, running, sorted(strays.union(unbegun)))

    def rebuild(self) -> Salvage:
        """Begin afresh with the same descriptors, after damage, when all the children are dead."""
        self._check_open()
        with self._mutex:
            unbegun = self._drain_dispatch()
            held = [ticket for _, ticket, _ in self.running() if ticket in self._inside]
            for child in range(self._children):
                self._places[child * _PLACE] = 0
            ended = self._drain_ended()
            doubtful = [ticket for ticket in held if ticket in self._inside]
            unbegun += sorted(self._inside.difference(doubtful))
            self._inside.clear()
            return Salvage(ended, doubtful, unbegun)

    def stop(self) -> None:
        """Tell the children that nothing more will come: each leaves once it has ended what it runs."""
        with self._mutex, suppress(OSError):
            self._dispatch.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Let go of every descriptor. May be called twice."""
        self._places.release()
        with suppress(BufferError, ValueError):
            self._board.close()
        for end in (self._dispatch, self._dispatch_far, self._ended, self._ended_far):
            end.close()
        if self._board_file >= 0:
            os.close(self._board_file)
            self._board_file = -1

    def _check_open(self) -> None:
        if self._board_file < 0:
            raise OSError(errno.EBADF, "the channel is closed")

    def _drain_dispatch(self) -> list[int]:
        back = []
        with suppress(BlockingIOError):
            while (received := _receive(self._dispatch_far, self._dispatch_buffer)) is not None:
                self._inside.discard(received[0])
                back.append(received[0])
        return back

    def _drain_ended(self, limit: int | None = None) -> list[tuple[int, int, bytes]]:
        drained: list[tuple[int, int, bytes]] = []
        while limit is None or len(drained) < limit:
            try:
                received = _receive(self._ended, self._ended_buffer)
            except BlockingIOError:
                break
            except (OSError, ValueError):
                continue  # a child wrote rubbish: its ticket stays inside until the child ends or dies
            if received is None:
                break
            ticket, child, payload = received
            if ticket in self._inside:  # anything else was settled before, or is a child's invention
                self._inside.discard(ticket)
                drained.append((child, ticket, payload))
        return drained


class Seat:
    """A child's end: `get` a payload, then `end` it, one at a time."""

    def __init__(self, fds: Sequence[int], child: int) -> None:
        """Take place number `child` on the inherited descriptors of `Channel.fds`."""
        self._board_file, dispatch, ended = fds
        if not 0 <= child < os.fstat(self._board_file).st_size // (_PLACE * 8):
            raise ValueError(f"there is no child {child}")
        self._dispatch = socket.socket(fileno=dispatch)
        self._ended = socket.socket(fileno=ended)
        self._board = mmap.mmap(self._board_file, 0)
        self._places = memoryview(self._board).cast("Q")
        self._child = child
        self._at = child * _PLACE
        self._pid = os.getpid()
        self._ticket = 0
        self._buffer = bytearray(_BUFFER)
        self._wait = select.poll()
        self._wait.register(self._dispatch, select.POLLIN)

    def get(self, timeout: float | None = None) -> tuple[int, bytes] | None:
        """Return the next (ticket, payload), or None after `timeout` seconds without one.

        Raises EOFError once the channel is stopped and empty, and in a process that is only a fork of the
        child; BufferError when the shared memory is damaged.
        """
        self._check_process()
        if self._ticket:
            raise RuntimeError("a child has one payload at a time, and has not ended the last")
        while True:
            with _taking:
                fcntl.lockf(self._board_file, fcntl.LOCK_EX)
                try:
                    received = _receive(self._dispatch, self._buffer)
                    if received is not None:
                        self._places[self._at + 1] = time.monotonic_ns() // 1000
                        self._places[self._at] = received[0]
                except BlockingIOError:
                    pass
                else:
                    if received is None:
                        raise EOFError("the channel is stopped")
                    self._ticket = received[0]
                    return received[0], received[2]
                finally:
                    fcntl.lockf(self._board_file, fcntl.LOCK_UN)
            if not self._wait.poll(None if timeout is None else max(timeout, 0) * 1000):
                return None

    def end(self, ticket: int, payload: bytes) -> None:
        """Send back what came of a ticket.

        Raises ValueError for a ticket that this child doesn't have, EOFError where `get` does for a fork. After
        any OSError but EPIPE, when the pool is gone, the ticket can be ended with a smaller payload.
        """
        self._check_process()
        _check_ticket(ticket)
        if ticket != self._ticket:
            raise ValueError(f"this child doesn't have ticket {ticket}")
        _send(self._ended, ticket, self._child, payload)
        self._ticket = 0
        self._places[self._at] = 0

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise EOFError("this process is a fork of a pool child, and has no seat of its own")


def _check_ticket(ticket: int) -> None:
    if not 0 < ticket < 1 << 64:
        raise ValueError(f"a ticket is a number from 1 to 2**64 - 1, not {ticket}")


def _send(through: socket.socket, ticket: int, child: int, payload: bytes) -> None:
    if len(payload) <= INLINE_LIMIT:
        through.send(_HEAD.pack(ticket, child, _INLINE) + payload)
        return
    file = nameless_file("fastq-payload")
    try:
        with open(file, "wb", closefd=False) as stream:
            stream.write(payload)
        socket.send_fds(through, [_HEAD.pack(ticket, child, _IN_FILE)], [file])
    finally:
        os.close(file)


def _receive(through: socket.socket, buffer: bytearray) -> tuple[int, int, bytes] | None:
    """Return (ticket, child, payload), or None at the end of the stream. Raises ValueError for rubbish."""
    size, ancillary, _, _ = through.recvmsg_into([buffer], _FD_SPACE)
    if not size:
        return None
    files = [fd for level, kind, data in ancillary if kind == socket.SCM_RIGHTS for fd in _descriptors(data)]
    try:
        if size < _HEAD.size:
            raise ValueError(f"a datagram of {size} bytes has no header")
        ticket, child, kind = _HEAD.unpack_from(buffer)
        if kind == _INLINE and not files:
            return ticket, child, bytes(memoryview(buffer)[_HEAD.size : size])
        if kind != _IN_FILE or len(files) != 1 or size != _HEAD.size:
            raise ValueError("a datagram is not of the channel's form")
        with open(files[0], "rb", closefd=False) as stream:
            stream.seek(0)
            return ticket, child, stream.read()
    finally:
        for file in files:
            os.close(file)


def _descriptors(data: bytes) -> array.array[int]:
    numbers = array.array("i")
    numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
    return numbers


def _close_all(sockets: Sequence[socket.socket]) -> None:
    for each in sockets:
        each.close()


def nameless_file(name: str, size: int = 0) -> int:
    """Open a file of `size` bytes in memory, or where that is not permitted, an unlinked one on disk."""
    try:
        file = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except (OSError, AttributeError):  # forbidden by a sandbox, or another system than Linux
        import tempfile  # rarely needed, and not small

        file, path = tempfile.mkstemp(prefix=name)
        os.unlink(path)
        settle = os.posix_fallocate  # a full disk is an error now, and not a signal when the memory is used
    else:
        settle = _size_for_good
    try:
        if size:
            settle(file, 0, size)
    except BaseException:
        os.close(file)
        raise
    return file


def _size_for_good(file: int, _: int, size: int) -> None:
    os.ftruncate(file, size)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)  # no child can take mapped memory away
