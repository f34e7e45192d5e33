"""Revocation of an ``async def`` task: it alone is cancelled, and its neighbours in the same process go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastq import FastQ, State
from fastq.errors import TaskRevoked
from tests.apps import control_async
from tests.ledger import eventually
from tests.semantics.conftest import Start

APP = "tests.apps.control_async"
pytestmark = pytest.mark.processes


def test_an_async_task_that_is_broken_off_cleans_up_and_its_neighbour_goes_on(
    app: FastQ, start: Start, tmp_path: Path
) -> None:
    one, other, until = tmp_path / "one", tmp_path / "other", tmp_path / "until"
    with start(name="one"):
        revoked = control_async.rest.delay(str(one))
        kept = control_async.rest.delay(str(other), str(until))
        eventually(lambda: one.exists() and other.exists())
        tasks = app.control.inspect(timeout=5).active()["one"]
        assert {task["id"] for task in tasks} == {revoked.id, kept.id}
        assert len({task["pid"] for task in tasks}) == 1
        revoked.revoke(terminate=True)
        with pytest.raises(TaskRevoked, match="broken off while it ran"):
            revoked.get(10)
        assert revoked.state is State.REVOKED
        assert (tmp_path / "one-left").exists()
        until.touch()
        assert kept.get(10) == tasks[0]["pid"]
