from collections.abc import Iterable, Sequence
from typing import Any

from .amqp_link import Link
from .amqp_methods import Method
from .amqp_values import Outgoing, Received

class Codec:
    frame_max: int
    def method(self, method: Method, *args: Any) -> bytes: ...
    def acks(self, tags: Iterable[int]) -> bytes: ...
    def publications(self, batch: Sequence[Outgoing]) -> list[tuple[bytes, int]]: ...
    def feed(self, data: bytes, inbox: list[Received]) -> list[tuple[Method, Any]]: ...

class AmqpLink(Link):
    codec = Codec
