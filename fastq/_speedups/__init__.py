"""Framing, ids and pool IPC: compiled where it was built, in Python everywhere. The choice is made here.

``FASTQ_SPEEDUPS=1`` requires the compiled bodies, ``0`` refuses them; otherwise they are used where they
can be imported. It is all or nothing: a process never mixes the two. The AMQP link alone is chosen apart from
the rest, as its compiled body needs a library that is not everywhere, and is not required by ``1``.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

_wish = os.environ.get("FASTQ_SPEEDUPS", "")
if _wish not in ("", "0", "1"):
    raise ImportError(f"FASTQ_SPEEDUPS is {_wish!r}; it takes 0 (Python), 1 (compiled) or nothing (whichever is there)")

#: Which bodies run in this process, "c" or "python", and the reason in words.
body = "python"
reason = "FASTQ_SPEEDUPS=0"

if _wish != "0":
    try:
        for _name in ("channel_c", "frames_c"):
            if find_spec(f".{_name}", __name__) is None:
                raise ImportError(f"there is no {_name}")
        frames_c = import_module(".frames_c", __name__)
    except ImportError as error:
        if _wish == "1":
            raise ImportError(f"FASTQ_SPEEDUPS=1 asks for the compiled bodies: {error}") from error
        reason = f"the compiled bodies are not built: {error}"
    else:
        body = "c"
        reason = "FASTQ_SPEEDUPS=1" if _wish == "1" else "they are built"

if TYPE_CHECKING:
    from .amqp_link import Link as AmqpLink
    from .channel_py import Channel, Seat

if TYPE_CHECKING:
    from .frames_py import CallGlance as CallGlance

if TYPE_CHECKING or body == "python":
    from .frames_py import glance_call, pack_answer, pack_call, pack_end, unpack_call, unpack_end
    from .ids_py import new_id
else:
    new_id = frames_c.new_id
    glance_call = frames_c.glance_call
    pack_answer = frames_c.pack_answer
    pack_call = frames_c.pack_call
    unpack_call = frames_c.unpack_call
    pack_end = frames_c.pack_end
    unpack_end = frames_c.unpack_end


def amqp_body() -> tuple[str, str]:
    """Return which body of the AMQP link runs in this process, "c" or "python", and the reason in words."""
    if _wish == "0":
        return "python", "FASTQ_SPEEDUPS=0"
    try:
        import_module(".amqp_c", __name__)
    except ImportError as error:
        return "python", f"the one on rabbitmq-c can't be loaded: {error}"
    return "c", "it is built"


def _module_of(name: str) -> str:
    if name in ("Channel", "Seat"):
        return ".channel_c" if body == "c" else ".channel_py"
    if name == "AmqpLink":
        return ".amqp_c" if amqp_body()[0] == "c" else ".amqp_py"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __getattr__(name: str) -> Any:
    """Bring in what only some need when it is asked for: workers the channel, users of AMQP the link.

    Asking for the link raises ImportError where neither body's library is there.
    """
    found = getattr(import_module(_module_of(name), __name__), name)
    globals()[name] = found
    return found


__all__ = [
    "AmqpLink",
    "Channel",
    "Seat",
    "amqp_body",
    "body",
    "glance_call",
    "new_id",
    "pack_answer",
    "pack_call",
    "pack_end",
    "reason",
    "unpack_call",
    "unpack_end",
]
