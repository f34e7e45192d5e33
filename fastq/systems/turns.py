"""In which order a subscription looks into its queues."""

from __future__ import annotations

from collections.abc import Iterable


class Turns:
    """Gives each fetch the queues in an order of its own: the next one to have its turn stands first.

    A queue that is named several times has as many turns. One thread uses it.
    """

    def __init__(self, queues: Iterable[str]) -> None:
        self._turns = list(queues)
        self.queues = list(dict.fromkeys(self._turns))  # each once

    def take(self) -> list[str]:
        """Return the queues, each once, for the next fetch."""
        turns = self._turns
        if not turns:
            return []
        order = turns.copy() if len(turns) == len(self.queues) else list(dict.fromkeys(turns))
        turns.append(turns.pop(0))
        return order
