"""The page of memory that a template shares with its children: who is asked what, who answers, and when all end."""

from __future__ import annotations

import mmap

MOST_PROCESSES = 8192

#: What a child is asked, at its number in `asked`: nothing yet, 0; to leave; or, with a number above READY, to say that
#: it is there, by the same number in `answered`. READY stands there once it takes messages, 0 before and afterwards.
LEAVE = READY = 1


class Page:
    """Made by the template before it forks. Each part has one writer, so there is nothing to lock.

    Children look after each task, or once in a while without any, whether something else is asked than before.
    """

    def __init__(self) -> None:
        memory = memoryview(mmap.mmap(-1, 8 + 2 * MOST_PROCESSES))
        #: For `fastq.ending.Ending`; the template writes.
        self.ending = memory[:8].cast("d")
        #: A byte for each child; the template writes.
        self.asked = memory[8 : 8 + MOST_PROCESSES]
        #: A byte for each child, which writes.
        self.answered = memory[8 + MOST_PROCESSES :]

    def clear(self, child: int) -> None:
        """Begin anew with a child that is to be forked."""
        self.asked[child] = self.answered[child] = 0
