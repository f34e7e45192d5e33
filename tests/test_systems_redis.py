"""The Redis system's parts by themselves: URLs, keys, doubts, and callers that wait."""

from __future__ import annotations

import os
import threading
import time

import pytest

from fastq._speedups import new_id
from fastq.backends import open_backend
from fastq.brokers import open_broker
from fastq.errors import ConfigurationError, UnknownSetting
from fastq.outcome import Outcome, State
from fastq.systems.redis_nodes import slot_of
from fastq.systems.redis_results import told
from fastq.systems.redis_url import RedisUrl
from fastq.testing.backends import success, successes
from fastq.testing.broker_case import call, soon
from tests.conftest import require_service
from tests.redis_server import RedisServer, has_redis


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    require_service("Redis", has_redis)
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.kill()


@pytest.fixture
def url(server, request):
    return f"{server.url}?prefix={request.node.name[:60]}"


# -- URLs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "fields"),
    [
        ("redis://", {"addresses": (("localhost", 6379),), "db": 0, "prefix": "fastq", "tls": False}),
        ("redis://h:7/3", {"addresses": (("h", 7),), "db": 3}),
        ("redis://[::1]:7", {"addresses": (("::1", 7),)}),
        ("redis://u:p%40ss@h", {"username": "u", "password": "p@ss"}),
        ("redis://:pw@h?prefix=a.b&timeout=2.5", {"password": "pw", "prefix": "a.b", "timeout_s": 2.5}),
        ("rediss://h?ssl_ca_certs=/ca.pem", {"tls": True, "ca_certs": "/ca.pem", "insecure": False}),
        ("redis+unix:///run/redis.sock?db=2", {"addresses": (("/run/redis.sock", 0),), "db": 2}),
        (
            "redis+sentinel://:pw@a,b:9/mymaster/1?sentinel_password=x&tls=1",
            {
                "addresses": (("a", 26379), ("b", 9)),
                "service": "mymaster",
                "db": 1,
                "sentinel_password": "x",
                "tls": True,
            },
        ),
        ("redis+cluster://a:1,b:2", {"addresses": (("a", 1), ("b", 2)), "kind": "cluster"}),
    ],
)
def test_a_url_is_read(url, fields):
    parsed = RedisUrl.parse(url)
    assert {name: getattr(parsed, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://h:99999", "host:port"),
        ("redis://h/x", "number"),
        ("redis://h/-1", "number"),
        ("redis://h?timeout=soon", "number"),
        ("redis://user@h", "without a password"),
        ("redis://h?prefix={x}", "prefix"),
        ("redis://h?tls=maybe", "0 or 1"),
        ("redis+unix://", "names no socket"),
        ("redis+sentinel://h", "names no service"),
        ("redis+cluster://h/1", "number 0 only"),
    ],
)
def test_a_url_that_can_not_be_used_is_refused(url, reason):
    with pytest.raises(ConfigurationError, match=reason):
        RedisUrl.parse(url)


def test_an_unknown_option_gets_a_suggestion():
    with pytest.raises(UnknownSetting, match="did you mean 'prefix'"):
        RedisUrl.parse("redis://h?prefx=a")


def test_secrets_are_in_no_text():
    parsed = RedisUrl.parse("redis+sentinel://u:hush@a/m?sentinel_password=hush")
    assert "hush" not in repr(parsed)
    assert "hush" not in parsed.shown
    with pytest.raises(UnknownSetting) as failure:
        RedisUrl.parse("redis://u:hush@h?sentinel_password=hush&x=1")
    assert "hush" not in str(failure.value)


def test_slots_are_those_of_the_cluster_specification():
    assert slot_of("123456789") == 0x31C3
    assert slot_of("{fastq:q}:ready") == slot_of("{fastq:q}:held:x") == slot_of("fastq:q")
    assert slot_of("{}x") == slot_of("{}x") != slot_of("x")


# -- outcomes -----------------------------------------------------------------------------------------


def test_outcomes_of_one_moment_share_a_key_that_expires(server, url):
    backend = open_backend(url, 60.0)
    first = new_id()
    outcomes = [Outcome(first[:6] + os.urandom(10), State.SUCCESS, b"%d" % at) for at in range(100)]
    backend.store(outcomes)
    prefix = RedisUrl.parse(url).prefix
    keys = server.command("KEYS", f"{prefix}:r:*")
    assert len(keys) == 1
    assert 50_000 < server.command("PTTL", keys[0]) <= 60_000
    shorter = open_backend(url, 1.0)
    shorter.store([Outcome(first[:6] + os.urandom(10), State.SUCCESS)])
    assert server.command("PTTL", keys[0]) > 50_000
    for each in (backend, shorter):
        each.close()


def test_ids_that_are_not_ordered_by_time_are_fine(url):
    backend = open_backend(url, 60.0)
    outcomes = [success(os.urandom(16)) for _ in range(300)]
    backend.store(outcomes)
    assert backend.load([it.id for it in outcomes]) == outcomes
    backend.close()


def test_a_message_tells_of_frames_or_of_ids():
    frames = [outcome.encode() for outcome in successes(3)]
    message = b"F" + b"".join(len(frame).to_bytes(4, "little") + frame for frame in frames)
    assert told(message) == [(frame[8:24], frame) for frame in frames]
    ids = [new_id(), new_id()]
    assert told(b"I" + b"".join(ids)) == [(id, b"") for id in ids]
    assert told(b"") == told(b"I") == []


def test_many_threads_wait_on_one_connection_that_is_unsubscribed_when_all_have_what_they_want(server, url):
    backend = open_backend(url, 60.0)
    outcomes = successes(30)
    got: list[Outcome] = []

    def wait(outcome: Outcome) -> None:
        got.extend(backend.wait([outcome.id], time.monotonic() + 20))

    threads = [threading.Thread(target=wait, args=(outcome,)) for outcome in outcomes]
    for thread in threads:
        thread.start()
    channel = backend.system.channel
    subscribers = lambda: server.command("PUBSUB", "NUMSUB", channel)[1]  # noqa: E731
    give_up = time.monotonic() + 10
    while len(backend.system.listener._waiters) < 30:
        assert time.monotonic() < give_up
    assert subscribers() == 1
    for outcome in reversed(outcomes):
        backend.store([outcome])
    for thread in threads:
        thread.join()
    assert sorted(got) == sorted(outcomes)
    while subscribers():
        assert time.monotonic() < give_up
    again = success()
    backend.store([again])
    assert list(backend.wait([again.id], time.monotonic() + 1)) == [again]
    backend.close()


def test_a_forked_child_has_connections_of_its_own(url):
    broker = open_broker(url)
    broker.publish([call()])
    pid = os.fork()
    if not pid:
        try:
            broker.publish([call()])
            os._exit(0 if broker.depth("q") == 2 else 1)
        except BaseException:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert broker.depth("q") == 2
    subscription = broker.subscribe(["q"], 60.0, {})
    assert len(soon(subscription)) == 2
    subscription.close()
    broker.close()


# -- idle workers -------------------------------------------------------------------------------------


def test_an_idle_worker_sends_less_than_a_command_a_second(server, url):
    broker = open_broker(url)
    subscription = broker.subscribe(["q"], 60.0, {})

    def commands() -> int:
        stats = server.command("INFO", "commandstats").decode()
        wanted = ("cmdstat_evalsha:", "cmdstat_blpop:")
        return sum(int(line.split("calls=")[1].split(",")[0]) for line in stats.splitlines() if line.startswith(wanted))

    before, started = commands(), time.monotonic()
    assert subscription.fetch(1, started + 4) == []
    assert commands() - before <= 5  # two in three seconds, and a look at the end
    subscription.close()
    broker.close()


def test_one_message_wakes_one_of_many_waiting(server, url):
    brokers = [open_broker(url) for _ in range(5)]
    subscriptions = [broker.subscribe(["q"], 60.0, {}) for broker in brokers]
    fetched: list[int] = []

    def fetch(at: int) -> None:
        if subscriptions[at].fetch(1, None):
            fetched.append(at)

    threads = [threading.Thread(target=fetch, args=(at,)) for at in range(5)]
    for thread in threads:
        thread.start()
    while server.command("CLIENT", "LIST").count(b"cmd=blpop") < 5:
        pass
    for count in range(1, 4):
        started = time.monotonic()
        brokers[0].publish([call()])
        while len(fetched) < count:
            assert time.monotonic() - started < 1
    for subscription in subscriptions:
        subscription.interrupt()
    for thread in threads:
        thread.join()
    assert len(set(fetched)) == 3
    for each in (*subscriptions, *brokers):
        each.close()


def test_what_falls_due_is_there_to_the_millisecond(url):
    broker = open_broker(url)
    subscription = broker.subscribe(["q"], 60.0, {})
    late: list[float] = []
    for _ in range(10):
        due = time.time() + 0.05
        broker.publish([call(eta=round(due * 1e6))])
        assert len(soon(subscription)) == 1
        late.append(time.time() - due)
    late.sort()
    assert late[0] >= 0
    assert late[5] < 0.02
    subscription.close()
    broker.close()
