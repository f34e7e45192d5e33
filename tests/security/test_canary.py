"""Secrets stay where they belong: with canaries for arguments, passwords and keys, all that a worker says is read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastq import FastQ
from fastq.deadletters import DeadLetters
from fastq.errors import DeadLettered
from fastq.message import Message
from tests.cli.terminal import Worker, fastq, worker
from tests.conftest import require_service
from tests.ledger import children_of, eventually
from tests.redis_server import RedisServer, has_redis

ARGUMENT = "argument-canary-7d1f"
CANARIES = {
    "argument": ARGUMENT,
    "result": "result-" + ARGUMENT,
    "password": "password-canary-93ac",
    "signing key": "signing-key-canary-0000000000000000",
    "encryption key": "encryption-key-canary-000000000000",
}

SHOP = """
import os
import time
from fastq import FastQ

app = FastQ("shop")

@app.task(secret=["password"])
def log_in(password):
    return "result-" + password

@app.task
def fail(password):
    raise ValueError("no luck")

@app.task
def die(password):
    os.kill(os.getpid(), 9)

@app.task(secret=["password"])
def unsayable(password):
    return {password}

@app.task
def wait_for(path, password):
    while not os.path.exists(path):
        time.sleep(0.01)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    require_service("Redis", has_redis)
    options = (f"requirepass {CANARIES['password']}", "appendonly yes", "appendfsync no")
    server = RedisServer(tmp_path / "redis", *options).start()
    yield server
    server.kill()


@pytest.fixture
def settings(server: RedisServer) -> dict[str, str]:
    """The settings of worker and commands, as variables of the environment."""
    return {
        "FASTQ_BROKER": f"redis://:{CANARIES['password']}@127.0.0.1:{server.port}/0",
        "FASTQ_SIGNING_KEYS": "k1=env:SHOP_SIGNING_KEY",
        "FASTQ_ENCRYPTION_KEYS": "e1=env:SHOP_ENCRYPTION_KEY",
        "FASTQ_REQUIRE_ENCRYPTED": "1",
        "FASTQ_EVENTS": "1",
        "FASTQ_MAX_DELIVERIES": "1",
        "FASTQ_UNKNOWN_TASK_GRACE_S": "0",
        "SHOP_SIGNING_KEY": CANARIES["signing key"],
        "SHOP_ENCRYPTION_KEY": CANARIES["encryption key"],
    }


def send_all(app: FastQ) -> None:
    """Let tasks end in every way there is, with the canary among their arguments."""
    assert app.send_task("shop.log_in", (ARGUMENT,)).get(30) == CANARIES["result"]
    for name in ("fail", "die", "unsayable", "nothing_like_it"):
        with pytest.raises(Exception, match=r"no luck|dead letters|can't be carried"):
            app.send_task(f"shop.{name}", (ARGUMENT,)).get(30)
    unreadable = Message(os.urandom(16), "shop.fail", "default", b'["' + ARGUMENT.encode() + b'"')
    app.broker.publish([unreadable])
    with pytest.raises(DeadLettered):
        app.result(unreadable.uuid).get(30)
    quoted = ARGUMENT.encode()
    app.broker.publish_frames("default", [
        quoted, b"\xf5Q" + quoted, b"\xf5S" + quoted * 20,
        b'{"task":"shop.fail","args":"%b"}' % quoted, b'{"task":"shop.fail","kwargs":["%b"]}' % quoted,
        b'{"task":"shop.fail","headers":"%b"}' % quoted,
    ])  # fmt: skip
    dead = DeadLetters(app)
    eventually(lambda: len(dead.find()) == 9, 30)


def titles(started: Worker) -> str:
    """Return what `ps` shows of a worker's processes."""
    pids = [started.pid, *children_of(started.pid), *started.children()]
    return "\n".join(Path(f"/proc/{pid}/cmdline").read_text() for pid in pids if Path(f"/proc/{pid}").exists())


def found(text: str) -> list[str]:
    return [what for what, canary in CANARIES.items() if canary in text]


def test_no_secret_is_said_shown_or_stored(
    server: RedisServer, settings: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    for name in settings:
        monkeypatch.setenv(name, settings[name])
    app = FastQ("client")
    with app, worker("-l", "debug", folder=tmp_path, settings=settings) as started:
        app.send_task("shop.wait_for", (str(tmp_path / "gate"), ARGUMENT))
        eventually(lambda: app.control.inspect().active())
        said = {"titles": titles(started)}
        (tmp_path / "gate").touch()
        send_all(app)
        for words in (("status",), ("doctor",), ("dead", "list"), ("inspect", "stats"), ("inspect", "active")):
            ended = fastq(*words, folder=tmp_path, settings=settings)
            said[" ".join(words)] = ended.stdout + ended.stderr
        said["reasons"] = repr([letter.reason for letter in DeadLetters(app).find()])
        with app.events(from_start=True, timeout=1.0) as events:
            said["events"] = repr(list(events))
        said["reprs"] = repr([app, app.settings, app.broker, app.settings.seals])
    said["log"] = started.log
    assert "ValueError: no luck" in said["log"]
    assert "task-failed" in said["events"]
    assert {where: found(text) for where, text in said.items() if found(text)} == {}
    stored = b"".join(file.read_bytes() for file in (server.folder / "appendonlydir").iterdir())
    assert b"shop.log_in" in stored
    assert CANARIES["result"].encode() not in stored
    server.kill()
    ended = fastq("status", folder=tmp_path, settings=settings)
    assert ended.returncode != 0
    assert found(ended.stdout + ended.stderr) == []
