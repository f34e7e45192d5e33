"""Scale on Redis: deep queues, many delayed messages, many idle workers; on a server that this starts and ends.

What is counted (commands, memory) does not depend on the load of the machine; rates do, so that each is taken beside
the one it is compared with, in turn.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from benchmarks.figures import Figure, percentile, show
from benchmarks.load.resp import RedisAt
from fastq import _speedups
from fastq.broker import Broker, Decision
from fastq.brokers import open_broker
from fastq.message import Message, now_us

SHALLOW, DEEP = 1_000, 1_000_000
DELAYED = (10_000, 1_000_000)
DUE_A_SECOND = 1_000
WORKERS = 200
BATCH = 500
RUNS = 5


def main(deep: int = DEEP) -> None:
    """Measure, and print tables."""
    with redis_server() as url:
        show("Rates by the depth of the queue", depths(url, deep))
        show("Delayed messages", delays(url, deep))
        show(f"{WORKERS} idle workers", idle_workers(url))


# -- depth ----------------------------------------------------------------------------------------


def depths(url: str, deep: int) -> list[Figure]:
    """Measure publishing and consuming at both depths, in turn."""
    rates: dict[tuple[str, int], list[float]] = {}
    with ExitStack() as opened:
        brokers = {size: opened.enter_context(closing(own_broker(url))) for size in (SHALLOW, deep)}
        for size, broker in brokers.items():
            fill(broker, size)
        for _ in range(RUNS):
            for size, broker in brokers.items():
                put, taken = put_and_take(broker, 20_000)
                rates.setdefault(("publish", size), []).append(put / 1e3)
                rates.setdefault(("fetch and settle", size), []).append(taken / 1e3)
        figures = [Figure(f"{what}, {size:,} waiting", "k/s", values) for (what, size), values in rates.items()]
        ratios = [
            [at_depth / shallow for at_depth, shallow in zip(rates[what, deep], rates[what, SHALLOW], strict=True)]
            for what in ("publish", "fetch and settle")
        ]
    return figures + [
        Figure(f"{what}: deep to shallow", "×", ratio, "≥ 0.8")
        for what, ratio in zip(("publish", "fetch and settle"), ratios, strict=True)
    ]


def put_and_take(broker: Broker, count: int) -> tuple[float, float]:
    """Publish `count` messages and take as many, so that the depth stays; return both rates."""
    batches = [calls(BATCH) for _ in range(count // BATCH)]
    began = time.perf_counter()
    for batch in batches:
        broker.publish(batch)
    published = time.perf_counter()
    with closing(broker.subscribe(["default"], 30.0, {})) as subscription:
        taken = 0
        while taken < count:
            deliveries = subscription.fetch(BATCH, None)
            subscription.settle([Decision(delivery) for delivery in deliveries])
            taken += len(deliveries)
        consumed = time.perf_counter()
    return count / (published - began), taken / (consumed - published)


# -- delay ----------------------------------------------------------------------------------------


def delays(url: str, deep: int) -> list[Figure]:
    """Measure how late delayed messages come, with many more that are not due."""
    figures = []
    for waiting in (DELAYED[0], min(DELAYED[1], deep)):
        with closing(own_broker(url)) as broker:
            fill(broker, waiting, eta=now_us() + 3_600_000_000)
            figures.append(Figure(f"lateness p99 of {DUE_A_SECOND:,} due a second, {waiting:,} waiting", "ms",
                                  [lateness_p99(broker) for _ in range(3)], "≤ 100"))  # fmt: skip
    return figures


def lateness_p99(broker: Broker) -> float:
    """Publish messages that come due evenly over two seconds, and take them as they do; return milliseconds."""
    start, count = now_us() + 500_000, 2 * DUE_A_SECOND
    broker.publish([call._replace(eta=start + n * 1_000_000 // DUE_A_SECOND) for n, call in enumerate(calls(count))])
    late: list[float] = []
    with closing(broker.subscribe(["default"], 30.0, {})) as subscription:
        while len(late) < count:
            deliveries = subscription.fetch(BATCH, None)
            now = now_us()
            late += [(now - Message.decode(delivery.frame).eta) / 1000 for delivery in deliveries]
            subscription.settle([Decision(delivery) for delivery in deliveries])
    return percentile(late, 99)


# -- idle workers -----------------------------------------------------------------------------------


def idle_workers(url: str) -> list[Figure]:
    """Count what subscriptions that wait for work ask of the server."""
    with ExitStack() as opened:
        broker = opened.enter_context(closing(own_broker(url)))
        subscriptions = [broker.subscribe(["default"], 30.0, {}) for _ in range(WORKERS)]
        for subscription in subscriptions:
            opened.enter_context(closing(subscription))
        threads = [threading.Thread(target=each.fetch, args=(1, None), daemon=True) for each in subscriptions]
        for thread in threads:
            thread.start()
        time.sleep(3)
        rates = []
        for _ in range(3):
            before, began = commands(url), time.monotonic()
            time.sleep(5)
            for subscription in subscriptions[:: WORKERS // 20]:
                subscription.renew()  # each renews every ten seconds; a twentieth of them does in half a second
            rates.append((commands(url) - before) / (time.monotonic() - began) / WORKERS)
        for subscription in subscriptions:
            subscription.interrupt()
        for thread in threads:
            thread.join()
    return [Figure("commands a second for each", "1/s", rates, "≤ 1")]


def commands(url: str) -> int:
    """Return how many commands clients have sent that subscriptions send; what runs within scripts is not counted."""
    with closing(RedisAt(url)) as redis:
        stats = redis.info("commandstats")
    calls = {name: int(value.split(",")[0].removeprefix("calls=")) for name, value in stats.items()}
    return sum(calls.get(f"cmdstat_{name}", 0) for name in ("evalsha", "blpop", "ping"))


# -- steps ------------------------------------------------------------------------------------------


def calls(count: int) -> list[Message]:
    """Return messages of some 130 bytes."""
    now = now_us()
    return [Message(_speedups.new_id(), "shop.add", "default", b"[[4,4],{}]", enqueued_at=now) for _ in range(count)]


def fill(broker: Broker, count: int, eta: int = 0) -> None:
    """Publish until `count` messages wait."""
    for _ in range(0, count, 1000):
        broker.publish([call._replace(eta=eta) for call in calls(1000)])


def own_broker(url: str) -> Broker:
    """Return a broker with keys of its own."""
    return open_broker(f"{url}?prefix=b{uuid.uuid4().hex}")


@contextmanager
def redis_server() -> Iterator[str]:
    """Run a server without persistence, and give its URL."""
    program = shutil.which("redis-server")
    if program is None:
        raise SystemExit("redis-server is not in PATH")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder, Path(folder, "log").open("wb") as log:
        options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", folder, "--maxclients", "5000"]
        process = subprocess.Popen([program, *options], stdout=log, stderr=log)
        try:
            url = f"redis://127.0.0.1:{port}"
            wait_for(url)
            yield url
        finally:
            process.kill()
            process.wait()


def wait_for(url: str) -> None:
    give_up = time.monotonic() + 10
    while True:
        try:
            return RedisAt(url).close()
        except OSError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.05)
