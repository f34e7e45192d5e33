"""Dead letters: messages that were given up, to be looked at, put back, changed, or dropped."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from .broker import Capability, DeadLetter
from .encoder import decode, encode, serializer_of
from .errors import ConfigurationError, FastQError, ProtocolError, SealBroken
from .message import Message, check_queue, now_us
from .packing import is_packed
from .sealing import of_queue, unsealed

if TYPE_CHECKING:
    from .app import FastQ

_PAGE, _LARGEST_PAGE = 500, 4_000  # letters; pages grow, as some brokers read a queue from its beginning for each
_AT_ONCE = 500  # letters that are put back, or dropped, in one step
_LATER_US = 60_000_000  # letters from then on are not of those that were there when somebody asked; clocks differ


class Letter(NamedTuple):
    """A dead letter, and the message in it."""

    token: str  # names it at the broker
    queue: str
    reason: str
    died_at: datetime  # in UTC
    frame: bytes  # as it was received
    message: Message | None  # None: the bytes are no message

    @classmethod
    def of(cls, letter: DeadLetter) -> Letter:
        """Read a dead letter."""
        try:
            message = Message.decode(unsealed(letter.frame))
        except ProtocolError:
            message = None
        died_at = datetime.fromtimestamp(letter.died_at / 1e6, timezone.utc)
        return cls(letter.token, letter.queue, letter.reason, died_at, letter.frame, message)

    @property
    def task(self) -> str:
        """The name of the task, empty where it can't be read."""
        return self.message.task if self.message else ""

    @property
    def id(self) -> str:
        """The id of the task, empty where it can't be read."""
        return self.message.uuid if self.message else ""


class DeadLetters:
    """The dead letters at an app's broker. Every method raises NotSupported, BrokerUnavailable."""

    def __init__(self, app: FastQ) -> None:
        self._app = app

    def find(
        self,
        *,
        queue: str | None = None,
        task: str | None = None,
        reason: str | None = None,
        older_than_s: float | None = None,
        newer_than_s: float | None = None,
        limit: int | None = None,
    ) -> list[Letter]:
        """Return the dead letters that fit all that is given, those of a queue in the order of their death.

        `task` is a name or a pattern such as ``shop.*``, `reason` a part of the reason, in either case; the ages are
        in seconds. Raises ProtocolError for what is no queue's name.
        """
        found = self.walk(queue=queue, task=task, reason=reason, older_than_s=older_than_s, newer_than_s=newer_than_s)
        return list(islice(found, limit))

    def walk(
        self,
        *,
        queue: str | None = None,
        task: str | None = None,
        reason: str | None = None,
        older_than_s: float | None = None,
        newer_than_s: float | None = None,
    ) -> Iterator[Letter]:
        """Yield what `find` returns, and hold no more than a page of it; letters may be put back or dropped meanwhile.

        Those that die while it goes on are left out, or else a letter that dies again and again had no end.
        """
        now = now_us()
        for name in [check_queue(queue)] if queue else self._queues():
            for letter in map(Letter.of, self._pages(name, now + _LATER_US)):
                age_s = (now - letter.died_at.timestamp() * 1e6) / 1e6
                if (
                    (task is None or fnmatchcase(letter.task, task))
                    and (reason is None or reason.lower() in letter.reason.lower())
                    and (older_than_s is None or age_s >= older_than_s)
                    and (newer_than_s is None or age_s <= newer_than_s)
                ):
                    yield letter

    def _pages(self, queue: str, until: int) -> Iterator[DeadLetter]:
        """Yield the letters of a queue that died until a moment."""
        last: DeadLetter | None = None
        size = _PAGE
        while page := self._app.broker.dead_letters(queue, size, last):
            for last in page:
                if last.died_at > until:
                    return
                yield last
            size = min(2 * size, _LARGEST_PAGE)

    def get(self, name: str) -> Letter:
        """Return the dead letter with this token, or of the task with this id. Raises LookupError."""
        for letter in self.walk():
            if name in (letter.token, letter.id):
                return letter
        raise LookupError(f"There is no dead letter {name!r}")

    def requeue(self, letters: Iterable[Letter]) -> int:
        """Put letters back into their queues, and forget their crashes and their ends; return how many."""
        count = 0
        for some in _in_parts(letters):
            self._forget_ends(some)
            expired = [letter for letter in some if self._has_expired(letter)]
            if expired:
                count += self._renew(expired)
            count += self._app.broker.requeue_dead([letter.token for letter in some if letter not in expired])
        return count

    def edit(
        self,
        letter: Letter,
        *,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        queue: str | None = None,
    ) -> None:
        """Put a letter back with other arguments, or into another queue; what is not given stays, its id too.

        It counts as a further attempt. The changed message is queued before the letter is dropped, so it is there twice
        rather than not at all.
        Raises ConfigurationError if the letter is no message, EncodingError for arguments that can't be carried.
        """
        message = letter.message
        if message is None:
            raise ConfigurationError(f"The dead letter {letter.token} is no message: {letter.reason}")
        message = self._plain(message)  # as it is packed and signed anew
        body = message.body if args is None and kwargs is None else self._body(message, args, kwargs)
        changed = message._replace(
            body=body, queue=check_queue(queue or message.queue), eta=0, expires=0, attempt=message.attempt + 1
        )
        self._forget_ends([letter])
        self._app.broker.publish([changed])
        self.drop([letter])

    def drop(self, letters: Iterable[Letter]) -> int:
        """Delete letters for good; return how many."""
        return sum(self._app.broker.drop_dead([letter.token for letter in some]) for some in _in_parts(letters))

    def arguments(self, message: Message) -> tuple[list[Any], dict[str, Any]]:
        """Return a message's arguments. Raises EncodingError, ProtocolError."""
        message, settings = self._plain(message), self._app.settings
        pair = decode(message.body, message.content_type, settings.accept, settings.max_depth)
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not isinstance(pair[1], dict):
            raise ProtocolError("The body is not a pair of arguments and keyword arguments")
        return list(pair[0]), pair[1]

    def export(self, letter: Letter) -> dict[str, Any]:
        """Return all there is to know of a letter as JSON values; the bytes in Base64."""
        told: dict[str, Any] = {
            "token": letter.token,
            "queue": letter.queue,
            "reason": letter.reason,
            "died_at": letter.died_at.isoformat(),
            "frame": base64.b64encode(letter.frame).decode(),
        }
        if letter.message is not None:
            told.update(id=letter.id, task=letter.task, attempt=letter.message.attempt)
            try:
                told["args"], told["kwargs"] = self.arguments(letter.message)
                json.dumps(told)
            except (FastQError, TypeError, ValueError) as error:
                told.update(args=None, kwargs=None, unreadable=str(error))
        return told

    def _body(self, message: Message, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None) -> bytes:
        if args is None or kwargs is None:
            old_args, old_kwargs = self.arguments(message)
            args, kwargs = old_args if args is None else args, old_kwargs if kwargs is None else kwargs
        serializer = serializer_of(message.content_type, self._app.settings.accept)
        return encode([list(args), dict(kwargs)], serializer, f"The call of {message.task}", ("args", "kwargs"))

    def _renew(self, expired: Sequence[Letter]) -> int:
        """Put letters back with new signatures, as further attempts; return how many."""
        messages = [letter.message for letter in expired if letter.message is not None]
        self._app.broker.publish([message._replace(attempt=message.attempt + 1) for message in messages])
        return self.drop(expired)

    def _plain(self, message: Message) -> Message:
        """Return a message with its body as its serializer made it, even if workers refuse it. Raises EncodingError."""
        return self._app.settings.packing.plain(message) if is_packed(message.content_type) else message

    def _has_expired(self, letter: Letter) -> bool:
        """Return whether nothing is wrong with the signature of a letter but its age."""
        seals = self._app.settings.seals
        try:
            return seals.active and seals.open(letter.frame, of_queue(letter.queue)).expired
        except SealBroken:
            return False

    def _forget_ends(self, letters: Sequence[Letter]) -> None:
        """Make room for new ends: that a task went to the dead letters is an end, which no other replaces."""
        ids = [letter.message.id for letter in letters if letter.message and not letter.message.ignore_result]
        if ids:
            self._app.backend.forget(ids)

    def _queues(self) -> list[str]:
        """Return the queues with dead letters; where the broker can't list queues, those that the app knows of."""
        app = self._app
        if Capability.INSPECT in app.broker.capabilities:
            return [info.name for info in app.broker.queues() if info.dead]
        routed = [queue for _, queue in app.settings.task_routes]
        return sorted({app.settings.default_queue, *routed, *(task.options.queue for task in app.tasks.values())})


def _in_parts(letters: Iterable[Letter]) -> Iterator[list[Letter]]:
    left = iter(letters)
    while some := list(islice(left, _AT_ONCE)):
        yield some
