"""A pool child with many seats and an event loop: async tasks side by side on it, sync ones in threads beside it."""

from __future__ import annotations

import asyncio
import json
import logging
import queue
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from fastq import soft_limit
from fastq._speedups import Seat
from fastq.execution import execute, execute_async
from fastq.message import Message
from fastq.outcome import Outcome
from fastq.pools.child import LOOK_S, Post, end, framed, is_over, open_seat
from fastq.pools.soft_limits import Watch
from fastq.pools.term import Term
from fastq.task import AsyncTask

_MOST_THREADS = 4096

logger = logging.getLogger("fastq.child")


class EventLoop:
    """Runs as many tasks at once as it has seats.

    A thread of its own waits at the channel, one seat at a time, and gives the loop what it finds; the loop ends
    what it has, and returns the seat.
    """

    def __init__(self, post: Post) -> None:
        assert post.line is not None
        self._post = post
        self._line: socket.socket = post.line
        self._watch = Watch(post.app.lifecycle.ending)
        self._term = Term(post.app.settings)
        self._size = post.size
        self._free: queue.SimpleQueue[Seat] = queue.SimpleQueue()
        self._seats: list[Seat] = []  # made when they are needed first, as each maps the channel
        self._spare: list[Seat] = []  # of these, out of use since the pool shrank
        self._changing = threading.Lock()
        self._in_hand = 0
        self._coroutines: dict[int, asyncio.Task[None]] = {}  # ticket: where one runs that can be cancelled
        self._told_to_end: set[int] = set()  # tickets
        self._leaving = self._fed = self._broken = False

    def serve(self) -> None:
        """Serve until the channel is stopped, the term is over, or the parent says so."""
        self._post.title("loop").show()
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._threads = ThreadPoolExecutor(_MOST_THREADS, "task")  # there are never more than seats
        self._loop.add_reader(self._line, self._hear)
        threading.Thread(target=self._feed, name="fastq-feeder", daemon=True).start()
        await self._over

    # -- in: the feeder's thread -------------------------------------------------------------------

    def _feed(self) -> None:
        try:
            with suppress(EOFError):
                while not self._leaving:
                    if seat := self._free_seat(LOOK_S):
                        self._take(seat)
            self._loop.call_soon_threadsafe(self._have_fed)
        except BaseException as error:  # noqa: BLE001 - the loop's thread raises it
            self._loop.call_soon_threadsafe(self._break, error)

    def _take(self, seat: Seat | None) -> None:
        """Take one message, waiting for it, and then what else there is."""
        taken = []
        timeout = LOOK_S
        try:
            while seat is not None:
                found = seat.get(timeout)
                if found is None:
                    self._give_back(seat)
                    break
                taken.append((seat, *found))
                timeout = 0.0
                seat = self._free_seat(0.0)
        finally:
            if taken:
                self._loop.call_soon_threadsafe(self._begin, taken)

    def _free_seat(self, timeout: float) -> Seat | None:
        with suppress(queue.Empty):
            return self._free.get_nowait()
        with self._changing:
            if self._spare and len(self._seats) - len(self._spare) < self._size:
                return self._spare.pop()
            if len(self._seats) < self._size:
                self._seats.append(open_seat(self._post, len(self._seats)))
                return self._seats[-1]
        with suppress(queue.Empty):
            return self._free.get(timeout=timeout) if timeout else None
        return None

    def _give_back(self, seat: Seat) -> None:
        with self._changing:
            if len(self._seats) - len(self._spare) > self._size:
                self._spare.append(seat)
            else:
                self._free.put(seat)

    # -- the runs ------------------------------------------------------------------------------------

    def _begin(self, taken: list[tuple[Seat, int, bytes]]) -> None:
        self._in_hand += len(taken)
        for each in taken:
            self._loop.create_task(self._run(*each)).add_done_callback(self._check)

    async def _run(self, seat: Seat, ticket: int, frame: bytes) -> None:
        message, app = Message.decode(frame), self._post.app
        if isinstance(app.tasks.get(message.task), AsyncTask):
            outcome: Outcome | None = await self._run_coroutine(ticket, message)
        else:
            outcome = await self._loop.run_in_executor(self._threads, execute, app, message, self._watch.call, ticket)
        if self._broken:  # it was cut off with the others: that is no outcome
            return
        ended = b""
        if outcome is not None and ticket not in self._told_to_end:
            ended = framed(message, outcome, app.settings.packing)
        end(seat, ticket, frame, ended)
        self._told_to_end.discard(ticket)
        self._in_hand -= 1
        self._give_back(seat)
        if self._term.limited and not self._leaving and is_over(self._term, self._post.number, 1):
            self._leaving = True
            self._line.send(b"leaving\n")
        self._end_if_over()

    async def _run_coroutine(self, ticket: int, message: Message) -> Outcome | None:
        task = asyncio.current_task()
        assert task is not None
        self._coroutines[ticket] = task
        try:
            return await execute_async(self._post.app, message, ticket)
        except asyncio.CancelledError:  # before the task's own code began
            if ticket not in self._told_to_end:
                raise
            return None
        finally:
            del self._coroutines[ticket]

    def _check(self, run: asyncio.Task[None]) -> None:
        if run.cancelled():
            self._break(RuntimeError("a run was cut off in between"))
        elif error := run.exception():
            self._break(error)

    # -- out --------------------------------------------------------------------------------------------

    def _hear(self) -> None:
        orders = self._line.recv(65_536)
        if not orders:
            self._break(EOFError("the template is gone"))
        for line in orders.splitlines():
            order = json.loads(line)
            if "cancel" in order:
                self._cancel(order["cancel"])
            elif "size" in order:
                self._resize(order["size"])
            elif "leave" in order:
                self._leaving = True
            elif "interrupt" in order:
                self._watch.interrupt()
                soft_limit.interrupt()
            elif "answer" in order:
                self._post.page.answered[self._post.number] = order["answer"]

    def _cancel(self, ticket: int) -> None:
        """Have a coroutine end. Where this has no effect, and with threads, the parent ends the process."""
        if ticket in self._coroutines:
            self._told_to_end.add(ticket)
            self._coroutines[ticket].cancel()

    def _resize(self, size: int) -> None:
        self._size = size
        with suppress(queue.Empty):
            for _ in self._seats:
                self._give_back(self._free.get_nowait())

    def _have_fed(self) -> None:
        """Nothing more comes in."""
        self._fed = True
        self._end_if_over()

    def _end_if_over(self) -> None:
        if self._fed and not self._in_hand and not self._over.done():
            self._over.set_result(None)

    def _break(self, error: BaseException) -> None:
        self._broken = True
        if not self._over.done():
            self._over.set_exception(error)
