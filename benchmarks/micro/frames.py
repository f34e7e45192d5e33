"""Frames and ids: both bodies, and what `json` and `uuid4` take for the same."""

from __future__ import annotations

import json
import timeit
import uuid
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from benchmarks.figures import Figure, show
from fastq._speedups import frames_py, ids_py

RUNS, LOOPS = 9, 20_000
CALL = (
    "shop.orders.add", "default", b'[[4,4],{"note":"a call of middling size, as they come"}]', 1, 0, 5,
    1_764_000_000_000_000, 0, 0, 40, 1, 0, b"",
)  # fmt: skip
AS_JSON = {
    "task": "shop.orders.add",
    "queue": "default",
    "args": [4, 4],
    "kwargs": {"note": "a call of middling size, as they come"},
    "priority": 5,
    "enqueued_at": 1_764_000_000.0,
    "reply_to": 40,
    "attempt": 1,
}
END = (b"i" * 16, 3, 1, 1, "", b"8", b"", 1_764_000_000_000_000, 1_764_000_000_001_000, 0)


def main() -> None:
    """Measure, in turns."""
    contenders: dict[str, Callable[[], Any]] = {"json + uuid4: id, encode, decode": with_json}
    for kind, frames, new_id in bodies():
        contenders[f"{kind}: id, pack_call, unpack_call"] = partial(with_call_frames, frames, new_id)
        contenders[f"{kind}: pack_end, unpack_end"] = partial(with_end_frames, frames)
        contenders[f"{kind}: new_id"] = new_id
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(RUNS):
        for name, do in contenders.items():
            taken[name].append(timeit.timeit(do, number=LOOPS) / LOOPS * 1e6)
    figures = [Figure(name, "µs", values) for name, values in taken.items()]
    show("Frames and ids", figures)
    for figure in figures[1:]:
        if "pack_call" in figure.name:
            print(f"  {figure.name}: 1/{figures[0].median / figure.median:.1f} of json + uuid4 (goal for C: 1/10)")


def bodies() -> list[tuple[str, Any, Callable[[], bytes]]]:
    """Return (name, frames, new_id) of each body that is there."""
    found: list[tuple[str, Any, Callable[[], bytes]]] = [("Python", frames_py, ids_py.new_id)]
    try:
        compiled = import_module("fastq._speedups.frames_c")
    except ImportError:
        return found
    return [("C", compiled, compiled.new_id), *found]


def with_json() -> Any:
    return json.loads(json.dumps({"id": str(uuid.uuid4()), **AS_JSON}))


def with_call_frames(frames: Any, new_id: Callable[[], bytes]) -> Any:
    return frames.unpack_call(frames.pack_call(new_id(), *CALL))


def with_end_frames(frames: Any) -> Any:
    return frames.unpack_end(frames.pack_end(*END))
