"""``fastq doctor``: it tells the truth about the systems that it is shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.terminal import at_terminal, fastq
from tests.conftest import require_service
from tests.redis_server import RedisServer, has_redis


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    require_service("Redis", has_redis)
    server = RedisServer(tmp_path / "redis", "appendonly yes", "appendfsync always", "maxmemory 1gb").start()
    yield server
    server.kill()


def weaknesses(url: str, folder: Path, **settings: str) -> tuple[int, str]:
    ended = fastq("doctor", "--json", "--broker", url, folder=folder, settings=settings)
    assert ended.returncode in (0, 1), ended.stderr
    told = json.loads(ended.stdout)
    assert all(weakness["remedy"] for weakness in told["weaknesses"])
    assert (ended.returncode == 1) == bool(told["weaknesses"])
    return ended.returncode, " / ".join(weakness["what"] for weakness in told["weaknesses"])


def test_a_redis_that_writes_everything_down_is_not_blamed(server: RedisServer, tmp_path: Path) -> None:
    _, said = weaknesses(server.url, tmp_path)
    assert "loses" not in said
    assert "evict" not in said
    assert "maxmemory" not in said


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("appendfsync", "everysec", "a power failure may lose the last second"),
        ("appendonly", "no", "a restart loses all messages"),
        ("maxmemory-policy", "allkeys-lru", "it may evict messages"),
        ("maxmemory-policy", "volatile-ttl", "it may evict results"),
        ("maxmemory", "0", "it has no maxmemory"),
    ],
)
def test_a_redis_that_may_lose_something_is_told_of(
    server: RedisServer, tmp_path: Path, setting: str, value: str, words: str
) -> None:
    server.command("CONFIG", "SET", setting, value)
    status, said = weaknesses(server.url, tmp_path)
    assert status == 1
    assert words in said


def test_sqlite_is_described(tmp_path: Path) -> None:
    ended = fastq("doctor", folder=tmp_path)
    assert "SQLite" in ended.stdout
    assert "survive the death of every process, and a power failure" in ended.stdout
    _, said = weaknesses(f"sqlite:///{tmp_path}/fastq.db?synchronous=NORMAL", tmp_path)
    assert "synchronous=NORMAL" in said


def test_no_word_is_beyond_the_edge_of_a_terminal(tmp_path: Path) -> None:
    url = "sqlite:///fastq.db?synchronous=NORMAL"
    lines = at_terminal("doctor", "--broker", url, folder=tmp_path, columns=100)
    assert max(map(len, lines)) <= 100
    assert sum(line.startswith("         ") for line in lines) > 1, "further lines begin where the words do"
    assert " ".join(" ".join(lines).split()) == " ".join(
        fastq("doctor", "--broker", url, folder=tmp_path).stdout.split()
    )


def test_settings_that_are_dangerous_are_told_of(tmp_path: Path) -> None:
    _, said = weaknesses("sqlite:///fastq.db", tmp_path, FASTQ_ACCEPT="json,pickle", FASTQ_ACK="early")
    assert "can run code in your workers" in said
    assert "ack is early" in said


def test_a_broker_that_is_not_there_is_an_error_of_its_own(tmp_path: Path) -> None:
    ended = fastq("doctor", "--broker", "redis://127.0.0.1:1", folder=tmp_path)
    assert ended.returncode == 4
    assert ended.stderr.startswith("Error:")


def test_passwords_are_not_shown(tmp_path: Path) -> None:
    ended = fastq("doctor", "--broker", "redis://:canary@127.0.0.1:1", folder=tmp_path)
    assert "canary" not in ended.stdout + ended.stderr
