"""Both codecs of the AMQP link, fed with the same bytes and asked for the same frames."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastq._speedups.amqp_methods import Method
from fastq._speedups.amqp_values import AmqpClosed, AmqpError, Outgoing, Properties, Received, Unconfirmed

from . import amqp_server as fake
from .amqp_bodies import link_class

FUZZ = settings(max_examples=int(os.environ.get("FASTQ_FUZZ", "300")), deadline=None)


@pytest.fixture(scope="module")
def codecs() -> tuple[Any, Any]:
    return link_class("c").codec, link_class("py").codec


def fresh(codec: Any) -> Any:
    made = codec()
    made.frame_max = 131_072
    return made


def heard(codec: Any, data: bytes, pieces: int = 1) -> Any:
    """Return all that a codec makes of some bytes; None if it refuses them."""
    made, inbox, found = fresh(codec), [], []
    step = max(1, -(-len(data) // pieces))
    try:
        for at in range(0, len(data), step):
            found += made.feed(data[at : at + step], inbox)
    except ValueError:
        return None
    for message in (*inbox, *(args[-1] for _, args in found if args and isinstance(args[-1], Received))):
        assert type(message) is Received
        assert type(message.properties) is Properties
    return blurred(inbox), [(method, blurred(args)) for method, args in found]


def blurred(values: list[Any]) -> list[Any]:
    """Leave out in what words a flaw is told, and let NaN be equal to itself."""
    return [repr(value._replace(flaw=bool(value.flaw)) if isinstance(value, Received) else value) for value in values]


# -- reading ----------------------------------------------------------------------------------------

EVERY_FLAG = (
    b"\xff\xfc" + fake.short("text/plain") + fake.short("gzip")
    + fake.long(
        b"\1tt\1\1bb\xff\1BB\xff\1ss\xff\xfe\1uu\xff\xfe\1II\xff\xff\xff\xfe\1ii\xff\xff\xff\xfe"
        b"\1ll\xff\xff\xff\xff\xff\xff\xff\xfe\1LL\xff\xff\xff\xff\xff\xff\xff\xfe\1ff\x3f\xc0\0\0"
        b"\1dd\x3f\xf8\0\0\0\0\0\0\1DD\2\xff\xff\xff\x7f\1SS\0\0\0\2\xc3\xa9\1xx\0\0\0\2\xff\xfe"
        b"\1TT\0\0\0\0\x65\0\0\0\1VV\1FF" + fake.long(b"\1kS\0\0\0\1\xff") + b"\1AA" + fake.long(b"t\0V")
    )
    + b"\2\7" + fake.short("correlation") + fake.short("reply") + fake.short("1000") + fake.short("id")
    + b"\0\0\0\0\x65\0\0\0" + fake.short("type") + fake.short("user") + fake.short("app") + fake.short("cluster")
)  # fmt: skip

STREAM = [
    fake.START,
    fake.method(10, 30, struct.pack(">HIH", 2047, 131_072, 60)),
    fake.OPEN_OK,
    fake.method(10, 60, fake.short("memory")),
    fake.method(10, 61),
    fake.CHANNEL_OPEN_OK,
    fake.method(50, 11, fake.short("queue") + struct.pack(">II", 3, 2)),
    fake.method(50, 31, struct.pack(">I", 3)),
    fake.method(50, 41, struct.pack(">I", 3)),
    fake.method(50, 21),
    fake.method(50, 51),
    fake.method(40, 11),
    fake.method(60, 11),
    fake.method(60, 21, fake.short("tag")),
    fake.deliver(1, b"body", EVERY_FLAG),
    fake.deliver(2, b"", b"\x90\0" + fake.short("text") + b"\2"),
    fake.deliver(3, b"again", b"\x90\0" + fake.short("text") + b"\2"),
    fake.deliver(4, b"pie", size=5) + fake.frame(8, 0, b"") + fake.frame(3, 1, b"ce"),
    fake.give_back(b"unroutable"),
    fake.method(60, 71, struct.pack(">QB", 9, 1) + fake.short("x") + fake.short("k") + bytes(4)) + fake.content(b"got"),
    fake.method(60, 72, fake.short("")),
    fake.ack(3, multiple=True),
    fake.ack(4, refused=True),
    fake.method(60, 30, fake.short("tag") + b"\1"),
    fake.method(60, 31, fake.short("tag")),
    fake.CONFIRM_SELECT_OK,
    fake.FLOW_OK,
    fake.method(20, 40, struct.pack(">H", 404) + fake.short("NOT_FOUND") + bytes(4)),
    fake.method(20, 41),
    fake.close(320, "CONNECTION_FORCED"),
    fake.method(10, 51),
]


def test_both_read_all_that_a_server_says(codecs: tuple[Any, Any]) -> None:
    compiled, python = (heard(codec, b"".join(STREAM)) for codec in codecs)

    assert compiled is not None
    assert compiled == python


def test_every_kind_of_header_is_read(codecs: tuple[Any, Any]) -> None:
    for codec in codecs:
        inbox: list[Received] = []
        fresh(codec).feed(fake.deliver(1, b"body", EVERY_FLAG), inbox)
        assert inbox[0].flaw == ""
        assert inbox[0].properties.headers == {
            "t": True, "b": -1, "B": 255, "s": -2, "u": 65_534, "I": -2, "i": 2**32 - 2, "l": -2, "L": -2, "f": 1.5,
            "d": 1.5, "D": Decimal("-1.29"), "S": "é", "x": b"\xff\xfe", "V": None, "F": {"k": b"\xff"},
            "A": [False, None], "T": datetime.fromtimestamp(0x65000000, timezone.utc),
        }  # fmt: skip
        assert inbox[0].properties.app_id == "app"


@FUZZ
@given(pieces=st.integers(1, 4000))
def test_both_read_it_in_any_pieces(codecs: tuple[Any, Any], pieces: int) -> None:
    data = b"".join(STREAM)

    assert heard(codecs[0], data, pieces) == heard(codecs[1], data, pieces) == heard(codecs[1], data)


@FUZZ
@given(data=st.data())
def test_both_make_the_same_of_what_is_mutilated(codecs: tuple[Any, Any], data: st.DataObject) -> None:
    one = data.draw(st.sampled_from(STREAM), "frames")
    mutilated = bytearray(one)
    for _ in range(data.draw(st.integers(1, 4), "changes")):
        if not mutilated:
            break
        at = data.draw(st.integers(0, len(mutilated) - 1), "at")
        how = data.draw(st.sampled_from(["set", "drop", "repeat", "cut"]), "how")
        if how == "set":
            mutilated[at] = data.draw(st.sampled_from([0, 1, 4, 0x7F, 0x80, 0xFE, 0xFF]) | st.integers(0, 255), "byte")
        elif how == "drop":
            del mutilated[at]
        elif how == "repeat":
            mutilated[at:at] = mutilated[at : at + data.draw(st.integers(1, 20), "length")]
        else:
            del mutilated[at + 1 :]
    follow = data.draw(st.sampled_from([b"", fake.deliver(5, b"after")]), "what follows")

    compiled, python = (heard(codec, bytes(mutilated) + follow, 3) for codec in codecs)

    assert compiled == python


NAMES = ["a", "", "é", b"\xff"]
VALUES = [b"V", b"t\1", b"I\0\0\0\1", b"S\0\0\0\1x", b"x\0\0\0\1x", b"D\1\0\0\0\5", b"?", b"S\0\0\0\xff", b"A"]


@FUZZ
@given(table=st.recursive(
    st.sampled_from(VALUES),
    lambda value: st.lists(value, max_size=4).map(lambda values: b"A" + fake.long(b"".join(values)))
    | st.lists(st.tuples(st.sampled_from(NAMES), value), max_size=4, unique_by=lambda item: item[0]).map(
        lambda items: b"F" + fake.long(b"".join(fake.short(name) + value for name, value in items))
    ),
    max_leaves=30,
).filter(lambda value: value[:1] == b"F"))  # fmt: skip
def test_both_make_the_same_of_any_table(codecs: tuple[Any, Any], table: bytes) -> None:
    data = fake.deliver(1, b"", b"\x20\0" + table[1:])

    compiled, python = (heard(codec, data) for codec in codecs)

    assert compiled is not None
    assert compiled == python


@FUZZ
@given(noise=st.binary(max_size=300))
def test_noise_is_refused_or_waited_on_by_both(codecs: tuple[Any, Any], noise: bytes) -> None:
    assert heard(codecs[0], noise) == heard(codecs[1], noise)


# -- writing ----------------------------------------------------------------------------------------

TEXTS = st.none() | st.text(max_size=20)
FIELDS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31) + 1, 2**31 - 1) | st.floats(allow_nan=False) | st.text(max_size=9)
    | st.binary(max_size=9)
    | st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1), timezones=st.just(timezone.utc))
    | st.decimals(-1000, 1000, places=2),
    lambda value: st.lists(value, max_size=4) | st.dictionaries(st.text(max_size=9), value, max_size=4),
    max_leaves=20,
)  # fmt: skip
MESSAGES = st.builds(
    Outgoing,
    exchange=st.text(max_size=9),
    routing_key=st.text(max_size=9),
    body=st.binary(max_size=100) | st.integers(130_000, 270_000).map(bytes),
    properties=st.builds(
        Properties,
        content_type=TEXTS, content_encoding=TEXTS, headers=st.none() | st.dictionaries(st.text(max_size=9), FIELDS),
        delivery_mode=st.none() | st.integers(0, 255), priority=st.none() | st.integers(0, 255), correlation_id=TEXTS,
        reply_to=TEXTS, expiration=TEXTS, message_id=TEXTS, timestamp=st.none() | st.integers(0, 2**64 - 1), type=TEXTS,
        user_id=TEXTS, app_id=TEXTS,
    ),
    mandatory=st.booleans(),
)  # fmt: skip


@settings(
    FUZZ, suppress_health_check=[HealthCheck.large_base_example, HealthCheck.data_too_large, HealthCheck.too_slow]
)
@given(batch=st.lists(MESSAGES, max_size=4))
def test_both_write_a_batch_in_the_same_bytes(codecs: tuple[Any, Any], batch: list[Outgoing]) -> None:
    compiled, python = (fresh(codec).publications(batch) for codec in codecs)

    assert compiled == python


CALLS: list[tuple[Any, ...]] = [
    (Method.CONNECTION_START_OK, {"capabilities": {"x": True}}, "PLAIN", "\0guest\0gu\u00e9st", "en_US"),
    (Method.CONNECTION_TUNE_OK, 2047, 131_072, 60),
    (Method.CONNECTION_OPEN, "/"),
    (Method.CONNECTION_CLOSE, 200, "bye"),
    (Method.CONNECTION_CLOSE_OK,),
    (Method.CHANNEL_OPEN,),
    (Method.CHANNEL_FLOW, True),
    (Method.CHANNEL_FLOW_OK, False),
    (Method.CHANNEL_CLOSE_OK,),
    (Method.EXCHANGE_DECLARE, "x", "topic", True, False, True, {"a": 1}),
    (Method.QUEUE_DECLARE, "q", False, True, False, True, {"x-max-length": 2**40}),
    (Method.QUEUE_DECLARE, "", True, False, True, False, {}),
    (Method.QUEUE_BIND, "q", "x", "k", {}),
    (Method.QUEUE_UNBIND, "q", "x", "k", {"a": []}),
    (Method.QUEUE_PURGE, "q"),
    (Method.QUEUE_DELETE, "q", True, False),
    (Method.BASIC_QOS, 100),
    (Method.BASIC_CONSUME, "q", "t", True, False, {}),
    (Method.BASIC_CANCEL, "t"),
    (Method.BASIC_GET, "q", True),
    (Method.BASIC_ACK, 2**64 - 1, True),
    (Method.BASIC_REJECT, 1, True),
    (Method.BASIC_NACK, 1, False, True),
    (Method.CONFIRM_SELECT,),
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[0].name)
def test_both_write_a_method_in_the_same_bytes(codecs: tuple[Any, Any], call: tuple[Any, ...]) -> None:
    compiled, python = (fresh(codec).method(*call) for codec in codecs)

    if call[0] == Method.QUEUE_DECLARE:  # numbers of 64 bits have two letters
        python = python.replace(b"lengthL", b"lengthl")
    assert compiled == python


@pytest.mark.parametrize(
    "call",
    [
        (Method.QUEUE_DECLARE, "q" * 256, False, True, False, True, {}),
        (Method.QUEUE_DECLARE, "q", False, True, False, True, {"x": "y" * 140_000}),
        (Method.QUEUE_DECLARE, "q", False, True, False, True, {"x" * 256: 1}),
        (Method.QUEUE_DECLARE, "q", False, True, False, True, {"x": {1}}),
        (Method.BASIC_QOS, 70_000),
        (Method.BASIC_QOS, -1),
        (Method.BASIC_ACK, 2**64, False),
        (Method.BASIC_ACK, -1, False),
        (Method.CONNECTION_START_OK, {}, "PLAIN", "x" * 140_000, "en_US"),
    ],
    ids=lambda call: call[0].name,
)
def test_both_refuse_a_call_that_does_not_fit(codecs: tuple[Any, Any], call: tuple[Any, ...]) -> None:
    for codec in codecs:
        with pytest.raises(ValueError, match=call[0].name + " can't be called with|over the limit"):
            fresh(codec).method(*call)


def test_acknowledgements_are_the_same_one_by_one_and_together(codecs: tuple[Any, Any]) -> None:
    for codec in codecs:
        made = fresh(codec)
        together = made.acks([1, 2**63])
        assert together == made.method(Method.BASIC_ACK, 1, False) + made.method(Method.BASIC_ACK, 2**63, False)
        assert made.acks([]) == b""


# -- the bodies -------------------------------------------------------------------------------------


def test_the_bodies_have_one_surface(codecs: tuple[Any, Any]) -> None:
    compiled, python = codecs
    public = {name for name in dir(python) if not name.startswith("_")}

    assert public - {"frame_max"} == {name for name in dir(compiled) if not name.startswith("_")} - {"frame_max"}
    assert fresh(compiled).frame_max == fresh(python).frame_max
    assert link_class("c").__init__ is link_class("py").__init__


def test_the_compiled_body_does_without_py_amqp() -> None:
    link_class("c")
    program = "import sys; sys.modules['amqp'] = None; from fastq import _speedups as s; print(s.AmqpLink.__module__)"
    env = {**os.environ, "FASTQ_SPEEDUPS": ""}
    shown = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True).stdout

    assert shown == "fastq._speedups.amqp_c\n"


def test_errors_survive_a_pickle() -> None:
    for error in (AmqpError(404, "NOT"), AmqpClosed(320, "gone"), Unconfirmed(3, frozenset({1}), [(0, "x")])):
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert (copy.args, str(copy)) == (error.args, str(error))
