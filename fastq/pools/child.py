"""The loop in a pool child: take a message, run its task, send back what it came to."""

from __future__ import annotations

import faulthandler
import logging
import signal
import sys
from contextlib import suppress

from fastq._speedups import Seat
from fastq.app import FastQ
from fastq.errors import ProtocolError
from fastq.execution import execute
from fastq.failure import Failure
from fastq.message import Message
from fastq.outcome import Outcome, State
from fastq.pools.title import Title

logger = logging.getLogger("fastq.child")


def serve(app: FastQ, seat: Seat, title: Title) -> None:
    """Serve until the channel is stopped."""
    with suppress(EOFError):
        while True:
            taken = seat.get(0)
            if taken is None:
                title.show("idle")
                taken = seat.get()
            if taken is not None:
                ticket, frame = taken
                seat.end(ticket, _run(app, frame, title))


def _run(app: FastQ, frame: bytes, title: Title) -> bytes:
    message = Message.decode(frame)
    title.show(message.task)
    outcome = execute(app, message)
    if outcome.state is State.FAILURE:
        failure = Failure.decode(outcome.body)
        logger.error("Task %s[%s] failed: %s\n%s", message.task, message.uuid, failure.type_name, failure.traceback)
    try:
        return outcome.encode()
    except ProtocolError as error:  # a return value past what a frame can hold
        failed = Outcome.of(message, State.FAILURE, Failure.of(error).encode())
        return failed.encode()


def prepare() -> None:
    """Make a process that was just forked into a child: signals, crash reports, a higher risk in low memory."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave_it_to_the_parent)
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            faulthandler.enable()
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("500")


def _leave_it_to_the_parent(*_: object) -> None:
    """Do nothing: a whole process group is signalled at once, and the parent decides what ends when.

    A handler, not SIG_IGN, which the processes that tasks start would inherit.
    """
