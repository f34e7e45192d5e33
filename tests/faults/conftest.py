"""What the fault tests share: a ledger, an app on a new SQLite file with a host for it, and a table of verdicts."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastq import FastQ
from fastq.testing.faults import Verdict, table
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


_verdicts: list[tuple[str, Verdict]] = []


@pytest.fixture
def record_verdict() -> Callable[[str, Verdict], None]:
    """Return what adds a verdict to the table at the end, and to the file that FAULTS_JSON names."""
    return lambda name, verdict: _verdicts.append((name, verdict))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _verdicts:
        return
    terminalreporter.section("What became of tasks")
    for line in table(_verdicts):
        terminalreporter.write_line(line)
    if path := os.environ.get("FAULTS_JSON"):
        Path(path).write_text(json.dumps({name: verdict.as_json() for name, verdict in _verdicts}, indent=1))
