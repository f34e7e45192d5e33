"""What strangers may write, and what must not come of it."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from fastq import FastQ
from fastq._speedups import new_id
from fastq.broker import Delivery
from fastq.cli.doctor import _keys, _settings
from fastq.errors import ConfigurationError, ProtocolError
from fastq.message import Message, check_queue
from fastq.pool import TaskInfo
from fastq.settings import Settings
from fastq.worker.logs import TextFormatter
from fastq.worker.triage import Triage
from tests.conftest import InlineWorker

NASTY = [
    "a\r\nERROR all is lost", "\x1b]0;owned\x07", "\x1b[2J", "nul\0nul", "\u202egnp.exe", "\u2028line",
    "../../etc/passwd", "%2e%2e/x", "'; DROP TABLE messages; --", "{a}{b}", "$(reboot)",
    "return redis.call('FLUSHALL')", "%(name)s %s {0}",
]  # fmt: skip


@pytest.mark.parametrize("text", NASTY, ids=ascii)
def test_a_message_can_neither_forge_a_line_of_the_log_nor_steer_a_terminal(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    triage = Triage({"x": TaskInfo("x")}, Settings(unknown_task_grace_s=0.0))
    for fields in ({"task": text}, {"task": "x", "queue": text}, {"task": "x", text: 1}, {"task": "x", "id": text}):
        triage.sort(Delivery(json.dumps(fields).encode(), "default", 1, 1))
    lines = [TextFormatter().format(record) for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) >= 3
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("name", NASTY, ids=ascii)
def test_what_is_no_name_of_a_queue_reaches_no_store(name: str, memory_url: str) -> None:
    with pytest.raises(ProtocolError, match="is not a queue name"):
        check_queue(name)
    with FastQ(broker=memory_url) as app:
        with pytest.raises(ProtocolError, match="is not a queue name"):
            app.broker.publish_frames(name, [b"x"])
        with pytest.raises(ProtocolError, match="is not a queue name"):
            app.broker.publish([Message(new_id(), "x", name, b"[[],{}]")])


@pytest.mark.parametrize("name", NASTY, ids=ascii)
def test_a_nasty_task_name_is_none_or_does_no_harm_in_a_database(name: str, tmp_path: Path) -> None:
    with FastQ(broker=f"sqlite:///{tmp_path}/fastq.db") as app:
        try:
            app.send_task(name, (name,))
        except ConfigurationError:
            return
        (delivery,) = app.broker.subscribe(["default"], 30.0, {}).fetch(1, 0)
        assert Message.decode(delivery.frame).task == name


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "fastq.app.FastQ", "__main__.add", "tests.add"])
def test_a_message_names_a_task_that_was_declared_or_nothing(app: FastQ, worker: InlineWorker, name: str) -> None:
    app.send_task(name, ("true",))
    (outcome,) = worker.run()
    assert b"has no task" in outcome.body


def test_doctor_warns_of_pickle_unless_all_that_comes_is_signed_and_encrypted() -> None:
    keys = {"signing_keys": {"k": "x" * 32}, "encryption_keys": {"k": "x" * 32}}
    with FastQ(broker="memory://", accept="json,pickle", **keys, require_signed=True) as app:
        assert ["accept has pickle" in weakness.what for weakness in _settings(app)] == [True]
        app.settings = replace(app.settings, require_encrypted=True)
        assert list(_settings(app)) == []


def test_doctor_warns_of_a_key_that_others_can_read(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("x" * 32)
    with FastQ(broker="memory://", signing_keys={"k1": f"file:{file}", "k2": "y" * 32}) as app:
        file.chmod(0o640)
        (weakness,) = _keys(app)
        assert weakness == ("the file of the key 'k1' is open to others than its owner", f"chmod 600 {file}")
        file.chmod(0o600)
        assert list(_keys(app)) == []
