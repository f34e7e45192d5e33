"""Outcomes: their frame, read strictly."""

from __future__ import annotations

import re
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastq import State
from fastq.errors import ProtocolError
from fastq.outcome import Outcome

if TYPE_CHECKING:
    from tests.conftest import Document

pytestmark = pytest.mark.usefixtures("each_body")

LAST_US = 253_402_300_799_999_999

times = st.integers(0, LAST_US)
outcomes = st.builds(
    Outcome,
    id=st.binary(min_size=16, max_size=16),
    state=st.sampled_from([state for state in State if state.code]),
    body=st.binary(max_size=200),
    content_type=st.sampled_from(["application/json", "application/x-pickle", "application/x-ours"]),
    attempt=st.integers(0, (1 << 32) - 1),
    group=st.just(b"") | st.binary(min_size=16, max_size=16).filter(any),
    started_at=times,
    finished_at=times,
    due=times,
)

PLAIN = Outcome(bytes(range(16)), State.SUCCESS, b"8", finished_at=1)


def read(frame: bytes) -> Outcome | None:
    """Read a frame; None stands for ProtocolError, and any other exception fails the test."""
    try:
        return Outcome.decode(frame)
    except ProtocolError as error:
        assert len(str(error)) < 500
        return None


@given(outcomes)
def test_what_is_encoded_is_decoded_again(outcome: Outcome) -> None:
    assert Outcome.decode(outcome.encode()) == outcome


@given(outcomes)
def test_the_encoding_of_a_decoded_outcome_is_the_same_bytes(outcome: Outcome) -> None:
    frame = outcome.encode()

    assert Outcome.decode(frame).encode() == frame
    assert Outcome(*Outcome.decode(frame)).encode() == frame, "made anew"


@given(st.binary(max_size=200) | st.binary(max_size=200).map(b"\xf5O\x01".__add__))
@example(b"")
@example(b"{}")
def test_any_bytes_are_an_outcome_or_a_protocol_error(frame: bytes) -> None:
    read(frame)


@given(outcomes, st.data())
def test_a_frame_with_any_bit_flipped_is_an_outcome_that_can_be_sent_on_or_a_protocol_error(
    outcome: Outcome, data: st.DataObject
) -> None:
    frame = bytearray(outcome.encode())
    bit = data.draw(st.integers(0, len(frame) * 8 - 1))
    frame[bit // 8] ^= 1 << bit % 8

    decoded = read(bytes(frame))

    assert decoded is None or decoded.encode() == frame


@pytest.mark.parametrize("outcome", [PLAIN, PLAIN._replace(content_type="application/x-ours", group=b"g" * 16)])
def test_a_frame_cut_at_any_byte_or_with_one_more_is_a_protocol_error(outcome: Outcome) -> None:
    frame = outcome.encode()

    assert [read(frame[:size]) for size in range(len(frame))] == [None] * len(frame)
    assert read(frame + b"\0") is None


@pytest.mark.parametrize("length", [0, 2, 1 << 31, (1 << 32) - 1])
def test_a_body_length_that_lies_is_a_protocol_error_and_takes_no_memory(length: int) -> None:
    frame = bytearray(PLAIN.encode())
    frame[68:72] = length.to_bytes(4, "little")

    tracemalloc.start()
    decoded = read(bytes(frame))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert decoded is None
    assert peak < 100_000


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (0, b"{", "first two bytes"),
        (2, b"\x02", "version 2"),
        (3, b"\x00", "state 0 is not known here"),
        (3, b"\x09", "state 9 is not known here"),
        (4, b"\x09", "content type 9 is not known here"),
        (4, b"\x00", "not a content type"),
        (6, b"\x01", "reserved"),
        (40, b"\xff" * 8, "after the year 9999"),
        (48, b"\xff" * 8, "after the year 9999"),
        (56, b"\xff" * 8, "after the year 9999"),
    ],
)
def test_a_wrong_byte_in_the_header_is_refused_with_the_reason(at: int, value: bytes, reason: str) -> None:
    frame = bytearray(PLAIN.encode())
    frame[at : at + len(value)] = value

    with pytest.raises(ProtocolError, match=re.escape(reason)):
        Outcome.decode(bytes(frame))


@pytest.mark.parametrize(
    "change",
    [
        {"id": b"short"},
        {"state": State.PENDING},
        {"state": State.INTERRUPTED},
        {"attempt": -1},
        {"attempt": 1 << 32},
        {"group": b"short"},
        {"group": bytes(16)},
        {"finished_at": LAST_US + 1},
        {"due": -1},
        {"content_type": ""},
        {"content_type": "x" * 256},
        {"content_type": "a\nb"},
        {"content_type": "\ud800"},
    ],
    ids=repr,
)
def test_a_field_that_the_frame_has_no_room_for_is_refused_when_it_is_encoded(change: dict[str, object]) -> None:
    with pytest.raises(ProtocolError, match="can't be framed"):
        PLAIN._replace(**change).encode()


def test_a_state_is_its_own_text_so_that_it_can_be_compared_and_shown() -> None:
    assert State.SUCCESS == "SUCCESS"
    assert f"{State.SUCCESS} {State.LOST!s}" == "SUCCESS LOST"


def test_nothing_follows_the_states_that_are_terminal() -> None:
    assert {state for state in State if state.terminal} == {State.SUCCESS, State.FAILURE, State.REVOKED, State.LOST}


# -- the document ------------------------------------


def test_the_example_of_an_outcome_in_the_document_is_what_we_write_and_read(protocol: Document) -> None:
    documented = protocol.bytes("An outcome, byte by byte")
    outcome = Outcome(
        bytes.fromhex("0192e4a1b2c37d4e8f90a1b2c3d4e5f6"), State.SUCCESS, b"8",
        started_at=1_730_000_000_001_000, finished_at=1_730_000_000_002_000,
    )  # fmt: skip

    assert outcome.encode() == documented
    assert Outcome.decode(documented) == outcome


def test_the_fields_of_the_outcome_in_the_document_stand_where_they_say(protocol: Document) -> None:
    values = {
        "magic": b"\xf5\x4f", "version": b"\x01", "state": b"\x02", "content type": b"\x00", "name length": b"\x12",
        "reserved": bytes(2), "id": PLAIN.id, "group": b"g" * 16, "started at": (1).to_bytes(8, "little"),
        "finished at": (2).to_bytes(8, "little"), "due": (3).to_bytes(8, "little"),
        "attempt": (4).to_bytes(4, "little"), "body length": (1).to_bytes(4, "little"),
    }  # fmt: skip
    frame = Outcome(PLAIN.id, State.RETRY, b"8", "application/x-ours", 4, b"g" * 16, 1, 2, 3).encode()

    at = 0
    for offset, size, _, field, *_ in protocol.table("Header of an outcome"):
        assert (int(offset), frame[int(offset) : int(offset) + int(size)]) == (at, values[field]), field
        at += int(size)
    assert frame[at:] == b"application/x-ours8"


def test_the_states_in_the_document_have_the_codes_that_are_written(protocol: Document) -> None:
    rows = protocol.table("Codes of states")

    assert {name for _, name, _ in rows} == {state.value for state in State if state.code}
    for code, name, _ in rows:
        assert PLAIN._replace(state=State(name)).encode()[3] == int(code)


def test_an_outcome_that_was_read_and_changed_is_framed_as_it_is_now() -> None:
    read = Outcome.decode(PLAIN.encode())
    assert Outcome.decode(read._replace(body=b"9").encode()).body == b"9"
