"""The tables of the SQL systems. Times are microseconds since the epoch, by the server's clock."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, SmallInteger, String, Table, Text
from sqlalchemy.types import TypeEngine

READY, DELAYED, LEASED = 0, 1, 2  # states of a message

#: The ids of one IN list at most. Lists are padded to a power of two, so that there are few different texts to prepare.
CHUNK = 512

metadata = MetaData()


def _serial() -> Column[int]:
    # Never used twice, not even after a deletion: tokens and cursors rely on it. SQLite numbers only an INTEGER.
    kind: TypeEngine[int] = BigInteger().with_variant(Integer, "sqlite")
    return Column("seq", kind, primary_key=True, autoincrement=True)


def _blob() -> LargeBinary:
    return LargeBinary((1 << 32) - 1)


messages = Table(
    "fastq_messages",
    metadata,
    _serial(),
    Column("queue", String(255), nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("rank", SmallInteger, nullable=False),  # 9 - priority: the lowest goes first
    Column("due", BigInteger, nullable=False),  # when it is, or became, ready: its place within the rank
    Column("owner", BigInteger, nullable=False),  # owners.seq of the lease that holds it, or 0
    Column("fence", Integer, nullable=False),  # how often it was claimed
    Column("crashes", Integer, nullable=False),
    Column("recovered", Integer, nullable=False),  # how often it was taken over from a dead owner
    Column("began", SmallInteger, nullable=False),
    Column("frame", _blob(), nullable=False),
    sqlite_autoincrement=True,
)

# The order of a claim. It serves whatever else is asked by queue too, the sweep of a dead owner included: the leased
# messages of a queue are few, so an index by owner would cost each claim and settle more than it saves.
Index("fastq_messages_place", *(messages.c[name] for name in ("queue", "state", "rank", "due", "seq")))

# What falls due next. Partial: a message that is never delayed doesn't pay for it. (Options of another dialect belong
# into the module of its system: to name one here loads that dialect into every process, 2.4 MB of it for PostgreSQL's.)
Index("fastq_messages_delayed", messages.c.state, messages.c.due, sqlite_where=messages.c.state == DELAYED)

owners = Table(
    "fastq_owners",
    metadata,
    _serial(),
    Column("owner", String(36), nullable=False, unique=True),
    Column("until", BigInteger, nullable=False),  # the one row that a renewal changes
    Column("about", Text, nullable=False),  # JSON
    sqlite_autoincrement=True,
)

dead = Table(
    "fastq_dead",
    metadata,
    _serial(),
    Column("queue", String(255), nullable=False),
    Column("rank", SmallInteger, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("died_at", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("frame", _blob(), nullable=False),
    sqlite_autoincrement=True,
)
Index("fastq_dead_queue", dead.c.queue, dead.c.seq)

results = Table(
    "fastq_results",
    metadata,
    _serial(),  # renewed with every change: the order in which outcomes came
    Column("id", LargeBinary(16), nullable=False, unique=True),
    Column("member_of", LargeBinary(16), nullable=True),  # its group
    Column("terminal", SmallInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("expires", BigInteger, nullable=False),
    Column("frame", _blob(), nullable=False),
    sqlite_autoincrement=True,
)
Index("fastq_results_expires", results.c.expires)
Index(
    "fastq_results_group",
    results.c.member_of,
    results.c.terminal,
    results.c.expires,
    sqlite_where=results.c.member_of.is_not(None),
)

groups = Table(
    "fastq_groups",
    metadata,
    Column("id", LargeBinary(16), primary_key=True),
    Column("expires", BigInteger, nullable=False, index=True),
    Column("members", _blob(), nullable=False),  # ids of 16 bytes, in order
)

# -- shared state -----------------------------------------------------------------------------------------

facts = Table(
    "fastq_facts",
    metadata,
    Column("family", String(255), primary_key=True),
    Column("name", String(255), primary_key=True),
    Column("expires", BigInteger, nullable=False, index=True),
    Column("value", _blob(), nullable=False),
)

limits = Table(
    "fastq_limits",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("start", BigInteger, nullable=False),  # the latest, where starts are limited
    Column("expires", BigInteger, nullable=False, index=True),
)

slots = Table(
    "fastq_slots",
    metadata,
    Column("name", String(255), primary_key=True),  # of the limit
    Column("holder", String(255), primary_key=True),
    Column("until", BigInteger, nullable=False, index=True),
    sqlite_with_rowid=False,
)

flows = Table(
    "fastq_flows",
    metadata,
    Column("id", LargeBinary(16), primary_key=True),
    Column("expires", BigInteger, nullable=False, index=True),
    Column("pending", Integer, nullable=False),  # how many of its tasks have not ended
    Column("continuation", _blob(), nullable=False),
)

needs = Table(
    "fastq_needs",
    metadata,
    Column("flow", LargeBinary(16), primary_key=True),
    Column("task", LargeBinary(16), primary_key=True),
    Column("place", Integer, nullable=False),  # 0: it has not ended; else it failed when so many were pending
    sqlite_with_rowid=False,
)

logs = Table(
    "fastq_logs",
    metadata,
    _serial(),  # a log that vanished and began anew has another
    Column("name", String(255), nullable=False, unique=True),
    Column("last", BigInteger, nullable=False),  # the number of its latest entry
    Column("expires", BigInteger, nullable=False, index=True),
    sqlite_autoincrement=True,
)

entries = Table(
    "fastq_entries",
    metadata,
    Column("log", BigInteger, primary_key=True, autoincrement=False),  # logs.seq
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("entry", _blob(), nullable=False),
)
