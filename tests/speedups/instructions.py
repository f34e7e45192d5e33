"""What `make count` counts: payloads through a channel, a hundred at a time, and frames, so many of each."""

from __future__ import annotations

import sys

from fastq._speedups import channel_c, frames_c

CALL = (
    b"i" * 16, "shop.orders.add", "default", b'[[4,4],{"note":"a call of middling size, as they come"}]', 1, 0, 5,
    1_764_000_000_000_000, 0, 0, 40, 1, 0, b"",
)  # fmt: skip
END = (b"i" * 16, 3, 1, 1, "", b"8", b"", 1_764_000_000_000_000, 1_764_000_000_001_000, 0)


def payloads(count: int) -> None:
    channel = channel_c.Channel(2, 1000)
    seat = channel_c.Seat(channel.fds(), 0)
    payload = bytes(200)
    for begin in range(1, count, 100):
        for ticket in range(begin, begin + 100):
            assert channel.put(ticket, payload)
        for _ in range(100):
            taken = seat.get(0)
            assert taken is not None
            seat.end(*taken)
        assert len(channel.take()) == 100


def frames(count: int) -> None:
    for _ in range(count):
        call = frames_c.pack_call(*CALL)
        frames_c.unpack_call(call)
        frames_c.glance_call(call)
        frames_c.pack_answer(call, 3, 1, b"8", *END[7:9])
        frames_c.unpack_end(frames_c.pack_end(*END))
        frames_c.new_id()


if __name__ == "__main__":
    payloads(int(sys.argv[1]))
    frames(int(sys.argv[1]))
