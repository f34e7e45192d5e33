"""What is done to facts and limits in SQL: each function is one step inside a transaction of its caller.

Who answers asks locks the rows of their limits first, in the order of their names, so that on a server with
concurrent writers the slots that are counted then are nobody else's to take.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import BindParameter, Connection, bindparam, delete, select, update
from sqlalchemy.dialects import sqlite

from fastq.state import Answer, Ask
from fastq.systems.limits import LATE_US, Turnstile, slots_of
from fastq.systems.sql_messages import padded
from fastq.systems.sql_schema import facts, limits, slots

_f, _l, _s = facts.c, limits.c, slots.c
_LOCK_LASTS_US = 3_600_000_000  # how long the row of a limit is kept when nothing but its lock is needed

# -- facts ------------------------------------------------------------------------------------------------

_named = (_f.family == bindparam("of_family"), _f.name == bindparam("of_name"))
_these = (_f.family == bindparam("of_family"), _f.name.in_(bindparam("names", expanding=True)))
_lasts = _f.expires > bindparam("now")
_new = sqlite.insert(facts)
_renewed = {"expires": _new.excluded.expires, "value": _new.excluded.value}
_put = _new.on_conflict_do_update(index_elements=["family", "name"], set_=_renewed)
_put_new = _new.on_conflict_do_update(
    index_elements=["family", "name"], set_=_renewed, where=_f.expires <= bindparam("now")
)
_get = select(_f.name, _f.value).where(*_these, _lasts)
_find = select(_f.name, _f.value).where(_f.family == bindparam("of_family"), _lasts)
_delete = delete(facts).where(*_these, _lasts)
_delete_if = delete(facts).where(*_named, _f.value == bindparam("of_value"), _lasts)
_replace_if = (
    update(facts)
    .where(*_named, _f.value == bindparam("of_value"), _lasts)
    .values(value=bindparam("new_value"), expires=bindparam("new_expires"))
)
_expired = select(_f.family, _f.name).where(_f.expires <= bindparam("now")).limit(bindparam("most"))
_expire = delete(facts).where(*_named, _f.expires <= bindparam("now"))


def put(connection: Connection, family: str, new: Mapping[str, bytes], expires: int) -> None:
    """Keep facts, of which there is one at least."""
    rows = [{"family": family, "name": name, "value": value, "expires": expires} for name, value in new.items()]
    connection.execute(_put, rows)


def put_new(connection: Connection, family: str, name: str, value: bytes, now: int, expires: int) -> bytes | None:
    """Keep a fact unless there is one; return the value of that one, None if this one was kept."""
    row = {"family": family, "name": name, "value": value, "expires": expires, "now": now}
    if connection.execute(_put_new, row).rowcount:
        return None
    return get(connection, family, [name], now)[name]


def get(connection: Connection, family: str, names: Sequence[str], now: int) -> dict[str, bytes]:
    """Return the facts of these names."""
    known: dict[str, bytes] = {}
    for chunk in padded(names):
        rows = connection.execute(_get, {"of_family": family, "names": chunk, "now": now})
        known.update((name, value) for name, value in rows)
    return known


def find(connection: Connection, family: str, now: int) -> dict[str, bytes]:
    """Return all facts of a family."""
    return {row[0]: row[1] for row in connection.execute(_find, {"of_family": family, "now": now})}


def remove(connection: Connection, family: str, names: Sequence[str], now: int) -> int:
    """Delete facts; return how many there were."""
    return sum(
        connection.execute(_delete, {"of_family": family, "names": chunk, "now": now}).rowcount
        for chunk in padded(names)
    )


def remove_if(connection: Connection, family: str, name: str, value: bytes, now: int) -> bool:
    """Delete a fact if it has this value; return whether it was deleted."""
    row = {"of_family": family, "of_name": name, "of_value": value, "now": now}
    return connection.execute(_delete_if, row).rowcount > 0


def replace_if(
    connection: Connection, family: str, name: str, old: bytes, new: bytes, now: int, expires: int
) -> bool:  # fmt: skip
    """Keep a fact in place of one that has the value `old`; return whether it had."""
    row = {
        "of_family": family, "of_name": name, "of_value": old, "now": now, "new_value": new, "new_expires": expires,
    }  # fmt: skip
    return connection.execute(_replace_if, row).rowcount > 0


# -- limits -----------------------------------------------------------------------------------------------

_names: BindParameter[str] = bindparam("names", expanding=True)
_lock = select(_l.name, _l.start).where(_l.name.in_(_names)).order_by(_l.name).with_for_update()
_know = sqlite.insert(limits).values(start=0).on_conflict_do_nothing()
_start = (
    update(limits)
    .where(_l.name == bindparam("of_name"))
    .values(start=bindparam("new_start"), expires=bindparam("new_expires"))
)
_end_leases = delete(slots).where(_s.name.in_(_names), _s.until <= bindparam("now"))
_holders = select(_s.name, _s.holder).where(_s.name.in_(_names))
_new_slot = sqlite.insert(slots)
_hold = _new_slot.on_conflict_do_update(index_elements=["name", "holder"], set_={"until": _new_slot.excluded.until})
_slot = (_s.name == bindparam("of_name"), _s.holder == bindparam("of_holder"))
_extend = update(slots).where(*_slot).values(until=bindparam("new_until"))
_free = delete(slots).where(*_slot)
_unused = select(_l.name).where(_l.expires <= bindparam("now")).limit(bindparam("most"))
_forget_limit = delete(limits).where(_l.name == bindparam("of_name"), _l.expires <= bindparam("now"))
_ended_leases = select(_s.name, _s.holder).where(_s.until <= bindparam("now")).limit(bindparam("most"))
_end_lease = delete(slots).where(*_slot, _s.until <= bindparam("now"))


def acquire(connection: Connection, asks: Sequence[Ask], now: int, until: int, horizon_us: int) -> list[Answer]:
    """Answer asks; slots are held until `until`."""
    starts = _locked(connection, sorted({limit.key for ask in asks for limit in ask.limits}), now)
    taken = {key: 0 for key, _ in slots_of(asks)}
    held: set[tuple[str, str]] = set()
    for chunk in padded(list(taken)):
        connection.execute(_end_leases, {"names": chunk, "now": now})
        for key, holder in connection.execute(_holders, {"names": chunk}):
            taken[key] += 1
            held.add((key, holder))
    turnstile = Turnstile(now=now, horizon_us=horizon_us, starts=starts, taken=taken, held=held)
    answers = [turnstile.answer(ask) for ask in asks]
    if turnstile.binding:
        rows = [
            {"of_name": key, "new_start": starts[key], "new_expires": expires}
            for key, expires in turnstile.binding.items()
        ]
        connection.execute(_start, rows)
    if turnstile.slots:
        connection.execute(_hold, [{"name": key, "holder": it, "until": until} for key, it in turnstile.slots])
    return answers


def _locked(connection: Connection, names: Sequence[str], now: int) -> dict[str, int]:
    """Return the latest starts of limits, 0 for none, with their rows locked."""
    starts: dict[str, int] = {}
    while True:
        for chunk in padded([name for name in names if name not in starts]):
            starts.update((name, start) for name, start in connection.execute(_lock, {"names": chunk}))
        missing = [{"name": name, "expires": now + _LOCK_LASTS_US} for name in names if name not in starts]
        if not missing:
            return starts
        connection.execute(_know, missing)


def extend(connection: Connection, asks: Sequence[Ask], until: int) -> None:
    """Hold until `until` what is held, and what nobody has asked for since it was."""
    if rows := _rows(slots_of(asks)):
        connection.execute(_extend, [{**row, "new_until": until} for row in rows])


def give_back(connection: Connection, asks: Sequence[Ask]) -> None:
    """Free slots."""
    if rows := _rows(slots_of(asks)):
        connection.execute(_free, rows)


def _rows(held: Sequence[tuple[str, str]]) -> list[dict[str, object]]:
    return [{"of_name": key, "of_holder": holder} for key, holder in held]


# -- what has expired -------------------------------------------------------------------------------------


def expire(connection: Connection, now: int, most: int) -> None:
    """Delete up to `most` each of the facts, limits and slots that have expired."""
    old = connection.execute(_expired, {"now": now, "most": most}).all()
    if old:
        connection.execute(_expire, [{"of_family": family, "of_name": name, "now": now} for family, name in old])
    unused = connection.execute(_unused, {"now": now, "most": most}).scalars().all()
    if unused:
        connection.execute(_forget_limit, [{"of_name": name, "now": now} for name in unused])
    ended = connection.execute(_ended_leases, {"now": now - LATE_US, "most": most}).all()
    if ended:
        rows = [{"of_name": key, "of_holder": holder, "now": now - LATE_US} for key, holder in ended]
        connection.execute(_end_lease, rows)
