"""The crash-point grid: a process ends at each point of a message's way, and every promise is kept all the same.

A case is a system, an acknowledgement, a point of `fastq.failpoints.POINTS`, and a victim: the ``child`` that is
there, its ``parent``, ``both`` one after the other, the ``producer``, or the ``broker``. Twenty tasks are sent; the
fault happens once; a fresh worker drains the queue where the first one is dead.

What is missing from the grid can't be: a server that is asked to do two things in one step has no point between them
(P11, P14, P15 and P16 on Redis), RabbitMQ takes over by itself (P14), and a broker in memory has no processes to kill.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fastq import failpoints
from fastq._speedups import AmqpLink
from fastq.errors import PublishUnknown
from fastq.systems.redis_results import COMPLETE
from fastq.testing.faults import Failures, Proxy, Verdict, judge
from fastq.testing.workers import running_worker
from tests import rabbit_server
from tests.apps import grid as tasks
from tests.conftest import require_service
from tests.faults.grid import PATIENCE_S, TASKS, Case, Field, opened, run
from tests.hosts import ROOT
from tests.ledger import eventually
from tests.rabbit_server import RabbitServer, can_start
from tests.redis_server import RedisServer, has_redis, one_for_all

Record = Callable[[str, Verdict], None]
Open = Callable[..., Field]

IN_CHILD = ("P6", "P8", "P9")
IN_PARENT = ("P3", "P4", "P5", "P10", "P12")
SYSTEMS = ("sqlite", "redis", "amqp")
ONE_STEP = {"redis": ("P11", "P15", "P16"), "sqlite": (), "amqp": ()}

#: What is tried each time; the rest takes a soak.
SHORT = [
    Case("sqlite", "late", "P1", "producer"),
    Case("sqlite", "late", "P8", "child"),
    Case("sqlite", "late", "P11", "parent"),
    Case("sqlite", "late", "P14", "parent"),
    Case("sqlite", "late", "P15", "parent"),
    Case("sqlite", "early", "P7", "parent"),
    Case("redis", "late", "P0", "producer"),
    Case("redis", "late", "P2", "producer"),
    Case("redis", "late", "P3", "parent"),
    Case("redis", "late", "P6", "child"),
    Case("redis", "late", "P8", "both"),
    Case("redis apart", "late", "P11", "parent"),
    Case("redis", "late", "P13", "parent"),
    Case("redis", "late", "P10", "broker"),
    Case("redis", "early", "P9", "child"),
    Case("amqp", "late", "P4", "parent"),
    Case("amqp", "late", "P12", "parent"),
    Case("amqp", "late", "P16", "parent"),
    Case("amqp", "early", "P8", "child"),
]


def whole() -> Iterator[Case]:
    """Yield every case that there is."""
    for system in SYSTEMS:
        for ack in ("late", "early"):
            yield from (Case(system, ack, point, "producer") for point in ("P0", "P1", "P2"))
            for victim in ("child", "parent", "both"):
                yield from (Case(system, ack, point, victim) for point in IN_CHILD)
            yield from (Case(system, ack, point, "parent") for point in IN_PARENT)
            if "P11" not in ONE_STEP[system]:
                yield Case(system, ack, "P11", "parent")
        yield Case(system, "early", "P7", "parent")
        yield Case(system, "late", "P13", "parent")
        yield from (Case(system, "late", point, "parent") for point in ("P15", "P16") if point not in ONE_STEP[system])
    yield from (Case("redis apart", ack, "P11", "parent") for ack in ("late", "early"))
    yield Case("sqlite", "late", "P14", "parent")
    for point in ("P3", "P4", "P5", "P8", "P10", "P12"):
        yield from (Case("redis", ack, point, "broker") for ack in ("late", "early"))
    for point in ("P4", "P8", "P12"):  # RabbitMQ takes its time to start
        yield Case("amqp", "late", point, "broker")


WHOLE = [case for case in whole() if case not in SHORT and (case.system, case.point) != ("amqp", "P1")]


@pytest.fixture(scope="module", autouse=True)
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer | None]:
    """One Redis for the module, started before the first test looks at what it leaves behind."""
    yield from one_for_all(tmp_path_factory.mktemp("redis"))


@pytest.fixture(scope="module")
def vhost() -> Iterator[str]:
    """The URL of a virtual host for the module, and of its one queue."""
    with rabbit_server.own_vhost() as name:
        yield f"{rabbit_server.url_of(name)}?queue_type=classic"
        link = AmqpLink(port=rabbit_server.PORT, vhost=name)
        for queue in rabbit_server.rabbitmqctl("list_queues", "-p", name, "--no-table-headers", "name").split():
            link.delete_queue(queue)  # among them those of dead workers, which would expire
        link.close()


def own_server(system: str, folder: Path) -> RedisServer | RabbitServer:
    """Start a server to be killed, which loses nothing."""
    if system == "amqp":
        require_service("RabbitMQ", can_start)
        return RabbitServer(folder / "rabbit").start()
    require_service("Redis", has_redis)
    return RedisServer(folder / "redis", "appendonly yes", "appendfsync always").start()


@pytest.fixture
def open_field(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer | None
) -> Iterator[Open]:
    """Return what opens a field on a system; it is closed after the test."""
    monkeypatch.setenv("LEDGER", str(tmp_path / "ledger"))

    def prefixed() -> str:
        require_service("Redis", has_redis)
        assert redis_server is not None
        return f"{redis_server.url}?prefix=t{uuid.uuid4().hex}"

    def open_field(system: str, victim: str = "") -> Field:
        broker, other, server = prefixed() if "redis" in system else "", "", None
        if victim == "broker":
            server = own_server(system, tmp_path)
            stack.callback(server.kill)
            broker = server.url + ("?queue_type=classic" if system == "amqp" else "")
        elif system == "amqp":
            broker = request.getfixturevalue("vhost")
        elif system == "sqlite":
            broker = f"sqlite:///{tmp_path}/grid.db"
        elif system == "memory":
            broker = f"memory://{uuid.uuid4().hex}"
        if system in ("amqp", "redis apart"):
            other = prefixed()
        return stack.enter_context(opened(Field(tmp_path, broker=broker, backend=other, state=other, server=server)))

    with ExitStack() as stack:
        yield open_field


def play(case: Case, field: Field, record: Record) -> Verdict:
    verdict = run(case, field)
    record(str(case), verdict)
    assert verdict.ok, verdict.violations
    assert verdict.accepted == (TASKS - 1 if case.victim == "producer" else TASKS)
    if case.victim == "producer":
        assert verdict.attempted == TASKS
        assert verdict.started in {"P0": [TASKS - 1], "P1": [TASKS - 1, TASKS], "P2": [TASKS]}[case.point]
    if case.point == "P15":
        assert (verdict.dead_lettered, verdict.started) == (5, TASKS - 5)
    return verdict


@pytest.mark.parametrize("case", SHORT, ids=str)
def test_a_process_that_ends_at_a_point_costs_what_was_promised_and_no_more(
    case: Case, open_field: Open, record_verdict: Record
) -> None:
    play(case, open_field(case.system, case.victim), record_verdict)


@pytest.mark.soak
@pytest.mark.parametrize("case", WHOLE, ids=str)
def test_at_every_other_point_it_is_the_same(case: Case, open_field: Open, record_verdict: Record) -> None:
    play(case, open_field(case.system, case.victim), record_verdict)


# -- what the other ends see -------------------------------------------------------------------------


def test_a_confirmation_that_is_lost_on_its_way_from_rabbitmq_leaves_no_task_unaccounted_for(
    open_field: Open, record_verdict: Record
) -> None:
    """Row 21, and P1 on RabbitMQ: the message was forwarded, and the connection is gone before the confirmation."""
    field = open_field("amqp")
    proxy = Proxy(rabbit_server.PORT)
    direct = field.broker
    try:
        field.use_broker(direct.replace(f":{rabbit_server.PORT}", f":{proxy.port}"))
        field.ledger.send(tasks.late, [()] * (TASKS - 1))
        proxy.when_sent(b"\x00\x3c\x00\x28")  # basic.publish
        with pytest.raises(PublishUnknown):
            field.ledger.send(tasks.late, [()])
    finally:
        field.use_broker(direct)
        proxy.close()
    field.start_worker()
    attempted = [line.id for line in field.ledger.lines() if line.word == "attempted"]
    eventually(lambda: len(field.ends(attempted)) >= TASKS - 1 and not field.app.broker.depth("default"), PATIENCE_S)
    misbehaved = field.stop()
    verdict = judge(field.ledger.read(), killed=(), misbehaved=misbehaved)
    record_verdict("amqp-late-P1-connection", verdict)
    assert verdict.ok, verdict.violations
    assert (verdict.attempted, verdict.accepted) == (TASKS, TASKS - 1)


@pytest.mark.parametrize(
    ("system", "ack"), [("redis", COMPLETE._sha), ("amqp", b"\x00\x3c\x00\x50")], ids=["redis", "amqp"]
)
def test_a_connection_that_is_cut_while_messages_are_acknowledged_costs_repetitions_at_most(
    system: str, ack: bytes, open_field: Open, record_verdict: Record
) -> None:
    """Row 21: the acknowledgement was forwarded, and its answer, or the next frame, is not."""
    field = open_field(system)
    direct = field.broker
    port = rabbit_server.PORT if system == "amqp" else int(direct.rsplit(":", 1)[1].split("/")[0])
    proxy = Proxy(port)
    try:
        field.point_workers_at(direct.replace(f":{port}", f":{proxy.port}"), backend=direct)
        field.start_worker()
        results = field.ledger.send(tasks.late, [()] * (TASKS // 2))
        proxy.when_sent(ack)
        results += field.ledger.send(tasks.late, [()] * (TASKS // 2))
        eventually(lambda: len(field.ends([result.id for result in results])) == TASKS, PATIENCE_S)
        eventually(lambda: not field.app.broker.depth("default"), PATIENCE_S)
        misbehaved = field.stop()
    finally:
        proxy.close()
    verdict = judge(field.ledger.read(), misbehaved=misbehaved, dead=field.dead())
    record_verdict(f"{system}-late-ack-connection", verdict)
    assert verdict.ok, verdict.violations
    assert (verdict.finished, verdict.dead_lettered) == (TASKS, 0)


@pytest.mark.parametrize("point", ["P5", "P8", "P10"])
def test_an_unexpected_error_at_a_point_costs_nothing(
    point: str, open_field: Open, tmp_path: Path, record_verdict: Record
) -> None:
    """The broker in memory: there are no processes to kill, so the worker's own code fails instead."""
    field = open_field("memory")
    failures = Failures(tmp_path / "failures", f"{point}=raise:once:parent")
    try:
        with running_worker(field.app, "tests.apps.grid:app", folder=str(ROOT), pool="solo"):
            failures.arm()
            results = field.ledger.send(tasks.late, [()] * TASKS)
            eventually(failures.fired, PATIENCE_S)
            eventually(lambda: all(result.ready() for result in results), PATIENCE_S)
            eventually(lambda: not field.app.broker.queues(), PATIENCE_S)
    finally:
        failpoints.arm("")
    failed = [result.id for result in results if result.failed()]
    verdict = judge(field.ledger.read(), dead=failed)
    record_verdict(f"memory-late-{point}-raise", verdict)
    assert verdict.ok, verdict.violations
    assert len(failed) == (1 if point == "P8" else 0), "only what is raised in a task is its failure"


# -- many points at once ------------------------------------------------------------------------------


def buggify(field: Field, tmp_path: Path, seed: int, count: int) -> Verdict:
    """Have processes die at points that the seed chooses, now here and now there, until all is done."""
    print(f"the seed is {seed}")
    failures = Failures(tmp_path / "failures", "*=kill9:0.05:parent, *=kill9:0.02:child", seed=seed)
    results = field.ledger.send(tasks.late, [()] * count)
    ids = [result.id for result in results]
    give_up = time.monotonic() + 2 * PATIENCE_S
    worker = field.start_worker(failures, lease_s=field.lease_s)
    while len(field.ends(ids)) + len(set(field.dead())) < count and time.monotonic() < give_up:
        if worker.poll() is not None:
            worker = field.start_worker(failures, lease_s=field.lease_s)
        threading.Event().wait(0.02)
    field.stop()
    return judge(field.ledger.read(), dead=field.dead())


def test_processes_that_die_here_and_there_lose_nothing(
    open_field: Open, tmp_path: Path, record_verdict: Record
) -> None:
    seed = 2
    verdict = buggify(open_field("sqlite"), tmp_path, seed, 60)
    record_verdict(f"sqlite-late-seed{seed}", verdict)
    assert verdict.ok, verdict.violations


@pytest.mark.soak
@pytest.mark.parametrize("system", SYSTEMS)
def test_processes_that_die_here_and_there_lose_nothing_by_any_seed(
    system: str, open_field: Open, tmp_path: Path, record_verdict: Record
) -> None:
    seed = random.randrange(1_000_000)
    verdict = buggify(open_field(system), tmp_path, seed, 1_000)
    record_verdict(f"{system}-late-seed{seed}", verdict)
    assert verdict.ok, verdict.violations
