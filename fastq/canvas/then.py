"""What is to be done when the tasks of a flow have ended, and its bytes, which the shared state keeps.

A worker's parent reads it; the arguments within stay closed to it. ``docs/protocol.rst`` does not have this form: it
is written and read by fastq alone.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import orjson

from fastq.errors import ProtocolError
from fastq.message import Message, now_us

#: The family of facts that hold, by the id of a flow, the ids of the tasks whose values it gives: see `Then.values`.
VALUES = "values"

_SIZES = struct.Struct("<II")  # of the head and of the values


class Later(NamedTuple):
    """A message to be published later, with the times that count from then, in microseconds, 0 for none."""

    message: Message
    delay_us: int = 0
    expires_us: int = 0

    def now(self) -> Message:
        """Return the message, to be published now."""
        now = now_us()
        message = self.message._replace(enqueued_at=now)
        if self.delay_us:
            message = message._replace(eta=now + self.delay_us)
        return message._replace(expires=now + self.expires_us) if self.expires_us else message


class Then(NamedTuple):
    """What a flow leads to."""

    run: Sequence[Later] = ()  # once all have ended well; otherwise these tasks fail without having run
    on_error: Sequence[Later] = ()  # once all have ended, and one of them not well: its failure is given to these
    dropped: Sequence[bytes] = ()  # the flows that wait for those of `on_error`, to be closed if these do not run
    values: bytes = b""  # where values of several tasks are given: their ids in JSON, a list for a group

    def encode(self) -> bytes:
        """Return the bytes."""
        frames = [later.message.encode() for later in (*self.run, *self.on_error)]
        head = orjson.dumps([
            [(len(frame), later.delay_us, later.expires_us) for frame, later in zip(frames, self.run, strict=False)],
            [
                (len(frame), later.delay_us, later.expires_us)
                for frame, later in zip(frames[len(self.run) :], self.on_error, strict=True)
            ],
            b"".join(self.dropped).hex(),
        ])  # fmt: skip
        return b"".join((_SIZES.pack(len(head), len(self.values)), head, self.values, *frames))

    @classmethod
    def decode(cls, then: bytes) -> Then:
        """Read it. Raises ProtocolError."""
        try:
            head_size, values_size = _SIZES.unpack_from(then)
            at = _SIZES.size + head_size
            run, on_error, dropped_hex = orjson.loads(then[_SIZES.size : at])
            values, at = then[at : at + values_size], at + values_size
            laters = []
            for size, delay_us, expires_us in (*run, *on_error):
                laters.append(Later(Message.decode(then[at : at + size]), delay_us, expires_us))
                at += size
            dropped = bytes.fromhex(dropped_hex)
        except (struct.error, ValueError, TypeError) as error:
            raise ProtocolError(f"What follows in a workflow can't be read: {error}") from error
        ids = tuple(dropped[at : at + 16] for at in range(0, len(dropped), 16))
        return cls(tuple(laters[: len(run)]), tuple(laters[len(run) :]), ids, values)
