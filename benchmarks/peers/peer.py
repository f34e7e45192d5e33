"""What an adapter says about its contender: how the worker is started, how tasks are sent, how one waits.

An adapter is the module ``benchmarks.peers.NAME.tasks``, and its class `Adapter`. It declares four tasks, or six:

* ``same(value)`` counts a run and returns its argument: the no-op;
* ``size(text)`` counts a run and returns a length: the task with a large argument;
* ``late(sent)`` notes how long it waited;
* ``nap(seconds)`` notes its beginning, sleeps, and notes its end. In a worker that runs on an event loop it is
  a coroutine that sleeps there, which is kind to that worker: nobody would block the loop;
* ``member(value)`` and ``gather(values)``, where there are chords, are what `Peer.chord` is made of: the one notes when
  it ran and returns its argument, the other notes how many values it got.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

#: Where the broker is, whether results are kept, and which configuration of the contender is meant.
URL = os.environ["BENCH_URL"]
BROKER = os.environ.get("BENCH_BROKER", URL)  # amqp://…, where that is another server than the one for results
KEEP = os.environ["BENCH_KEEP"] == "1"
VARIANT = os.environ.get("BENCH_VARIANT", "")

BIN = Path(sys.executable).parent
RESULT_S = 3600


class Peer:
    """A contender that is called without an event loop. `send` and `wait` are the least to be said."""

    def start_inside(self, children: int) -> Callable[[], None] | None:
        """Start a worker in this process, for a broker that lives in it; return what stops it."""
        return None

    def workers(self, children: int) -> list[list[str]]:
        """Return the commands that make up the worker, for as many children, or two CPUs."""
        raise NotImplementedError

    def send(self, task: str, argument: Any) -> Any:
        """Enqueue one call, and return what `wait` takes."""
        raise NotImplementedError

    def wait(self, handle: Any, timeout_s: float) -> Any:
        """Return the result of a call."""
        raise NotImplementedError

    def chord(self, count: int) -> Any:
        """Enqueue a chord: `count` members, and what gathers their values; return the handle of that."""
        raise NotImplementedError

    def send_many(self, task: str, arguments: Sequence[Any]) -> Any:
        """Enqueue calls in the quickest way that the contender offers; return the handle of the last."""
        return [self.send(task, argument) for argument in arguments][-1]

    def send_each(self, task: str, arguments: Sequence[Any]) -> Any:
        """Enqueue calls one at a time, each when the one before is accepted; return the handle of the last."""
        handle = None
        for argument in arguments:
            handle = self.send(task, argument)
        return handle

    def round_trips(self, count: int, limit_s: float) -> list[float]:
        """Call ``same`` and wait for its result, one call at a time; return the seconds of each."""
        trips: list[float] = []
        until = time.monotonic() + limit_s
        while len(trips) < count and time.monotonic() < until:
            began = time.perf_counter()
            assert self.wait(self.send("same", len(trips)), 10) == len(trips)
            trips.append(time.perf_counter() - began)
        return trips


class AsyncPeer(Peer):
    """A contender that is called on an event loop; it says the same as coroutines. Loops of calls stay on the loop."""

    #: How many calls are under way at once in a bulk, where the contender has no call for many.
    gathered = 100

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.run(self.open())

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end."""
        return self.loop.run_until_complete(coroutine)

    async def open(self) -> None:
        """Connect."""

    async def asend(self, task: str, argument: Any) -> Any:
        """Enqueue one call, and return what `await_result` takes."""
        raise NotImplementedError

    async def await_result(self, handle: Any, timeout_s: float) -> Any:
        """Return the result of a call."""
        raise NotImplementedError

    async def asend_many(self, task: str, arguments: Sequence[Any]) -> Any:
        """Enqueue calls in the quickest way that the contender offers."""
        sent: list[Any] = []
        for start in range(0, len(arguments), self.gathered):
            some = arguments[start : start + self.gathered]
            sent = await asyncio.gather(*(self.asend(task, argument) for argument in some))
        return sent[-1]

    def send(self, task: str, argument: Any) -> Any:
        return self.run(self.asend(task, argument))

    def wait(self, handle: Any, timeout_s: float) -> Any:
        return self.run(self.await_result(handle, timeout_s))

    def send_many(self, task: str, arguments: Sequence[Any]) -> Any:
        return self.run(self.asend_many(task, arguments))

    def send_each(self, task: str, arguments: Sequence[Any]) -> Any:
        async def each() -> Any:
            handle = None
            for argument in arguments:
                handle = await self.asend(task, argument)
            return handle

        return self.run(each())

    def round_trips(self, count: int, limit_s: float) -> list[float]:
        async def trips() -> list[float]:
            taken: list[float] = []
            until = time.monotonic() + limit_s
            while len(taken) < count and time.monotonic() < until:
                began = time.perf_counter()
                handle = await self.asend("same", len(taken))
                assert await self.await_result(handle, 10) == len(taken)
                taken.append(time.perf_counter() - began)
            return taken

        found: list[float] = self.run(trips())
        return found
