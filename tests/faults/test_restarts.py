"""Servers that are restarted, hung, slow or cut off while workers and producers are at it: nothing accepted is lost."""

from __future__ import annotations

import os
import resource
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastq import FastQ
from fastq.errors import BrokerError
from fastq.message import Message
from fastq.settings import Settings
from fastq.testing.faults import Ledger, Proxy, Verdict, judge
from tests.apps import basic
from tests.conftest import require_service
from tests.hosts import Host
from tests.ledger import eventually
from tests.redis_server import RedisServer, has_redis

Record = Callable[[str, Verdict], None]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own that loses nothing."""
    require_service("Redis", has_redis)
    server = RedisServer(tmp_path / "redis", "appendonly yes", "appendfsync always").start()
    yield server
    server.kill()


@pytest.fixture
def app(server: RedisServer) -> Iterator[FastQ]:
    before = basic.app.settings
    basic.app.settings = Settings.load({"broker": f"{server.url}?prefix=t{uuid.uuid4().hex}"})
    yield basic.app
    basic.app.close()
    basic.app.settings = before


def send_one_by_one(ledger: Ledger, count: int) -> list[str]:
    """Send tasks, each once, whatever becomes of it; return the ids of those that were accepted."""
    accepted = []
    for _ in range(count):
        try:
            accepted += [result.id for result in ledger.send(basic.noted, [()])]
        except BrokerError:  # it says so, and nobody tries again
            threading.Event().wait(0.01)
    return accepted


def has_ended(app: FastQ, ids: list[str]) -> bool:
    outcomes = app.backend.load([uuid.UUID(id).bytes for id in ids])
    return all(outcome is not None and outcome.state.terminal for outcome in outcomes)


def dead(app: FastQ) -> list[str]:
    return [Message.decode(it.frame).uuid for it in app.broker.dead_letters("default", 1000)]


def test_a_broker_that_is_killed_again_and_again_loses_nothing_that_it_accepted(
    app: FastQ, host: Host, ledger: Ledger, server: RedisServer, record_verdict: Record
) -> None:
    """Rows 19 and 20: while producers send and workers work, and nobody starts those anew."""
    worker = host.start_worker()
    eventually(lambda: "Ready" in host.log.read_text(), 30)
    accepted: list[str] = []
    producer = threading.Thread(target=lambda: accepted.extend(send_one_by_one(ledger, 400)))
    producer.start()
    for restart in range(1, 4):
        eventually(lambda restart=restart: len(ledger.starts()) > 60 * restart or not producer.is_alive(), 60)
        server.restart()
    producer.join()
    eventually(lambda: has_ended(app, accepted), 60)
    eventually(lambda: app.broker.depth("default") == 0, 60)
    assert worker.poll() is None
    verdict = judge(ledger.read(), dead=dead(app))
    record_verdict("redis killed three times", verdict)
    assert verdict.ok, verdict.violations


def test_a_line_that_goes_silent_is_replaced(app: FastQ, host: Host, ledger: Ledger, server: RedisServer) -> None:
    """Rows 22 and 23: nothing comes over it any more, not even its end, as when a cable is cut."""
    proxy = Proxy(server.port)
    try:
        direct = app.settings.broker
        host.options = {"TEST_BROKER": direct.replace(f":{server.port}", f":{proxy.port}") + "&timeout=1"}
        host.start_worker()
        before = [basic.noted.delay() for _ in range(10)]
        assert all(result.get(30) for result in before)
        proxy.silence()
        after = [basic.noted.delay() for _ in range(10)]
        assert all(result.get(60) for result in after)
        assert host.stop() == []
    finally:
        proxy.close()


def test_a_worker_without_descriptors_goes_on_when_there_are_some_again(
    app: FastQ, host: Host, server: RedisServer
) -> None:
    """Row 51: it can't connect to its broker, and says so, and tries again."""
    proxy = Proxy(server.port)
    try:
        host.options = {"TEST_BROKER": app.settings.broker.replace(f":{server.port}", f":{proxy.port}")}
        worker = host.start_worker()
        assert basic.noted.delay().get(30)
        soft, hard = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (3, hard))
        proxy.cut()
        later = [basic.noted.delay() for _ in range(10)]
        eventually(lambda: "Too many open files" in host.log.read_text(), 30)
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (soft, hard))
        assert all(result.get(60) for result in later)
        assert host.stop() == []
    finally:
        proxy.close()


def test_on_a_slow_line_all_goes_on_slowly(app: FastQ, host: Host, ledger: Ledger, server: RedisServer) -> None:
    """Row 24."""
    proxy = Proxy(server.port)
    proxy.delay_s, proxy.piece = 0.02, 200
    try:
        direct = app.settings.broker
        host.options = {"TEST_BROKER": direct.replace(f":{server.port}", f":{proxy.port}")}
        host.start_worker()
        results = [basic.noted.delay() for _ in range(10)]
        assert all(result.get(60) for result in results)
        assert set(ledger.starts().values()) == {1}
        proxy.delay_s, proxy.piece = 0.0, 65_536
        assert host.stop() == []
    finally:
        proxy.close()


def test_a_worker_whose_broker_hangs_leaves_all_the_same(app: FastQ, host: Host, server: RedisServer) -> None:
    """Row 25. When it should, `tests/cli/test_worker_command.py` says."""
    host.grace_s = 1
    worker = host.start_worker()
    basic.noted.delay(60)
    eventually(host.ledger.starts, 30)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        worker.terminate()
        assert worker.wait(60) == 5
    finally:
        os.kill(server.pid, signal.SIGCONT)


def test_while_results_can_not_be_stored_no_message_is_forgotten(
    app: FastQ, host: Host, ledger: Ledger, server: RedisServer, tmp_path: Path, record_verdict: Record
) -> None:
    """Row 45: the broker is there, and the result backend is not, at first; later it hangs."""
    backend = RedisServer(tmp_path / "backend", "appendonly yes", "appendfsync always")
    app.close()
    url = f"{backend.url}?timeout=0.5"
    app.settings = Settings.load({"broker": app.settings.broker, "backend": url})
    host.options = {"FASTQ_BACKEND": url}
    host.start_worker()
    results = ledger.send(basic.noted, [()] * 20)
    eventually(lambda: len(ledger.ends()) >= 1, 30)
    backend.start()
    try:
        assert all(result.get(60) for result in results)
        os.kill(backend.pid, signal.SIGSTOP)
        later = ledger.send(basic.noted, [()] * 20)
        eventually(lambda: len(ledger.ends()) > 20, 30)
        os.kill(backend.pid, signal.SIGCONT)
        assert all(result.get(60) for result in later)
        eventually(lambda: app.broker.depth("default") == 0, 30)
        verdict = judge(ledger.read(), killed=(), dead=dead(app))
        record_verdict("backend down, then hung", verdict)
        assert verdict.ok, verdict.violations
        assert host.stop() == []
    finally:
        backend.kill()
