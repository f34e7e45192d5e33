# mypy: ignore-errors
"""SAQ: a process a CPU on uvloop, with orjson."""

import asyncio

import orjson
import uvloop
from saq import Queue

from benchmarks.peers import tally
from benchmarks.peers.peer import BIN, KEEP, RESULT_S, URL, AsyncPeer

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())

queue = Queue.from_url(URL, name="bench", dump=lambda value: orjson.dumps(value).decode(), load=orjson.loads)
TTL_S = RESULT_S if KEEP else -1  # -1 keeps no result
# Its default of one try would give up a task whose worker died.


async def same(_ctx, *, argument):
    tally.ran()
    return argument


async def size(_ctx, *, argument):
    tally.ran()
    return len(argument)


async def late(_ctx, *, argument):
    tally.waited(argument)


async def nap(_ctx, *, argument):
    tally.began()
    await asyncio.sleep(argument)
    tally.ended()


#: 32 at once: its default of 10 is slower, and more is no quicker.
settings = {"queue": queue, "functions": [same, size, late, nap], "concurrency": 32}


class Adapter(AsyncPeer):
    def workers(self, children):
        return [[str(BIN / "saq"), "benchmarks.peers.saq.tasks.settings", "--workers", str(children), "--quiet"]]

    async def open(self):
        await queue.connect()

    async def asend(self, task, argument):
        return await queue.enqueue(task, argument=argument, ttl=TTL_S, retries=3)

    async def await_result(self, handle, timeout_s):
        # Polled: its push can be missed by a call that was sent before the subscription.
        until = asyncio.get_running_loop().time() + timeout_s
        while not handle.completed:
            if asyncio.get_running_loop().time() > until:
                raise TimeoutError
            await asyncio.sleep(0.001)
            await handle.refresh()
        return handle.result
