"""A pool child with one seat: take a message, run its task, send back what it came to; and what all children share."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from fastq import failpoints
from fastq._speedups import Seat, glance_call
from fastq.app import FastQ
from fastq.errors import EncodingError, ProtocolError
from fastq.execution import answer, execute
from fastq.failure import Failure
from fastq.message import Message
from fastq.outcome import Outcome, State
from fastq.packing import Packing
from fastq.pools import stacks
from fastq.pools.page import LEAVE, Page
from fastq.pools.soft_limits import Alarm
from fastq.pools.term import Term
from fastq.pools.title import Title

logger = logging.getLogger("fastq.child")

LOOK_S = 1.0  # an idle child looks so often whether it is to leave


@dataclass(frozen=True)
class Post:
    """Where a child serves."""

    app: FastQ
    number: int
    fds: Sequence[int]  # the channel's
    seat: int  # its first seat there
    size: int  # how many runs it is to have at once
    page: Page
    line: socket.socket | None  # to the template, for children of many seats

    def title(self, role: str) -> Title:
        """Return the title of the child's process."""
        return Title(self.app.name, f"{role}-{self.number}")

    def is_to_leave(self, asked: int) -> bool:
        """Answer what the child is asked; return whether it is to leave."""
        if asked == LEAVE:
            return True
        self.page.answered[self.number] = asked
        return False


def open_seat(post: Post, number: int) -> Seat:
    """Return one of the child's seats at the channel; the first is 0."""
    seat = Seat(post.fds, post.seat + number)
    return cast("Seat", _FailingSeat(seat)) if failpoints.on else seat


class _FailingSeat:
    """A seat that passes failpoints, so that others pass none with each message."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat

    def get(self, timeout: float) -> tuple[int, bytes] | None:
        taken = self._seat.get(timeout)
        if taken is not None:
            failpoints.hit("P6")
        return taken

    def end(self, ticket: int, outcome: bytes) -> None:
        failpoints.hit("P9")
        self._seat.end(ticket, outcome)


def serve(post: Post) -> None:
    """Serve on one seat until the channel is stopped, the term is over, or the parent says so."""
    asked, number = post.page.asked, post.number
    seat = open_seat(post, 0)
    title, term = post.title("child"), Term(post.app.settings)
    runner = Runner(post.app, title)
    limited = term.limited
    look_s = min(LOOK_S, post.app.settings.child_silence_s / 3 or LOOK_S)  # to answer in time
    heard = 0
    with suppress(EOFError):
        while True:
            taken = seat.get(0)
            if taken is None:
                title.show("idle")
                taken = seat.get(look_s)
            if taken is not None:
                ticket, frame = taken
                end(seat, ticket, frame, runner.run(ticket, frame))
            if asked[number] != heard:
                heard = asked[number]
                if post.is_to_leave(heard):
                    return
            if limited and is_over(term, number, taken is not None):
                return


def end(seat: Seat, ticket: int, frame: bytes, outcome: bytes) -> None:
    """Send back the frame of what a message came to or, if there is no room for so much, of a failure that says so.

    Raises EOFError when the pool is gone.
    """
    try:
        seat.end(ticket, outcome)
    except BrokenPipeError as error:
        raise EOFError("the pool is gone") from error
    except OSError as error:
        message = Message.decode(frame)
        what = f"What {message.task}[{message.uuid}] came to has {len(outcome)} bytes, for which there is no room"
        failure = Failure.of(EncodingError(f"{what}: {error}"))
        seat.end(ticket, framed(message, Outcome.of(message, State.FAILURE, failure.encode())))


def is_over(term: Term, number: int, ended: int) -> bool:
    """Return whether a child's term is over, and tell the log why."""
    if reason := term.over(ended):
        logger.info("Pool child %d leaves: %s", number, reason)
    return bool(reason)


class Runner:
    """Runs frames, one at a time; those of plain tasks by the short way."""

    def __init__(self, app: FastQ, title: Title) -> None:
        self._app = app
        self._packing = app.settings.packing
        self._title = title
        self._alarm = Alarm(app.lifecycle.ending)
        self._plain = {task.name: task for task in app.tasks.values() if task.is_plain and not self._packing.active}

    def run(self, ticket: int, frame: bytes) -> bytes:
        """Run the task of a frame, and return the frame of what it came to."""
        glance = glance_call(frame)
        task = self._plain.get(glance[0]) if glance is not None else None
        if glance is None or task is None:
            message = Message.decode(frame)
            self._title.show(message.task)
            return framed(message, execute(self._app, message, self._alarm.call, ticket), self._packing)
        self._title.show(task.name)
        answered = answer(self._app, task, frame, glance, ticket)
        return answered if isinstance(answered, bytes) else framed(Message.decode(frame), answered, self._packing)


def framed(message: Message, outcome: Outcome, packing: Packing | None = None) -> bytes:
    """Return an outcome's frame, and log it if it is a failure; of a task that was interrupted there is none: b""."""
    if outcome.state is State.INTERRUPTED:
        return b""
    if outcome.state is State.FAILURE:
        failure = Failure.decode(outcome.body)
        logger.error("Task %s[%s] failed: %s\n%s", message.task, message.uuid, failure.type_name, failure.traceback)
    try:
        return outcome.encode() if packing is None else packing.packed_outcome(outcome).encode()
    except ProtocolError as error:  # a return value past what a frame can hold
        failed = Outcome.of(message, State.FAILURE, Failure.of(error).encode())
        return failed.encode()


def prepare() -> None:
    """Make a process that was just forked into a child: signals, stacks for who asks, a higher risk in low memory."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave_it_to_the_parent)
    stacks.prepare()
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("500")


def _leave_it_to_the_parent(*_: object) -> None:
    """Do nothing: a whole process group is signalled at once, and the parent decides what ends when.

    A handler, not SIG_IGN, which the processes that tasks start would inherit.
    """


def _serve_threads(post: Post) -> None:
    from fastq.pools.threads import Threads

    Threads(post).serve()


def _serve_loop(post: Post) -> None:
    from fastq.pools.aio import EventLoop

    EventLoop(post).serve()


#: What a child does, by its plan's word for it.
SERVES: dict[str, Callable[[Post], None]] = {"one": serve, "threads": _serve_threads, "loop": _serve_loop}
