"""Outcome: what a run came to, and its frame for the way back to the parent and into the backend."""

from __future__ import annotations

import enum
from typing import NamedTuple

from . import _speedups
from .errors import ProtocolError
from .message import CONTENT_CODES, check_times, content_type_of


class State(str, enum.Enum):
    """The states of a task, as everyone sees them."""

    PENDING = "PENDING"  # nothing is known: not started, not ended, or never heard of
    STARTED = "STARTED"
    RETRY = "RETRY"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    REVOKED = "REVOKED"  # revoked, or expired before it could start
    LOST = "LOST"  # its process died, and it will not run again
    REFUSED = "REFUSED"  # from child to parent only: the message can't be run, and becomes a dead letter

    @property
    def terminal(self) -> bool:
        """Whether nothing follows: a terminal state is never replaced by another."""
        return self in _TERMINAL

    def __str__(self) -> str:
        return self.value


_TERMINAL = frozenset((State.SUCCESS, State.FAILURE, State.REVOKED, State.LOST))
_CODES = {
    State.STARTED: 1,
    State.RETRY: 2,
    State.SUCCESS: 3,
    State.FAILURE: 4,
    State.REVOKED: 5,
    State.LOST: 6,
    State.REFUSED: 7,
}
_STATES = {code: state for state, code in _CODES.items()}
_PLAIN = "application/json"
_NO_GROUP = bytes(16)  # what stands in a frame where there is none


class Outcome(NamedTuple):
    """What one run of one task came to. Times are microseconds since the epoch.

    In SUCCESS, `body` is the encoded return value; in the states that an exception stands behind, it is
    what `fastq.failure` makes of one.
    """

    id: bytes
    state: State
    body: bytes = b""
    content_type: str = _PLAIN
    attempt: int = 1
    group: bytes = b""
    started_at: int = 0
    finished_at: int = 0
    due: int = 0  # in RETRY: when the next attempt may start

    def encode(self) -> bytes:
        """Return the frame. Raises ProtocolError for a field that it can't carry."""
        code = CONTENT_CODES.get(self.content_type, 0)
        try:
            check_times(self.started_at, self.finished_at, self.due)
            if self.group == _NO_GROUP:
                raise ValueError("the nil UUID names no group")
            return _speedups.pack_end(
                self.id, _CODES[self.state], self.attempt, code, "" if code else content_type_of(0, self.content_type),
                self.body,
                self.group, self.started_at, self.finished_at, self.due,
            )  # fmt: skip
        except (ValueError, KeyError) as error:
            raise ProtocolError(f"The outcome of {self.id.hex()} can't be framed: {error}") from error

    @classmethod
    def decode(cls, frame: bytes) -> Outcome:
        """Read a frame. Raises ProtocolError."""
        try:
            id, code, attempt, content, name, body, group, started_at, finished_at, due = _speedups.unpack_end(frame)
            check_times(started_at, finished_at, due)
            content_type = content_type_of(content, name)
            state = _STATES[code]
        except KeyError:
            raise ProtocolError(f"Not an outcome: state {code} is not known here") from None
        except ValueError as error:
            raise ProtocolError(f"Not an outcome: {error}") from error
        # As in Message.decode.
        return tuple.__new__(cls, (id, state, body, content_type, attempt, group, started_at, finished_at, due))
