"""The AMQP link on a RabbitMQ of this machine: both bodies, and the field's clients beside them.

Messages are persistent, have 200 bytes, and go through one queue of each type, published and consumed by one process.
The rates are mostly the server's, so the processor time that the client takes for a message is told beside them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from benchmarks.figures import Figure, show
from fastq._speedups.amqp_link import Link
from fastq._speedups.amqp_values import Outgoing, Properties

RUNS, COUNT, ONE_BY_ONE, BATCH = 5, 10_000, 500, 1000
QUEUES = {"classic": "fastq-benchmark", "quorum": "fastq-benchmark-quorum"}
BODY = bytes(200)

Taken = tuple[float, float]  # thousands of messages a second, µs of the client's processor time a message
Rates = dict[str, dict[str, list[Taken]]]  # by what was done, by who did it


def main() -> None:
    """Measure, in turns; say what is missing."""
    try:
        server = links()[0][1]()
    except ConnectionError as error:
        print(f"There is no RabbitMQ on 127.0.0.1:5672, so AMQP is left out: {error}")
        return
    for kind, queue in QUEUES.items():
        server.declare_queue(queue, arguments={"x-queue-type": kind})
        rates: Rates = {}
        for _ in range(RUNS):
            for body, connect in links():
                taken(rates, f"fastq, {body}", partial(link_rates, connect), queue, server)
            for name, measure in (("pika", pika_rates), ("py-amqp", py_amqp_rates)):
                taken(rates, name, measure, queue, server)
        server.delete_queue(queue)
        tell(kind, rates)
    server.close()


def tell(kind: str, rates: Rates) -> None:
    for what, by_name in rates.items():
        show(
            f"RabbitMQ, {kind} queue: {what}",
            [Figure(name, "k/s", [rate for rate, _ in found]) for name, found in by_name.items()],
        )
        show(
            f"Client's processor time, {kind} queue: {what}",
            [Figure(name, "µs", [us for _, us in found]) for name, found in by_name.items()],
        )


def taken(rates: Rates, name: str, measure: Callable[[str], dict[str, Taken]], queue: str, server: Link) -> None:
    server.purge_queue(queue)
    try:
        found = measure(queue)
    except ImportError as error:
        print(f"{name} is left out: {error}")
        return
    for what, figures in found.items():
        rates.setdefault(what, {}).setdefault(name, []).append(figures)


def links() -> list[tuple[str, Callable[..., Link]]]:
    """Return (name, class) of each body that is there."""
    found = [("Python", import_module("fastq._speedups.amqp_py").AmqpLink)]
    try:
        return [("C", import_module("fastq._speedups.amqp_c").AmqpLink), *found]
    except ImportError:
        return found


def timed(count: int, do: Callable[[], object]) -> Taken:
    began, busy = time.perf_counter(), time.process_time()
    do()
    return count / (time.perf_counter() - began) / 1e3, (time.process_time() - busy) / count * 1e6


# -- ours -------------------------------------------------------------------------------------------


def link_rates(connect: Callable[..., Link], queue: str) -> dict[str, Taken]:
    link = connect()
    properties = Properties(delivery_mode=2)
    batch = [Outgoing("", queue, BODY, properties)] * BATCH

    def publish() -> None:
        for _ in range(COUNT // BATCH):
            assert link.publish(batch) == []

    def publish_one_by_one() -> None:
        for _ in range(ONE_BY_ONE):
            link.publish(batch[:1])

    def send() -> None:
        for _ in range(COUNT // BATCH):
            link.send(batch)
        link.declare_queue(queue, passive=True)

    def consume(most: int) -> None:
        left = most
        link.qos(1000)
        tag = link.consume(queue)
        while left > 0:
            messages = link.receive(min(left, 500))
            link.ack_all([message.delivery_tag for message in messages])
            left -= len(messages)
        link.sync()
        link.cancel(tag)

    found = {
        f"publish, confirmed, in batches of {BATCH}": timed(COUNT, publish),
        "publish, confirmed, one by one": timed(ONE_BY_ONE, publish_one_by_one),
        "publish, unconfirmed": timed(COUNT, send),
        "consume and acknowledge": timed(2 * COUNT, partial(consume, 2 * COUNT)),
    }
    link.close()
    return found


# -- theirs -----------------------------------------------------------------------------------------


def pika_rates(queue: str) -> dict[str, Taken]:
    import pika  # type: ignore[import-not-found, import-untyped, unused-ignore]

    connection = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1"))
    channel = connection.channel()
    properties = pika.BasicProperties(delivery_mode=2)

    def publish(count: int) -> None:
        for _ in range(count):
            channel.basic_publish("", queue, BODY, properties)
        channel.queue_declare(queue, passive=True)  # so that the server has them all

    def consume() -> None:
        channel.basic_qos(prefetch_count=1000)
        for number, (method, _, _) in enumerate(channel.consume(queue), 1):
            channel.basic_ack(method.delivery_tag)
            if number == COUNT:
                break
        channel.cancel()

    found = {
        "publish, unconfirmed": timed(COUNT, partial(publish, COUNT)),
        "consume and acknowledge": timed(COUNT, consume),
    }
    channel.confirm_delivery()
    found["publish, confirmed, one by one"] = timed(ONE_BY_ONE, partial(publish, ONE_BY_ONE))
    connection.close()
    return found


def py_amqp_rates(queue: str) -> dict[str, Taken]:
    import amqp

    connection: Any = amqp.Connection("127.0.0.1:5672")
    connection.connect()
    channel = connection.channel()
    left = COUNT

    def publish(count: int, how: Callable[..., object]) -> None:
        for _ in range(count):
            how(amqp.Message(BODY, delivery_mode=2), routing_key=queue)
        channel.queue_declare(queue, passive=True)

    def heard(message: Any) -> None:
        nonlocal left
        message.channel.basic_ack(message.delivery_tag)
        left -= 1

    def consume() -> None:
        channel.basic_qos(0, 1000, False)
        channel.basic_consume(queue, callback=heard)
        while left:
            connection.drain_events()

    found = {
        "publish, unconfirmed": timed(COUNT, partial(publish, COUNT, channel.basic_publish)),
        "consume and acknowledge": timed(COUNT, consume),
        "publish, confirmed, one by one": timed(
            ONE_BY_ONE, partial(publish, ONE_BY_ONE, channel.basic_publish_confirm)
        ),
    }
    connection.close()
    return found


if __name__ == "__main__":
    main()
