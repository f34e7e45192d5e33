"""What the fault tests share: a ledger, an app on a new SQLite file, and a host with workers for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fastq import FastQ
from tests.apps import basic
from tests.hosts import Host
from tests.ledger import Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


@pytest.fixture
def app(tmp_path: Path) -> Iterator[FastQ]:
    app = basic.app
    before = app.settings
    app.settings = type(before).load({"broker": f"sqlite:///{tmp_path}/storm.db"})
    yield app
    app.close()
    app.settings = before


@pytest.fixture
def host(app: FastQ, ledger: Ledger, tmp_path: Path) -> Iterator[Host]:
    host = Host(app.settings.broker, ledger, tmp_path / "log")
    yield host
    host.stop()
    print((tmp_path / "log").read_text()[-4000:])
