# mypy: ignore-errors
"""Taskiq on Redis streams, which are acknowledged; variant ``list``, which loses what a dead worker held."""

import asyncio

from taskiq.serializers import ORJSONSerializer
from taskiq_aio_pika import AioPikaBroker
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.peers import tally
from benchmarks.peers.peer import BIN, BROKER, KEEP, RESULT_S, URL, VARIANT, AsyncPeer

if BROKER == URL:
    broker = (ListQueueBroker if VARIANT == "list" else RedisStreamBroker)(url=URL)
else:
    broker = AioPikaBroker(url=BROKER)
broker = broker.with_serializer(ORJSONSerializer())
if KEEP:
    broker = broker.with_result_backend(RedisAsyncResultBackend(redis_url=URL, result_ex_time=RESULT_S))


@broker.task
async def same(value: int) -> int:
    tally.ran()
    return value


@broker.task
async def size(text: str) -> int:
    tally.ran()
    return len(text)


@broker.task
async def late(sent: float) -> None:
    tally.waited(sent)


@broker.task
async def nap(seconds: float) -> None:
    tally.began()
    await asyncio.sleep(seconds)
    tally.ended()


class Adapter(AsyncPeer):
    tasks = {"same": same, "size": size, "late": late, "nap": nap}  # noqa: RUF012

    def workers(self, children):
        # A process a CPU on uvloop, with the default of 100 tasks at once each; --no-parse leaves pydantic out.
        return [
            [
                str(BIN / "taskiq"), "worker", "benchmarks.peers.taskiq.tasks:broker",
                "--workers", str(children), "--no-parse", "--log-level", "WARNING",
            ]
        ]  # fmt: skip

    async def open(self):
        await broker.startup()

    async def asend(self, task, argument):
        return await self.tasks[task].kiq(argument)

    async def await_result(self, handle, timeout_s):
        # There is no push: results are polled for.
        return (await handle.wait_result(check_interval=0.001, timeout=timeout_s)).return_value
