from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import event

import fastq.systems.sqlite
from fastq.backends import open_backend
from fastq.broker import Action, Decision
from fastq.brokers import open_broker
from fastq.completion import Completed, completion_of
from fastq.errors import (
    BackendUnavailable,
    BrokerFull,
    BrokerUnavailable,
    ConfigurationError,
    LeaseLost,
    PublishUnknown,
    UnknownSetting,
)
from fastq.systems import sql_messages
from fastq.systems.bells import Belfry
from fastq.systems.sqlite import SqliteUrl
from fastq.testing.backends import success
from fastq.testing.broker_case import SOON_S, at_once, call, numbered, soon

# -- URLs ---------------------------------------------------------------------------------------------


def test_a_path_is_relative_with_three_slashes_and_absolute_with_four():
    assert SqliteUrl.parse("sqlite:///a%20b.db").path == Path.cwd() / "a b.db"
    assert SqliteUrl.parse("sqlite:////var/x.db?journal_mode=delete&synchronous=Normal") == SqliteUrl(
        Path("/var/x.db"), "DELETE", "NORMAL"
    )


@pytest.mark.parametrize(
    ("url", "error", "words"),
    [
        ("sqlite://x.db", ConfigurationError, "sqlite:///fastq.db"),
        ("sqlite:///", ConfigurationError, "names no file"),
        ("sqlite:///:memory:", ConfigurationError, "memory://"),
        ("sqlite:///x.db?journal=WAL", UnknownSetting, "did you mean .journal_mode"),
        ("sqlite:///x.db?zzz=1", UnknownSetting, "synchronous"),
        ("sqlite:///x.db?journal_mode=OFF", ConfigurationError, "WAL, DELETE"),
        ("sqlite:///x.db?synchronous=", ConfigurationError, "FULL"),
    ],
)
def test_a_url_that_is_wrong_is_answered_with_what_is_right(url, error, words):
    with pytest.raises(error, match=words):
        open_broker(url)


def test_options_reach_the_database(tmp_path):
    broker = open_broker(f"sqlite:///{tmp_path}/x.db?journal_mode=DELETE&synchronous=EXTRA")
    with broker.system.read(BrokerUnavailable) as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "delete"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 3
    broker.close()


def test_publish_and_settle_are_written_through_and_claims_are_not(tmp_path):
    broker = open_broker(f"sqlite:///{tmp_path}/x.db")
    for durable, level in ((True, 2), (False, 1), (True, 2)):
        with broker.system.write(BrokerUnavailable, durable=durable) as connection:
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == level
    broker.close()


def test_only_wal_may_write_claims_late(tmp_path):
    broker = open_broker(f"sqlite:///{tmp_path}/x.db?journal_mode=DELETE")
    with broker.system.write(BrokerUnavailable, durable=False) as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    broker.close()


@pytest.mark.parametrize(
    ("version", "warned"),
    [((3, 40, 1), True), ((3, 51, 2), True), ((3, 51, 3), False), ((3, 50, 7), False), ((3, 44, 6), False)],
)
def test_a_worker_is_warned_of_a_library_that_may_damage_the_file_and_a_caller_is_not(
    version: tuple[int, ...],
    warned: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Row 32."""
    monkeypatch.setattr("sqlite3.sqlite_version_info", version)
    monkeypatch.setattr("fastq.systems.sqlite._warned", False)
    broker = open_broker(f"sqlite:///{tmp_path}/x.db")
    broker.publish_frames("default", [b"{}"])
    assert not caplog.records
    for _ in range(2):
        broker.subscribe(["default"], 10, {}).close()
    broker.close()
    assert ["see fastq doctor" in record.getMessage() for record in caplog.records] == [True] * warned


def test_a_library_that_is_too_old_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 7, 17))
    with pytest.raises(ConfigurationError, match="too old"):
        open_broker(f"sqlite:///{tmp_path}/x.db")


# -- one system a file --------------------------------------------------------------------------------


def test_broker_and_backend_share_a_system_however_the_path_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    broker, backend = open_broker("sqlite:///x.db"), open_backend(f"sqlite:///{tmp_path}/x.db", 60.0)
    assert broker.system is backend.system
    broker.close()
    backend.store([success()])  # still open
    backend.close()
    again = open_broker("sqlite:///x.db")
    assert again.system is not broker.system
    again.close()


def test_nothing_is_left_beside_the_file(tmp_path):
    broker, backend = open_broker(f"sqlite:///{tmp_path}/x.db"), open_backend(f"sqlite:///{tmp_path}/x.db", 60.0)
    subscription = broker.subscribe(["q"], 30.0, {})
    broker.publish([call()])
    assert soon(subscription)
    assert list(backend.wait([b"0" * 16], time.monotonic() + 0.01)) == []
    assert len(list((tmp_path / "x.db-bells").iterdir())) == 1
    subscription.close()
    broker.close()
    backend.close()
    assert os.listdir(tmp_path) == ["x.db"]


# -- errors -------------------------------------------------------------------------------------------


def test_a_directory_that_is_missing_is_named(tmp_path):
    with pytest.raises(BrokerUnavailable, match=f"{tmp_path}/no does not exist: make it"):
        open_broker(f"sqlite:///{tmp_path}/no/x.db")
    with pytest.raises(BackendUnavailable, match="does not exist"):
        open_backend(f"sqlite:///{tmp_path}/no/x.db", 60.0)


def test_a_directory_is_not_a_file(tmp_path):
    with pytest.raises(BrokerUnavailable, match="it is a directory: name a file in it"):
        open_broker(f"sqlite:///{tmp_path}")


def test_a_file_that_is_something_else_is_left_alone(tmp_path):
    (tmp_path / "x.db").write_bytes(b"something else " * 100)
    with pytest.raises(BrokerUnavailable, match="not an SQLite database: name another"):
        open_broker(f"sqlite:///{tmp_path}/x.db")
    assert (tmp_path / "x.db").read_bytes() == b"something else " * 100


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_who_may_not_write_is_told(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(BrokerUnavailable, match="may not write to"):
        open_broker(f"sqlite:///{tmp_path}/x.db")
    tmp_path.chmod(0o755)
    (tmp_path / "x.db").touch(0o000)
    with pytest.raises(BrokerUnavailable, match="may not read and write it"):
        open_broker(f"sqlite:///{tmp_path}/x.db")


def test_a_disk_that_is_full_is_reported_and_nothing_is_half_done(tmp_path):
    """Row 31."""
    broker = open_broker(f"sqlite:///{tmp_path}/x.db")
    with broker.system.write(BrokerUnavailable) as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=40")
    with pytest.raises(BrokerFull, match=f"{tmp_path}/x.db: the disk is full: make room"):
        broker.publish(numbered(1000))
    assert broker.depth("q") == 0
    broker.publish(numbered(3))
    assert broker.depth("q") == 3
    broker.close()


def test_a_lock_that_is_never_given_up_is_reported_after_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr(fastq.systems.sqlite, "_PATIENCE_MS", 50)
    broker, backend = open_broker(f"sqlite:///{tmp_path}/x.db"), open_backend(f"sqlite:///{tmp_path}/x.db", 60.0)
    other = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(BrokerUnavailable, match="kept it locked"):
        broker.publish([call()])
    with pytest.raises(BackendUnavailable, match="kept it locked"):
        backend.store([success()])
    other.execute("ROLLBACK")
    other.close()
    broker.publish([call()])
    assert broker.depth("q") == 1
    broker.close()
    backend.close()


def test_a_commit_in_doubt_is_not_taken_for_a_failure(tmp_path, monkeypatch):
    broker = open_broker(f"sqlite:///{tmp_path}/x.db")

    def commit(connection):
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(broker.system.server.engine.dialect, "do_commit", commit)
        with pytest.raises(PublishUnknown):
            broker.publish([call()])
    broker.close()


def test_tables_that_are_gone_are_reported(tmp_path):
    broker = open_broker(f"sqlite:///{tmp_path}/x.db")
    with broker.system.write(BrokerUnavailable) as connection:
        connection.exec_driver_sql("DROP TABLE fastq_messages")
    with pytest.raises(BrokerUnavailable, match="its tables are gone"):
        broker.depth("q")
    broker.close()


# -- plans --------------------------------------------------------------------------------------------


def test_what_is_done_often_scans_no_table(tmp_path):
    url = f"sqlite:///{tmp_path}/x.db?synchronous=NORMAL"
    broker, backend = open_broker(url), open_backend(url, 60.0)
    for _ in range(100):
        broker.publish_frames("q", [b"x" * 100] * 1000)
    broker.publish([call(eta=2**50)])
    statements = []
    engine = broker.system.server.engine
    event.listen(engine, "before_cursor_execute", lambda *args: statements.append((args[2], args[3], args[5])))
    do_what_is_done_often(broker, backend)
    steps = {}
    with broker.system.read(BrokerUnavailable) as connection:
        driver = connection.connection.dbapi_connection
        for statement, parameters, many in statements:
            rows = driver.execute(f"EXPLAIN QUERY PLAN {statement}", parameters[0] if many else parameters)
            steps[statement] = [row[-1] for row in rows]
    assert len(steps) > 20
    for statement, its_steps in steps.items():
        assert not [step for step in its_steps if "SCAN fastq_m" in step or "SCAN fastq_r" in step], statement
        assert "LIMIT" not in statement or not [step for step in its_steps if "TEMP B-TREE" in step], statement
    backend.close()
    broker.close()


def do_what_is_done_often(broker, backend):
    first, second = broker.subscribe(["q"], 30.0, {}), broker.subscribe(["q"], 30.0, {})
    taken = soon(first, 100)
    first.begin(taken)
    decisions = [Decision(it, action) for it, action in zip(taken, Action, strict=False)]
    completion = completion_of(first, broker.system, backend)
    outcomes = [success(group=b"g" * 16) for _ in decisions]
    completion.complete([Completed(*both) for both in zip(decisions, outcomes, strict=True)])
    first.release(taken)
    now_us = broker.system.now()
    broker.system.server.clock = lambda: now_us + 2**51
    second.renew()
    soon(second, 100)
    broker.oldest_age("q")
    backend.load([it.id for it in outcomes])
    list(backend.wait([it.id for it in outcomes] + [b"x" * 16], time.monotonic() + 0.01))
    backend.group_completed(b"g" * 16)
    backend.store([success()])


def test_a_claim_costs_the_same_in_a_queue_of_a_hundred_thousand(tmp_path):
    """Row 49."""
    broker = open_broker(f"sqlite:///{tmp_path}/x.db?synchronous=NORMAL")
    for _ in range(100):
        broker.publish_frames("q", [b"x" * 100] * 1000)
    steps = []
    with broker.system.write(BrokerUnavailable, durable=False) as connection:
        driver = connection.connection.dbapi_connection
        driver.set_progress_handler(lambda: steps.append(1) and None, 100)  # each 100 steps of SQLite's machine
        assert len(sql_messages.claim(connection, 1, ["q"], 100)) == 100
        driver.set_progress_handler(None, 0)
    assert len(steps) < 200
    broker.close()


# -- leases and outcomes in SQL -----------------------------------------------------------------------


def test_many_owners_die_at_once(tmp_path):
    broker = open_broker(f"sqlite:///{tmp_path}/x.db")
    now_us = broker.system.now()
    for number in range(20):
        broker.publish([call(f"q{number % 3}") for _ in range(3)])
        subscription = broker.subscribe(["q0", "q1", "q2"], 30.0, {})
        assert len(at_once(subscription)) == 3
    broker.system.server.clock = lambda: now_us + 60_000_000
    last = broker.subscribe(["q0", "q1", "q2"], 30.0, {})
    assert len(at_once(last)) == 60
    assert [worker.owner for worker in broker.workers()] == [last.owner]
    broker.close()


def test_expired_outcomes_and_groups_are_deleted(tmp_path):
    backend = open_backend(f"sqlite:///{tmp_path}/x.db", 60.0)
    now_us = backend.system.now()
    backend.store([success() for _ in range(700)])
    backend.create_group(b"g" * 16, [b"i" * 16])
    for seconds in (61, 67, 73):  # in portions
        backend.system.server.clock = lambda seconds=seconds: now_us + seconds * 1_000_000
        backend.store([success()])
    with backend.system.read(BackendUnavailable) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM fastq_results").scalar() == 3
        assert connection.exec_driver_sql("SELECT count(*) FROM fastq_groups").scalar() == 0
    backend.close()


def test_a_purge_of_many_goes_by_portions(tmp_path):
    broker = open_broker(f"sqlite:///{tmp_path}/x.db?synchronous=NORMAL")
    for _ in range(10):
        broker.publish(numbered(1000))
    assert broker.purge("q") == 10_000
    assert broker.depth("q") == 0
    broker.close()


# -- waking -------------------------------------------------------------------------------------------


def test_a_fetch_is_woken_by_another_process(tmp_path):
    url = f"sqlite:///{tmp_path}/x.db"
    broker = open_broker(url)
    subscription = broker.subscribe(["q"], 30.0, {})
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(subscription.fetch, 1, time.monotonic() + SOON_S)
        in_child(lambda: publish_one(url))
        assert len(fetching.result(SOON_S)) == 1
    subscription.close()
    broker.close()


def test_a_ring_before_the_wait_is_not_lost(tmp_path):
    belfry = Belfry(tmp_path / "bells")
    bell = belfry.hang("worker")
    bell.drain()
    belfry.ring("worker")
    bell.wait(None)
    bell.drain()
    belfry.ring("caller")
    started = time.monotonic()
    bell.wait(0.05)
    assert time.monotonic() - started >= 0.05  # another kind was rung
    bell.close()
    bell.close()
    bell.ring()
    assert not (tmp_path / "bells").exists()


def test_the_bell_of_a_dead_process_is_taken_away(tmp_path):
    belfry = Belfry(tmp_path / "bells")
    in_child(lambda: belfry.hang("worker"))
    os.mkfifo(tmp_path / "bells" / "new-worker.0")  # by one that was killed before it could open it
    assert len(os.listdir(tmp_path / "bells")) == 2
    belfry.ring("worker")
    assert os.listdir(tmp_path / "bells") == []
    belfry.close()
    assert not (tmp_path / "bells").exists()


def test_a_bell_that_rings_ten_thousand_times_unheard_stays_cheap(tmp_path):
    belfry = Belfry(tmp_path / "bells")
    bell = belfry.hang("worker")
    for _ in range(70_000):
        bell.ring()
    belfry.ring("worker")
    bell.drain()
    started = time.monotonic()
    bell.wait(0.05)
    assert time.monotonic() - started >= 0.05
    bell.close()


# -- forks --------------------------------------------------------------------------------------------


def in_child(work) -> None:
    """Run in a forked child and expect it to end well."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def publish_one(url: str) -> None:
    broker = open_broker(url)
    broker.publish([call()])
    broker.close()


def test_no_connection_crosses_a_fork(tmp_path):
    broker = open_broker(f"sqlite:///{tmp_path}/x.db")
    subscription = broker.subscribe(["q"], 30.0, {})
    broker.publish([call()])

    def work():
        names = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if fd.isdigit() and
                 os.path.exists(f"/proc/self/fd/{fd}")]  # fmt: skip
        assert not [name for name in names if str(tmp_path) in name]
        broker.publish([call()])
        assert broker.depth("q") == 2

    in_child(work)
    assert len(soon(subscription)) == 2
    subscription.close()
    broker.close()


def test_a_fork_amid_busy_threads_leaves_a_child_that_works(tmp_path):
    broker = open_broker(f"sqlite:///{tmp_path}/x.db?synchronous=NORMAL")
    stop = threading.Event()

    def publish():
        count = 0
        while not stop.is_set():
            broker.publish([call()])
            count += 1
        return count

    def consume():
        count = 0
        subscription = broker.subscribe(["q"], 30.0, {})
        while not stop.is_set():
            deliveries = subscription.fetch(9, time.monotonic() + 0.05)
            assert subscription.settle([Decision(it) for it in deliveries]) == []
            count += len(deliveries)
        subscription.close()
        return count

    with ThreadPoolExecutor(3) as pool:
        publishing, consuming = [pool.submit(publish) for _ in range(2)], pool.submit(consume)
        for _ in range(20):
            in_child(lambda: broker.publish([call()]))
        stop.set()
        published = sum(it.result(SOON_S) for it in publishing) + 20
        consumed = consuming.result(SOON_S)
    assert consumed + broker.depth("q") == published
    broker.close()


def test_a_dead_letter_keeps_its_priority_when_it_is_put_back(tmp_path):
    broker = open_broker(f"sqlite:///{tmp_path}/x.db")
    broker.publish([call(body=b"first", priority=9)])
    subscription = broker.subscribe(["q"], 30.0, {})
    subscription.settle([Decision(soon(subscription)[0], Action.DEAD)])
    broker.publish([call()])
    broker.requeue_dead([broker.dead_letters("q", 1)[0].token])
    assert [b"first" in it.frame for it in soon(subscription)] == [True, False]
    subscription.close()
    broker.close()


def test_no_dialect_is_loaded_but_that_of_sqlite():
    probe = "import sys, fastq.brokers.sql, fastq.systems.sqlite; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert [name for name in loaded.split() if name.startswith("sqlalchemy.dialects.postgresql")] == []


def test_a_database_that_is_removed_under_its_users_is_begun_anew(tmp_path, caplog):
    path = tmp_path / "x.db"
    broker = open_broker(f"sqlite:///{path}")
    subscription = broker.subscribe(["q"], 30.0, {})
    broker.publish([call()])
    for file in tmp_path.glob("x.db*"):
        if file.is_file():
            file.unlink()

    broker.publish([call(body=b"new")])

    assert broker.depth("q") == 1
    assert sqlite3.connect(path).execute("SELECT count(*) FROM fastq_messages").fetchone() == (1,)
    assert "was removed or replaced" in caplog.text
    with pytest.raises(LeaseLost):
        subscription.renew()
    subscription.close()
    again = broker.subscribe(["q"], 30.0, {})
    assert [b"new" in it.frame for it in soon(again)] == [True]
    again.close()
    broker.close()
