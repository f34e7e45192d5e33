"""``fastq doctor``: it tells the truth about the systems that it is shown."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastq.cli.doctor import _clock, _host
from fastq.diagnosis import Diagnosis
from fastq.systems.redis_durability import _holes
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
    _, said = weaknesses(
        "sqlite:///fastq.db", tmp_path, FASTQ_ACCEPT="json,pickle", FASTQ_ACK="early", FASTQ_DEAD_LETTERS_MAX="100"
    )
    assert "can run code in your workers" in said
    assert "ack is early" in said
    assert "dead_letters_max is 100" in said


def test_weaknesses_that_are_known_can_be_ignored(tmp_path: Path) -> None:
    url = "sqlite:///fastq.db?synchronous=NORMAL"
    told = json.loads(fastq("doctor", "--json", "--broker", url, folder=tmp_path).stdout)["weaknesses"]
    assert told
    ignoring = [word for weakness in told for word in ("--ignore", weakness["what"][:20].upper())]
    ended = fastq("doctor", "--broker", url, *ignoring, folder=tmp_path)
    assert ended.returncode == 0
    assert "Nothing is weak" in ended.stdout


@pytest.mark.parametrize(
    ("product", "version", "holes"),
    [
        ("Redis", "6.2.19", 1), ("Redis", "6.2.20", 0), ("Redis", "7.0.15", 1), ("Redis", "7.2.10", 1),
        ("Redis", "7.2.11", 0), ("Redis", "7.4.6", 0), ("Redis", "8.0.3", 1), ("Redis", "8.2.2", 0),
        ("Redis", "8.4.0", 0), ("Redis", "10.0", 0), ("Redis", "0", 0),
        ("Valkey", "7.2.10", 1), ("Valkey", "8.0.6", 0), ("Valkey", "8.1.3", 1), ("Valkey", "9.0.0", 0),
    ],
)  # fmt: skip
def test_versions_of_redis_with_a_known_hole_are_told_of(product: str, version: str, holes: int) -> None:
    found = list(_holes(product, version))
    assert len(found) == holes
    assert all("CVE-2025-49844" in hole.what and " or later" in hole.remedy for hole in found)


@pytest.mark.parametrize(
    ("ahead_s", "words"), [(-60, " s ahead of the broker's"), (60, " s behind the broker's"), (1, "")]
)
def test_a_clock_that_is_not_the_broker_s_is_told_of(ahead_s: float, words: str) -> None:
    now_us = round((time.time() + ahead_s) * 1e6)
    said = " / ".join(weakness.what for weakness in _clock(Diagnosis("a broker", "something", (), now_us)))
    assert words in said
    assert bool(said) == bool(words)


@pytest.mark.parametrize("permitted", [True, False])
def test_a_host_where_the_pool_s_memory_is_a_file_is_told_of(monkeypatch: pytest.MonkeyPatch, permitted: bool) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError("seccomp says no")

    if not permitted:
        monkeypatch.setattr("os.memfd_create", refuse)
    assert any("memfd_create is not permitted" in weakness.what for weakness in _host()) is not permitted


def test_a_host_where_few_files_can_be_open_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (1024, 4096))
    assert "processes here may have 1024 files open" in [weakness.what for weakness in _host()]


def test_a_broker_that_is_not_there_is_an_error_of_its_own(tmp_path: Path) -> None:
    ended = fastq("doctor", "--broker", "redis://127.0.0.1:1", folder=tmp_path)
    assert ended.returncode == 4
    assert ended.stderr.startswith("Error:")


def test_passwords_are_not_shown(tmp_path: Path) -> None:
    ended = fastq("doctor", "--broker", "redis://:canary@127.0.0.1:1", folder=tmp_path)
    assert "canary" not in ended.stdout + ended.stderr
