"""Outcome: what a run came to, and its frame for the way back to the parent and into the backend."""

from __future__ import annotations

import enum
from typing import NamedTuple

from . import _speedups
from .errors import ProtocolError
from .message import CONTENT_CODES, CONTENT_TYPES, Message, check_times, content_type_of, now_us


class State(str, enum.Enum):
    """The states of a task, as everyone sees them. `code` stands for one in frames, 0 for none that travels."""

    PENDING = "PENDING", 0  # nothing is known: not started, not ended, or never heard of
    RETRY = "RETRY", 2
    SUCCESS = "SUCCESS", 3
    FAILURE = "FAILURE", 4
    REVOKED = "REVOKED", 5  # revoked, or expired before it could start
    LOST = "LOST", 6  # its process died, and it will not run again
    REFUSED = "REFUSED", 7  # from child to parent only: the message can't be run, and becomes a dead letter
    INTERRUPTED = "INTERRUPTED", 0  # for hooks only: it left because its worker stops, and goes back, or else is lost

    code: int
    terminal: bool  # whether nothing follows: a terminal state is never replaced by another

    def __new__(cls, value: str, code: int) -> State:  # noqa: PYI034 - Self is in typing from Python 3.11 on
        """Make a member; its attributes are looked up without hashing it, which costs a call until Python 3.12."""
        state = str.__new__(cls, value)
        state._value_ = value
        state.code = code
        state.terminal = value in ("SUCCESS", "FAILURE", "REVOKED", "LOST")
        return state

    def __str__(self) -> str:
        return str(self.value)


_STATES = {state.code: state for state in State if state.code}
_PLAIN = "application/json"
_NO_GROUP = bytes(16)  # what stands in a frame where there is none


class _Fields(NamedTuple):
    id: bytes
    state: State
    body: bytes = b""
    content_type: str = _PLAIN
    attempt: int = 1
    group: bytes = b""
    started_at: int = 0
    finished_at: int = 0
    due: int = 0  # in RETRY: when the next attempt may start


class Outcome(_Fields):
    """What one run of one task came to. Times are microseconds since the epoch.

    In SUCCESS, `body` is the encoded return value; in the states that an exception stands behind, it is
    what `fastq.failure` makes of one.
    """

    reply_to = 0  # `Message.reply_to`, for backends that push; not in the frame
    _frame = b""  # what this was read from, if it was: it passes through the parent as it is

    @classmethod
    def of(
        cls, message: Message, state: State, body: bytes = b"", content_type: str = _PLAIN, started_at: int = 0
    ) -> Outcome:
        """Return what a message came to, as of now."""
        # Not through __new__, which NamedTuple writes in Python and which takes three times as long.
        outcome = tuple.__new__(
            cls,
            (message.id, state, body, content_type, message.attempt, message.extras.group, started_at, now_us(), 0),
        )
        if message.reply_to:
            outcome.reply_to = message.reply_to
        return outcome

    def encode(self) -> bytes:
        """Return the frame. Raises ProtocolError for a field that it can't carry."""
        if self._frame:
            return self._frame
        code = CONTENT_CODES.get(self.content_type, 0)
        try:
            check_times(self.started_at, self.finished_at, self.due)
            if self.group == _NO_GROUP:
                raise ValueError("the nil UUID names no group")
            if not self.state.code:
                raise ValueError(f"nothing is framed as {self.state}")
            return _speedups.pack_end(
                self.id, self.state.code, self.attempt, code, "" if code else content_type_of(0, self.content_type),
                self.body,
                self.group, self.started_at, self.finished_at, self.due,
            )  # fmt: skip
        except ValueError as error:
            raise ProtocolError(f"The outcome of {self.id.hex()} can't be framed: {error}") from error

    @classmethod
    def decode(cls, frame: bytes) -> Outcome:
        """Read a frame. Raises ProtocolError."""
        try:
            id, code, attempt, content, name, body, group, started_at, finished_at, due = _speedups.unpack_end(frame)
            check_times(started_at, finished_at, due)
            content_type = (not name and CONTENT_TYPES.get(content)) or content_type_of(content, name)
            state = _STATES[code]
        except KeyError:
            raise ProtocolError(f"Not an outcome: state {code} is not known here") from None
        except ValueError as error:
            raise ProtocolError(f"Not an outcome: {error}") from error
        # As in `of`.
        outcome = tuple.__new__(cls, (id, state, body, content_type, attempt, group, started_at, finished_at, due))
        outcome._frame = frame  # noqa: SLF001 - its own
        return outcome
