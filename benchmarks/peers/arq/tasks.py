# mypy: ignore-errors
"""arq: a process a CPU on uvloop."""

import asyncio

import uvloop
from arq import create_pool
from arq.connections import RedisSettings

from benchmarks.peers import tally
from benchmarks.peers.peer import BIN, KEEP, RESULT_S, URL, AsyncPeer

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


async def same(_ctx, value):
    tally.ran()
    return value


async def size(_ctx, text):
    tally.ran()
    return len(text)


async def late(_ctx, sent):
    tally.waited(sent)


async def nap(_ctx, seconds):
    tally.began()
    await asyncio.sleep(seconds)
    tally.ended()


class Settings:
    """Polls a hundred times a second in place of twice, and runs a hundred at once: else it is slower by far."""

    functions = [same, size, late, nap]  # noqa: RUF012
    redis_settings = RedisSettings.from_dsn(URL)
    keep_result = RESULT_S if KEEP else 0
    poll_delay = 0.01
    max_jobs = 100
    log_results = False


class Adapter(AsyncPeer):
    def workers(self, children):
        return [[str(BIN / "arq"), "benchmarks.peers.arq.tasks.Settings"] for _ in range(children)]

    async def open(self):
        self.pool = await create_pool(Settings.redis_settings)

    async def asend(self, task, argument):
        return await self.pool.enqueue_job(task, argument)

    async def await_result(self, handle, timeout_s):
        return await handle.result(timeout=timeout_s, poll_delay=0.001)
