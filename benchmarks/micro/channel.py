"""The channel: echoes through two children, and one payload at a time through an idle one; peers beside it.

Payloads have 200 bytes. The one-at-a-time figures are taken with both processes pinned, to one CPU and to two:
what they show is mostly what it costs to wake a process.
"""

from __future__ import annotations

import multiprocessing
import os
import select
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any

from benchmarks.figures import Figure, percentile, show

RUNS, CHILDREN, CAPACITY = 7, 2, 1000
PAYLOAD = bytes(200)


def main() -> None:
    """Measure, in turns."""
    echoes: dict[str, Callable[[], float]] = {}
    for kind, module, count in channels():
        echoes[f"channel, {kind}"] = partial(echo_rate, module, count)
    echoes["multiprocessing.Pool.apply_async"] = partial(apply_rate, multiprocessing.get_context("fork"))
    if billiard := context_of_billiard():
        echoes["billiard.Pool.apply_async"] = partial(apply_rate, billiard)
    echoes["ProcessPoolExecutor.map, chunks of 100"] = executor_rate
    show(f"Echo of {len(PAYLOAD)} bytes through {CHILDREN} children", measured(echoes, "k/s", 1e-3))

    cpus = sorted(os.sched_getaffinity(0))
    for title, parent_cpu, child_cpu in (("one CPU", cpus[0], cpus[0]), ("two CPUs", cpus[0], cpus[-1])):
        trips: dict[str, Callable[[], float]] = {"bare eventfd": partial(bare_trip, parent_cpu, child_cpu)}
        for kind, module, _ in channels():
            trips[f"channel, {kind}"] = partial(channel_trip, module, parent_cpu, child_cpu)
        figures = measured(trips, "µs", 1e6)
        show(f"There and back through an idle child, p50, on {title}", figures)
        print(f"  {figures[1].name}: {figures[1].median / figures[0].median:.2f} × bare (goal for C: ≤ 1.5)")


def measured(contenders: dict[str, Callable[[], float]], unit: str, scale: float) -> list[Figure]:
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(RUNS):
        for name, measure in contenders.items():
            taken[name].append(measure() * scale)
    return [Figure(name, unit, values) for name, values in taken.items()]


def channels() -> list[tuple[str, Any, int]]:
    """Return (name, module, how many echoes make a run) of each body that is there."""
    found = [("Python", import_module("fastq._speedups.channel_py"), 20_000)]
    try:
        return [("C", import_module("fastq._speedups.channel_c"), 300_000), *found]
    except ImportError:
        return found


# -- throughput -------------------------------------------------------------------------------------


def echo_rate(module: Any, count: int) -> float:
    """Return payloads a second, there and back."""
    with crew(module, CHILDREN, CAPACITY) as channel:
        poll = select.poll()
        poll.register(channel.fileno(), select.POLLIN)
        put, take = channel.put, channel.take
        sent = ended = 0
        began = time.perf_counter()
        while ended < count:
            while sent < count and put(sent + 1, PAYLOAD):
                sent += 1
            poll.poll()
            ended += len(take())
        return count / (time.perf_counter() - began)


def same(payload: bytes) -> bytes:
    return payload


def apply_rate(context: Any, count: int = 10_000) -> float:
    with context.Pool(CHILDREN) as pool:
        pool.map(same, [PAYLOAD] * 100)
        began = time.perf_counter()
        results = [pool.apply_async(same, (PAYLOAD,)) for _ in range(count)]
        for result in results:
            result.get()
        return count / (time.perf_counter() - began)


def context_of_billiard() -> Any:
    try:
        return import_module("billiard").get_context("fork")
    except ImportError:
        return None


def executor_rate(count: int = 50_000) -> float:
    with ProcessPoolExecutor(CHILDREN, mp_context=multiprocessing.get_context("fork")) as executor:
        list(executor.map(same, [PAYLOAD] * 1000, chunksize=100))
        began = time.perf_counter()
        for _ in executor.map(same, [PAYLOAD] * count, chunksize=100):
            pass
        return count / (time.perf_counter() - began)


# -- one at a time ------------------------------------------------------------------------------------


def channel_trip(module: Any, parent_cpu: int, child_cpu: int) -> float:
    """Return the median time from `put` to what `take` returns."""
    with crew(module, 1, CAPACITY, child_cpu) as channel, pinned(parent_cpu):
        poll = select.poll()
        poll.register(channel.fileno(), select.POLLIN)

        def trip() -> None:
            channel.put(1, PAYLOAD)
            poll.poll()
            while not channel.take():
                poll.poll()

        return median_time(trip)


def bare_trip(parent_cpu: int, child_cpu: int) -> float:
    """Return the median time that two eventfds take, one each way."""
    there, back = os.eventfd(0), os.eventfd(0)
    pid = os.fork()
    if not pid:
        os.sched_setaffinity(0, {child_cpu})
        while os.eventfd_read(there) == 1:
            os.eventfd_write(back, 1)
        os._exit(0)

    def trip() -> None:
        os.eventfd_write(there, 1)
        os.eventfd_read(back)

    try:
        with pinned(parent_cpu):
            return median_time(trip)
    finally:
        os.eventfd_write(there, 2)
        os.waitpid(pid, 0)
        os.close(there)
        os.close(back)


def median_time(trip: Callable[[], None], count: int = 3000) -> float:
    times = []
    for _ in range(count):
        began = time.perf_counter()
        trip()
        times.append(time.perf_counter() - began)
    return percentile(times[count // 10 :], 50)


@contextmanager
def pinned(cpu: int) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def crew(module: Any, children: int, capacity: int, cpu: int | None = None) -> Iterator[Any]:
    """Make a channel with children that end every payload with itself."""
    channel = module.Channel(children, capacity)
    pids = []
    for child in range(children):
        pids.append(os.fork())
        if not pids[-1]:
            if cpu is not None:
                os.sched_setaffinity(0, {cpu})
            seat = module.Seat(channel.fds(), child)
            try:
                while True:
                    taken = seat.get(0) or seat.get()
                    seat.end(*taken)
            except EOFError:
                os._exit(0)
    try:
        yield channel
    finally:
        channel.stop()
        for pid in pids:
            os.waitpid(pid, 0)
        channel.close()
