"""Lines to RabbitMQ: a link that is opened at need, kept, and opened anew when it broke."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import socket
import threading
import time
import uuid
import weakref
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fastq._speedups import AmqpLink
from fastq._speedups.amqp_values import AmqpError, Field, Unconfirmed
from fastq.backoff import pause
from fastq.errors import BrokerUnavailable, FastQError
from fastq.systems.amqp_url import AmqpUrl

if TYPE_CHECKING:
    from fastq._speedups.amqp_link import Link

logger = logging.getLogger(__name__)

_TRUSTED_S = 20.0  # a link that was silent for longer is tried before it is used
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 3.0

#: What a link raises for whatever goes wrong beyond it.
ERRORS = OSError


def connect(url: AmqpUrl, *, name: str, heartbeat_s: int, worker: Mapping[str, str] | None = None) -> Link:
    """Return a link to one of the URL's nodes, tried in random order. Raises OSError, for which `explain` has words.

    That of a worker is an incarnation of it: it has an owner, see `owner_of`, and tells the server what `worker` says.
    """
    about: dict[str, Field] = {}
    if worker is not None:
        about["fastq"] = {"owner": str(uuid.uuid4()), "prefix": url.prefix, "about": dict(worker)}
    refused: OSError = ConnectionError("no address")
    for host, port in random.sample(url.addresses, len(url.addresses)):
        try:
            return AmqpLink(
                host=host,
                port=port,
                vhost=url.vhost,
                login=(url.username, url.password) if url.username else None,
                tls=url.tls,
                heartbeat_s=heartbeat_s,
                timeout_s=url.timeout_s,
                name=name,
                about=about,
            )
        except PermissionError:
            raise
        except OSError as error:
            refused = error
        except ValueError as error:
            refused = ConnectionError(str(error))
    raise refused


def owner_of(link: Link) -> str:
    """Return the owner of what is delivered over a worker's link."""
    told: Any = link.about["fastq"]
    return str(told["owner"])


def explain(url: AmqpUrl, error: BaseException) -> str:
    """Return what went wrong, and what to do about it."""
    cause = error.__cause__ if isinstance(error, Unconfirmed) and error.__cause__ else error
    where = f"RabbitMQ at {url.shown}"
    if isinstance(cause, PermissionError):
        return f"{where} lets nobody in: {cause}; check user, password and virtual host"
    if isinstance(cause, AmqpError):
        return f"{where} refused: {cause}{_advice(cause)}"
    if isinstance(cause, TimeoutError):
        return f"{where} does not answer: {cause}"
    if isinstance(cause, socket.gaierror):
        return f"{where} can't be found: {cause.strerror or cause}; check the address"
    return f"{where} can't be reached: {str(cause) or type(cause).__name__}; check the address, and that it runs"


def _advice(error: AmqpError) -> str:
    if error.code == 403:
        return "; give the user the permissions that docs/rabbitmq.rst lists"
    if "timed out" in error.text:
        return "; give its consumer_timeout, in seconds, in the URL"
    if "max size" in error.text:
        return "; raise its max_message_size, or send less"
    return ""


class Line:
    """One link for whoever needs one now and then, a thread at a time. A fork has a link of its own."""

    def __init__(self, url: AmqpUrl, name: str) -> None:
        self.url = url
        self._name = name
        self._lock = threading.Lock()
        self._link: Link | None = None
        self._used_at = 0.0
        self.is_fresh = True  # the link that is held was opened for this use of it
        _lines.add(self)

    @contextlib.contextmanager
    def link(self) -> Iterator[Link]:
        """Hold the link, open and proved to be alive a moment ago. Raises what `connect` raises."""
        with self._lock:
            link = self._alive()
            self.is_fresh = link is None
            self._link = link = link or connect(self.url, name=self._name, heartbeat_s=0)
            try:
                yield link
            finally:
                self._used_at = time.monotonic()

    def _alive(self) -> Link | None:
        if self._link is None or self._link.fileno() < 0:
            return None
        try:
            if time.monotonic() - self._used_at > _TRUSTED_S:
                self._link.sync()
            else:
                self._link.beat()
        except AmqpError as error:
            if self._link.fileno() < 0:
                return None
            logger.debug("An earlier error of RabbitMQ at %s came late: %s", self.url.shown, error)
        except OSError:
            return None
        return self._link

    def close(self) -> None:
        """Close the link; the next use opens another."""
        with self._lock:
            if self._link is not None:
                self._link.close()
            self._link = None

    def abandon(self) -> None:
        """Forget the link of a parent process, after a fork."""
        self._lock = threading.Lock()
        if self._link is not None:
            self._link.close()
        self._link = None


class Redialing:
    """Finds out when a server that was lost is there again: not too often, and not in step with others."""

    def __init__(self, url: AmqpUrl, *, name: str, heartbeat_s: int, worker: Mapping[str, str] | None = None) -> None:
        self._url = url
        self._name = name
        self._heartbeat_s = heartbeat_s
        self._worker = worker
        self._lock = threading.Lock()
        self._failures = 0
        self._next_at = 0.0
        self._reason = "the connection was lost"

    @property
    def wait_s(self) -> float:
        """For how long it is too early to try again."""
        return max(0.0, self._next_at - time.monotonic())

    def dial(self) -> Link:
        """Return a new link. Raises BrokerUnavailable, also while it is too early."""
        with self._lock:
            if not self.wait_s:
                try:
                    return connect(self._url, name=self._name, heartbeat_s=self._heartbeat_s, worker=self._worker)
                except OSError as error:
                    self._reason = explain(self._url, error)
                    self._failures += 1
                    self._next_at = time.monotonic() + pause(self._failures, _FIRST_PAUSE_S, _LONGEST_PAUSE_S)
            raise BrokerUnavailable(self._reason)


@contextlib.contextmanager
def translated(url: AmqpUrl, unavailable: type[FastQError]) -> Iterator[None]:
    """Make what goes wrong with the server `unavailable`, in words."""
    try:
        yield
    except ERRORS as error:
        raise unavailable(explain(url, error)) from error


_lines: weakref.WeakSet[Line] = weakref.WeakSet()


def _after_fork() -> None:
    for line in list(_lines):
        line.abandon()


os.register_at_fork(after_in_child=_after_fork)
