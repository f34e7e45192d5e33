"""A pool child with many seats, and a thread for each."""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import threading
from contextlib import suppress

from fastq._speedups import Seat
from fastq.execution import execute
from fastq.message import Message
from fastq.pools.child import LOOK_S, Post, end, framed, is_over, open_seat
from fastq.pools.soft_limits import Watch
from fastq.pools.term import Term

logger = logging.getLogger("fastq.child")


class Threads:
    """Runs each task in a thread; the main thread listens to what the parent has to say."""

    def __init__(self, post: Post) -> None:
        assert post.line is not None
        self._post = post
        self._line: socket.socket = post.line
        self._watch = Watch(post.app.lifecycle.ending)
        self._term = Term(post.app.settings)
        self._changing = threading.Lock()
        self._size = post.size
        self._threads: dict[int, threading.Thread] = {}
        self._seats: dict[int, Seat] = {}  # kept for good: each has its place
        self._leaving = False
        self._broken: BaseException | None = None
        self._woken, self._wake = os.pipe()

    def serve(self) -> None:
        """Serve until the channel is stopped, the term is over, or the parent says so. Raises what broke a thread."""
        self._post.title("threads").show()
        self._man()
        waiting = select.poll()
        waiting.register(self._line, select.POLLIN)
        waiting.register(self._woken, select.POLLIN)
        while self._threads and self._broken is None:
            if self._line.fileno() in {fd for fd, _ in waiting.poll()}:
                orders = self._line.recv(65_536)
                if not orders:
                    return
                for order in orders.splitlines():
                    self._obey(json.loads(order))
        if self._broken is not None:
            raise self._broken

    def _obey(self, order: dict[str, int]) -> None:
        if "size" in order:
            self._size = order["size"]
            self._man()
        elif "leave" in order:
            self._leaving = True
        elif "interrupt" in order:
            self._watch.interrupt()
        elif "answer" in order:
            self._post.page.answered[self._post.number] = order["answer"]

    def _man(self) -> None:
        """Start the threads that are lacking."""
        with self._changing:
            for number in range(self._size):
                if number not in self._threads and not self._leaving:
                    thread = threading.Thread(target=self._serve, args=(number,), name=f"task-{number}", daemon=True)
                    self._threads[number] = thread
                    thread.start()

    def _serve(self, number: int) -> None:
        try:
            with suppress(EOFError):
                self._serve_seat(number)
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            self._broken = error
        with self._changing:
            self._strike_out(number)
        os.write(self._wake, b"!")

    def _serve_seat(self, number: int) -> None:
        post = self._post
        if number not in self._seats:
            self._seats[number] = open_seat(post, number)
        seat = self._seats[number]
        while self._goes_on(number):
            taken = seat.get(LOOK_S)
            if taken is not None:
                ticket, frame = taken
                message = Message.decode(frame)
                outcome = execute(post.app, message, self._watch.call, ticket)
                end(seat, ticket, frame, framed(message, outcome, post.app.settings.packing))
            if self._term.limited and not self._leaving and is_over(self._term, post.number, taken is not None):
                self._leaving = True
                self._line.send(b"leaving\n")

    def _goes_on(self, number: int) -> bool:
        """Return whether a thread is still wanted; if not, it is out of the list at once, and may be replaced."""
        with self._changing:
            if number < self._size and not self._leaving:
                return True
            self._strike_out(number)
            return False

    def _strike_out(self, number: int) -> None:
        if self._threads.get(number) is threading.current_thread():
            del self._threads[number]
