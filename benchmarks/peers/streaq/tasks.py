# mypy: ignore-errors
"""streaQ: a process a CPU on uvloop."""

import asyncio

import uvloop
from streaq import Worker

from benchmarks.peers import tally
from benchmarks.peers.peer import BIN, KEEP, RESULT_S, URL, AsyncPeer

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())

#: 32 at once, as in its own benchmark.
worker = Worker(redis_url=URL, queue_name="bench", concurrency=32, anyio_kwargs={"use_uvloop": True})
options = {"ttl": RESULT_S if KEEP else 0, "silent": True}


@worker.task(**options)
async def same(value: int) -> int:
    tally.ran()
    return value


@worker.task(**options)
async def size(text: str) -> int:
    tally.ran()
    return len(text)


@worker.task(**options)
async def late(sent: float) -> None:
    tally.waited(sent)


@worker.task(**options)
async def nap(seconds: float) -> None:
    tally.began()
    await asyncio.sleep(seconds)
    tally.ended()


class Adapter(AsyncPeer):
    tasks = {"same": same, "size": size, "late": late, "nap": nap}  # noqa: RUF012

    def workers(self, children):
        return [[str(BIN / "streaq"), "run", "benchmarks.peers.streaq.tasks:worker", "--workers", str(children)]]

    async def open(self):
        await worker.__aenter__()

    async def asend(self, task, argument):
        return await self.tasks[task].enqueue(argument)

    async def asend_many(self, task, arguments):
        sent = [self.tasks[task].enqueue(argument) for argument in arguments]
        await worker.enqueue_many(sent)
        return sent[-1]

    async def await_result(self, handle, timeout_s):
        # Polled: its own wait subscribes for each result, and leaving a subscription takes its client 0.1 s.
        until = asyncio.get_running_loop().time() + timeout_s
        while not (raw := await worker.redis.get(worker.results_key + handle.id)):
            if asyncio.get_running_loop().time() > until:
                raise TimeoutError
            await asyncio.sleep(0.001)
        return (await worker.deserialize(raw))["r"]
