"""What is done to messages and leases in SQL: each function is one step inside a transaction of its caller.

Statements are SQLAlchemy Core, which costs some 20 µs each over the bare driver: little beside a commit, and
nothing in batches. A message is looked up before it is changed, in the same transaction, so no `RETURNING` is
needed. On a server with concurrent writers the look-ups take row locks (FOR UPDATE); SQLite ignores that word.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, Delete, Update, bindparam, delete, func, insert, select, update

from fastq import failpoints
from fastq.broker import Action, Decision, Delivery
from fastq.systems.sql_schema import CHUNK, DELAYED, LEASED, READY, dead, messages, owners

_m = messages.c
_seqs = _m.seq.in_(bindparam("seqs", expanding=True))
_FREE = {"state": READY, "owner": 0, "began": 0}


class New(NamedTuple):
    """A message to be added; `due` 0 is now."""

    queue: str
    frame: bytes
    rank: int
    due: int


def padded(values: Sequence[object]) -> Iterator[list[object]]:
    """Yield the values in chunks for IN lists, each padded to a power of two with its last value."""
    for at in range(0, len(values), CHUNK):
        chunk = list(values[at : at + CHUNK])
        size = 1 << (len(chunk) - 1).bit_length()
        yield chunk + chunk[-1:] * (size - len(chunk))


# -- adding ---------------------------------------------------------------------------------------

_publish = insert(messages).values(owner=0, fence=0, crashes=0, recovered=0, began=0)


def publish(connection: Connection, news: Iterable[New], now: int) -> None:
    """Add messages, of which there is one at least, in their order."""
    rows = [
        {"queue": queue, "state": DELAYED if due > now else READY, "rank": rank, "due": max(due, now), "frame": frame}
        for queue, frame, rank, due in news
    ]
    connection.execute(_publish, rows)


# -- leases -----------------------------------------------------------------------------------------

_renew = update(owners).where(owners.c.seq == bindparam("me")).values(until=bindparam("new_until"))
_passed = select(owners.c.seq).where(owners.c.until < bindparam("now"), owners.c.seq != bindparam("me"))
_end = delete(owners).where(owners.c.seq == bindparam("gone"))
_next_queue = select(func.min(_m.queue)).where(_m.queue > bindparam("after"))
_held_by = (_m.queue == bindparam("of_queue"), _m.state == LEASED, _m.owner == bindparam("gone"))
_give_back = update(messages).where(*_held_by).values(**_FREE)
_take_over = (
    update(messages).where(*_held_by).values(**_FREE, recovered=_m.recovered + 1, crashes=_m.crashes + _m.began)
)


def lease(connection: Connection, owner: str, until: int, about: str) -> int:
    """Begin a lease; return the number of its row."""
    row = connection.execute(insert(owners), {"owner": owner, "until": until, "about": about})
    (number,) = row.inserted_primary_key or (0,)
    return int(number)


def renew(connection: Connection, owner: int, until: int) -> bool:
    """Extend a lease; return whether there still is one."""
    return connection.execute(_renew, {"me": owner, "new_until": until}).rowcount == 1


def end(connection: Connection, owner: int) -> int:
    """End a lease in good order; return how many messages are ready again."""
    return _end_lease(connection, owner, _give_back)


def sweep(connection: Connection, owner: int, now: int) -> int:
    """End the leases that have passed, except one's own; return how many of their messages are ready again.

    Theirs are marked as suspects, and charged where they had begun.
    """
    passed = connection.execute(_passed, {"me": owner, "now": now}).scalars().all()
    freed = sum(_end_lease(connection, gone, _take_over) for gone in passed)
    if failpoints.on and freed:
        failpoints.hit("P14")
    return freed


def _end_lease(connection: Connection, owner: int, hand_on: Update) -> int:
    connection.execute(_end, {"gone": owner})
    return sum(
        connection.execute(hand_on, {"gone": owner, "of_queue": queue}).rowcount for queue in queue_names(connection)
    )


def queue_names(connection: Connection) -> Iterator[str]:
    """Yield the queues that hold messages: a seek in the index each, however many messages there are."""
    name: str | None = ""
    while (name := connection.execute(_next_queue, {"after": name}).scalar()) is not None:
        yield name


# -- claiming -------------------------------------------------------------------------------------

_look = select(
    select(func.min(_m.due)).where(_m.state == DELAYED).scalar_subquery(),
    select(func.min(owners.c.until)).where(owners.c.seq != bindparam("me")).scalar_subquery(),
).where(select(owners.c.seq).where(owners.c.seq == bindparam("me")).exists())
_due = (
    select(_m.seq).where(_m.state == DELAYED, _m.due <= bindparam("now")).order_by(_m.due).limit(CHUNK)
).with_for_update(skip_locked=True)
_promote = update(messages).where(_seqs).values(state=READY)
_first = (
    select(_m.seq, _m.fence, _m.crashes, _m.recovered, _m.frame)
    .where(_m.queue == bindparam("of_queue"), _m.state == READY)
    .order_by(_m.rank, _m.due, _m.seq)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_claim = update(messages).where(_seqs).values(state=LEASED, owner=bindparam("me"), fence=_m.fence + 1)


class Look(NamedTuple):
    """What a lease finds before it claims; 0 for never."""

    next_due: int  # the first delayed message
    next_end: int  # the first end of another's lease


def look(connection: Connection, owner: int) -> Look | None:
    """Return what is ahead, or None if the lease has ended."""
    row = connection.execute(_look, {"me": owner}).first()
    return None if row is None else Look(row[0] or 0, row[1] or 0)


def promote(connection: Connection, now: int) -> None:
    """Make the first of the delayed messages that are due ready: not all, lest a million hold up everyone."""
    _each(connection, _promote, connection.execute(_due, {"now": now}).scalars().all())


def claim(connection: Connection, owner: int, queues: Iterable[str], limit: int) -> list[Delivery]:
    """Lease up to `limit` ready messages, from the queues in their order."""
    claimed: list[Delivery] = []
    for queue in queues:
        if limit > len(claimed):
            rows = connection.execute(_first, {"of_queue": queue, "most": limit - len(claimed)}).all()
            claimed += [
                Delivery(frame, queue, seq, fence + 1, crashes, recovered > 0)
                for seq, fence, crashes, recovered, frame in rows
            ]
    for seqs in padded([delivery.token for delivery in claimed]):
        connection.execute(_claim, {"me": owner, "seqs": seqs})
    return claimed


# -- settling -------------------------------------------------------------------------------------

_held = select(_m.seq, _m.fence).where(_seqs, _m.owner == bindparam("me"), _m.state == LEASED).with_for_update()
_begin = update(messages).where(_seqs).values(began=1)
_release = update(messages).where(_seqs).values(**_FREE)
_reject = update(messages).where(_seqs).values(**_FREE, crashes=_m.crashes + 1)
_forget = delete(messages).where(_seqs)
_retry = (
    update(messages)
    .where(_m.seq == bindparam("the_seq"))
    .values(
        owner=0,
        began=0,
        state=bindparam("new_state"),
        due=bindparam("new_due"),
        frame=func.coalesce(bindparam("new_frame"), _m.frame),
    )
)
_bury = insert(dead).from_select(
    ["queue", "rank", "fence", "died_at", "reason", "frame"],
    select(_m.queue, _m.rank, _m.fence, bindparam("now"), bindparam("why"), _m.frame).where(
        _m.seq == bindparam("the_seq")
    ),
)


def begin(connection: Connection, owner: int, deliveries: Sequence[Delivery]) -> list[Delivery]:
    """Record that attempts begin; return the deliveries that the lease does not hold any more."""
    return _change_held(connection, owner, deliveries, _begin)


def release(connection: Connection, owner: int, deliveries: Sequence[Delivery]) -> None:
    """Hand messages back, as far as they are still held."""
    _change_held(connection, owner, deliveries, _release)


def settle(connection: Connection, owner: int, decisions: Sequence[Decision], now: int) -> list[Delivery]:
    """Carry out decisions; return the deliveries that the lease does not hold any more."""
    held = _held_fences(connection, owner, [decision.delivery for decision in decisions])
    by_action: dict[Action, list[Decision]] = {}
    lost: list[Delivery] = []
    for decision in decisions:
        delivery = decision.delivery
        if held.get(delivery.token) == delivery.fence:
            del held[delivery.token]
            by_action.setdefault(decision.action, []).append(decision)
        else:
            lost.append(delivery)
    for action, decided in by_action.items():
        seqs = [decision.delivery.token for decision in decided]
        if action is Action.ACK:
            _each(connection, _forget, seqs)
        elif action is Action.REJECT:
            _each(connection, _reject, seqs)
        elif action is Action.RETRY:
            connection.execute(_retry, [_retried(decision, now) for decision in decided])
            if failpoints.on:
                failpoints.hit("P16")
        elif action is Action.DEAD:
            rows = [{"the_seq": it.delivery.token, "now": now, "why": it.reason} for it in decided]
            connection.execute(_bury, rows)
            if failpoints.on:
                failpoints.hit("P15")
            _each(connection, _forget, seqs)
    return lost


def makes_ready(decisions: Iterable[Decision]) -> bool:
    """Whether decisions put messages back, for which workers may be waiting."""
    return any(decision.action in (Action.REJECT, Action.RETRY) for decision in decisions)


def _retried(decision: Decision, now: int) -> dict[str, object]:
    return {
        "the_seq": decision.delivery.token,
        "new_state": DELAYED if decision.due > now else READY,
        "new_due": max(decision.due, now),
        "new_frame": decision.frame or None,
    }


def _change_held(
    connection: Connection, owner: int, deliveries: Sequence[Delivery], statement: Update
) -> list[Delivery]:
    held = _held_fences(connection, owner, deliveries)
    kept: list[Delivery] = []
    lost: list[Delivery] = []
    for delivery in deliveries:
        (kept if held.get(delivery.token) == delivery.fence else lost).append(delivery)
    _each(connection, statement, [delivery.token for delivery in kept])
    return lost


def _held_fences(connection: Connection, owner: int, deliveries: Sequence[Delivery]) -> dict[object, int]:
    # A message names its owner only while that owner's lease lasts: who ends the lease takes them all away.
    fences: dict[object, int] = {}
    for seqs in padded([delivery.token for delivery in deliveries]):
        fences.update((seq, fence) for seq, fence in connection.execute(_held, {"me": owner, "seqs": seqs}))
    return fences


def _each(connection: Connection, statement: Update | Delete, seqs: Sequence[object]) -> None:
    for chunk in padded(seqs):
        connection.execute(statement, {"seqs": chunk})
