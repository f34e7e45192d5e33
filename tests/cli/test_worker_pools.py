"""``fastq worker`` with each pool, and the options that say how many children there are and for how long."""

import re
from pathlib import Path

import pytest

from tests.cli.terminal import SHOP, client, fastq, worker


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(f"{SHOP}\n\n@app.task\nasync def wait(x):\n    return x\n")
    return tmp_path


@pytest.mark.parametrize(
    ("pool", "children"), [("prefork", "2"), ("threads", "2"), ("asyncio", "2"), ("solo", "1")]
)  # fmt: skip
def test_a_worker_runs_both_kinds_of_tasks_in_the_pool_that_is_named(folder: Path, pool: str, children: str) -> None:
    with worker("--pool", pool, "--async-concurrency", "7", folder=folder) as started, client(folder) as app:
        assert f"pool {pool} × {children}," in started.log
        assert app.send_task("shop.add", (4, 4)).get(20) == 8
        assert app.send_task("shop.wait", (4,)).get(20) == 4


def test_the_app_may_choose_the_solo_pool_too(folder: Path) -> None:
    with worker(folder=folder, settings={"FASTQ_POOL": "solo"}) as started, client(folder) as app:
        assert "pool solo × 1," in started.log
        assert app.send_task("shop.add", (4, 4)).get(20) == 8


def test_children_are_scaled_and_recycled_as_the_options_say(folder: Path) -> None:
    options = (
        "--autoscale", "1,3", "--max-tasks-per-child", "2", "--max-memory-per-child", "4000", "--max-child-age", "900"
    )  # fmt: skip
    with worker(*options, folder=folder) as started, client(folder) as app:
        for n in range(5):
            assert app.send_task("shop.add", (n, 1)).get(20) == n + 1
    log = (folder / "worker.log").read_text()
    assert re.search(r"Pool child \d leaves: it has run its number of tasks", log)
    assert " WARNING fastq.pool" not in log
    assert "Ready" in started.log


@pytest.mark.parametrize(
    ("bounds", "told"),
    [("5", "takes two numbers"), ("a,b", "takes two"), ("0,4", "1 or more"), ("5,4", "not less"), ("1,9999", "900")],
)
def test_bounds_of_autoscaling_that_make_no_sense(folder: Path, bounds: str, told: str) -> None:
    ended = fastq("worker", "--autoscale", bounds, folder=folder)
    assert ended.returncode == 2
    assert told in ended.stderr
