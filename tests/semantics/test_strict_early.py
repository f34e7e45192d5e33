"""strict_early: an early task does not start before its acknowledgement is known to have arrived."""

from __future__ import annotations

import contextlib
import logging
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastq import FastQ
from fastq.errors import ConfigurationError
from fastq.testing.faults.proxy import Proxy
from fastq.testing.workers import running_worker
from tests import rabbit_server
from tests.apps import strict
from tests.ledger import eventually
from tests.semantics.conftest import ROOT

_ACK = (60).to_bytes(2, "big") + (80).to_bytes(2, "big")  # class and method of basic.ack


class LosesAnAck(Proxy):
    """Cuts the connection in place of passing on the next acknowledgement."""

    armed = False

    def _pass_on(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if self.armed and not answers and _ACK in data:
                    self.armed = False
                    break
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy() -> Iterator[LosesAnAck]:
    with rabbit_server.own_vhost() as vhost, rabbit_server.queues_deleted(vhost):
        proxy = LosesAnAck(rabbit_server.PORT)
        proxy.vhost = vhost  # type: ignore[attr-defined]
        yield proxy
        proxy.close()


@pytest.fixture
def app(proxy: Any) -> Iterator[FastQ]:
    """The app on RabbitMQ behind the proxy; results and shared state are kept here."""
    app, other = strict.app, f"memory://{uuid.uuid4().hex}"
    before = app.settings
    url = f"amqp://guest:guest@127.0.0.1:{proxy.port}/{proxy.vhost}?queue_type=classic"
    app.settings = type(before).load({"broker": url, "backend": other, "state": other})
    yield app
    app.close()
    app.settings = before


@pytest.mark.parametrize(("task", "starts"), [(strict.strict, 1), (strict.loose, 2)], ids=["strict", "loose"])
def test_a_task_whose_acknowledgement_is_lost_is_started_once_if_it_is_strict(
    app: FastQ, proxy: LosesAnAck, task: Any, starts: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    notes = tmp_path / "notes"
    with running_worker(app, "tests.apps.strict:app", folder=ROOT, pool="solo"):
        proxy.armed = True
        result = task.delay(str(notes))
        result.get(30)
        eventually(lambda: len(notes.read_text().split()) == starts, 30)
        last = task.delay(str(notes))
        last.get(30)
    assert len(notes.read_text().split()) == starts + 1
    assert ("whether its acknowledgement has arrived is not known" in caplog.text) is (task is strict.strict)


@pytest.mark.parametrize("broker", ["memory", "sqlite"])
def test_where_acknowledgements_have_answers_nothing_changes(broker: str, tmp_path: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}" if broker == "memory" else f"sqlite:///{tmp_path}/fastq.db"
    app, notes = strict.app, tmp_path / "notes"
    before = app.settings
    app.settings = type(before).load({"broker": url})
    try:
        with running_worker(app, "tests.apps.strict:app", folder=ROOT, pool="solo"):
            strict.strict.delay(str(notes)).get(20)
        assert notes.read_text() == "begun\n"
    finally:
        app.close()
        app.settings = before


def test_it_is_an_option_of_early_tasks() -> None:
    def task() -> None: ...

    with FastQ(broker="memory://", strict_early=True) as app:
        assert app.task(ack="early")(task).info.strict_early
        assert not app.task(name="other", ack="early", strict_early=False)(task).info.strict_early
    with FastQ(broker="memory://") as app:
        with pytest.raises(ConfigurationError, match="strict_early is for early tasks: say ack='early', too"):
            app.task(strict_early=True)(task)
        with pytest.raises(ConfigurationError, match="strict_early is 1; it takes True or False"):
            app.task(ack="early", strict_early=1)(task)  # type: ignore[arg-type]
