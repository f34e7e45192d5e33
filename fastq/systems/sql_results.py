"""What is done to outcomes and groups in SQL: each function is one step inside a transaction of its caller."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from sqlalchemy import Connection, bindparam, delete, func, or_, select
from sqlalchemy.dialects import sqlite

from fastq.outcome import Outcome
from fastq.systems.sql_messages import padded
from fastq.systems.sql_schema import groups, results

_r = results.c
_ids = _r.id.in_(bindparam("ids", expanding=True))
_lasts = _r.expires > bindparam("now")

# The new row's number replaces the old one's, so whoever waits finds every change behind what it has seen.
_new = sqlite.insert(results)
_store = _new.on_conflict_do_update(
    index_elements=["id"],
    set_={name: _new.excluded[name] for name in ("seq", "member_of", "terminal", "attempt", "expires", "frame")},
    where=or_(
        (_r.terminal == 0) & (_r.attempt <= _new.excluded.attempt),
        _r.expires <= bindparam("now"),
    ),
)
_load = select(_r.id, _r.frame).where(_ids, _lasts)
_last = select(func.coalesce(func.max(_r.seq), 0))
_ended = select(_r.id, _r.frame).where(_ids, _lasts, _r.terminal == 1).order_by(_r.seq)
_since = select(_r.seq, _r.id, _r.terminal).where(_r.seq > bindparam("seen")).order_by(_r.seq).limit(bindparam("most"))
_forget = delete(results).where(_ids)
_expired = select(_r.id).where(_r.expires <= bindparam("now")).limit(bindparam("most"))
_expired_groups = delete(groups).where(groups.c.expires <= bindparam("now"))
_new_group = sqlite.insert(groups)
_keep_group = _new_group.on_conflict_do_update(
    index_elements=["id"], set_={"expires": _new_group.excluded.expires, "members": _new_group.excluded.members}
)
_members = select(groups.c.members).where(groups.c.id == bindparam("group"), groups.c.expires > bindparam("now"))
_completed = select(func.count()).where(_r.member_of == bindparam("group"), _r.terminal == 1, _lasts)


def store(connection: Connection, outcomes: Iterable[Outcome], now: int, expires: int) -> None:
    """Keep outcomes, but none in place of a terminal one or of a later attempt."""
    rows = [
        {
            "id": outcome.id,
            "member_of": outcome.group or None,
            "terminal": int(outcome.state.terminal),
            "attempt": outcome.attempt,
            "expires": expires,
            "frame": outcome.encode(),
            "now": now,
        }
        for outcome in outcomes
    ]
    if rows:
        connection.execute(_store, rows)


def expire(connection: Connection, now: int, most: int) -> None:
    """Delete up to `most` outcomes, and all groups, that have expired."""
    forget(connection, connection.execute(_expired, {"now": now, "most": most}).scalars().all())
    connection.execute(_expired_groups, {"now": now})


def load(connection: Connection, ids: Sequence[bytes], now: int) -> dict[bytes, Outcome]:
    """Return what is known of these ids."""
    rows = [row for chunk in padded(ids) for row in connection.execute(_load, {"ids": chunk, "now": now})]
    return {id: Outcome.decode(frame) for id, frame in rows}


def ended(connection: Connection, ids: Iterable[bytes], now: int) -> list[Outcome]:
    """Return the terminal outcomes of these ids."""
    chunks = padded(list(ids))
    rows = [row for chunk in chunks for row in connection.execute(_ended, {"ids": chunk, "now": now})]
    return [Outcome.decode(frame) for _, frame in rows]


def last(connection: Connection) -> int:
    """Return the number of the latest change."""
    return int(connection.execute(_last).scalar_one())


def ended_since(
    connection: Connection, seen: int, pending: Collection[bytes], now: int, most: int
) -> tuple[int, list[Outcome]]:
    """Return how far it has looked, and the terminal outcomes of `pending` among up to `most` changes after `seen`."""
    rows = connection.execute(_since, {"seen": seen, "most": most}).all()
    wanted = [id for _, id, terminal in rows if terminal and id in pending]
    return rows[-1][0] if rows else seen, ended(connection, wanted, now)


def forget(connection: Connection, ids: Sequence[bytes]) -> None:
    """Delete what is known of these ids."""
    for chunk in padded(ids):
        connection.execute(_forget, {"ids": chunk})


def create_group(connection: Connection, group: bytes, ids: Sequence[bytes], expires: int) -> None:
    """Keep the members of a group."""
    connection.execute(_keep_group, {"id": group, "expires": expires, "members": b"".join(ids)})


def group_members(connection: Connection, group: bytes, now: int) -> list[bytes]:
    """Return the members of a group."""
    members = connection.execute(_members, {"group": group, "now": now}).scalar() or b""
    return [members[at : at + 16] for at in range(0, len(members), 16)]


def group_completed(connection: Connection, group: bytes, now: int) -> int:
    """Return how many of a group's outcomes are terminal."""
    return int(connection.execute(_completed, {"group": group, "now": now}).scalar_one())
