"""Messages: both envelopes, read strictly. The frames themselves are also compared body by body in speedups/."""

from __future__ import annotations

import json
import re
import time
import tracemalloc
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastq.errors import ProtocolError
from fastq.message import NO_EXTRAS, Extras, Message, binary, check_queue, check_task, time_us

if TYPE_CHECKING:
    from tests.conftest import Document

pytestmark = pytest.mark.usefixtures("each_body")

LAST_US = 253_402_300_799_999_999

ids = st.binary(min_size=16, max_size=16).filter(any)
no_id_or_ids = st.just(b"") | ids
times = st.just(0) | st.integers(0, LAST_US)
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
numbers = st.integers(-(1 << 63), (1 << 64) - 1) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)
names = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=60)
queues = st.from_regex(r"[A-Za-z0-9._:-]{1,255}", fullmatch=True)
content_types = st.sampled_from(
    ["application/json", "application/msgpack", "application/yaml", "application/x-pickle", "application/x-ours"]
)
extras = st.just(NO_EXTRAS) | st.builds(
    Extras,
    root=no_id_or_ids,
    parent=no_id_or_ids,
    group=no_id_or_ids,
    hard_limit_ms=times,
    soft_limit_ms=times,
    trace=st.just("") | names,
    headers=st.dictionaries(texts, json_values, max_size=3),
    flows=st.lists(ids, max_size=3).map(tuple),
    given=no_id_or_ids,
    failed=no_id_or_ids,
    limit_key=st.just("") | names,
    unique=st.just("") | names,
    reserved=st.booleans(),
    each=st.booleans(),
)
messages = st.builds(
    Message,
    id=st.binary(min_size=16, max_size=16),
    task=names,
    queue=queues,
    body=st.binary(max_size=200),
    content_type=content_types,
    priority=st.integers(0, 9),
    enqueued_at=times,
    eta=times,
    expires=times,
    attempt=st.integers(1, (1 << 32) - 1),
    crashes=st.integers(0, (1 << 16) - 1),
    reply_to=st.integers(0, (1 << 64) - 1),
    ignore_result=st.booleans(),
    extras=extras,
)

PLAIN = Message(bytes(range(16)), "shop.add", "default", b"[[4,4],{}]", enqueued_at=1_700_000_000_000_000)
FULL = PLAIN._replace(
    content_type="application/x-ours",
    extras=Extras(b"r" * 16, b"p" * 16, b"g" * 16, 60_000, 50_000, "00-ab-cd-01", {"tenant": "blue"},
                  (b"f" * 16, b"h" * 16), b"v" * 16, b"x" * 16, "blue", "shop.add:blue", True, True),
)  # fmt: skip


def read(frame: bytes) -> Message | None:
    """Read a frame; None stands for ProtocolError, and any other exception fails the test."""
    try:
        return Message.decode(frame)
    except ProtocolError as error:
        assert len(str(error)) < 2_000, "the reason goes into logs and dead letters, so it is short"
        assert "\n" not in str(error), "and it is one line"
        return None


# -- the binary envelope ------------------------------------


@given(messages)
def test_what_is_encoded_is_decoded_again(message: Message) -> None:
    assert Message.decode(message.encode()) == message


@given(messages)
def test_the_encoding_of_a_decoded_message_is_the_same_bytes(message: Message) -> None:
    frame = message.encode()

    assert Message.decode(frame).encode() == frame


@given(st.binary(max_size=300))
@example(b"")
@example(b"{")
@example(b" ")
def test_any_bytes_are_a_message_or_a_protocol_error(frame: bytes) -> None:
    read(frame)


@given(messages, st.data())
def test_a_frame_with_any_bit_flipped_is_a_message_that_can_be_sent_on_or_a_protocol_error(
    message: Message, data: st.DataObject
) -> None:
    frame = bytearray(message.encode())
    bit = data.draw(st.integers(0, len(frame) * 8 - 1))
    frame[bit // 8] ^= 1 << bit % 8

    decoded = read(bytes(frame))

    assert decoded is None or Message.decode(decoded.encode()) == decoded


@pytest.mark.parametrize("message", [PLAIN, FULL], ids=["plain", "full"])
def test_a_frame_cut_at_any_byte_is_a_protocol_error(message: Message) -> None:
    frame = message.encode()

    assert [read(frame[:size]) for size in range(len(frame))] == [None] * len(frame)


@pytest.mark.parametrize("tail", [b"\0", b" ", b"}", bytes(100)])
def test_a_frame_with_something_behind_it_is_a_protocol_error(tail: bytes) -> None:
    assert read(PLAIN.encode() + tail) is None


@pytest.mark.parametrize(("at", "size"), [(6, 2), (62, 2), (64, 4), (68, 4)], ids=["name", "queue", "extras", "body"])
@pytest.mark.parametrize("length", [0, 1 << 7, 1 << 15, (1 << 16) - 1, 1 << 31, (1 << 32) - 1])
def test_a_length_that_lies_is_a_protocol_error_and_takes_no_memory(at: int, size: int, length: int) -> None:
    frame = bytearray(PLAIN._replace(extras=Extras(trace="t")).encode())
    frame[at : at + size] = min(length, (1 << size * 8) - 1).to_bytes(size, "little")

    tracemalloc.start()
    decoded = read(bytes(frame))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert decoded is None
    assert peak < 100_000


@pytest.mark.parametrize("at", [24, 32, 40], ids=["enqueued_at", "eta", "expires"])
@pytest.mark.parametrize("moment", [LAST_US + 1, 1 << 63, (1 << 64) - 1])
def test_a_time_after_the_year_9999_is_a_protocol_error(at: int, moment: int) -> None:
    frame = bytearray(PLAIN.encode())
    frame[at : at + 8] = moment.to_bytes(8, "little")

    with pytest.raises(ProtocolError, match="after the year 9999"):
        Message.decode(bytes(frame))


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (0, 0x00, "first two bytes"),
        (2, 2, "version 2 of the envelope is not known here"),
        (2, 0, "version 0"),
        (3, 0x80, "unknown flags 0x80"),
        (4, 10, "priority 10"),
        (5, 200, "content type 200 is not known here"),
        (5, 0, "not a content type"),
    ],
)
def test_a_wrong_byte_in_the_header_is_refused_with_the_reason(at: int, value: int, reason: str) -> None:
    frame = bytearray(PLAIN.encode())
    frame[at] = value

    with pytest.raises(ProtocolError, match=re.escape(reason)):
        Message.decode(bytes(frame))


def with_extras(*entries: tuple[int, bytes], length: int | None = None) -> bytes:
    """Return a frame whose extras are written by hand; `length` replaces the one of the last entry."""
    packed = b""
    for number, (tag, value) in enumerate(entries, 1):
        size = length if length is not None and number == len(entries) else len(value)
        packed += bytes([tag]) + size.to_bytes(4, "little") + value
    frame = bytearray(PLAIN.encode())
    at = len(frame) - len(PLAIN.body)
    frame[at:at] = packed
    frame[64:68] = len(packed).to_bytes(4, "little")
    return bytes(frame)


@pytest.mark.parametrize(
    "frame",
    [
        with_extras((0, b"x")),
        with_extras((9, b"x")),
        with_extras((127, b"x")),
        with_extras((1, b"short")),
        with_extras((1, bytes(16))),
        with_extras((1, bytes(range(17)))),
        with_extras((2, b"p" * 16), (1, b"r" * 16)),
        with_extras((1, b"r" * 16), (1, b"r" * 16)),
        with_extras((4, bytes(8))),
        with_extras((4, b"\1")),
        with_extras((4, b"\xff" * 8)),
        with_extras((4, bytes(7) + b"\1" * 1000)),
        with_extras((6, b"\xff")),
        with_extras((6, b"a\nb")),
        with_extras((6, b"t" * 256)),
        with_extras((7, b"[]")),
        with_extras((7, b"{")),
        with_extras((7, b'{"a":NaN}')),
        with_extras((7, b'{"a":' * 300 + b"1" + b"}" * 300)),
        with_extras((7, b"[" * 100_000)),
        with_extras((8, b"application/x-ours")),
        with_extras((6, b"")),
        with_extras((6, b"t"), length=2),
        with_extras((6, b"t"), length=1 << 31),
        with_extras((6, b"t"), length=(1 << 32) - 1),
        with_extras((128, b"x"), (129, b""), length=1),
    ],
)
def test_extras_that_break_the_rules_are_a_protocol_error(frame: bytes) -> None:
    assert read(frame) is None


def test_an_optional_extra_of_a_later_version_is_passed_over() -> None:
    assert Message.decode(with_extras((6, b"t"), (128, b"later"), (255, b"still"))) == PLAIN._replace(
        extras=Extras(trace="t")
    )


@pytest.mark.parametrize(
    "name", ["", "a b", "a\nb", "a\0", "\x1b]0;x", "\u202eevil", "x" * 256, "\ud800", "é" * 128, "a\u00a0b"]
)
def test_a_task_name_that_could_forge_a_log_line_is_refused_in_both_directions(name: str) -> None:
    with pytest.raises(ProtocolError) as refused:
        check_task(name)
    with pytest.raises(ProtocolError):
        PLAIN._replace(task=name).encode()

    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "name", ["", "a b", "a/b", "é", "{a}", "a\r\nFLUSHALL", "'; DROP", "x" * 256, "x" * 10_000_000]
)
def test_a_queue_name_that_could_be_read_as_something_else_is_refused(name: str) -> None:
    with pytest.raises(ProtocolError) as refused:
        check_queue(name)

    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    "change",
    [
        {"id": b"short"},
        {"priority": 10},
        {"priority": -1},
        {"attempt": 0},
        {"attempt": 1 << 32},
        {"crashes": 1 << 16},
        {"eta": -1},
        {"eta": LAST_US + 1},
        {"enqueued_at": 1 << 64},
        {"reply_to": -1},
        {"content_type": ""},
        {"content_type": "x" * 256},
        {"content_type": "a b"},
        {"extras": Extras(root=b"short")},
        {"extras": Extras(group=bytes(16))},
        {"extras": Extras(hard_limit_ms=-1)},
        {"extras": Extras(soft_limit_ms=LAST_US + 1)},
        {"extras": Extras(trace="two words")},
        {"extras": Extras(limit_key="two words")},
        {"extras": Extras(unique="two words")},
        {"extras": Extras(flows=(b"short",))},
        {"extras": Extras(flows=(b"",))},
        {"extras": Extras(given=bytes(16))},
        {"extras": Extras(headers={"key": object()})},
        {"extras": Extras(headers={"key": "\ud800"})},
    ],
    ids=repr,
)
def test_a_field_that_the_envelope_has_no_room_for_is_refused_when_it_is_encoded(change: dict[str, object]) -> None:
    with pytest.raises(ProtocolError, match="shop.add"):
        PLAIN._replace(**change).encode()


# -- the JSON envelope ------------------------------------


def test_a_task_and_its_arguments_are_enough_of_a_json_envelope() -> None:
    message = Message.decode(b'{"task": "shop.add", "args": [4, 4]}')

    assert (message.task, message.queue, orjson.loads(message.body)) == ("shop.add", "default", [[4, 4], {}])
    assert message._replace(id=b"") == Message(b"", "shop.add", "default", b"[[4,4],{}]")
    assert message.id[6] >> 4 == 7, "the id that it gets is time-ordered"


def test_every_key_of_the_json_envelope_arrives_in_its_field() -> None:
    call = {
        "task": "shop.add", "args": [4], "kwargs": {"y": 4}, "id": "00112233-4455-6677-8899-aabbccddeeff",
        "queue": "mail", "priority": 7, "enqueued_at": 1.5, "eta": "2030-01-01T00:00:00Z",
        "expires": "2030-01-01T01:00:00.25+01:00", "attempt": 2, "ignore_result": True, "reply_to": 99,
        "root": "00000000-0000-0000-0000-000000000001", "parent": "00000000-0000-0000-0000-000000000002",
        "group": "00000000-0000-0000-0000-000000000003", "hard_limit_ms": 60, "soft_limit_ms": 50,
        "trace": "00-ab-cd-01", "headers": {"tenant": "blue"}, "limit_key": "blue",
    }  # fmt: skip
    start = int(datetime(2030, 1, 1, tzinfo=timezone.utc).timestamp()) * 1_000_000

    message = Message.decode(json.dumps(call).encode())

    assert message == Message(
        bytes.fromhex("00112233445566778899aabbccddeeff"), "shop.add", "mail", b'[[4],{"y":4}]', "application/json",
        7, 1_500_000, start, start + 250_000, 2, 0, 99, True,
        Extras((1).to_bytes(16, "big"), (2).to_bytes(16, "big"), (3).to_bytes(16, "big"), 60, 50, "00-ab-cd-01",
               {"tenant": "blue"}, limit_key="blue"),
    )  # fmt: skip


def test_a_null_counts_as_a_missing_key(protocol: Document) -> None:
    keys = {key.strip("`") for key, *_ in protocol.table("Keys of the JSON envelope")}
    call = {**dict.fromkeys(keys), "task": "t"}

    assert Message.decode(orjson.dumps(call))._replace(id=b"") == Message(b"", "t", "default", b"[[],{}]")
    assert read(b'{"task": null}') is None


@given(messages)
def test_a_json_envelope_becomes_the_same_message_by_way_of_its_binary_form(message: Message) -> None:
    frame = orjson.dumps(
        {
            "task": message.task,
            "args": [1],
            "queue": message.queue,
            "priority": message.priority,
            "attempt": message.attempt,
            "headers": dict(message.extras.headers),
            "id": message.uuid if any(message.id) else None,
        }
    )
    decoded = Message.decode(frame)

    assert Message.decode(binary(frame, decoded)) == decoded


HOSTILE = {
    "nothing": b"{}",
    "an array": b"[]",
    "cut short": b'{"task": "t"',
    "something behind": b'{"task": "t"}{"task": "u"}',
    "white space alone": b" \t\r\n" * 1000,
    "a byte order mark": b'\xef\xbb\xbf{"task": "t"}',
    "UTF-16": '{"task": "t"}'.encode("utf-16-le"),
    "invalid UTF-8": b'{"task": "\xff"}',
    "a surrogate in UTF-8": b'{"task": "t", "args": ["\xed\xa0\x80"]}',
    "a lone surrogate": b'{"task": "t", "args": ["\\ud800"]}',
    "a lone surrogate in the name": b'{"task": "\\udfff"}',
    "NaN": b'{"task": "t", "args": [NaN]}',
    "Infinity": b'{"task": "t", "args": [-Infinity]}',
    "a number past all floats": b'{"task": "t", "args": [1e999]}',
    "an integer of 100,000 digits": b'{"task": "t", "args": [' + b"9" * 100_000 + b"]}",
    "an integer of 100,000 digits as a time": b'{"task": "t", "eta": ' + b"9" * 100_000 + b"}",
    "arrays 100,000 deep": b'{"task": "t", "args": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "arrays 100,000 deep, not closed": b'{"task": "t", "args": ' + b"[" * 100_000,
    "arrays 300 deep": b'{"task": "t", "args": ' + b"[" * 300 + b"]" * 300 + b"}",
    "objects 100,000 deep": b'{"task":' * 100_000,
    "headers 300 deep": b'{"task": "t", "headers": ' + b'{"a":' * 300 + b"1" + b"}" * 301,
    "one key twice": b'{"task": "t", "task": "u"}',
    "one key twice, once escaped": b'{"task": "t", "t\\u0061sk": "u"}',
    "one key twice, and the second null": b'{"task": "t", "queue": "a", "queue": null}',
    "an unknown key": b'{"task": "t", "arguments": []}',
    "a hundred thousand unknown keys": orjson.dumps({"task": "t", **{f"k{n}\n": n for n in range(100_000)}}),
    "an unknown key of a megabyte": b'{"task": "t", "' + b"k" * 1_000_000 + b'": 1}',
    "no task": b'{"args": []}',
    "a task that is a number": b'{"task": 1}',
    "a task of a megabyte": b'{"task": "' + b"t" * 1_000_000 + b'"}',
    "an empty task": b'{"task": ""}',
    "a task with a line break": b'{"task": "a\\nb"}',
    "a task that turns the text around": '{"task": "\u202et"}'.encode(),
    "args that are an object": b'{"task": "t", "args": {}}',
    "args that are text": b'{"task": "t", "args": "ab"}',
    "kwargs that are an array": b'{"task": "t", "kwargs": []}',
    "kwargs that are a huge array": b'{"task": "t", "kwargs": [' + b"1," * 500_000 + b"1]}",
    "a queue of a megabyte": b'{"task": "t", "queue": "' + b"q" * 1_000_000 + b'"}',
    "a queue with a slash": b'{"task": "t", "queue": "a/b"}',
    "an id that is none": b'{"task": "t", "id": "7"}',
    "an empty id": b'{"task": "t", "id": ""}',
    "an id in braces": b'{"task": "t", "id": "{00112233-4455-6677-8899-aabbccddeeff}"}',
    "the nil id": b'{"task": "t", "id": "00000000-0000-0000-0000-000000000000"}',
    "the nil group": b'{"task": "t", "group": "00000000-0000-0000-0000-000000000000"}',
    "an id of a megabyte": b'{"task": "t", "id": "' + b"0" * 1_000_000 + b'"}',
    "true for a number": b'{"task": "t", "priority": true}',
    "a number for true": b'{"task": "t", "ignore_result": 1}',
    "a float for an integer": b'{"task": "t", "priority": 1.0}',
    "a priority of 10": b'{"task": "t", "priority": 10}',
    "a priority of -1": b'{"task": "t", "priority": -1}',
    "an attempt of 0": b'{"task": "t", "attempt": 0}',
    "an attempt of 2^32": b'{"task": "t", "attempt": 4294967296}',
    "a reply_to of 2^64": b'{"task": "t", "reply_to": 18446744073709551616}',
    "a negative limit": b'{"task": "t", "hard_limit_ms": -1}',
    "a negative eta": b'{"task": "t", "eta": -1}',
    "a huge eta": b'{"task": "t", "eta": 1e300}',
    "an eta in microseconds": b'{"task": "t", "eta": 1700000000000000}',
    "an eta that is true": b'{"task": "t", "eta": true}',
    "an eta before 1970": b'{"task": "t", "eta": "1960-01-01T00:00:00Z"}',
    "an eta past 9999": b'{"task": "t", "eta": "9999-12-31T23:59:59-23:59"}',
    "an eta without an offset": b'{"task": "t", "eta": "2030-01-01T00:00:00"}',
    "an eta on February 30": b'{"task": "t", "eta": "2030-02-30T00:00:00Z"}',
    "an eta of a megabyte": b'{"task": "t", "eta": "' + b"2" * 1_000_000 + b'"}',
    "an eta in Arabic digits": '{"task": "t", "eta": "٢٠٣٠-01-01T00:00:00Z"}'.encode(),
    "a trace with a line break": b'{"task": "t", "trace": "a\\nb"}',
    "headers that are an array": b'{"task": "t", "headers": []}',
}


@pytest.mark.parametrize("frame", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_json_envelope_is_a_protocol_error_in_bounded_time_and_memory(frame: bytes) -> None:
    tracemalloc.start()
    began = time.process_time()
    decoded = read(frame)
    took_s = time.process_time() - began
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert decoded is None
    assert took_s < 1
    assert peak < 64 * len(frame) + 100_000


@given(json_values)
def test_any_json_is_a_message_or_a_protocol_error(value: object) -> None:
    read(b" " + orjson.dumps(value))


@given(st.dictionaries(st.sampled_from("task args kwargs id queue priority eta headers trace".split()), json_values))
def test_any_values_under_the_right_keys_are_a_message_that_can_be_sent_on_or_a_protocol_error(
    call: dict[str, object],
) -> None:
    frame = orjson.dumps(call)

    decoded = read(frame)

    assert decoded is None or Message.decode(binary(frame, decoded)) == decoded


@pytest.mark.parametrize(
    "args",
    [["a\\u0062c", {"task": 1}], ['"task"'], [{"task": {"task": 2}}]],
    ids=["escapes", "a quoted key", "the same key further in"],
)
def test_keys_inside_of_the_arguments_are_no_twins_of_the_envelope_s(args: list[object]) -> None:
    assert Message.decode(orjson.dumps({"task": "t", "args": args})).body == orjson.dumps([args, {}])


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 30)), st.integers(-1439, 1439))
def test_a_time_in_text_is_the_same_moment_in_microseconds(local: datetime, offset_minutes: int) -> None:
    moment = local.replace(tzinfo=timezone(timedelta(minutes=offset_minutes)))
    if 0 <= time_us(moment) <= LAST_US:
        call = {"task": "t", "eta": moment.isoformat()}

        assert Message.decode(orjson.dumps(call)).eta == time_us(moment)


# -- the document ------------------------------------


def test_the_example_of_a_call_in_the_document_is_what_we_write_and_read(protocol: Document) -> None:
    documented = protocol.bytes("A call, byte by byte")
    message = Message(
        bytes.fromhex("0192e4a1b2c37d4e8f90a1b2c3d4e5f6"), "shop.add", "default", b"[[4,4],{}]",
        enqueued_at=1_730_000_000_000_000, extras=Extras(headers={"tenant": "blue"}),
    )  # fmt: skip

    assert message.encode() == documented
    assert Message.decode(documented) == message


def test_the_fields_of_the_call_in_the_document_stand_where_they_say(protocol: Document) -> None:
    values = {
        "id": PLAIN.id, "task": PLAIN.task.encode(), "queue": b"mail", "body": PLAIN.body, "priority": b"\x07",
        "enqueued at": (1).to_bytes(8, "little"), "ETA": (2).to_bytes(8, "little"),
        "expires": (3).to_bytes(8, "little"), "reply to": (4).to_bytes(8, "little"),
        "attempt": (5).to_bytes(4, "little"), "crashes": (6).to_bytes(2, "little"), "flags": b"\x01",
        "content type": b"\x01", "magic": b"\xf5\x51", "version": b"\x01",
        "task length": (8).to_bytes(2, "little"), "queue length": (4).to_bytes(2, "little"),
        "extras length": bytes(4), "body length": (10).to_bytes(4, "little"),
    }  # fmt: skip
    frame = PLAIN._replace(
        queue="mail", priority=7, enqueued_at=1, eta=2, expires=3, reply_to=4, attempt=5, crashes=6, ignore_result=True
    ).encode()
    header = [(int(offset), int(size), field) for offset, size, _, field, *_ in protocol.table("Header of a call")]

    at = 0
    for offset, size, field in header:
        assert (offset, frame[offset : offset + size]) == (at, values[field]), field
        at += size
    assert frame[at:] == values["task"] + values["queue"] + values["body"]


def test_the_extras_in_the_document_are_the_ones_that_are_written(protocol: Document) -> None:
    documented = {int(tag) for tag, *_ in protocol.table("Tags of extras")}
    frame = FULL.encode()
    at = 72 + len(FULL.task) + len(FULL.queue)
    end = at + int.from_bytes(frame[64:68], "little")
    written = set()
    while at < end:
        written.add(frame[at])
        at += 5 + int.from_bytes(frame[at + 1 : at + 5], "little")

    assert written == documented


def test_the_content_types_in_the_document_have_the_codes_that_are_written(protocol: Document) -> None:
    rows = protocol.table("Codes of content types")

    assert len(rows) == 4
    for code, name, *_ in rows:
        assert PLAIN._replace(content_type=name.strip("`")).encode()[5] == int(code)


def test_the_json_envelope_takes_exactly_the_keys_in_the_document(protocol: Document) -> None:
    with pytest.raises(ProtocolError) as refused:
        Message.decode(b'{"task": "t", "other": 1}')
    (known,) = re.findall(r"the known ones are (\[.*\])", str(refused.value))

    documented = {key.strip("`") for key, *_ in protocol.table("Keys of the JSON envelope")}

    assert documented == set(re.findall(r"'(\w+)'", known))


def test_the_json_example_in_the_document_is_a_message(protocol: Document) -> None:
    message = Message.decode(protocol.block("A call in JSON").encode().strip())

    assert (message.task, message.queue, message.eta > 0) == ("shop.add", "mail", True)
