"""What became of the messages that were published on a channel."""

from __future__ import annotations

from collections.abc import Sequence

from .amqp_values import Outgoing, Received


class Confirms:
    """Which of a channel's publications the server has confirmed. They are numbered from 1."""

    def __init__(self) -> None:
        self.on = False
        self.published = 0
        self.settled = 0  # all up to this one are confirmed or refused
        self._beyond: set[int] = set()  # and these
        self._refused: set[int] = set()
        self._returned: list[tuple[str, Received]] = []
        self._listening = False

    def begin(self, messages: int) -> None:
        """Note that a batch is going to be published, and forget what was returned before."""
        self.published += messages
        self._refused.clear()
        self._returned.clear()
        self._listening = True

    def has(self, number: int) -> bool:
        """Return whether a publication is confirmed or refused."""
        return number <= self.settled or number in self._beyond

    def take(self, number: int, multiple: bool, *, refused: bool) -> bool:
        """Note a confirmation, or what is its contrary. Return False for one of what was never published."""
        if number > self.published or not (number or multiple):
            return False
        last = number or self.published
        if refused:
            these = range(self.settled + 1 if multiple else last, last + 1)
            self._refused.update(one for one in these if not self.has(one))
        if multiple:
            self.settled = max(self.settled, last)
            self._beyond = {one for one in self._beyond if one > self.settled}
        elif last > self.settled:
            self._beyond.add(last)
        while self.settled + 1 in self._beyond:
            self.settled += 1
            self._beyond.remove(self.settled)
        return True

    def give_back(self, reason: str, message: Received) -> None:
        """Note that the server returned a message: no queue takes it. It is of interest while a batch is published."""
        if self._listening:
            self._returned.append((reason, message))

    def failures(self, batch: Sequence[Outgoing]) -> list[tuple[int, str]]:
        """Return (index, reason) of what was not taken of the batch that was begun last, which is over then.

        Messages are returned in their order and without their number. Those that are alike may be taken for each other.
        """
        first = self.published - len(batch) + 1
        failed = {number - first: "the server refused it" for number in self._refused if number >= first}
        at = 0
        for reason, message in self._returned:
            index = next((index for index in range(at, len(batch)) if _is_same(batch[index], message)), None)
            if index is not None:
                failed[index] = reason
                at = index + 1
        self._listening = False
        return sorted(failed.items())

    def confirmed(self, batch: Sequence[Outgoing], failed: list[tuple[int, str]]) -> frozenset[int]:
        """Return the indexes of what was taken for sure of the batch that was begun last."""
        first = self.published - len(batch) + 1
        not_taken = {index for index, _ in failed}
        return frozenset(index for index in range(len(batch)) if self.has(first + index) and index not in not_taken)


def _is_same(sent: Outgoing, returned: Received) -> bool:
    return (
        sent.body == returned.body
        and sent.routing_key == returned.routing_key
        and sent.exchange == returned.exchange
        and sent.properties.message_id == returned.properties.message_id
    )
