"""How commands reach running workers, and how their answers come back: both through logs of the shared state.

Every worker follows the log "control" and says by a fact that it is there. Whoever asks reads the answers in a log of
its own. Commands, answers and facts are JSON, where there are keys in seals for their places; see `docs/protocol.rst`.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import orjson

from .errors import CommandFailed, ProtocolError, SealBroken, UnknownWorker, did_you_mean
from .sealing import Seals, is_sealed
from .state import SharedState

V = TypeVar("V")

logger = logging.getLogger("fastq.control")

LOG = "control"
#: Families of facts. What has to outlast the workers that heard of it is a fact.
WORKERS = "worker"  # incarnation: what the worker says of itself
REVOKED = "revoked"  # task id: whether to break it off
REVOKED_HEADER = "revoked-header"  # a digest: header, value, and whether to break off
PAUSED = "paused"  # queue: since when
RATES = "rate-limit"  # task: its rate

WITHOUT_END_S = 100 * 365 * 86_400.0
_KEPT = 1_000  # commands, for followers that are slow
_REPLIES_KEPT = 10_000
_REPLIES_EXPIRE_S = 60.0
_OBEYED_FOR_S = 60.0  # a command that comes later was meant for another time
_DISTRUSTED = 1_000  # things that were passed over, and warned of


class Command(NamedTuple):
    """One order to workers. Times are seconds since the epoch, by the clock of whoever gives it."""

    name: str
    arguments: Mapping[str, Any]
    to: tuple[str, ...] | None = None  # incarnations; None: all that are there
    reply: str = ""  # the log for answers; empty: none are wanted
    id: str = ""
    at: float = 0.0
    expires: float = 0.0

    def encode(self) -> bytes:
        """Return it as JSON."""
        return orjson.dumps(self._asdict())

    @classmethod
    def decode(cls, entry: bytes) -> Command:
        """Read it back. Raises ProtocolError."""
        given = _object(entry)
        try:
            if not isinstance(given.get("name"), str) or not isinstance(given.get("arguments"), dict):
                raise TypeError("name is text, and arguments are an object")
            command = cls(**{name: given[name] for name in cls._fields if name in given})
            to = None if command.to is None else tuple(map(str, command.to))
            return command._replace(to=to, reply=str(command.reply), expires=float(command.expires))
        except (TypeError, ValueError) as error:
            raise ProtocolError(f"Not a command: {error}") from error


class Board:
    """Facts, commands and answers in the shared state, sealed on their way in and opened on their way out.

    What is not sealed as it should be is not there, and is warned of once.
    """

    def __init__(self, state: SharedState, seals: Seals) -> None:
        self.state = state
        self._seals = seals
        self._distrusted: set[tuple[str, bytes]] = set()

    def put(self, family: str, facts: Mapping[str, bytes], expires_s: float) -> None:
        """Keep facts. Raises StateUnavailable, as all that follows does."""
        self.state.put(family, {name: self._sealed_fact(family, name, facts[name]) for name in facts}, expires_s)

    def put_new(self, family: str, name: str, value: bytes, expires_s: float) -> None:
        """Keep a fact unless there is one of this name."""
        self.state.put_new(family, name, self._sealed_fact(family, name, value), expires_s)

    def find(self, family: str) -> dict[str, bytes]:
        """Return the facts of a family that can be trusted."""
        found = self.state.find(family)
        opened = {name: self._opened(fact, _of_fact(family, name)) for name, fact in found.items()}
        return {name: fact for name, fact in opened.items() if fact is not None}

    def append(self, log: str, entry: bytes, *, keep: int, expires_s: float) -> None:
        """Add an entry to a log."""
        self.state.append(log, [self._seals.seal(entry, _of_log(log))], keep=keep, expires_s=expires_s)

    def opened(self, log: str, entries: Iterable[bytes]) -> list[bytes]:
        """Return those of the entries of a log that can be trusted."""
        return [inner for entry in entries if (inner := self._opened(entry, _of_log(log))) is not None]

    def _sealed_fact(self, family: str, name: str, value: bytes) -> bytes:
        return self._seals.seal(value, _of_fact(family, name))

    def _opened(self, value: bytes, subject: str) -> bytes | None:
        if not self._seals.active and not is_sealed(value):
            return value
        try:
            return self._seals.open(value, subject).inner
        except SealBroken as error:
            known = subject, value[-32:]
            if known not in self._distrusted and len(self._distrusted) < _DISTRUSTED:
                self._distrusted.add(known)
                logger.warning("What the shared state has as %r is passed over: %s", subject, error)
            return None


def _of_fact(family: str, name: str) -> str:
    return f"fact:{family}:{name}"


def _of_log(log: str) -> str:
    return f"log:{log}"


class Replies(dict[str, V]):
    """Answers by worker, and the names of those workers that were asked and `silent`."""

    silent: tuple[str, ...] = ()


def send(
    board: Board, name: str, arguments: Mapping[str, Any], *, to: Sequence[str] | None = None, reply: str = ""
) -> None:
    """Give workers a command, and don't wait. Raises StateUnavailable."""
    now = time.time()
    to = None if to is None else tuple(to)
    command = Command(name, arguments, to, reply, uuid.uuid4().hex, now, now + _OBEYED_FOR_S)
    board.append(LOG, command.encode(), keep=_KEPT, expires_s=2 * _OBEYED_FOR_S)


def ask(
    board: Board, name: str, arguments: Mapping[str, Any], *, destination: Sequence[str] | None, timeout_s: float
) -> Replies[Any]:
    """Give workers a command; return their answers once all are there, or what is there after the timeout.

    Raises UnknownWorker for a destination that is none, CommandFailed if a worker could not do it, StateUnavailable.
    """
    asked = _asked(board, destination)
    if not asked:
        return Replies()
    log = f"reply:{uuid.uuid4().hex}"
    follower = board.state.follow(log, from_start=True)
    replies: Replies[Any] = Replies()
    failures: dict[str, str] = {}
    try:
        send(board, name, arguments, to=list(asked), reply=log)
        deadline = time.monotonic() + timeout_s
        while asked and (entries := follower.read(deadline)):
            for answer in map(_object, board.opened(log, entries)):
                worker = asked.pop(str(answer.get("worker")), None)
                if worker is None:
                    continue
                if "error" in answer:
                    failures[worker] = str(answer["error"])
                else:
                    replies[worker] = answer.get("value")
    finally:
        follower.close()
    replies.silent = tuple(asked.values())
    if failures:
        raise CommandFailed(name, failures, replies)
    return replies


def answer(board: Board, log: str, incarnation: str, *, value: Any = None, error: str = "") -> None:
    """Answer a command. Raises StateUnavailable."""
    said = {"worker": incarnation, **({"error": error} if error else {"value": value})}
    board.append(log, orjson.dumps(said, default=str), keep=_REPLIES_KEPT, expires_s=_REPLIES_EXPIRE_S)


def present(board: Board) -> dict[str, dict[str, Any]]:
    """Return what the workers that are there say of themselves, by name; of one name, all but one are numbered."""
    found = {}
    for incarnation, fact in sorted(board.find(WORKERS).items()):
        said = _object(fact)
        name = str(said.get("name"))
        if name in found:
            name = f"{name}#{incarnation[:8]}"
        found[name] = {**said, "incarnation": incarnation}
    return found


def _asked(board: Board, destination: Sequence[str] | None) -> dict[str, str]:
    """Return the names of the workers to be asked, by incarnation."""
    workers = present(board)
    if destination is not None:
        destination = [destination] if isinstance(destination, str) else destination
        for name in destination:
            if name not in workers:
                raise UnknownWorker(f"There is no worker {name!r}: {did_you_mean(name, workers)}")
        workers = {name: workers[name] for name in destination}
    return {said["incarnation"]: name for name, said in workers.items()}


def _object(entry: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(entry)
    except ValueError as error:
        raise ProtocolError(f"Not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ProtocolError(f"Not a JSON object, but {type(found).__name__}")
    return found
