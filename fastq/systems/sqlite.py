"""What is SQLite's own about the SQL system: URL options, pragmas, transactions, bells and what its errors mean."""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl, unquote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from fastq.diagnosis import Diagnosis, Weakness
from fastq.errors import ConfigurationError, UnknownSetting, did_you_mean
from fastq.message import now_us
from fastq.systems.bells import Belfry

logger = logging.getLogger(__name__)

_OPTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"journal_mode": ("WAL", "DELETE", "TRUNCATE", "PERSIST"), "synchronous": ("FULL", "NORMAL", "EXTRA")}
)
_OLDEST = (3, 24, 0)  # the first with INSERT … ON CONFLICT
_PATIENCE_MS = 15_000  # how long a transaction waits for those of other processes


@dataclass(frozen=True)
class SqliteUrl:
    """A file and how it is to be used."""

    path: Path
    journal_mode: str = "WAL"
    synchronous: str = "FULL"

    @classmethod
    def parse(cls, url: str) -> SqliteUrl:
        """Read sqlite:///relative or sqlite:////absolute, and options. Raises ConfigurationError."""
        rest, _, query = url.partition("://")[2].partition("?")
        file = unquote(rest[1:])
        if not rest.startswith("/") or not file:
            raise ConfigurationError(
                f"{url!r} names no file: it has the form sqlite:///fastq.db or sqlite:////var/fastq.db"
            )
        if ":memory:" in file:
            raise ConfigurationError(f"{url!r} would be seen by one connection only: use memory://")
        options: dict[str, str] = {}
        for name, value in parse_qsl(query, keep_blank_values=True):
            if name not in _OPTIONS:
                hint = did_you_mean(name, _OPTIONS)
                raise UnknownSetting(f"{url!r} has an option {name!r} that SQLite URLs don't have: {hint}")
            if value.upper() not in _OPTIONS[name]:
                raise ConfigurationError(f"{name}={value} in {url!r}: it takes {', '.join(_OPTIONS[name])}")
            options[name] = value.upper()
        # Absolute, so that the file stays the same when the process changes its directory.
        return cls(Path(file).absolute(), **options)


#: What SQLite's errors arrive as: those of transactions that can't begin are not wrapped.
ERRORS = (SQLAlchemyError, sqlite3.Error)


@dataclass
class Sqlite:
    """The SQLite side of an SqlSystem: one file.

    Rule: nothing here opens the database file itself. Closing a descriptor of it, any descriptor, would drop
    the locks that SQLite holds on it in this process.
    """

    url: SqliteUrl
    clock: Callable[[], int] = now_us  # all who use the file are on this host, so its clock is the server's
    _writing: threading.Lock = field(default_factory=threading.Lock)
    _file: tuple[int, int] | None = None  # device and inode

    def __post_init__(self) -> None:
        if sqlite3.sqlite_version_info < _OLDEST:
            raise ConfigurationError(
                f"SQLite {sqlite3.sqlite_version} is too old: fastq needs {'.'.join(map(str, _OLDEST))} or later"
            )
        self.bells = Belfry(Path(f"{self.url.path}-bells"))
        self.engine = self._engine()

    def _engine(self) -> Engine:
        engine: Engine = create_engine(
            URL.create("sqlite", database=str(self.url.path)),
            connect_args={"timeout": _PATIENCE_MS / 1000, "check_same_thread": False},
            max_overflow=-1,
            pool_use_lifo=True,  # the connection whose page cache is warm
        )
        event.listen(engine, "connect", self._connected)
        event.listen(engine, "begin", self._begin)
        self._durable = engine.execution_options(fastq_transaction="durable")
        self._volatile = engine.execution_options(fastq_transaction="volatile")
        return engine

    def _connected(self, connection: sqlite3.Connection, record: Any) -> None:
        connection.isolation_level = None  # transactions begin where `_begin` says
        self._set_journal(connection)
        connection.execute(f"PRAGMA synchronous={self.url.synchronous}").close()
        record.info["synchronous"] = self.url.synchronous

    def _set_journal(self, connection: sqlite3.Connection) -> None:
        # Changing the journal needs the file for itself, and SQLite doesn't wait for that: processes that start
        # together would trip over each other.
        give_up = time.monotonic() + _PATIENCE_MS / 1000
        while True:
            try:
                (mode,) = connection.execute(f"PRAGMA journal_mode={self.url.journal_mode}").fetchone()
                if mode.upper() == self.url.journal_mode:
                    return
                problem = sqlite3.OperationalError(f"database is locked in journal mode {mode}")
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):
                    raise
                problem = error
            if time.monotonic() > give_up:
                raise problem
            time.sleep(random.uniform(0.001, 0.01))

    def _begin(self, connection: Connection) -> None:
        kind = connection.get_execution_options().get("fastq_transaction", "read")
        raw = connection.connection
        driver: Any = raw.dbapi_connection
        if kind == "read":
            driver.execute("BEGIN")
            return
        synchronous = self._synchronous(durable=kind == "durable")
        if raw.info["synchronous"] != synchronous:  # it can't be changed within a transaction
            driver.execute(f"PRAGMA synchronous={synchronous}")
            raw.info["synchronous"] = synchronous
        driver.execute("BEGIN IMMEDIATE")

    def _synchronous(self, *, durable: bool) -> str:
        """Return how a commit is written.

        Claims, renewals and sweeps needn't reach the disk at once. Only a crash of the host can take them back,
        and it takes every holder of a lease along with it: the messages are then found ready instead of
        leased. In WAL mode the file stays whole, and the next durable commit writes what was left. With
        another journal NORMAL might damage the file when the power fails, so there all is written.
        """
        return self.url.synchronous if durable or self.url.journal_mode != "WAL" else "NORMAL"

    @contextlib.contextmanager
    def write(self, *, durable: bool) -> Iterator[Connection]:
        """Give a write transaction. Threads take turns here, where they wake at once, not in SQLite's busy loop."""
        with self._writing, (self._durable if durable else self._volatile).begin() as connection:
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a read transaction: one snapshot."""
        with self.engine.begin() as connection:
            yield connection

    def remember(self) -> None:
        """Note which file it is that is used."""
        self._file = self._found()

    def is_there(self) -> bool:
        """Return whether the path still leads to that file."""
        return self._found() == self._file

    def _found(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self.url.path)  # noqa: PTH116  Path.stat costs twice as much
        except FileNotFoundError:
            return None
        except OSError:  # that is another matter, of which SQLite will say what it is
            return self._file
        return found.st_dev, found.st_ino

    def warn_of_known_defects(self) -> None:
        """Log, once a process, what this version of the library is known to do wrong. For those who run for long."""
        global _warned
        defect = self._wal_reset()
        if defect is not None and not _warned:
            _warned = True
            logger.warning("SQLite %s has a known defect in WAL mode: see fastq doctor", sqlite3.sqlite_version)

    def diagnose(self) -> Diagnosis:
        """Return what the file and the library promise."""
        url = self.url
        weaknesses = [weakness for weakness in (self._wal_reset(), _network_file(url.path)) if weakness is not None]
        if url.synchronous == "NORMAL":
            promise = "accepted messages survive the death of every process; a power failure may take the last ones"
            weaknesses.append(Weakness("synchronous=NORMAL does not wait for the disk", "leave it out of the URL"))
        else:
            promise = "accepted messages survive the death of every process, and a power failure"
        system = f"SQLite {sqlite3.sqlite_version}, journal {url.journal_mode}, {url.path}"
        return Diagnosis(system, f"{promise}; the host's disk is the one copy", tuple(weaknesses))

    def _wal_reset(self) -> Weakness | None:
        version = sqlite3.sqlite_version_info
        fixed = version >= (3, 51, 3) or (3, 44, 6) <= version < (3, 45) or (3, 50, 7) <= version < (3, 51)
        if fixed or self.url.journal_mode != "WAL":
            return None
        return Weakness(
            f"SQLite {sqlite3.sqlite_version} may damage a database in WAL mode in a rare race between processes that "
            "write to it (fixed in 3.51.3, 3.50.7 and 3.44.6)",
            "where more than one process does, use a newer library or ?journal_mode=DELETE",
        )

    def disconnect(self) -> None:
        """Close the connections, none of which is in use; they are opened again at need."""
        self.engine.dispose()

    def close(self) -> None:
        """Leave nothing open."""
        self.disconnect()
        self.bells.close()

    def abandon(self) -> None:
        """In a forked child: begin anew."""
        self._writing = threading.Lock()
        self.bells.abandon()

    def is_full(self, error: BaseException) -> bool:
        """Whether an error says that there is no room."""
        return "full" in str(error)

    def leaves_doubt(self, error: BaseException) -> bool:
        """Whether a commit that ended with this error may be found carried out after all."""
        return "disk I/O error" in str(error)

    def explain(self, error: BaseException) -> str:
        """Return what is wrong, with the path and what to do about it."""
        path, text = self.url.path, str(error).splitlines()[0]
        for is_so, remedy in (
            (not path.parent.is_dir(), f"the directory {path.parent} does not exist: make it, or correct the URL"),
            (path.is_dir(), "it is a directory: name a file in it"),
            ("not a database" in text, "the file is not an SQLite database: name another, or move it away"),
            ("malformed" in text, "the database is damaged: restore it, or move it away and begin a new one"),
            ("full" in text, f"the disk is full: make room on the file system of {path.parent}"),
            (
                "locked" in text or "locking" in text,
                f"another process has kept it locked for {_PATIENCE_MS // 1000} s: find it with `fuser {path}`",
            ),
            (
                not os.access(path.parent, os.W_OK | os.X_OK),
                f"{_user()} may not write to {path.parent}, where SQLite keeps its journal: chmod or chown it",
            ),
            (
                path.exists() and not os.access(path, os.R_OK | os.W_OK),
                f"{_user()} may not read and write it: chmod or chown it",
            ),
            ("readonly" in text, "the file or its file system is read-only: make it writable"),
            ("no such table" in text, "its tables are gone: was the file replaced? Restart what uses it"),
        ):
            if is_so:
                return f"SQLite can't use {path}: {remedy}"
        return f"SQLite can't use {path}: {text}"


def _user() -> str:
    try:
        return f"user {getpass.getuser()}"
    except (OSError, KeyError):
        return f"uid {os.getuid()}"


_warned = False


_NETWORKS = ("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "glusterfs", "ceph")


def _network_file(path: Path) -> Weakness | None:
    """Return what is wrong with a file that other hosts can reach, too: its locks hold on one host only."""
    kind = _file_system(path)
    if kind not in _NETWORKS:
        return None
    return Weakness(f"{path} is on a network file system ({kind}), where locks can't be relied on", "use a local disk")


def _file_system(path: Path) -> str:
    """Return the kind of file system that a path is on, as far as it can be known."""
    best, kind = "", ""
    with contextlib.suppress(OSError):
        for line in Path("/proc/mounts").read_text().splitlines():
            _, mount, its_kind, *_ = line.split()
            if path.is_relative_to(mount) and len(mount) >= len(best):
                best, kind = mount, its_kind
    return kind
