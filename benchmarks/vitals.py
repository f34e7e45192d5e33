"""Vital signs of one worker on SQLite: start-up, memory, idle CPU, replacement of a child, round trip, drain.

How each figure is taken stands in ``benchmarks/README.rst``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import sample_app
from benchmarks.figures import Figure, percentile, show
from fastq import FastQ, TaskSet

ROOT = Path(__file__).parents[1]
RUNS = 7


def main() -> None:
    """Measure everything, and print a table."""
    figures = [
        import_time(),
        ready_time(),
        *idle(),
        replacement(),
        *round_trip(),
    ]
    show("Vital signs: SQLite, 2 children", figures)


def import_time() -> Figure:
    def spent(code: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
        return (time.perf_counter() - began) * 1e3

    pairs = [(spent("pass"), spent("import fastq")) for _ in range(3 * RUNS)]
    return Figure("import fastq", "ms", [whole - bare for bare, whole in pairs], "< 50")


def ready_time() -> Figure:
    values = []
    for _ in range(RUNS):
        with worker() as (_, ready_s):
            values.append(ready_s)
    return Figure("worker ready", "s", values, "< 0.5")


def idle() -> list[Figure]:
    memory, cpu = [], []
    for _ in range(3):
        with worker() as (process, _):
            pids = family(process.pid)
            until(lambda pids=pids: len(family(pids[0])) == 4)  # type: ignore[misc]
            time.sleep(1)
            pids = family(process.pid)
            memory.append(sum(map(pss_mb, pids)))
            before, began = sum(map(cpu_s, pids)), time.monotonic()
            time.sleep(5)
            cpu.append((sum(map(cpu_s, pids)) - before) / (time.monotonic() - began) * 100)
    return [
        Figure("parent + template + 2 idle children", "MB PSS", memory, "≤ 60"),
        Figure("idle CPU of all four", "% of a CPU", cpu, "≈ 0"),
    ]


def replacement() -> Figure:
    """Time from the death of a child to the birth of its successor, for an app that takes 2 s to import."""
    values = []
    with worker(SAMPLE_IMPORT_S="2") as (process, _):
        (template,) = children(process.pid)
        until(lambda: len(children(template)) == 2)
        for _ in range(3):
            before = children(template)
            os.kill(before[0], signal.SIGKILL)
            began = time.perf_counter()
            until(lambda before=before: len(set(children(template)) - set(before)) == 1)  # type: ignore[misc]
            values.append((time.perf_counter() - began) * 1e3)
    return Figure("child replaced (app imports for 2 s)", "ms", values, "≤ 100")


def round_trip() -> list[Figure]:
    halves, tails, delays, drains = [], [], [], []
    for _ in range(3):
        with worker():
            app = FastQ("caller", broker=os.environ["SAMPLE_BROKER"])
            add = app.task(name="benchmarks.sample_app.add")(sample_app.add.function)
            add.delay(1, 1).get(10)
            trips, calls = [], []
            for _ in range(200):
                began = time.perf_counter()
                result = add.delay(1, 2)
                calls.append((time.perf_counter() - began) * 1e3)
                result.get(10)
                trips.append((time.perf_counter() - began) * 1e3)
            halves.append(percentile(trips, 50))
            tails.append(percentile(trips, 99))
            delays.append(percentile(calls, 50))
            began = time.perf_counter()
            result_set = TaskSet(add.s(n, n) for n in range(10_000)).apply_async()
            result_set.join(120)
            drains.append(10_000 / (time.perf_counter() - began) / 1e3)
            app.close()
    return [
        Figure("delay(), p50", "ms", delays),
        Figure("round trip, p50", "ms", halves, "≤ 5"),
        Figure("round trip, p99", "ms", tails),
        Figure("10,000 tasks with results, sent and joined", "k/s", drains),
    ]


# -- the worker and its processes -----------------------------------------------------------------


@contextmanager
def worker(**environment: str) -> Iterator[tuple[subprocess.Popen[str], float]]:
    """Start `fastq worker` in an empty folder, wait until it says that it is ready, and stop it in the end."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SAMPLE_BROKER"] = f"sqlite:///{folder}/sample.db"
        command = [sys.executable, "-m", "fastq", "worker", "-A", "benchmarks.sample_app:app", "-c", "2"]
        began = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environment}, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if "ready" in line.lower():
                    break
            yield process, time.perf_counter() - began
        finally:
            process.terminate()
            process.stderr.read()
            process.wait(40)


def children(pid: int) -> list[int]:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [int(each) for thread in threads for each in (thread / "children").read_text().split()]


def family(pid: int) -> list[int]:
    """Return a process, its children, and theirs."""
    return [pid, *(each for child in children(pid) for each in family(child))]


def pss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.0005)


if __name__ == "__main__":
    main()
