"""Stacks of this process: where each of its threads is."""

from __future__ import annotations

import sys
import threading
import traceback


def stacks_here() -> str:
    """Return where all threads of this process are, each from its outermost call inwards."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"Thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame)).rstrip()}"
        for ident, frame in sys._current_frames().items()  # noqa: SLF001 - public in all but its name
    )
