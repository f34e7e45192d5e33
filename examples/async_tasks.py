"""Async tasks beside a sync one: run ``fastq worker -A async_tasks`` in this folder, and then this file."""

import asyncio
import time

from fastq import FastQ
from fastq.errors import SoftTimeLimitExceeded

app = FastQ("async_tasks")


@app.task
async def fetch(page: int) -> str:
    await asyncio.sleep(0.5)  # as a server would take
    return f"page {page}"


@app.task(soft_time_limit=0.5)
async def listen() -> str:
    try:
        await asyncio.sleep(3600)
    except SoftTimeLimitExceeded:
        return "nobody called"
    return "somebody called"


@app.task
def compute(number: int) -> int:
    return sum(range(number))


if __name__ == "__main__":
    began = time.monotonic()
    results = [fetch.delay(page) for page in range(100)]
    print("Computed meanwhile:", compute.delay(1_000_000).get(timeout=30))
    pages = [result.get(timeout=30) for result in results]
    print(f"{len(pages)} pages of half a second each took {time.monotonic() - began:.1f} s")
    print("Listening:", listen.delay().get(timeout=30))
