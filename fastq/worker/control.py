"""The controller: hears what operators ask of this worker, and knows what holds for all workers."""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import orjson

from fastq.backoff import Backoff
from fastq.broadcast import LOG, PAUSED, RATES, REVOKED, REVOKED_HEADER, WORKERS, Board, Command, answer
from fastq.errors import BrokerError, FastQError, NotSupported, ProtocolError, StateUnavailable
from fastq.sealing import Seals
from fastq.state import Follower, SharedState

from .commands import Commands
from .loop import Loop
from .revocations import Revocation

T = TypeVar("T")

logger = logging.getLogger("fastq.worker")

_LISTEN_S = 5.0  # how long to wait for a command before looking after other things
_PRESENT_EVERY_S, _PRESENT_FOR_S = 10.0, 30.0
_REMEMBERED = 1_000  # commands that were obeyed; as many as the log keeps
_FACTS_EVERY_S = 60.0  # so that what has expired is forgotten, and nothing is missed for long


class Controller(Loop):
    """Follows the log of commands, and has them carried out; without shared state, the worker works all the same.

    It follows the log first and looks at the facts then, so that nothing that is said in between is missed; what it
    hears twice changes nothing.
    """

    def __init__(
        self, *, open_state: Callable[[], SharedState], seals: Seals, commands: Commands,
        fail: Callable[[BaseException], None],
    ) -> None:  # fmt: skip
        super().__init__("control", fail)
        self._open_state = open_state
        self._seals = seals
        self._obeyed: deque[str] = deque(maxlen=_REMEMBERED)  # the ids of signed commands, which somebody may repeat
        self._commands = commands
        self._incarnation = uuid.uuid4().hex
        self._board: Board | None = None
        self._follower: Follower | None = None
        self._said: dict[str, object] = {}  # of this worker, at `_present_at`
        self._present_at = 0.0
        self._facts_at = 0.0
        self._backoff = Backoff()

    def start(self) -> None:
        """Learn what holds already, and begin to listen; where there can be no shared state, do nothing."""
        try:
            self.turn(listen=False)
        except NotSupported as error:
            logger.info("There is no remote control: %s", error)
        else:
            super().start()

    def turn(self, *, listen: bool = True) -> None:
        """Listen once, obey, and see to what is due."""
        try:
            board, follower = self._connected()
            if listen and not self.quieted.is_set():
                for entry in board.opened(LOG, follower.read(time.monotonic() + _LISTEN_S)):
                    self._obey(board, entry)
            self._see_to_what_is_due(board)
        except StateUnavailable as error:
            self._disconnect()
            if not self._backoff.failures:
                logger.warning("Remote control is interrupted, and is tried again: %s", error)
            pause = self._backoff.failed()
            if listen:
                self.quieted.wait(pause)

    def wake(self) -> None:
        """Make a listener that waits return."""
        if self._follower is not None:
            with suppress(StateUnavailable):
                self._follower.interrupt()

    def stop(self, timeout_s: float) -> bool:
        """Wait for the last turn to end, and sign off."""
        ended = super().stop(timeout_s)
        if ended and self._board is not None:
            with suppress(StateUnavailable):
                self._board.state.delete(WORKERS, [self._incarnation])
            self._disconnect()
        return ended

    # -- being there -----------------------------------------------------------------------------

    def _connected(self) -> tuple[Board, Follower]:
        """Return the state, and what is followed; at first, and after an interruption, all facts are learned."""
        if self._board is None:
            self._board = Board(self._open_state(), self._seals)
        if self._follower is None:
            self._follower = self._board.state.follow(LOG)
            self._facts_at = self._present_at = 0.0
            self._see_to_what_is_due(self._board)
            if self._backoff.worked():
                logger.info("Remote control works again")
        return self._board, self._follower

    def _disconnect(self) -> None:
        follower, self._follower = self._follower, None
        if follower is not None:
            with suppress(StateUnavailable):
                follower.close()

    def _see_to_what_is_due(self, board: Board) -> None:
        now = time.monotonic()
        if not self._facts_at or now - self._facts_at >= _FACTS_EVERY_S:
            self._learn(board)
            self._facts_at = now
        try:
            self._commands.serve_anew()
        except BrokerError as error:
            logger.warning("The broker can't be told which queues are served: %s", error)
        about = self._commands.about
        if about != self._said or now - self._present_at >= _PRESENT_EVERY_S:
            board.put(WORKERS, {self._incarnation: orjson.dumps(about)}, _PRESENT_FOR_S)
            self._said, self._present_at = about, now

    def _learn(self, board: Board) -> None:
        """Learn what is revoked, paused and limited."""
        ids = _read(board, REVOKED, lambda name, fact: (uuid.UUID(name).bytes, b"true" in fact))
        headers = _read(board, REVOKED_HEADER, lambda _, fact: _header(**orjson.loads(fact)))
        self._commands.know_revoked(
            Revocation.of((id for id, _ in ids), (header for header, _ in headers)),
            Revocation.of(
                (id for id, terminate in ids if terminate), (header for header, terminate in headers if terminate)
            ),
        )
        self._commands.know_rates({task: rate.decode(errors="replace") for task, rate in board.find(RATES).items()})
        with suppress(BrokerError):  # `serve_anew` says so
            self._commands.know_paused(frozenset(board.find(PAUSED)))

    # -- obeying ---------------------------------------------------------------------------------

    def _obey(self, board: Board, entry: bytes) -> None:
        try:
            command = Command.decode(entry)
        except ProtocolError as error:
            logger.warning("A command can't be read: %s", error)
            return
        if command.to is not None and self._incarnation not in command.to:
            return
        if (late_s := time.time() - command.expires) > 0:
            logger.warning("The command %s came %.0f s too late, and is not obeyed", command.name, late_s)
            return
        if self._seals.active:
            if command.id in self._obeyed:
                return
            self._obeyed.append(command.id)
        value, problem = None, ""
        try:
            value = self._commands.carry_out(command.name, command.arguments)
        except FastQError as failure:
            problem = str(failure)
        except Exception as failure:
            logger.exception("The command %s failed", command.name)
            problem = f"{type(failure).__name__}: {failure}"
        if command.reply:
            answer(board, command.reply, self._incarnation, value=value, error=problem)
        elif problem:
            logger.warning("The command %s failed: %s", command.name, problem)


def _read(board: Board, family: str, read: Callable[[str, bytes], T]) -> list[T]:
    """Return the facts of a family as `read` gives them; what it can't make out is passed over."""
    found = []
    for name, fact in board.find(family).items():
        try:
            found.append(read(name, fact))
        except (ValueError, TypeError) as error:
            logger.warning("What is said of %s in %r can't be read: %s", name, family, error)
    return found


def _header(header: str, value: object, terminate: bool) -> tuple[tuple[str, object], bool]:
    return (header, value), terminate
