"""Atheris: whatever goes in, the compiled frames and their Python twin say the same, and what was packed comes out."""

from __future__ import annotations

import sys
from typing import Any

import atheris

with atheris.instrument_imports():
    import frames_py
import frames_c

CALL = frames_py.pack_call(bytes(16), "shop.add", "default", b"[]", 1, 0, 5, 1, 0, 0, 0, 1, 0, b"")


def try_one(data: bytes) -> None:
    """Read what is given as a frame; or pack what is given as fields, and read the frame with some bytes changed."""
    source = atheris.FuzzedDataProvider(data)
    if source.ConsumeBool():
        read(source.ConsumeBytes(source.remaining_bytes()))
    elif frame := source.PickValueInList([call, end, answer])(source):
        at, rubbish = source.ConsumeIntInRange(0, len(frame)), source.ConsumeBytes(4)
        read(frame[:at] + rubbish + frame[at + len(rubbish) :])


def read(frame: bytes) -> None:
    """Have both bodies read the same bytes."""
    said("unpack_call", frame)
    said("unpack_end", frame)
    said("glance_call", frame)
    said("pack_answer", frame, 3, 1, b"8", 10, 20)


def call(source: atheris.FuzzedDataProvider) -> bytes | None:
    """Have both bodies pack a call."""
    fields = (
        binary(source, 16), text(source), text(source), binary(source), number(source, 1), number(source, 1),
        source.ConsumeIntInRange(-1, 10), *(number(source, 8) for _ in range(4)), number(source, 4), number(source, 2),
        binary(source),
    )  # fmt: skip
    frame: bytes | None = said("pack_call", *fields)
    if frame is not None and said("unpack_call", frame) != fields:
        raise AssertionError(f"{fields} came back as {said('unpack_call', frame)}")
    return frame


def end(source: atheris.FuzzedDataProvider) -> bytes | None:
    """Have both bodies pack an end."""
    group = source.PickValueInList([b"", binary(source, 16)])
    fields = (
        binary(source, 16), number(source, 1), number(source, 4), number(source, 1), text(source), binary(source),
        group, *(number(source, 8) for _ in range(3)),
    )  # fmt: skip
    frame: bytes | None = said("pack_end", *fields)
    expected = fields if any(group) else (*fields[:6], b"", *fields[7:])  # nought is no group
    if frame is not None and said("unpack_end", frame) != expected:
        raise AssertionError(f"{fields} came back as {said('unpack_end', frame)}")
    return frame


def answer(source: atheris.FuzzedDataProvider) -> bytes | None:
    """Have both bodies pack the answer to a call."""
    state, content, body = number(source, 1), number(source, 1), binary(source)
    frame: bytes | None = said("pack_answer", CALL, state, content, body, number(source, 8), number(source, 8))
    return frame


def said(name: str, *given: Any) -> Any:
    """Return what both bodies return, None where both refuse; any error but ValueError is a finding."""
    answers = []
    for frames in (frames_c, frames_py):
        try:
            answers.append(getattr(frames, name)(*given))
        except ValueError as error:
            answers.append(type(error))
    compiled, python = answers
    if compiled != python:
        raise AssertionError(f"{name}{given}: compiled {compiled!r}, Python {python!r}")
    return None if isinstance(python, type) else python


def number(source: atheris.FuzzedDataProvider, size: int) -> int:
    """Return a number that fits so many bytes, or now and then one that fits none."""
    return source.ConsumeInt(9) if source.ConsumeProbability() > 0.98 else source.ConsumeUInt(size)


def binary(source: atheris.FuzzedDataProvider, size: int | None = None) -> bytes:
    """Return bytes: so many, or now and then some other number of them."""
    if size is None or source.ConsumeProbability() > 0.98:
        size = source.ConsumeIntInRange(0, 40)
    return source.ConsumeBytes(size).ljust(size, b"\0")


def text(source: atheris.FuzzedDataProvider) -> str:
    """Return text of any length up to what no field takes, lone surrogates among it."""
    return source.ConsumeUnicode(source.ConsumeIntInRange(0, 20)) * source.PickValueInList([1, 1, 1, 20])


atheris.Setup(sys.argv, try_one)
atheris.Fuzz()
