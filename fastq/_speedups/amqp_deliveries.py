"""What a channel has delivered, and what is still owed for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from .amqp_values import Received


class Deliveries:
    """The deliveries of a channel that are neither acknowledged nor refused, by their tags, and thereby in order."""

    def __init__(self) -> None:
        self._owed: dict[int, None] = {}
        self._free: set[str] = set()  # consumers whose deliveries are owed nothing

    def add(self, messages: Iterable[Received]) -> None:
        """Note what came."""
        self._owed.update(dict.fromkeys([one.delivery_tag for one in messages if one.tag not in self._free]))

    def owe_nothing(self, tag: str, messages: Iterable[Received]) -> None:
        """Note that a consumer's deliveries need no acknowledgement, these that came already among them."""
        self._free.add(tag)
        for message in messages:
            if message.tag == tag:
                self._owed.pop(message.delivery_tag, None)

    def settle(self, delivery_tag: int, multiple: bool) -> None:
        """Note that nothing is owed any more for a delivery, and with `multiple` for all before it."""
        for tag in [tag for tag in self._owed if tag <= delivery_tag] if multiple else [delivery_tag]:
            self._owed.pop(tag, None)

    def settle_all(self, delivery_tags: Sequence[int]) -> tuple[int, Sequence[int]]:
        """Note that nothing is owed any more for these, and return how to say so to the server.

        That is a tag up to which all may be acknowledged at once, 0 if there is none, and those that remain.
        """
        for tag in delivery_tags:
            self._owed.pop(tag, None)
        first_owed = next(iter(self._owed), math.inf)
        settled = [tag for tag in delivery_tags if tag < first_owed]  # and so is all before them
        if len(settled) < 2:
            return 0, delivery_tags
        return max(settled), [tag for tag in delivery_tags if tag > first_owed]
