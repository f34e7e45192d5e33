"""Unique tasks: of calls that are the same, one waits at a time; a lock in the shared state says which.

The lock is a fact with the id of the task that has it. The caller takes it before the task is sent, for a minute, so
that a caller who dies in between leaves nothing behind for long; and after that for as long as the task may last. It
ends with the task.

Where the latest call is the one that counts, it takes the lock from the one before, which then does not start. Nobody
is kept out by such a lock; it stays when the task has ended, for as long as an earlier call may still be waiting.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from .errors import DuplicateTask, PublishUnknown, StateUnavailable
from .message import Message, now_us
from .options import Unique
from .state import SharedState

#: The families of facts that are locks: of tasks whose first call counts, and of those whose latest does.
LOCKS, LATEST = "unique", "latest"

_SENDING_S = 60.0  # how long a lock lasts whose task may never be sent
_PACKED = struct.Struct(">16sQ")


class Latest(NamedTuple):
    """The lock of the latest of some calls."""

    task: bytes  # its id
    until: int  # microseconds since the epoch; 0 while it may not have been sent

    @classmethod
    def decode(cls, value: bytes) -> Latest | None:
        """Read the value of the fact; None if it can't be read."""
        return cls(*_PACKED.unpack(value)) if len(value) == _PACKED.size else None

    def encode(self) -> bytes:
        """Return the value of the fact."""
        return _PACKED.pack(*self)


def lock_and_send(
    message: Message, unique: Unique, state: SharedState, lasts_s: float, send: Callable[[], object]
) -> bytes | None:
    """Take the lock of a message, and send it; if nothing was sent, return the id of the task that has the lock.

    The lock lasts for `lasts_s` seconds after the task is due, unless the options say for how long. Raises
    DuplicateTask where another task has it that is not to be replaced, StateUnavailable, and what `send` raises.
    """
    until = max(message.eta, now_us()) + round(lasts_s * 1e6)
    if unique.latest:
        _send_as_latest(message, state, until, send)
        return None
    name, id = message.extras.unique, message.id
    other = state.put_new(LOCKS, name, id, _SENDING_S)
    if other is None or other == id:
        lasts_s = _left_s(until) if unique.for_s is None else unique.for_s
        _send(
            send, lambda: state.replace_if(LOCKS, name, id, id, lasts_s), lambda: state.delete_if(LOCKS, name, id)
        )  # fmt: skip
        return None
    if unique.policy == "existing":
        return other
    raise DuplicateTask(
        f"{message.task}[{uuid.UUID(bytes=other)}] is there already, and is unique: on_duplicate says 'reject'"
    )


def _send_as_latest(message: Message, state: SharedState, until: int, send: Callable[[], object]) -> None:
    name = message.extras.unique
    (value,) = state.get(LATEST, [name])
    before = (None if value is None else Latest.decode(value)) or Latest(b"", 0)
    until = max(until, before.until)  # the one before may come up as late as that, and is not to be the latest then
    taken, kept = Latest(message.id, 0).encode(), Latest(message.id, until).encode()

    def undone() -> None:
        if before.until:
            state.replace_if(LATEST, name, taken, before.encode(), _left_s(before.until))
        else:
            state.delete_if(LATEST, name, taken)

    state.put(LATEST, {name: taken}, _SENDING_S)
    _send(send, lambda: state.replace_if(LATEST, name, taken, kept, _left_s(until)), undone)


def _send(send: Callable[[], object], keep: Callable[[], object], undo: Callable[[], object]) -> None:
    """Send a task whose lock is taken, and keep the lock; or undo that, if it was not sent.

    That the shared state can't be told is no reason to fail: the lock ends by itself. One that is gone stays so: the
    task may have ended by now.
    """
    try:
        send()
    except PublishUnknown:
        with suppress(StateUnavailable):
            keep()
        raise
    except BaseException:
        with suppress(StateUnavailable):
            undo()
        raise
    with suppress(StateUnavailable):
        keep()


def _left_s(until: int) -> float:
    return max(1.0, (until - now_us()) / 1e6)
