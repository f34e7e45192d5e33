# mypy: ignore-errors
"""Dramatiq: a process a CPU, with its default of eight threads each."""

import time

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.peers import tally
from benchmarks.peers.peer import BIN, BROKER, KEEP, RESULT_S, URL, Peer

broker = RedisBroker(url=URL) if BROKER == URL else RabbitmqBroker(url=BROKER)
if KEEP:
    broker.add_middleware(Results(backend=RedisBackend(url=URL), store_results=True, result_ttl=RESULT_S * 1000))
dramatiq.set_broker(broker)


@dramatiq.actor
def same(value):
    tally.ran()
    return value if KEEP else None  # it warns of a value that is not kept


@dramatiq.actor
def size(text):
    tally.ran()
    return len(text) if KEEP else None


@dramatiq.actor
def late(sent):
    tally.waited(sent)


@dramatiq.actor
def nap(seconds):
    tally.began()
    time.sleep(seconds)
    tally.ended()


class Adapter(Peer):
    tasks = {"same": same, "size": size, "late": late, "nap": nap}  # noqa: RUF012

    def workers(self, children):
        # Processes use the CPUs; eight threads each, the default, let one wait for Redis while another runs.
        return [
            [str(BIN / "dramatiq"), "benchmarks.peers.dramatiq.tasks", "--processes", str(children), "--threads", "8"]
        ]

    def send(self, task, argument):
        return self.tasks[task].send(argument)

    def wait(self, handle, timeout_s):
        return handle.get_result(block=True, timeout=int(timeout_s * 1000))
