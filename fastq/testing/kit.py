"""Kit: an app under test, in one process, with a clock that is moved by hand and faults on demand.

Nothing is replaced by a double: calls are encoded, queued, fetched, decoded, run and settled by a real worker, on the
system in memory. Only that worker works when the test says so, and time passes when the test says so.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from fastq.app import FastQ
from fastq.backends.memory import MemoryBackend
from fastq.brokers.memory import MemoryBroker
from fastq.encoder import decode
from fastq.errors import BrokerUnavailable
from fastq.message import Message, now_us, set_clock
from fastq.outcome import Outcome
from fastq.packing import is_packed
from fastq.pool import Ended, Manifest
from fastq.pools.solo import SoloPool
from fastq.sealing import unsealed
from fastq.settings import fields_of
from fastq.states.memory import MemoryState
from fastq.systems.memory import MemorySystem
from fastq.task import Task
from fastq.worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

_PATIENCE_S = 30.0  # how long a test's tasks may take until the test is stopped


class Sent(NamedTuple):
    """A call that was queued."""

    task: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    queue: str
    message: Message

    def __repr__(self) -> str:
        given = [repr(value) for value in self.args] + [f"{key}={value!r}" for key, value in self.kwargs.items()]
        return f"{self.task}({', '.join(given)}) in {self.queue!r}"


class VirtualClock:
    """The time of a kit; it stands still until it is moved."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._now_us = now_us()

    def now_us(self) -> int:
        """Return the time in microseconds since the epoch."""
        return self._now_us

    def advance(self, seconds: float) -> int:
        """Move on, and run on the way what comes due, each task at its time; return how many attempts that were."""
        if seconds < 0:
            raise ValueError(f"seconds is {seconds!r}; time does not go backwards")
        return self._kit._run_until(self._now_us + round(seconds * 1e6))


class Kit:
    """Use it in ``with``, or as the pytest fixture ``fastq_kit``: while it is open, the app is on it.

    `sent` is every call that was queued, by the test or by a task, in order; a retry is no new call.
    """

    def __init__(self, app: FastQ) -> None:
        self.app = app
        self.clock = VirtualClock(self)
        self.sent: list[Sent] = []
        self._system = MemorySystem(self.clock.now_us)
        self._broker = _KitBroker(self, self._system)
        self._deaths: dict[str, int] = {}
        self._opened: tuple[Any, ...] = ()

    def __enter__(self) -> Kit:  # noqa: PYI034 - Self is in typing from Python 3.11 on
        app = self.app
        self._opened = app._broker, app._backend, app._state
        app._broker = self._broker
        app._backend = _KitBackend(self._broker, self._system, app.settings.result_expires_s)
        app._state = MemoryState(system=self._system)
        set_clock(lambda: self.clock.now_us() * 1000)
        return self

    def __exit__(self, *_: object) -> None:
        set_clock(None)
        self.app._broker, self.app._backend, self.app._state = self._opened

    # -- running ------------------------------------------------------------------------------------

    def run(self) -> int:
        """Run what is due, and what follows from it, until nothing is; return how many attempts that were.

        Raises AssertionError if it does not come to an end within 30 seconds.
        """
        attempts = 0
        while ready := self._ready():
            attempts += self._work(ready)
        return attempts

    def _run_until(self, target_us: int) -> int:
        attempts = self.run()
        while due := self._next_due(target_us):
            self.clock._now_us = max(due, self.clock.now_us())
            attempts += self.run()
        self.clock._now_us = target_us
        return attempts + self.run()

    def _work(self, queues: Sequence[str]) -> int:
        """Let a worker work until these queues are empty."""
        app = self.app
        pool = _KitPool(app, self._deaths)
        worker = Worker(
            broker=self._broker, backend=app.backend, state=lambda: app.state, pool=pool, manifest=pool.load(),
            settings=replace(app.settings, concurrency=1, autoscale_min=0, autoscale_max=0), queues=queues,
        )  # fmt: skip
        failures: list[BaseException] = []
        thread = threading.Thread(target=_run, args=(worker, failures), name="fastq-kit")
        with self._broker.inside():
            thread.start()
            try:
                self._wait_until_idle(queues, thread)
            finally:
                worker.stop_soon()
                thread.join()
        if failures:
            raise failures[0]
        return worker.processed

    def _wait_until_idle(self, queues: Sequence[str], thread: threading.Thread) -> None:
        give_up = time.monotonic() + _PATIENCE_S
        while thread.is_alive() and (left := self._unfinished(queues)):
            assert time.monotonic() < give_up, f"After {_PATIENCE_S:g} s there is still something to do in {left}"
            with self._system.held():
                self._system.wait(time.monotonic() + 0.05, 0)

    def _unfinished(self, queues: Sequence[str]) -> list[str]:
        with self._system.held() as now:
            infos = self._system.queues.infos(now)
        return [info.name for info in infos if info.name in queues and (info.ready or info.leased)]

    def _ready(self) -> list[str]:
        with self._system.held() as now:
            ready = [info.name for info in self._system.queues.infos(now) if info.ready]
        paused = self.app.control.paused() if ready else ()
        return [name for name in ready if name not in paused]

    def _next_due(self, target_us: int) -> int:
        with self._system.held() as now:
            names = [info.name for info in self._system.queues.infos(now) if info.delayed]
            due = self._system.queues.next_due(names, None)
        return due if due <= target_us else 0

    # -- what is queued -------------------------------------------------------------------------------

    def waiting(self, task: Task[..., Any] | str | None = None, *, queue: str | None = None) -> list[Sent]:
        """Return the calls that wait to be run, due or delayed, in the order in which they were queued."""
        with self._system.held():
            frames = self._system.queues.frames()
        calls = [self._seen(Message.decode(unsealed(frame))) for frame in frames]
        return [call for call in calls if _fits(call, task, None, None, queue)]

    def assert_enqueued(
        self, task: Task[..., Any] | str, *, args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None, queue: str | None = None,
    ) -> Sent:  # fmt: skip
        """Return the first waiting call that fits all that is given; AssertionError tells what waits if none does."""
        waiting = self.waiting()
        for call in waiting:
            if _fits(call, task, args, kwargs, queue):
                return call
        raise AssertionError(f"No such call of {_name(task)} waits; what waits: {waiting or 'nothing'}")

    def refute_enqueued(
        self, task: Task[..., Any] | str, *, args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None, queue: str | None = None,
    ) -> None:  # fmt: skip
        """Raise AssertionError if a waiting call fits all that is given."""
        found = [call for call in self.waiting() if _fits(call, task, args, kwargs, queue)]
        assert not found, f"There is a call of {_name(task)} waiting: {found[0]}"

    # -- faults ---------------------------------------------------------------------------------------

    def fail_publish(self, error: Exception | None = None, *, times: int = 1) -> None:
        """Let the next calls of the test fail at the broker; by default with BrokerUnavailable."""
        self._broker.failures += [error or BrokerUnavailable("the kit was told to fail")] * times

    def die_in(self, task: Task[..., Any] | str, *, times: int = 1) -> None:
        """Let the process die that runs this task, the next `times` times, before the task has done anything."""
        self._deaths[_name(task)] = times

    # -- steps ----------------------------------------------------------------------------------------

    def _seen(self, message: Message) -> Sent:
        packing = self.app.settings.packing
        plain = packing.plain(message) if is_packed(message.content_type) else message
        args, kwargs = decode(plain.body, plain.content_type, self.app.settings.accept)
        return Sent(message.task, args, kwargs, message.queue, message)


class _KitBroker(MemoryBroker):
    """Notes what is published, and fails as it was told to."""

    def __init__(self, kit: Kit, system: MemorySystem) -> None:
        super().__init__(system=system)
        self.envelope = kit.app.settings.envelope
        self.failures: list[Exception] = []
        self._kit = kit
        self.at_work = False

    def publish(self, messages: Sequence[Message]) -> None:
        if self.failures and not self.at_work:
            raise self.failures.pop(0)
        super().publish(messages)
        self._kit.sent += [self._kit._seen(message) for message in messages]

    @contextmanager
    def inside(self) -> Iterator[None]:
        """While a worker works, faults are not for the calls of its tasks."""
        self.at_work = True
        try:
            yield
        finally:
            self.at_work = False


class _KitBackend(MemoryBackend):
    """Refuses to wait where nobody could end the waiting: in the test's own thread, while no worker works."""

    def __init__(self, broker: _KitBroker, system: MemorySystem, expires_s: float) -> None:
        super().__init__(expires_s=expires_s, system=system)
        self._broker = broker
        self._thread = threading.get_ident()

    def wait(self, ids: Sequence[bytes], deadline: float | None) -> Iterator[Outcome]:
        if self._broker.at_work or threading.get_ident() != self._thread:
            yield from super().wait(ids, deadline)
            return
        left = set(ids)
        for outcome in super().wait(ids, 0.0):
            left.discard(outcome.id)
            yield outcome
        if left:
            these = f"Task {uuid.UUID(bytes=left.pop())} has" if len(left) == 1 else f"{len(left)} tasks have"
            raise AssertionError(f"{these} not ended, and nothing runs while the test waits: call kit.run() first")


class _KitPool(SoloPool):
    """Runs the tasks of an app that is there already; some die as they were told to."""

    def __init__(self, app: FastQ, deaths: dict[str, int]) -> None:
        super().__init__(None)
        self._app = app
        self._deaths = deaths

    def load(self) -> Manifest:
        tasks = {name: task.info for name, task in self._app.tasks.items()}
        return Manifest(self._app.name, fields_of(self._app.settings), tasks)

    def run(self, ticket: int, message: Message) -> Ended:
        if self._deaths.get(message.task, 0) > 0:
            self._deaths[message.task] -= 1
            return Ended(ticket, b"", "was killed by the kit")
        return super().run(ticket, message)


def _run(worker: Worker, failures: list[BaseException]) -> None:
    try:
        worker.run()
    except BaseException as error:  # noqa: BLE001 - the thread that waits raises it
        failures.append(error)


def _name(task: Task[..., Any] | str) -> str:
    return task if isinstance(task, str) else task.name


def _fits(
    call: Sent, task: Task[..., Any] | str | None, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None,
    queue: str | None,
) -> bool:  # fmt: skip
    return (
        (task is None or call.task == _name(task))
        and (args is None or list(call.args) == list(args))
        and (kwargs is None or dict(call.kwargs) == dict(kwargs))
        and (queue is None or call.queue == queue)
    )
