"""The two binary frames: each body for itself, and each against the other."""

from __future__ import annotations

import os
import struct
import uuid
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastq._speedups import frames_py

from .crew import body

U8, U16, U32, U64 = ((1 << bits) - 1 for bits in (8, 16, 32, 64))
CALL = (b"i" * 16, "shop.add", "default", b"[[4,4],{}]", 1, 0, 5, 10, 20, 30, 40, 1, 0, b"extra")
END = (b"i" * 16, 3, 1, 1, "", b"8", b"g" * 16, 10, 20, 0)


def number(most: int, least: int = 0) -> st.SearchStrategy[int]:
    return st.integers(least, most) | st.sampled_from([least, most])


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=63)
calls = st.tuples(
    st.binary(min_size=16, max_size=16), names, names, st.binary(max_size=300), number(U8), number(U8), number(9),
    number(U64), number(U64), number(U64), number(U64), number(U32, 1), number(U16), st.binary(max_size=100),
)  # fmt: skip
ends = st.tuples(
    st.binary(min_size=16, max_size=16), number(U8), number(U32), number(U8), st.just("") | names,
    st.binary(max_size=300), st.just(b"") | st.binary(min_size=16, max_size=16).filter(any), number(U64), number(U64),
    number(U64),
)  # fmt: skip


# -- both bodies ------------------------------------------------------------------------------------


def test_a_call_is_unpacked_as_it_was_packed(frames: ModuleType) -> None:
    assert frames.unpack_call(frames.pack_call(*CALL)) == CALL


def test_an_end_is_unpacked_as_it_was_packed(frames: ModuleType) -> None:
    assert frames.unpack_end(frames.pack_end(*END)) == END


def test_the_frame_of_a_call_is_what_the_protocol_says(frames: ModuleType) -> None:
    assert frames.pack_call(*CALL) == (
        b"\xf5Q\x01\x00\x05\x01" + struct.pack("<H", 8) + b"i" * 16 + struct.pack("<QQQQ", 10, 20, 30, 40)
        + struct.pack("<IHHII", 1, 0, 7, 5, 10) + b"shop.adddefaultextra[[4,4],{}]"
    )  # fmt: skip


def test_the_frame_of_an_end_is_what_the_protocol_says(frames: ModuleType) -> None:
    assert frames.pack_end(*END) == (
        b"\xf5O\x01\x03\x01\x00\x00\x00" + b"i" * 16 + b"g" * 16 + struct.pack("<QQQII", 10, 20, 0, 1, 1) + b"8"
    )


def test_a_glance_at_a_call_shows_what_is_run_and_how(frames: ModuleType) -> None:
    plain = frames.pack_call(*CALL[:-1], b"")
    assert frames.glance_call(plain) == ("shop.add", 1, 0, b"[[4,4],{}]")
    assert frames.glance_call(frames.pack_call(*CALL)) is None, "there are extras to be read"


def test_a_glance_and_an_answer_leave_alone_what_they_do_not_return(frames: ModuleType) -> None:
    odd_queue = frames_py.pack_call(*CALL[:-1], b"").replace(b"default", b"defa\xfflt")
    assert frames.glance_call(odd_queue) == ("shop.add", 1, 0, b"[[4,4],{}]")
    assert frames.unpack_end(frames.pack_answer(odd_queue, 3, 1, b"8", 10, 20))[:3] == (b"i" * 16, 3, 1)
    with pytest.raises(ValueError, match="utf-8"):
        frames.glance_call(odd_queue.replace(b"shop", b"sh\xffp"))


@given(calls)
def test_an_answer_is_the_end_of_the_call_that_it_answers(call: tuple[Any, ...]) -> None:
    frame = frames_py.pack_call(*call)
    expected = frames_py.pack_end(call[0], 3, call[11], 1, "", b"8", b"", 10, 20, 0)
    for frames in (frames_py, body("c", "frames")):
        assert frames.pack_answer(frame, 3, 1, b"8", 10, 20) == expected


@pytest.mark.parametrize("kept", [0, 71, 72, 80])
def test_what_is_no_call_is_neither_glanced_at_nor_answered(frames: ModuleType, kept: int) -> None:
    cut = frames_py.pack_call(*CALL)[:kept]
    with pytest.raises(ValueError, match="bytes"):
        frames.glance_call(cut)
    with pytest.raises(ValueError, match="bytes"):
        frames.pack_answer(cut, 3, 1, b"8", 10, 20)
    with pytest.raises(ValueError, match="does not fit"):
        frames.pack_answer(frames_py.pack_call(*CALL), 256, 1, b"8", 10, 20)
    with pytest.raises(ValueError, match="does not fit"):
        frames.pack_answer(frames_py.pack_call(*CALL), 3, 1, b"8", -1, 20)


@pytest.mark.parametrize("kept", range(len(frames_py.pack_call(*CALL))))
def test_a_call_cut_anywhere_is_refused(frames: ModuleType, kept: int) -> None:
    with pytest.raises(ValueError, match=r"bytes, (not|the frame has) \d+$"):
        frames.unpack_call(frames_py.pack_call(*CALL)[:kept])


@pytest.mark.parametrize("kept", range(len(frames_py.pack_end(*END))))
def test_an_end_cut_anywhere_is_refused(frames: ModuleType, kept: int) -> None:
    with pytest.raises(ValueError, match=r"bytes, (not|the frame has) \d+$"):
        frames.unpack_end(frames_py.pack_end(*END)[:kept])


@pytest.mark.parametrize("length", [1 << 31, U32])
@pytest.mark.parametrize("at", [64, 68])
def test_a_call_that_promises_gigabytes_is_refused_without_looking_for_them(
    frames: ModuleType, at: int, length: int
) -> None:
    frame = bytearray(frames_py.pack_call(*CALL))
    frame[at : at + 4] = struct.pack("<I", length)
    with pytest.raises(ValueError, match="promises"):
        frames.unpack_call(bytes(frame))


@pytest.mark.parametrize(("at", "words"), [(0, "first two"), (1, "first two"), (2, "version"), (4, "priority")])
def test_a_call_with_a_wrong_header_is_refused(frames: ModuleType, at: int, words: str) -> None:
    frame = bytearray(frames_py.pack_call(*CALL))
    frame[at] = 200
    with pytest.raises(ValueError, match=words):
        frames.unpack_call(bytes(frame))


@pytest.mark.parametrize(("at", "words"), [(0, "first two"), (2, "version"), (6, "reserved"), (7, "reserved")])
def test_an_end_with_a_wrong_header_is_refused(frames: ModuleType, at: int, words: str) -> None:
    frame = bytearray(frames_py.pack_end(*END))
    frame[at] = 200
    with pytest.raises(ValueError, match=words):
        frames.unpack_end(bytes(frame))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, b""), (0, b"i" * 15), (1, ""), (1, "n" * 256), (1, "\ud800"), (2, ""), (2, "é" * 128), (4, -1), (4, 256),
        (5, 256), (6, -1), (6, 10), (7, -1), (7, 1 << 64), (8, 1 << 64), (9, -1), (10, 1 << 100), (11, 0),
        (11, 1 << 32), (12, 1 << 16), (12, -1),
    ],
)  # fmt: skip
def test_a_field_that_does_not_fit_a_call_is_a_value_error(frames: ModuleType, place: int, value: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        frames.pack_call(*CALL[:place], value, *CALL[place + 1 :])


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, b""), (1, 256), (1, -1), (2, 1 << 32), (3, 256), (4, "c" * 256), (4, "\ud800"), (6, b"g"), (7, 1 << 64),
        (8, -1), (9, 1 << 64),
    ],
)  # fmt: skip
def test_a_field_that_does_not_fit_an_end_is_a_value_error(frames: ModuleType, place: int, value: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        frames.pack_end(*END[:place], value, *END[place + 1 :])


def test_names_that_are_not_utf_8_are_refused(frames: ModuleType) -> None:
    frame = frames_py.pack_call(*CALL)
    with pytest.raises(ValueError, match="utf-8"):
        frames.unpack_call(frame.replace(b"shop", b"sh\xffp"))


# -- one against the other -----------------------------------------------------------------------------


@given(calls)
def test_both_bodies_pack_the_same_call_into_the_same_frame(call: tuple[Any, ...]) -> None:
    compiled = body("c", "frames")
    frame = frames_py.pack_call(*call)
    assert compiled.pack_call(*call) == frame
    assert compiled.unpack_call(frame) == frames_py.unpack_call(frame) == call


@given(ends)
def test_both_bodies_pack_the_same_end_into_the_same_frame(end: tuple[Any, ...]) -> None:
    compiled = body("c", "frames")
    frame = frames_py.pack_end(*end)
    assert compiled.pack_end(*end) == frame
    assert compiled.unpack_end(frame) == frames_py.unpack_end(frame) == end


def answer(unpack: Callable[[bytes], Any], frame: bytes) -> Any:
    try:
        return unpack(frame)
    except ValueError as error:
        return type(error), str(error)


@given(st.binary(max_size=120), st.integers(0, 200), st.booleans())
@example(b"", 0, True)
def test_both_bodies_say_the_same_of_rubbish(rubbish: bytes, at: int, whole: bool) -> None:
    compiled = body("c", "frames")
    call = frames_py.pack_call(*CALL)
    for unpack, frame in (("unpack_call", call), ("glance_call", call), ("unpack_end", frames_py.pack_end(*END))):
        damaged = rubbish if whole else frame[:at] + rubbish[:4] + frame[at + 4 :]
        assert answer(getattr(compiled, unpack), damaged) == answer(getattr(frames_py, unpack), damaged)


# -- ids --------------------------------------------------------------------------------------------------


def test_ids_are_uuids_of_version_7_in_ascending_order(new_id: Callable[[], bytes]) -> None:
    ids = [new_id() for _ in range(50_000)]
    assert ids == sorted(set(ids))
    for id in (ids[0], ids[-1]):
        assert (uuid.UUID(bytes=id).version, uuid.UUID(bytes=id).variant) == (7, uuid.RFC_4122)


def test_an_id_begins_with_the_time(new_id: Callable[[], bytes]) -> None:
    import time

    before = time.time_ns() // 1_000_000
    stamp = int.from_bytes(new_id()[:6], "big")
    assert before <= stamp <= time.time_ns() // 1_000_000


def test_a_forked_process_makes_other_ids(new_id: Callable[[], bytes]) -> None:
    new_id()
    read, write = os.pipe()
    for _ in range(8):
        if not (pid := os.fork()):
            os.write(write, b"".join(new_id() for _ in range(100)))
            os._exit(0)
        os.waitpid(pid, 0)
    own = b"".join(new_id() for _ in range(100))
    made = os.read(read, 1 << 16) + own
    os.close(read)
    os.close(write)
    tails = {made[at + 6 : at + 16] for at in range(0, len(made), 16)}
    assert len(tails) == 900
