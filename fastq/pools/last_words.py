"""Last words: what a pool child wrote when it crashed, for those who ask why it died."""

from __future__ import annotations

import faulthandler
import os
import sys
from contextlib import suppress
from pathlib import Path

from fastq._speedups.channel_py import nameless_file
from fastq.worker.logs import escape_lines

_MOST_FILES = 256  # each takes a descriptor of the template
_MOST_BYTES = 100_000  # of what was written
_MOST_CHARACTERS = 2_000  # of what is told of it
_OURS = f'  File "{Path(__file__).parent}/'  # where a stack leaves the task: the same below for all


class LastWords:
    """A file in memory for each child, into which Python's crash handler writes. Made by the template, before forks."""

    def __init__(self) -> None:
        self._files: dict[int, int] = {}

    def expect(self, number: int) -> None:
        """Get ready for a child that is about to be forked. Where there are very many, some say nothing."""
        with suppress(OSError):
            if len(self._files) < _MOST_FILES:
                self._files[number] = nameless_file("fastq-last-words")

    def begin(self, number: int) -> None:
        """In the child: have its crash written down; on stderr, if it is not expected to have last words."""
        mine = self._files.pop(number, -1)
        while self._files:
            os.close(self._files.popitem()[1])
        if mine >= 0:
            faulthandler.enable(mine)
        elif sys.stderr is not None:
            with suppress(OSError, ValueError):
                faulthandler.enable()

    def of(self, number: int) -> str:
        """Return what a child wrote that has died, and expect no more of it; empty if it wrote nothing."""
        file = self._files.pop(number, -1)
        if file < 0:
            return ""
        try:
            return heart_of(os.pread(file, _MOST_BYTES, 0))
        finally:
            os.close(file)


def heart_of(written: bytes) -> str:
    """Return the lines that matter, with whatever is not printable escaped: the error, and where it happened."""
    blocks = written.decode("ascii", "backslashreplace").split("\n\n")
    chosen = [block for block in blocks if block.startswith(("Fatal Python error", "Current thread"))]
    lines = "\n".join(chosen).splitlines()
    end = next((at for at, line in enumerate(lines) if line.startswith(_OURS)), len(lines))
    return escape_lines("\n".join(lines[:end]))[:_MOST_CHARACTERS]
