"""What both bodies of the AMQP link take, return and raise."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple, Union

#: What a header may be. Tables and arrays may be nested, `MAX_DEPTH` deep. `bytes` are sent as a long string, and
#: what is valid UTF-8 comes back as `str`. Times have seconds and come back in UTC; 32-bit floats come back as float.
Field = Union[None, bool, int, float, Decimal, str, bytes, datetime, "list[Field]", "dict[str, Field]"]
Table = Mapping[str, Field]

#: The deepest nesting of headers that is read or written.
MAX_DEPTH = 32
#: The largest body that is read or written, in bytes. Servers have limits of their own, and lower ones.
MAX_BODY = 1 << 29


class Properties(NamedTuple):
    """The properties of a message. None is one that the message doesn't have."""

    content_type: str | None = None
    content_encoding: str | None = None
    headers: dict[str, Field] | None = None
    delivery_mode: int | None = None  # 1 transient, 2 persistent
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None  # milliseconds, as a decimal number
    message_id: str | None = None
    timestamp: int | None = None  # seconds since 1970
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None


class Outgoing(NamedTuple):
    """A message to publish. It costs less to give many messages the same `properties` object than equal ones."""

    exchange: str
    routing_key: str
    body: bytes
    properties: Properties = Properties()
    mandatory: bool = True  # have it returned where no queue takes it


class Received(NamedTuple):
    """A message that a consumer or `get` was given."""

    tag: str  # the consumer's, "" from `get`
    delivery_tag: int  # of the channel: worthless once an AmqpError was raised
    redelivered: bool
    exchange: str
    routing_key: str
    properties: Properties  # not to be changed: messages may share them
    body: bytes
    flaw: str = ""  # why the properties could not be read; they are all None then


class Declared(NamedTuple):
    """A queue as the server has it."""

    name: str
    messages: int  # ready to be delivered
    consumers: int


class Tls(NamedTuple):
    """How to speak TLS. Files are PEM."""

    ca: str | None = None  # None: the system's authorities
    cert: str | None = None
    key: str | None = None
    verify: bool = True  # the server's certificate and its name
    server_name: str | None = None  # None: the host that is connected to


class AmqpError(OSError):
    """Raised when the server refused something and closed the channel, 404 NOT_FOUND for instance.

    The channel has been opened again. Its consumers, prefetch, unacknowledged deliveries and their tags are gone.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__()
        self.args = (code, text)
        self.code = code
        self.text = text

    def __str__(self) -> str:
        return f"{self.text} ({self.code})"


class AmqpClosed(AmqpError, ConnectionError):
    """Raised when the server closed the connection and said why, 320 CONNECTION_FORCED for instance.

    The link is closed.
    """


class Unconfirmed(OSError):
    """Raised when the fate of a part of a batch is unknown; `__cause__` says what happened.

    It is a ConnectionError or TimeoutError, and the link is closed, or an AmqpError, and the channel was opened again.
    """

    def __init__(self, sent: int, confirmed: frozenset[int], failed: list[tuple[int, str]]) -> None:
        super().__init__()
        self.args = (sent, confirmed, failed)
        self.sent = sent  # the messages from this index on have not left and will not
        self.confirmed = confirmed  # indexes of those that the server has taken
        self.failed = failed  # (index, reason) of those that it has not taken

    def __str__(self) -> str:
        unknown = self.sent - len(self.confirmed) - len(self.failed)
        return f"{len(self.confirmed)} messages are known to be confirmed, {unknown} may have been taken"
