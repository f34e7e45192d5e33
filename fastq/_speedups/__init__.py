"""Framing, ids and pool IPC: compiled where it was built, in Python everywhere. The choice is made here.

``FASTQ_SPEEDUPS=1`` requires the compiled bodies, ``0`` refuses them; otherwise they are used where they
can be imported. It is all or nothing: a process never mixes the two.
"""

from __future__ import annotations

import os

from . import channel_py, frames_py, ids_py

#: Which bodies run in this process, "c" or "python", and the reason in words.
body = "python"
reason = "the compiled bodies are not built"

_wish = os.environ.get("FASTQ_SPEEDUPS", "")
if _wish == "0":
    reason = "FASTQ_SPEEDUPS=0"
elif _wish == "1":
    raise ImportError("FASTQ_SPEEDUPS=1 asks for the compiled bodies, and they are not built")
elif _wish:
    raise ImportError(f"FASTQ_SPEEDUPS is {_wish!r}; it takes 0 (Python), 1 (compiled) or nothing (whichever is there)")

new_id = ids_py.new_id
pack_call = frames_py.pack_call
unpack_call = frames_py.unpack_call
pack_end = frames_py.pack_end
unpack_end = frames_py.unpack_end
Channel = channel_py.Channel
Seat = channel_py.Seat

__all__ = ["Channel", "Seat", "body", "new_id", "pack_call", "pack_end", "reason", "unpack_call", "unpack_end"]
