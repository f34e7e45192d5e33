"""Remote control: what an app's callers may ask of its workers, and have remembered for workers that start later."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TypedDict

import orjson

from .broadcast import PAUSED, RATES, REVOKED, REVOKED_HEADER, WITHOUT_END_S, Board, Replies, ask, present, send
from .errors import ConfigurationError
from .message import check_queue, check_task
from .rates import parse_rate

if TYPE_CHECKING:
    from .app import FastQ

_WEEK_S = 7 * 86_400.0
_AT_ONCE = 1_000  # revocations in one command


class TaskInHand(TypedDict):
    """A task that a worker holds. Those of the last three are 0 while it has not begun."""

    id: str
    task: str
    queue: str
    attempt: int
    child: int
    pid: int
    runs_s: float  # for how long it has been running


class WorkerStats(TypedDict):
    """A worker in numbers."""

    app: str
    host: str
    pid: int
    version: str
    uptime_s: float
    children: int
    queues: list[str]  # those it takes messages from
    paused: list[str]  # those of its queues that it doesn't, as long as they are paused
    running: int
    reserved: int
    processed: int  # attempts that have ended
    revoked: int  # revocations that it knows


class Inspect:
    """Questions to workers. Each answer is by the name of the worker; a worker's parent answers, whatever runs.

    All raise UnknownWorker, CommandFailed and StateUnavailable. Workers that don't answer in time are named in the
    answer's `silent`.
    """

    def __init__(self, board: Board, destination: Sequence[str] | None, timeout_s: float) -> None:
        self._board = board
        self._destination = destination
        self._timeout_s = timeout_s

    def ping(self) -> Replies[str]:
        """Return "pong" from all that are there."""
        return self._ask("ping")

    def active(self) -> Replies[list[TaskInHand]]:
        """Return what runs."""
        return self._ask("active")

    def reserved(self) -> Replies[list[TaskInHand]]:
        """Return what was fetched and has not begun."""
        return self._ask("reserved")

    def scheduled(self) -> Replies[dict[str, int]]:
        """Return how many delayed messages wait at the broker, by queue, in the queues that each worker serves."""
        return self._ask("scheduled")

    def registered(self) -> Replies[list[str]]:
        """Return the names of the tasks that each worker knows."""
        return self._ask("registered")

    def stats(self) -> Replies[WorkerStats]:
        """Return each worker in numbers."""
        return self._ask("stats")

    def stacks(self) -> Replies[dict[str, str]]:
        """Return where the threads of each worker's processes are, as text by process; a process may not say."""
        return self._ask("stacks")

    def _ask(self, command: str) -> Replies[Any]:
        return ask(self._board, command, {}, destination=self._destination, timeout_s=self._timeout_s)


class Control:
    """The remote control of an app, ``app.control``.

    What is said of tasks and queues is kept in the shared state, and holds for workers that start later, too. What is
    said to workers (`destination` names some, None means all) returns their answers, as `Inspect` does, and is
    forgotten when they stop. Everything raises NotSupported where there can be no shared state, and StateUnavailable.
    """

    def __init__(self, app: FastQ) -> None:
        self._app = app

    # -- tasks -----------------------------------------------------------------------------------

    def revoke(
        self, ids: str | Iterable[str], *, terminate: bool = False, expires_s: float = _WEEK_S
    ) -> None:  # fmt: skip
        """Let tasks not be run; with `terminate`, break them off if they run. They end as REVOKED.

        A task that waits ends when a worker comes to it. The revocation holds for `expires_s` seconds: a task that is
        due later will run. Raises ValueError for what is no task id.
        """
        _check_expiry(expires_s)
        remaining = iter([ids] if isinstance(ids, str) else ids)
        value = orjson.dumps({"terminate": terminate})
        while some := [str(uuid.UUID(id)) for id in islice(remaining, _AT_ONCE)]:
            self._board.put(REVOKED, dict.fromkeys(some, value), expires_s)
            send(self._board, "revoke", {"ids": some, "terminate": terminate})

    def revoke_by_header(self, name: str, value: Any, *, terminate: bool = False, expires_s: float = _WEEK_S) -> None:
        """Let all tasks that carry this header not be run; otherwise as `revoke`. `value` is a JSON value."""
        _check_expiry(expires_s)
        try:
            fact = orjson.dumps(
                {"header": name, "value": value, "terminate": terminate}, option=orjson.OPT_SORT_KEYS
            )  # fmt: skip
        except TypeError as error:
            raise ConfigurationError(f"{value!r:.60} is no JSON value, and so no header's: {error}") from error
        key = hashlib.sha256(orjson.dumps([name, value], option=orjson.OPT_SORT_KEYS)).hexdigest()
        self._board.put(REVOKED_HEADER, {key: fact}, expires_s)
        send(self._board, "revoke_by_header", orjson.loads(fact))

    def rate_limit(self, task: str, rate: str | None) -> None:
        """Start a task at most so often in the whole cluster, whatever it was declared with: "10/s", "100/m".

        With None, it is as it was declared again. Raises ConfigurationError for what is no rate, ProtocolError for what
        is no task's name.
        """
        check_task(task)
        if rate is None:
            self._board.state.delete(RATES, [task])
        else:
            parse_rate(rate)
            self._board.put(RATES, {task: rate.encode()}, WITHOUT_END_S)
        send(self._board, "rate_limit", {"task": task, "rate": rate})

    # -- queues ----------------------------------------------------------------------------------

    def pause(self, queue: str) -> None:
        """Let no worker take messages from a queue until `resume`. What runs, runs on. Raises ProtocolError."""
        fact = orjson.dumps({"since": time.time()})
        self._board.put_new(PAUSED, check_queue(queue), fact, WITHOUT_END_S)
        send(self._board, "pause", {"queue": queue})

    def resume(self, queue: str) -> bool:
        """Let workers take messages from a queue again; return whether it was paused."""
        was_paused = bool(self._board.state.delete(PAUSED, [queue]))
        send(self._board, "resume", {"queue": queue})
        return was_paused

    def paused(self) -> dict[str, float]:
        """Return the queues that are paused, and since when, in seconds since the epoch."""
        found = self._board.find(PAUSED)
        return {queue: float(orjson.loads(found[queue])["since"]) for queue in sorted(found)}

    # -- workers ---------------------------------------------------------------------------------

    def add_consumer(
        self, queue: str, *, destination: Sequence[str] | None = None, timeout: float = 1.0
    ) -> Replies[list[str]]:
        """Let workers serve another queue; return which they serve now. Raises ProtocolError."""
        return self._tell("add_consumer", {"queue": check_queue(queue)}, destination, timeout)

    def cancel_consumer(
        self, queue: str, *, destination: Sequence[str] | None = None, timeout: float = 1.0
    ) -> Replies[list[str]]:
        """Let workers serve a queue no more; return which they serve now. CommandFailed says who didn't serve it."""
        return self._tell("cancel_consumer", {"queue": queue}, destination, timeout)

    def pool_grow(
        self, n: int = 1, *, destination: Sequence[str] | None = None, timeout: float = 1.0
    ) -> Replies[int]:  # fmt: skip
        """Give workers `n` more children; return how many they have now."""
        return self._tell("pool_grow", {"n": _checked_number(n)}, destination, timeout)

    def pool_shrink(
        self, n: int = 1, *, destination: Sequence[str] | None = None, timeout: float = 1.0
    ) -> Replies[int]:  # fmt: skip
        """Take `n` children from workers, once they have ended what they run; return how many will be left."""
        return self._tell("pool_shrink", {"n": _checked_number(n)}, destination, timeout)

    def shutdown(
        self, *, now: bool = False, destination: Sequence[str] | None = None, timeout: float = 1.0
    ) -> Replies[str]:
        """Let workers stop as after SIGTERM, or `now`, as after SIGQUIT."""
        return self._tell("shutdown", {"now": now}, destination, timeout)

    def ping(self, *, destination: Sequence[str] | None = None, timeout: float = 1.0) -> Replies[str]:
        """Return "pong" from all that are there."""
        return self.inspect(destination, timeout).ping()

    def inspect(self, destination: Sequence[str] | None = None, timeout: float = 1.0) -> Inspect:
        """Return what asks these workers questions, and waits for answers for `timeout` seconds at most."""
        return Inspect(self._board, destination, timeout)

    def workers(self) -> dict[str, dict[str, Any]]:
        """Return what the workers that are there say of themselves, by name, without asking them."""
        return present(self._board)

    def _tell(
        self, command: str, arguments: dict[str, Any], destination: Sequence[str] | None, timeout: float
    ) -> Replies[Any]:
        return ask(self._board, command, arguments, destination=destination, timeout_s=timeout)

    @property
    def _board(self) -> Board:
        return Board(self._app.state, self._app.settings.seals)


def _check_expiry(expires_s: float) -> None:
    if not 0 < expires_s <= WITHOUT_END_S:
        raise ConfigurationError(f"expires_s is {expires_s!r}; it takes seconds, more than 0")


def _checked_number(n: int) -> int:
    if type(n) is not int or n < 1:
        raise ConfigurationError(f"n is {n!r}; it takes 1 or more")
    return n
