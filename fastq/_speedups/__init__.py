"""Framing, ids and pool IPC: compiled where it was built, in Python everywhere. The choice is made here.

``FASTQ_SPEEDUPS=1`` requires the compiled bodies, ``0`` refuses them; otherwise they are used where they
can be imported. It is all or nothing: a process never mixes the two.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

from . import channel_py, frames_py, ids_py

_wish = os.environ.get("FASTQ_SPEEDUPS", "")
if _wish not in ("", "0", "1"):
    raise ImportError(f"FASTQ_SPEEDUPS is {_wish!r}; it takes 0 (Python), 1 (compiled) or nothing (whichever is there)")

#: Which bodies run in this process, "c" or "python", and the reason in words.
body = "python"
reason = "FASTQ_SPEEDUPS=0"

if _wish != "0":
    try:
        frames_c = import_module(".frames_c", __name__)
        channel_c = import_module(".channel_c", __name__)
    except ImportError as error:
        if _wish == "1":
            raise ImportError(f"FASTQ_SPEEDUPS=1 asks for the compiled bodies: {error}") from error
        reason = f"the compiled bodies are not built ({error})"
    else:
        body = "c"
        reason = "FASTQ_SPEEDUPS=1" if _wish == "1" else "they are built"

if TYPE_CHECKING or body == "python":
    new_id = ids_py.new_id
    pack_call = frames_py.pack_call
    unpack_call = frames_py.unpack_call
    pack_end = frames_py.pack_end
    unpack_end = frames_py.unpack_end
    Channel = channel_py.Channel
    Seat = channel_py.Seat
else:
    new_id = frames_c.new_id
    pack_call = frames_c.pack_call
    unpack_call = frames_c.unpack_call
    pack_end = frames_c.pack_end
    unpack_end = frames_c.unpack_end
    Channel = channel_c.Channel
    Seat = channel_c.Seat

__all__ = ["Channel", "Seat", "body", "new_id", "pack_call", "pack_end", "reason", "unpack_call", "unpack_end"]
