"""What each system does about shared state beyond the contract: faults, processes, and what is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid

import pytest
from sqlalchemy import func, select

from fastq._speedups import new_id
from fastq.brokers import open_broker
from fastq.errors import NotSupported, StateUnavailable
from fastq.state import Arrival, Ask, Flow, Limit
from fastq.states import open_state
from fastq.states.memory import MemoryState
from fastq.systems.memory import MemorySystem
from fastq.systems.sql_schema import entries, facts, flows, limits, logs, needs, slots
from fastq.testing.clocks import FakeClock
from fastq.testing.state_flows import ends, flow_of
from fastq.testing.state_logs import now_there, soon
from tests.conftest import require_service
from tests.redis_server import RedisServer, free_port, has_redis

LONG_S = 3600.0


@pytest.fixture
def start(tmp_path):
    """Start Redis servers; they are ended after the test."""
    require_service("Redis", has_redis)
    servers = []

    def start(*options: str) -> RedisServer:
        servers.append(RedisServer(tmp_path / f"redis{len(servers)}", *options).start())
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def server(start):
    return start()


@pytest.fixture(params=["sqlite", "redis"])
def url(request, tmp_path):
    """The URL of a state that processes share."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/fastq.db"
    return request.getfixturevalue("server").url


@pytest.fixture
def state(url):
    state = open_state(url)
    yield state
    state.close()


def elsewhere(url: str, code: str) -> subprocess.Popen[bytes]:
    """Run code with `state` in another process."""
    start = f"from fastq.states import open_state; state = open_state({url!r}); "
    return subprocess.Popen([sys.executable, "-c", start + code])


# -- which system keeps it ----------------------------------------------------------------------------


def test_the_first_url_that_can_keep_state_does():
    state = open_state("amqp-or-so://h", "memory://first-that-can")
    assert isinstance(state, MemoryState)
    assert open_state("memory://first-that-can").system is state.system


def test_where_no_url_can_it_is_said_and_no_password_is_shown():
    with pytest.raises(NotSupported, match="neither 'x://u:\\*\\*\\*@h'") as failure:
        open_state("x://u:hush@h", "y://h")
    assert "hush" not in str(failure.value)


def test_state_is_of_the_same_system_as_messages(tmp_path):
    for url in ("memory://one-system", f"sqlite:///{tmp_path}/fastq.db", "redis://127.0.0.1:1"):
        broker, state = open_broker(url), open_state(url)
        assert broker.system is state.system
        broker.close()
        state.close()


# -- processes ----------------------------------------------------------------------------------------


def test_a_follower_is_woken_by_another_process(url, state):
    follower = state.follow("log")
    process = elsewhere(url, "state.append('log', [b'1', b'2'], 10, 60.0); state.close()")
    try:
        assert soon(follower, 2) == [b"1", b"2"]
    finally:
        process.wait()
        follower.close()


def test_a_forked_child_uses_what_its_parent_opened(url, state):
    state.put("f", {"a": b"1"}, LONG_S)
    pid = os.fork()
    if not pid:
        try:
            same = state.get("f", ["a"]) == [b"1"]
            state.put("f", {"b": b"2"}, LONG_S)
            os._exit(not same)
        except BaseException:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert state.find("f") == {"a": b"1", "b": b"2"}


def test_a_forked_child_is_refused_what_is_in_memory():
    state = open_state("memory://forked-state")
    pid = os.fork()
    if not pid:
        try:
            with pytest.raises(StateUnavailable, match="use sqlite"):
                state.put("f", {"a": b"1"}, LONG_S)
            os._exit(0)
        except BaseException:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0


def test_slots_of_a_process_that_was_killed_are_free_when_their_lease_ends(url, state):
    limit = Limit("slots", 1)
    code = (
        "from fastq.state import Ask, Limit; import time; "
        "state.acquire([Ask('dead', (Limit('slots', 1),))], 1.0, 60.0); "
        "state.put('f', {'held': b''}, 60.0); time.sleep(60)"
    )
    process = elsewhere(url, code)
    deadline = time.monotonic() + 20
    while not state.find("f"):
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
    process.kill()
    process.wait()
    while state.acquire([Ask("heir", (limit,))], 60.0, 60.0)[0].wait_s:
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)


# -- what has expired ---------------------------------------------------------------------------------


def leave_things_behind(state, number: int, expires_s: float = 1.0) -> None:
    """Put some of everything into a state, for a moment."""
    many = [f"{number}-{at}" for at in range(200)]
    state.put("family", dict.fromkeys(many, b"x"), expires_s)
    state.put(f"family{number}", {"a": b"x"}, expires_s)
    state.acquire([Ask(name, (Limit(name, 1), Limit(name, 1, 1.0))) for name in many], expires_s, 60.0)
    flow = Flow(new_id(), tuple(new_id() for _ in many), b"then")
    state.open_flows([flow], expires_s)
    state.arrive([Arrival(flow.id, task, failed=True) for task in flow.needs[:100]])
    state.append(f"log{number}", [b"x"] * 200, 1000, expires_s)


def test_what_has_expired_does_not_pile_up_in_memory():
    clock = FakeClock()
    state = MemoryState(system=MemorySystem(clock.now_us))
    for number in range(20):
        leave_things_behind(state, number)
        clock.advance(65.0)
    kept = state.system.state
    for parts in (kept._facts, kept._slots, kept._starts, kept._binding, kept._flows, kept._logs):
        assert len(parts) < 1000
    assert len(kept._facts["family"]) < 1000
    assert len(kept._flows) + len(kept._logs) + len(kept._facts) < 20


def test_what_has_expired_does_not_pile_up_in_a_database(tmp_path):
    clock = FakeClock()
    state = open_state(f"sqlite:///{tmp_path}/fastq.db")
    state.system.server.clock = clock.now_us
    for number in range(20):
        leave_things_behind(state, number)
        clock.advance(65.0)
    with state.system.read(StateUnavailable) as connection:
        for table in (facts, limits, slots, flows, needs, logs, entries):
            assert connection.execute(select(func.count()).select_from(table)).scalar_one() < 1000
    state.close()


def test_every_key_of_redis_expires(server):
    state = open_state(server.url)
    leave_things_behind(state, 1, expires_s=5.0)
    keys = server.command("KEYS", "*")
    assert len(keys) > 400
    assert all(key.startswith(b"{fastq:state}:") for key in keys)
    assert all(0 < server.command("PTTL", key) <= 67_000 for key in keys)
    state.close()


def test_a_family_of_redis_that_is_only_ever_added_to_does_not_pile_up(server):
    clock = FakeClock()
    state = open_state(server.url)
    state.system.clock = clock.now_us
    state.put("f", {"lasts": b"x"}, LONG_S * 100)
    for number in range(1000):
        state.put("f", {f"{number}": b"x"}, 1.0)
        clock.advance(0.5)
    assert server.command("HLEN", "{fastq:state}:facts:f") < 50
    assert state.find("f").keys() == {"lasts", "999"}
    state.close()


def test_nothing_is_left_beside_the_database(tmp_path):
    state = open_state(f"sqlite:///{tmp_path}/fastq.db")
    follower = state.follow("log")
    state.append("log", [b"1"], 10, LONG_S)
    assert soon(follower) == [b"1"]
    assert len(os.listdir(tmp_path / "fastq.db-bells")) == 1
    follower.close()
    state.close()
    assert os.listdir(tmp_path) == ["fastq.db"]


# -- faults -------------------------------------------------------------------------------------------


def every_call(state):
    """Yield each method of a state, ready to be called."""
    asks = [Ask("a", (Limit("slots", 1), Limit("rate", 1, 1.0)))]
    flow = flow_of(2)
    yield lambda: state.put("f", {"a": b"1"}, LONG_S)
    yield lambda: state.put_new("f", uuid.uuid4().hex, b"1", LONG_S)
    yield lambda: state.get("f", ["a"])
    yield lambda: state.find("f")
    yield lambda: state.delete("f", ["b"])
    yield lambda: state.delete_if("f", "b", b"")
    yield lambda: state.replace_if("f", "b", b"", b"1", LONG_S)
    yield lambda: state.acquire(asks, LONG_S, LONG_S)
    yield lambda: state.extend(asks, LONG_S)
    yield lambda: state.give_back(asks)
    yield lambda: state.open_flows([flow], LONG_S)
    yield lambda: state.arrive(ends(flow))
    yield lambda: state.close_flows([flow.id])
    yield lambda: state.append("log", [b"1"], 10, LONG_S)
    yield lambda: state.follow("log").close()


def test_a_server_that_is_not_there_is_reported_by_every_method():
    state = open_state(f"redis://:hush@127.0.0.1:{free_port()}")
    for call in every_call(state):
        with pytest.raises(StateUnavailable, match="check the address") as failure:
            call()
        assert "hush" not in str(failure.value)
    state.close()


def test_a_database_that_can_not_be_opened_is_reported(tmp_path):
    with pytest.raises(StateUnavailable, match="does not exist: make it"):
        open_state(f"sqlite:///{tmp_path}/no/fastq.db")


def test_scripts_that_are_flushed_are_loaded_again(server):
    state = open_state(server.url)
    for call in every_call(state):
        for _ in range(2):
            server.command("SCRIPT", "FLUSH")
            call()
    state.close()


def test_when_the_server_is_there_again_all_goes_on(server):
    state = open_state(server.url)
    for call in every_call(state):
        call()
    follower = state.follow("log")
    assert now_there(follower) == []
    read: list[bytes | StateUnavailable] = []

    def wait() -> None:
        try:
            read.extend(follower.read(None))
        except StateUnavailable as error:
            read.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    while b"cmd=xread" not in server.command("CLIENT", "LIST"):
        pass
    server.kill()
    waiting.join(20)
    assert isinstance(read[0], StateUnavailable)
    with pytest.raises(StateUnavailable):
        follower.read(None)
    with pytest.raises(StateUnavailable):
        state.find("f")
    server.start()
    for call in every_call(state):
        call()
    assert soon(follower) == [b"1"]
    follower.close()
    state.close()


def test_a_restart_between_two_reads_goes_unnoticed(server):
    state = open_state(server.url)
    follower = state.follow("log")
    assert follower.read(time.monotonic() + 0.05) == []
    server.restart()
    state.append("log", [b"1"], 10, LONG_S)
    assert follower.read(time.monotonic() + 20) == [b"1"]
    follower.close()
    state.close()


def test_over_maxmemory_tasks_start_and_end_and_nothing_is_added(start):
    server = start("maxmemory-policy noeviction")
    state = open_state(server.url)
    asks = [Ask("a", (Limit("slots", 1), Limit("rate", 1, 0.001)))]
    flow, other = flow_of(1), flow_of(1)
    state.open_flows([flow], LONG_S)
    server.command("CONFIG", "SET", "maxmemory", 1)
    for add in (
        lambda: state.put("f", {"a": b"x"}, LONG_S),
        lambda: state.open_flows([other], LONG_S),
        lambda: state.append("log", [b"x"], 10, LONG_S),
    ):
        with pytest.raises(StateUnavailable, match="maxmemory"):
            add()
    assert state.acquire(asks, LONG_S, LONG_S)[0].wait_s == 0
    state.extend(asks, LONG_S)
    state.give_back(asks)
    assert [it.flow for it in state.arrive([it._replace(failed=True) for it in ends(flow)])] == [flow.id]
    state.close_flows([flow.id])
    state.close()


# -- cost ---------------------------------------------------------------------------------------------


def test_an_idle_follower_sends_less_than_a_command_a_second(server):
    state = open_state(server.url)
    follower = state.follow("log")

    def commands() -> int:
        stats = server.command("INFO", "commandstats").decode()
        return sum(int(line.split("calls=")[1].split(",")[0]) for line in stats.splitlines() if "cmdstat_x" in line)

    before, started = commands(), time.monotonic()
    while time.monotonic() < started + 3:
        assert follower.read(time.monotonic() + 0.05) == []
    assert commands() - before <= 3
    follower.close()
    state.close()


def test_an_idle_follower_of_a_database_sleeps(tmp_path):
    state = open_state(f"sqlite:///{tmp_path}/fastq.db")
    follower = state.follow("log")
    before = time.thread_time()
    assert follower.read(time.monotonic() + 2) == []
    assert time.thread_time() - before < 0.2
    follower.close()
    state.close()
