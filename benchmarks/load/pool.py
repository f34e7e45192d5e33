"""The pool alone: no-op tasks from memory, through two children, with results; pools of others beside it.

Every contender calls a no-op function with one integer and gets its value back in the parent: fastq as frames
with a JSON body and a JSON result, the others as pickles. Runs are interleaved.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

from benchmarks.figures import Figure, percentile, show
from fastq import _speedups
from fastq.app import FastQ
from fastq.pools.prefork import PreforkPool

RUNS = 5
CHILDREN = 2
LONG_S = 1.0

app = FastQ("pool", broker="memory://pool")


@app.task
def same(number: int) -> int:
    return number


@app.task
def nap() -> None:
    time.sleep(LONG_S)


def identity(number: int) -> int:
    return number


def main() -> None:
    """Measure throughput beside the peers, then fairness."""
    contenders: dict[str, Callable[[], float]] = {
        f"fastq, {_speedups.body} bodies": lambda: fastq_rate(100_000),
        "fastq, Python bodies": lambda: in_other_body("0"),
        "multiprocessing.Pool.apply_async": lambda: pool_rate(multiprocessing.get_context("fork"), 20_000),
        "billiard.Pool.apply_async": billiard_rate,
        "ProcessPoolExecutor.map, chunks of 100": executor_rate,
    }
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(RUNS):
        for name, measure in contenders.items():
            rates[name].append(measure() / 1e3)
    show(f"No-op tasks with results through {CHILDREN} children", [Figure(name, "k/s", rates[name]) for name in rates])
    ours, twin, *peers = (sorted(each)[len(each) // 2] for each in rates.values())
    names = list(rates)[2:]
    for name, peer, goals in zip(names, peers, ((12, 4), (15, 0), (0.6, 0)), strict=True):
        print(f"  {ours / peer:6.2f} × {name} (goal ≥ {goals[0]} ×); Python bodies {twin / peer:.2f} ×"
              + (f" (goal ≥ {goals[1]} ×)" if goals[1] else ""))  # fmt: skip
    quiet = [short_waits(long_ones=False) for _ in range(3)]
    mixed = [short_waits(long_ones=True) for _ in range(3)]
    show("Wait of short tasks, p99, 4 children", [
        Figure("short tasks alone", "ms", quiet),
        Figure(f"1 % of the tasks take {LONG_S:g} s", "ms", mixed, "≤ 2 more"),
    ])  # fmt: skip


# -- throughput -----------------------------------------------------------------------------------


def fastq_rate(count: int) -> float:
    """Return tasks a second through a PreforkPool, from frames that are there already to decoded outcomes."""
    from fastq.outcome import Outcome

    frame = same._call((7,), None).message(app.settings).encode()
    pool = started_pool(CHILDREN)
    try:
        run(pool, frame, 2000)
        began = time.perf_counter()
        for outcome in run(pool, frame, count):
            assert Outcome.decode(outcome).body == b"7"
        return count / (time.perf_counter() - began)
    finally:
        pool.stop(time.monotonic() + 5)


def run(pool: PreforkPool, frame: bytes, count: int) -> list[bytes]:
    """Put `count` tickets through a pool and return the frames that came back."""
    submit = pool.submit
    sent = 0
    outcomes: list[bytes] = []
    while len(outcomes) < count:
        while sent < count and submit(sent + 1, frame):
            sent += 1
        outcomes += [ended.outcome for ended in pool.collect(None)]
    return outcomes


def started_pool(children: int) -> PreforkPool:
    pool = PreforkPool("benchmarks.load.pool:app", log_level="ERROR")
    pool.load()
    pool.start(children)
    return pool


def in_other_body(speedups: str) -> float:
    """Measure fastq in a process with other bodies."""
    code = "from benchmarks.load.pool import fastq_rate; print(fastq_rate(50_000))"
    environment = {**os.environ, "FASTQ_SPEEDUPS": speedups}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    return float(done.stdout)


def pool_rate(context: multiprocessing.context.BaseContext, count: int) -> float:
    """Return tasks a second through `Pool.apply_async` of multiprocessing, or of what offers the same."""
    with context.Pool(CHILDREN) as pool:
        pool.map(identity, range(1000))
        began = time.perf_counter()
        results = [pool.apply_async(identity, (7,)) for _ in range(count)]
        assert all(result.get() == 7 for result in results)
        return count / (time.perf_counter() - began)


def billiard_rate() -> float:
    import billiard  # type: ignore[import-untyped]

    context: multiprocessing.context.BaseContext = billiard.get_context("fork")
    return pool_rate(context, 20_000)


def executor_rate() -> float:
    count = 100_000
    with ProcessPoolExecutor(CHILDREN, mp_context=multiprocessing.get_context("fork")) as executor:
        list(executor.map(identity, range(1000), chunksize=100))
        began = time.perf_counter()
        assert sum(1 for _ in executor.map(identity, range(count), chunksize=100)) == count
        return count / (time.perf_counter() - began)


# -- fairness ------------------------------------------------------------------------------------


def short_waits(*, long_ones: bool) -> float:
    """Return the 99th percentile, in ms, of the time short tasks take through the pool, sent one by one.

    Every hundredth is long, where there are long ones, and at most three run at once, so that one of four
    children is free.
    """
    pool = started_pool(4)
    frame = same._call((7,), None).message(app.settings).encode()
    long_frame = nap._call((), None).message(app.settings).encode()
    waits: list[float] = []
    running_long, last_long = 0, 0.0
    sent: dict[int, float] = {}
    try:
        for ticket in range(1, 3001):
            now = time.perf_counter()
            if long_ones and running_long < 3 and now - last_long > LONG_S / 3:
                pool.submit(1_000_000 + ticket, long_frame)
                running_long, last_long = running_long + 1, now
            sent[ticket] = now
            pool.submit(ticket, frame)
            while ticket in sent:
                for ended in pool.collect(None):
                    if ended.ticket > 1_000_000:
                        running_long -= 1
                    else:
                        waits.append((time.perf_counter() - sent.pop(ended.ticket)) * 1e3)
        return percentile(waits, 99)
    finally:
        pool.stop(time.monotonic())


if __name__ == "__main__":
    main()
