"""What is done to flows and logs in SQL: each function is one step inside a transaction of its caller.

Each flow has a row that says how many of its tasks are pending, and each log one with the number of its latest entry.
Who changes a flow or adds to a log changes that row, and so waits for others who do: two who arrive at once can't
both miss that they are the last, and no entry becomes visible after one with a higher number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import BindParameter, Connection, bindparam, delete, insert, select, update
from sqlalchemy.dialects import sqlite

from fastq.state import Arrival, Continuation, Flow
from fastq.systems.sql_messages import padded
from fastq.systems.sql_schema import entries, flows, logs, needs

_f, _n, _l, _e = flows.c, needs.c, logs.c, entries.c
_ids: BindParameter[object] = bindparam("ids", expanding=True)
_tasks: BindParameter[bytes] = bindparam("tasks", expanding=True)

# -- flows ------------------------------------------------------------------------------------------------

_open = sqlite.insert(flows).on_conflict_do_nothing()
_need = insert(needs).values(place=0)
_overdue = select(_f.id).where(_f.id.in_(_ids), _f.expires <= bindparam("now"))
_lock = (
    select(_f.id, _f.pending, _f.continuation)
    .where(_f.id.in_(_ids), _f.expires > bindparam("now"))
    .order_by(_f.id)
    .with_for_update()
)
_of_flow = _n.flow == bindparam("of_flow")
_waited_for = select(_n.task).where(_of_flow, _n.task.in_(_tasks), _n.place == 0)
_ended = delete(needs).where(_of_flow, _n.task.in_(_tasks))
_failed = update(needs).where(_of_flow, _n.task == bindparam("of_task")).values(place=bindparam("new_place"))
_left = update(flows).where(_f.id == bindparam("of_flow")).values(pending=bindparam("new_pending"))
_failures = select(_n.task).where(_of_flow).order_by(_n.place.desc())
_forget_needs = delete(needs).where(_n.flow.in_(_ids))
_forget_flows = delete(flows).where(_f.id.in_(_ids))
_expired_flows = select(_f.id).where(_f.expires <= bindparam("now")).limit(bindparam("most"))


def open_flows(connection: Connection, new: Sequence[Flow], now: int, expires: int) -> None:
    """Keep flows that are not known."""
    for chunk in padded([flow.id for flow in new]):
        close_flows(connection, connection.execute(_overdue, {"ids": chunk, "now": now}).scalars().all())
    rows: list[dict[str, object]] = []
    for id, tasks, then in new:
        row = {"id": id, "expires": expires, "pending": len(tasks), "continuation": then}
        if connection.execute(_open, row).rowcount:
            rows += [{"flow": id, "task": task} for task in tasks]
    if rows:
        connection.execute(_need, rows)


def arrive(connection: Connection, arrivals: Iterable[Arrival], now: int) -> list[Continuation]:
    """Note ends; return what is to be done."""
    by_flow: dict[bytes, dict[bytes, bool]] = {}
    for flow, task, failed in arrivals:
        by_flow.setdefault(flow, {}).setdefault(task, failed)
    continuations: list[Continuation] = []
    for chunk in padded(sorted(by_flow)):
        for id, pending, then in connection.execute(_lock, {"ids": chunk, "now": now}).all():
            if not _note(connection, id, by_flow[id], pending):
                failures = connection.execute(_failures, {"of_flow": id}).scalars().all()
                continuations.append(Continuation(id, then, tuple(failures)))
    return continuations


def _note(connection: Connection, flow: bytes, ends: dict[bytes, bool], pending: int) -> int:
    """Note the ends of some tasks; return how many are pending then."""
    known: set[bytes] = set()
    for chunk in padded(list(ends)):
        known.update(connection.execute(_waited_for, {"of_flow": flow, "tasks": chunk}).scalars())
    if not known:
        return pending
    failed: list[dict[str, object]] = []
    for task in (task for task in ends if task in known):
        if ends[task]:
            failed.append({"of_flow": flow, "of_task": task, "new_place": pending})
        pending -= 1
    for chunk in padded([task for task in known if not ends[task]]):
        connection.execute(_ended, {"of_flow": flow, "tasks": chunk})
    if failed:
        connection.execute(_failed, failed)
    connection.execute(_left, {"of_flow": flow, "new_pending": pending})
    return pending


def close_flows(connection: Connection, ids: Sequence[bytes]) -> None:
    """Forget flows."""
    for chunk in padded(ids):
        connection.execute(_forget_needs, {"ids": chunk})
        connection.execute(_forget_flows, {"ids": chunk})


# -- logs -------------------------------------------------------------------------------------------------

_of_name = _l.name == bindparam("of_name")
_add = update(logs).where(_of_name).values(last=_l.last + bindparam("count"), expires=bindparam("new_expires"))
_begin = sqlite.insert(logs).on_conflict_do_nothing()
_vanished = select(_l.seq).where(_of_name, _l.expires <= bindparam("now"))
_head = select(_l.seq, _l.last).where(_of_name, _l.expires > bindparam("now"))
_append = insert(entries)
_of_log = _e.log == bindparam("of_log")
_trim = delete(entries).where(_of_log, _e.number <= bindparam("up_to"))
_since = (
    select(_e.number, _e.entry)
    .where(_of_log, _e.number > bindparam("seen"))
    .order_by(_e.number)
    .limit(bindparam("most"))
)
_expired_logs = select(_l.seq).where(_l.expires <= bindparam("now")).limit(bindparam("most"))
_forget_entries = delete(entries).where(_e.log.in_(_ids))
_forget_logs = delete(logs).where(_l.seq.in_(_ids))


class Place(NamedTuple):
    """How far a log was read."""

    log: int  # the one of this number; 0: none
    number: int  # of the last entry that was read


START = Place(0, 0)


def append(connection: Connection, name: str, new: Sequence[bytes], keep: int, now: int, expires: int) -> None:
    """Add entries, of which there is one at least, to a log, and drop all but the last `keep`."""
    _forget(connection, connection.execute(_vanished, {"of_name": name, "now": now}).scalars().all())
    count = {"of_name": name, "count": len(new), "new_expires": expires}
    if not connection.execute(_add, count).rowcount:
        connection.execute(_begin, {"name": name, "last": 0, "expires": expires})
        connection.execute(_add, count)
    log, last = connection.execute(_head, {"of_name": name, "now": now}).one()
    kept = new[-keep:]
    first = last - len(kept) + 1
    connection.execute(_append, [{"log": log, "number": first + at, "entry": it} for at, it in enumerate(kept)])
    connection.execute(_trim, {"of_log": log, "up_to": last - keep})


def end(connection: Connection, name: str, now: int) -> Place:
    """Return the end of a log."""
    head = connection.execute(_head, {"of_name": name, "now": now}).first()
    return START if head is None else Place(*head)


def since(connection: Connection, name: str, place: Place, now: int, most: int) -> tuple[Place, list[bytes]]:
    """Return how far a log is read then, and up to `most` of the entries that follow a place."""
    log, last = end(connection, name, now)
    seen = place.number if log == place.log else 0  # another log began under this name
    if last <= seen:
        return place, []
    rows = connection.execute(_since, {"of_log": log, "seen": seen, "most": most}).all()
    return Place(log, rows[-1][0] if rows else seen), [entry for _, entry in rows]


def _forget(connection: Connection, old: Sequence[int]) -> None:
    for chunk in padded(old):
        connection.execute(_forget_entries, {"ids": chunk})
        connection.execute(_forget_logs, {"ids": chunk})


# -- what has expired -------------------------------------------------------------------------------------


def expire(connection: Connection, now: int, most: int) -> None:
    """Delete up to `most` each of the flows and logs that have expired."""
    close_flows(connection, connection.execute(_expired_flows, {"now": now, "most": most}).scalars().all())
    _forget(connection, connection.execute(_expired_logs, {"now": now, "most": most}).scalars().all())
