"""What coroutines ask for and would block them: publishing calls, and waiting for outcomes."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from asyncio import AbstractEventLoop, Future, Task
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import WeakKeyDictionary

from .backend import Watch
from .batch import SIZE
from .errors import BackendUnavailable, BrokerError, FastQError, ResultTimeout
from .message import Message
from .outcome import Outcome

if TYPE_CHECKING:
    from .app import FastQ

T = TypeVar("T")
R = TypeVar("R")

_SLICE_S = 0.2  # for how long the thread listens before it looks whether it is still needed
_IDLE_S = 1.0  # for how long it stays when nothing is awaited


class Awaiter:
    """Serves all coroutines of a process that use one app.

    Calls that come together are published together, in a thread of their loop's executor. Outcomes are waited for by
    one thread, which is there while any are awaited; it is told of new ones by the executor, too.
    """

    def __init__(self, app: FastQ) -> None:
        self.pid = os.getpid()  # a forked child has none of the threads
        self._app = app
        self._publishing: WeakKeyDictionary[AbstractEventLoop, Together[Message, None]] = WeakKeyDictionary()
        self._looking: WeakKeyDictionary[AbstractEventLoop, Together[bytes, None]] = WeakKeyDictionary()
        self._changed = threading.Condition()
        self._awaited: dict[bytes, list[Future[Outcome]]] = {}
        self._given_up: list[bytes] = []  # is still watched, and awaited by nobody
        self._watch: Watch | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    # -- for coroutines -----------------------------------------------------------------------------------

    async def publish(self, message: Message) -> None:
        """Publish a message. Raises what `Broker.publish` raises."""
        await _of_this_loop(self._publishing, self._publish).ask(message)

    async def outcome(self, id: bytes, timeout: float | None) -> Outcome:
        """Return a task's terminal outcome when it is there. Raises ResultTimeout, BackendUnavailable."""
        future = self._expect(id)
        try:
            return await asyncio.wait_for(self._outcome(id, future), timeout)
        except asyncio.TimeoutError:
            raise ResultTimeout(f"Task {_words(id)} has not ended within {timeout} s") from None
        finally:
            self._expect_no_more([(id, future)])

    async def _outcome(self, id: bytes, future: Future[Outcome]) -> Outcome:
        await _of_this_loop(self._looking, self._look_each).ask(id)
        return await future

    async def outcomes(self, ids: Iterable[bytes], timeout: float | None) -> AsyncIterator[Outcome]:
        """Yield the terminal outcome of each id as they come. Raises ResultTimeout, BackendUnavailable."""
        deadline = None if timeout is None else time.monotonic() + timeout
        ended: asyncio.Queue[Future[Outcome]] = asyncio.Queue()
        futures = {id: self._expect(id) for id in ids}
        try:
            for future in futures.values():
                future.add_done_callback(ended.put_nowait)
            await asyncio.get_running_loop().run_in_executor(None, self._look, list(futures))
            for count in range(len(futures)):
                left = None if deadline is None else deadline - time.monotonic()
                try:
                    future = await asyncio.wait_for(ended.get(), left)
                except asyncio.TimeoutError:
                    unended = len(futures) - count
                    raise ResultTimeout(
                        f"{unended} of {len(futures)} tasks have not ended within {timeout} s"
                    ) from None
                yield future.result()
        finally:
            self._expect_no_more(futures.items())

    def close(self) -> None:
        """End the thread; who still waits is told so. May be called twice."""
        with self._changed:
            self._closed = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join()

    def _expect(self, id: bytes) -> Future[Outcome]:
        future: Future[Outcome] = asyncio.get_running_loop().create_future()
        with self._changed:
            self._awaited.setdefault(id, []).append(future)
            self._changed.notify_all()
        return future

    def _expect_no_more(self, expected: Iterable[tuple[bytes, Future[Outcome]]]) -> None:
        with self._changed:
            for id, future in expected:
                future.cancel()
                others = self._awaited.get(id)
                if others is not None and future in others:
                    others.remove(future)
                    if not others:
                        del self._awaited[id]
                        self._given_up.append(id)

    # -- in the executor's threads ------------------------------------------------------------------------

    def _publish(self, messages: Sequence[Message]) -> list[Exception | None]:
        answers: list[Exception | None] = []
        for at in range(0, len(messages), SIZE):
            answers += self._publish_part(messages[at : at + SIZE])
        return answers

    def _publish_part(self, messages: Sequence[Message]) -> list[Exception | None]:
        try:
            self._app._publish_now(messages)  # noqa: SLF001 - a part of the app
        except BrokerError as error:
            return [error] * len(messages)
        except FastQError as error:  # one of them can't be sent at all, and the others have nothing to do with it
            if len(messages) == 1:
                return [error]
            return [answer for message in messages for answer in self._publish_part([message])]
        return [None] * len(messages)

    def _look_each(self, ids: Sequence[bytes]) -> list[Exception | None]:
        self._look(ids)
        return [None] * len(ids)

    def _look(self, ids: Sequence[bytes]) -> None:
        """Have the thread wait for ids, and tell at once of those that have ended before."""
        watch = self._watching()
        self._tell(watch, watch.add(ids))

    def _watching(self) -> Watch:
        with self._changed:
            if self._watch is None:
                self._watch = self._app.backend.watch()
                self._thread = threading.Thread(
                    target=self._listen, args=(self._watch,), name="fastq-awaiter", daemon=True
                )
                self._thread.start()
            return self._watch

    # -- in the thread that waits ---------------------------------------------------------------------------

    def _listen(self, watch: Watch) -> None:
        error: Exception = BackendUnavailable("The app was closed while its results were awaited")
        try:
            while self._is_needed():
                self._tell(watch, watch.listen(time.monotonic() + _SLICE_S))
                self._drop_what_was_given_up(watch)
        except Exception as failure:  # noqa: BLE001 - those who wait are told
            error = failure
        with self._changed:
            left = [future for futures in self._awaited.values() for future in futures]
            self._awaited.clear()
            self._given_up.clear()
            self._watch = self._thread = None
        watch.close()
        _resolve([(future, error) for future in left])

    def _is_needed(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._awaited, _IDLE_S)
            return not self._closed and bool(self._awaited)

    def _drop_what_was_given_up(self, watch: Watch) -> None:
        with self._changed:
            given_up = [id for id in self._given_up if id not in self._awaited]
            self._given_up.clear()
        if not given_up:
            return
        watch.drop(given_up)  # not under the lock, which coroutines take, too
        with self._changed:
            again = [id for id in given_up if id in self._awaited]
        if again:
            self._look(again)

    def _tell(self, watch: Watch, outcomes: Sequence[Outcome]) -> None:
        told: list[tuple[Future[Outcome], Outcome | Exception]] = []
        with self._changed:
            for outcome in outcomes:
                told += [(future, outcome) for future in self._awaited.pop(outcome.id, ())]
        _resolve(told)
        if outcomes:  # whoever awaits one of them from now on looks for himself, and finds it
            watch.drop([outcome.id for outcome in outcomes])


class Together(Generic[T, R]):
    """Collects what the coroutines of one loop ask for while it is busy, and has it done in one go, in another thread.

    `function` takes what was asked for, and returns an answer to each, in order; one that is an exception is raised
    where it was asked.
    """

    def __init__(self, function: Callable[[Sequence[T]], Sequence[R | Exception]]) -> None:
        self._function = function
        self._asked: list[tuple[T, Future[R]]] = []
        self._doing: Task[None] | None = None

    async def ask(self, item: T) -> R:
        """Return the answer for an item."""
        loop = asyncio.get_running_loop()
        future: Future[R] = loop.create_future()
        self._asked.append((item, future))
        if self._doing is None:
            self._doing = loop.create_task(self._do())  # which begins when all have asked who run in this turn
        return await future

    async def _do(self) -> None:
        asked: list[tuple[T, Future[R]]] = []
        try:
            while self._asked:
                asked, self._asked = [(item, each) for item, each in self._asked if not each.cancelled()], []
                answers = await self._answers([item for item, _ in asked])
                for (_, future), answer in zip(asked, answers, strict=True):
                    if future.done():
                        continue
                    if isinstance(answer, Exception):
                        future.set_exception(answer)
                    else:
                        future.set_result(answer)
        finally:  # there is something left if the loop is being shut down
            for _, future in asked + self._asked:
                future.cancel()
            self._asked = []
            self._doing = None

    async def _answers(self, items: list[T]) -> Sequence[R | Exception]:
        try:
            return await asyncio.get_running_loop().run_in_executor(None, self._function, items)
        except Exception as error:  # noqa: BLE001 - it belongs to those who asked
            return [error] * len(items)


def _of_this_loop(
    known: WeakKeyDictionary[AbstractEventLoop, Together[T, R]],
    function: Callable[[Sequence[T]], Sequence[R | Exception]],
) -> Together[T, R]:
    loop = asyncio.get_running_loop()
    if loop not in known:
        known[loop] = Together(function)
    return known[loop]


def _resolve(told: Sequence[tuple[Future[Outcome], Outcome | Exception]]) -> None:
    """Give futures what came of them, each in the thread of its loop; once for all of a loop."""
    by_loop: dict[AbstractEventLoop, list[tuple[Future[Outcome], Outcome | Exception]]] = {}
    for future, result in told:
        by_loop.setdefault(future.get_loop(), []).append((future, result))
    for loop, results in by_loop.items():
        with suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(_set, results)


def _set(results: Sequence[tuple[Future[Outcome], Outcome | Exception]]) -> None:
    for future, result in results:
        if future.done():
            continue
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)


def _words(id: bytes) -> str:
    from uuid import UUID

    return str(UUID(bytes=id))
