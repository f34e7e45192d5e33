"""What people ask about messages in SQL, and what they do by hand: counts, purges, dead letters."""

from __future__ import annotations

import json
from collections.abc import Iterable

from sqlalchemy import Connection, bindparam, delete, func, insert, select, union_all

from fastq.broker import DeadLetter, QueueInfo, WorkerInfo
from fastq.systems.sql_messages import padded
from fastq.systems.sql_schema import CHUNK, DELAYED, LEASED, READY, dead, messages, owners

_m = messages.c
_d = dead.c
_of_queue = _m.queue == bindparam("of_queue")
_by_now = _m.due <= bindparam("now")

_depth = select(func.count()).select_from(messages).where(_of_queue, _m.state.in_((READY, DELAYED)))
_counts = select(_m.queue, _m.state, func.count()).group_by(_m.queue, _m.state)
_overdue = select(_m.queue, func.count()).where(_m.state == DELAYED, _by_now).group_by(_m.queue)
_dead_counts = select(_d.queue, func.count()).group_by(_d.queue)

# One seek in the index for each state and rank. What is due counts as ready, even before a worker has made it so.
_places = union_all(
    *(
        select(func.min(_m.due).label("due")).where(_of_queue, _m.state == state, _m.rank == rank, _by_now)
        for state in (READY, DELAYED)
        for rank in range(10)
    )
).subquery()
_oldest = select(func.min(_places.c.due))

_newest = select(func.max(_m.seq))
_waiting = (
    select(_m.seq)
    .where(_of_queue, _m.state.in_((READY, DELAYED)), _m.seq <= bindparam("up_to"))
    .limit(CHUNK)
    .with_for_update(skip_locked=True)
)
_forget = delete(messages).where(_m.seq.in_(bindparam("seqs", expanding=True)))

_workers = select(owners.c.owner, owners.c.until, owners.c.about).where(owners.c.until >= bindparam("now"))
_letters = (
    select(_d.seq, _d.queue, _d.reason, _d.died_at, _d.frame)
    .where(_d.queue == bindparam("of_queue"), _d.seq > bindparam("after"))
    .order_by(_d.seq)
    .limit(bindparam("most"))
)
_dead_count = select(func.count()).select_from(dead).where(_d.queue == bindparam("of_queue"))
_oldest_dead = (
    select(_d.seq, _d.died_at)
    .where(_d.queue == bindparam("of_queue"))
    .order_by(_d.seq)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_bury = insert(dead).values(rank=9, fence=0)
_these = _d.seq.in_(bindparam("seqs", expanding=True))
_return = insert(messages).from_select(
    ["queue", "state", "rank", "due", "owner", "fence", "crashes", "recovered", "began", "frame"],
    select(_d.queue, READY, _d.rank, bindparam("now"), 0, _d.fence, 0, 0, 0, _d.frame)  # type: ignore[call-overload]
    .where(_these)
    .order_by(_d.seq),
)
_drop = delete(dead).where(_these)


def depth(connection: Connection, queue: str) -> int:
    """Return how many messages wait: a count over the index."""
    return int(connection.execute(_depth, {"of_queue": queue}).scalar_one())


def oldest_us(connection: Connection, queue: str, now: int) -> int:
    """Return for how long the oldest ready message has waited."""
    due = connection.execute(_oldest, {"of_queue": queue, "now": now}).scalar()
    return 0 if due is None else max(0, now - due)


def queues(connection: Connection, now: int) -> list[QueueInfo]:
    """Return the queues that hold something, in numbers."""
    counts = {(queue, state): count for queue, state, count in connection.execute(_counts)}
    overdue: dict[str, int] = {row[0]: row[1] for row in connection.execute(_overdue, {"now": now})}
    letters: dict[str, int] = {row[0]: row[1] for row in connection.execute(_dead_counts)}
    return [
        QueueInfo(
            name,
            ready=counts.get((name, READY), 0) + overdue.get(name, 0),
            delayed=counts.get((name, DELAYED), 0) - overdue.get(name, 0),
            leased=counts.get((name, LEASED), 0),
            dead=letters.get(name, 0),
            oldest_age_s=oldest_us(connection, name, now) / 1e6,
        )
        for name in sorted({queue for queue, _ in counts} | letters.keys())
    ]


def workers(connection: Connection, now: int) -> list[WorkerInfo]:
    """Return the leases that last."""
    rows = connection.execute(_workers, {"now": now})
    return [WorkerInfo(owner, (until - now) / 1e6, json.loads(about)) for owner, until, about in rows]


def newest(connection: Connection) -> int:
    """Return the number of the latest message."""
    return connection.execute(_newest).scalar() or 0


def purge(connection: Connection, queue: str, up_to: int) -> int:
    """Delete some of what waits in a queue and is not newer than `up_to`; return how many, 0 at the end."""
    seqs = connection.execute(_waiting, {"of_queue": queue, "up_to": up_to}).scalars().all()
    for chunk in padded(seqs):
        connection.execute(_forget, {"seqs": chunk})
    return len(seqs)


def bury(connection: Connection, queue: str, frames: Iterable[bytes], reason: str, now: int) -> None:
    """Add dead letters, of which there is one at least."""
    connection.execute(_bury, [{"queue": queue, "died_at": now, "reason": reason, "frame": frame} for frame in frames])


def dead_letters(connection: Connection, queue: str, limit: int, after: int) -> list[DeadLetter]:
    """Return the oldest dead letters of a queue after a number."""
    rows = connection.execute(_letters, {"of_queue": queue, "most": limit, "after": after})
    return [DeadLetter(str(seq), *letter) for seq, *letter in rows]


def prune_dead(connection: Connection, queue: str, before: int, most: int) -> int:
    """Delete some of the dead letters from before a moment, and of the oldest beyond so many; return how many."""
    surplus = connection.execute(_dead_count, {"of_queue": queue}).scalar_one() - most if most else 0
    rows = connection.execute(_oldest_dead, {"of_queue": queue, "most": CHUNK}).all()
    old = [seq for at, (seq, died_at) in enumerate(rows) if died_at < before or at < surplus]
    return _drop_all(connection, list(padded(old)))


def requeue_dead(connection: Connection, tokens: Iterable[str], now: int) -> int:
    """Put dead letters back at the end of their queues; return how many."""
    chunks = list(padded(_numbers(tokens)))
    for chunk in chunks:
        connection.execute(_return, {"seqs": chunk, "now": now})
    return _drop_all(connection, chunks)


def drop_dead(connection: Connection, tokens: Iterable[str]) -> int:
    """Delete dead letters; return how many."""
    return _drop_all(connection, list(padded(_numbers(tokens))))


def _drop_all(connection: Connection, chunks: list[list[object]]) -> int:
    return sum(connection.execute(_drop, {"seqs": chunk}).rowcount for chunk in chunks)


def _numbers(tokens: Iterable[str]) -> list[int]:
    # What is not a number is nobody's token; nor is one that SQL could not hold.
    return sorted({int(token) for token in tokens if token.isascii() and token.isdigit() and len(token) < 19})
