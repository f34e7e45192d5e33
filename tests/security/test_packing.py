"""Packing: bodies come back as they were, stand for no more than they may, and can't be read or put elsewhere."""

from __future__ import annotations

import hashlib
import tracemalloc
import zlib
from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastq import FastQ
from fastq.compression import compress, decompress
from fastq.encoder import _is_shallow_json, decode, encode, is_deeper, serializer_named
from fastq.errors import EncodingError, MissingExtra, ProtocolError
from fastq.failure import Failure
from fastq.message import CIPHERS, CODINGS, Message, next_attempt
from fastq.outcome import Outcome, State
from fastq.packing import Packing, is_packed
from fastq.settings import Settings

SECRET, OTHER = "s3cret-" + "x" * 32, "another-" + "y" * 32
LONG = orjson.dumps([["canary" * 100], {}])
CALL = Message(bytes(15) + b"\1", "shop.add", "mail", LONG)
DONE = Outcome.of(CALL, State.SUCCESS, LONG)


def packing(**given: Any) -> Packing:
    return Settings.load(given).packing


def encrypting(**given: Any) -> Packing:
    return packing(encryption_keys={"e1": SECRET}, **given)


def refusal(packing: Packing, message: Message | Outcome) -> str:
    with pytest.raises(EncodingError) as refused:
        packing.plain(message) if isinstance(message, Message) else packing.plain_outcome(message)
    return str(refused.value)


# -- there and back ------------------------------------


@pytest.mark.parametrize("cipher", ["", *CIPHERS])
@pytest.mark.parametrize("coding", ["", *CODINGS])
def test_a_packed_body_comes_back_as_it_was(coding: str, cipher: str) -> None:
    given: dict[str, Any] = {"compression": coding, "compress_over_bytes": 100} if coding else {}
    given |= {"encryption_keys": {"e1": SECRET}, "encryption": cipher} if cipher else {}
    made = packing(**given)
    packed, end = made.packed(CALL), made.packed_outcome(DONE)
    assert packed.content_type == end.content_type == ";".join(filter(None, ("application/json", coding, cipher)))
    for frame, plain in ((Message.decode(packed.encode()), CALL), (Outcome.decode(end.encode()), DONE)):
        assert is_packed(frame.content_type) == bool(coding or cipher)
        assert not cipher or b"canary" not in frame.body
        assert (made.plain(frame) if isinstance(frame, Message) else made.plain_outcome(frame)) == plain
    assert made.value_of(end) == orjson.loads(LONG)
    assert made.packed(packed) == packed
    assert made.packed_outcome(end) == end


@given(body=st.binary(max_size=500))
def test_any_body_comes_back_as_it_was(body: bytes) -> None:
    made = encrypting(compress_over_bytes=50)
    message = CALL._replace(body=body, content_type="application/msgpack")
    assert made.plain(made.packed(message)) == message


def test_what_is_short_or_does_not_get_shorter_is_not_compressed() -> None:
    made = packing(compress_over_bytes=100)
    noise = b"".join(hashlib.sha256(bytes([n])).digest() for n in range(10))
    assert made.packed(CALL._replace(body=LONG[:100])).body == LONG[:100]
    assert made.packed(CALL._replace(body=noise)).content_type == "application/json"
    too_long = CALL._replace(body=b" " * 3_000)
    assert packing(compress_over_bytes=100, max_decompressed_bytes=2_000).packed(too_long) == too_long


def test_a_failure_is_encrypted_and_not_compressed() -> None:
    failure = Failure.of(ValueError("canary" * 100))
    made = encrypting(compress_over_bytes=100)
    packed = made.packed_outcome(Outcome.of(CALL, State.FAILURE, failure.encode()))
    assert packed.content_type == "application/json;aes-256-gcm"
    assert b"canary" not in packed.body
    assert made.failure_of(packed) == failure


def test_an_outcome_keeps_whom_it_is_for() -> None:
    outcome = Outcome.of(CALL._replace(reply_to=7), State.SUCCESS, LONG)
    made = encrypting()
    assert made.packed_outcome(outcome).reply_to == made.plain_outcome(made.packed_outcome(outcome)).reply_to == 7


# -- compression ------------------------------------


@pytest.mark.parametrize("coding", CODINGS)
def test_a_bomb_is_refused_before_it_takes_memory(coding: str) -> None:
    """Row 43."""
    bomb = compress(coding, bytes(50_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(EncodingError, match="stand for more than 1000000, the limit of max_decompressed_bytes"):
            decompress(coding, bomb, 1_000_000)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    message = CALL._replace(body=bomb, content_type=f"application/json;{coding}")
    assert "max_decompressed_bytes" in refusal(packing(max_decompressed_bytes=1_000_000), message)


@pytest.mark.parametrize("coding", CODINGS)
def test_the_limit_itself_may_be_reached(coding: str) -> None:
    for size in (0, 1, 1_000):
        assert decompress(coding, compress(coding, bytes(size)), size) == bytes(size)


@pytest.mark.parametrize("coding", CODINGS)
def test_what_is_cut_short_or_goes_on_is_refused(coding: str) -> None:
    data = compress(coding, LONG)
    for broken in (b"", data[:-1], data[: len(data) // 2], data + b"x", data + data, b"x" + data, LONG):
        with pytest.raises(EncodingError, match=f"valid {coding}|do not say"):
            decompress(coding, broken, 10_000)


@given(data=st.binary(max_size=300))
def test_any_bytes_are_decompressed_or_refused(data: bytes) -> None:
    for coding, magic in (("zlib", b"x\x9c"), ("zstd", b"\x28\xb5\x2f\xfd")):
        for some in (data, magic + data):
            with suppress(EncodingError):
                assert len(decompress(coding, some, 1_000)) <= 1_000


def test_only_what_is_known_is_decompressed() -> None:
    for content_type in ("application/json;lzma", "application/json;zlib;zlib", "application/json;aes-256-gcm;zlib"):
        message = CALL._replace(body=zlib.compress(zlib.compress(LONG)), content_type=content_type)
        with pytest.raises(EncodingError):
            plain = packing().plain(message)
            decode(plain.body, plain.content_type, ("json",))


def test_a_library_that_is_missing_is_named_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("zstandard", "cryptography", "cryptography.hazmat.primitives.ciphers.aead"):
        monkeypatch.setitem(__import__("sys").modules, library, None)
    with pytest.raises(MissingExtra, match=r"pip install 'fastq-worker\[zstd\]'"):
        packing(compression="zstd", compress_over_bytes=100)
    with pytest.raises(MissingExtra, match=r"pip install 'fastq-worker\[security\]'"):
        encrypting()


# -- encryption ------------------------------------


def test_the_same_body_is_never_encrypted_to_the_same_bytes() -> None:
    assert encrypting().packed(CALL).body != encrypting().packed(CALL).body


def test_no_byte_of_an_encrypted_body_can_be_changed_left_out_or_added() -> None:
    made = encrypting()
    body = made.packed(CALL).body
    for at in range(len(body)):
        for changed in (body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :], body[:at] + body[at + 1 :], body[:at]):
            refusal(made, CALL._replace(body=changed, content_type="application/json;aes-256-gcm"))


def test_a_body_can_not_be_put_into_the_place_of_another() -> None:
    made = encrypting(compress_over_bytes=100)
    packed, end = made.packed(CALL), made.packed_outcome(DONE)
    moved = [
        packed._replace(task="shop.sub"),
        packed._replace(id=bytes(15) + b"\2"),
        packed._replace(content_type="application/msgpack;zlib;aes-256-gcm"),
        packed._replace(content_type="application/json;aes-256-gcm"),
        packed._replace(content_type="application/json;zlib;chacha20-poly1305"),
        packed._replace(body=end.body),
        end._replace(body=packed.body),
        end._replace(id=bytes(15) + b"\2"),
        end._replace(state=State.FAILURE),
    ]
    for each in moved:
        assert "or not for this task, or it was changed since" in refusal(made, each)


def test_another_attempt_in_another_queue_can_be_read() -> None:
    made = encrypting()
    again = next_attempt(made.packed(CALL), 5)._replace(queue="other", crashes=2)
    assert made.plain(again).body == CALL.body


def test_the_first_key_encrypts_and_all_decrypt() -> None:
    old, both = packing(encryption_keys={"old": OTHER}), packing(encryption_keys={"new": SECRET, "old": OTHER})
    assert both.plain(old.packed(CALL)) == both.plain(both.packed(CALL)) == CALL
    reason = "The body is encrypted with the key 'new', which is not among the encryption_keys"
    assert refusal(old, both.packed(CALL)) == reason
    assert "was not encrypted with the key 'old'" in refusal(packing(encryption_keys={"old": SECRET}), old.packed(CALL))
    assert refusal(packing(), old.packed(CALL)) == "The body is encrypted, and there are no encryption_keys here"


def test_what_is_not_encrypted_is_read_unless_it_has_to_be() -> None:
    assert encrypting().plain(CALL) == CALL
    strict = encrypting(require_encrypted=True)
    assert "require_encrypted" in refusal(strict, CALL)
    assert "require_encrypted" in refusal(strict, packing(compress_over_bytes=100).packed(CALL))
    assert "require_encrypted" in refusal(strict, DONE)
    assert strict.plain(strict.packed(CALL)) == CALL


def test_apply_goes_the_same_way() -> None:
    app = FastQ(broker="memory://", encryption_keys={"e1": SECRET}, require_encrypted=True, compress_over_bytes=50)

    @app.task
    def double(text: str) -> str:
        return 2 * text

    assert double.apply(("ab" * 100,)).get() == "ab" * 200


# -- depth and digits ------------------------------------

ALL = ("json", "msgpack", "yaml")


def _inner(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["[", '"', "\\", "}"]), inner, max_size=3)


def nested(levels: int) -> Any:
    """Return lists and mappings in one another."""
    value: Any = 1
    for level in range(levels):
        value = {"x": value} if level % 2 else [value, 2, "["]
    return value


@pytest.mark.parametrize("name", ALL)
def test_what_is_nested_too_deeply_is_refused_by_both_sides(name: str) -> None:
    serializer = serializer_named(name, ALL)
    for levels, most in ((20, 20), (100, 100)):
        data = encode(nested(levels), serializer, "It", (), most)
        assert decode(data, serializer.content_type, ALL, most) == nested(levels)
        with pytest.raises(EncodingError, match=f"It is nested more deeply than {most - 1} levels"):
            encode(nested(levels), serializer, "It", (), most - 1)
        with pytest.raises(EncodingError, match=f"A value is nested more deeply than {most - 1} levels"):
            decode(data, serializer.content_type, ALL, most - 1)


@pytest.mark.parametrize("name", ALL)
def test_a_hundred_thousand_levels_are_refused(name: str) -> None:
    texts = {
        "json": [b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"x":' * 100_000 + b"1" + b"}" * 100_000],
        "msgpack": [b"\x91" * 100_000 + b"\xc0", b"\x81\xa1x" * 100_000 + b"\xc0"],
        "yaml": [b"[" * 100_000, b"- " * 100_000 + b"1"],
    }[name]
    for text in texts:
        with pytest.raises(EncodingError):
            decode(text, serializer_named(name, ALL).content_type, ALL)
    for frame in texts if name == "json" else ():
        with pytest.raises(ProtocolError):
            Message.decode(b'{"task":"x","args":[' + frame + b"]}")


def test_brackets_in_texts_hide_nothing() -> None:
    wide = [["]", "["]] * 500
    assert decode(orjson.dumps(wide), "application/json", ALL) == wide
    deep: Any = 1
    for _ in range(150):
        deep = ["]", deep, "["]
    with pytest.raises(EncodingError, match="nested more deeply than 100"):
        decode(orjson.dumps(deep), "application/json", ALL)


@given(value=st.recursive(st.sampled_from(["[", "]", '"', "\\", '\\"', "{}", "]]", 1, None]), _inner, max_leaves=30))
def test_whether_a_json_text_is_shallow_is_told_exactly(value: Any) -> None:
    for levels in range(1, 8):
        text = orjson.dumps(value)
        assert _is_shallow_json(text, levels) == (not is_deeper(value, levels) or len(text) <= 2 * levels)


def test_what_stands_for_very_much_is_looked_at_once() -> None:
    """Each of 30 lists has the one before it ten times."""
    text = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 31))
    value = decode(text.encode(), "application/yaml", ALL)
    assert is_deeper(value, 31)
    assert not is_deeper(value, 32)


@pytest.mark.parametrize("name", ALL)
def test_an_integer_of_a_hundred_thousand_digits_takes_no_time(name: str) -> None:
    digits = b"7" * 100_000
    serializer = serializer_named(name, ALL)
    if name == "msgpack":
        with pytest.raises(EncodingError, match="It can't be carried by msgpack"):
            encode(10**100_000, serializer, "It")
        return
    try:
        assert not isinstance(decode(b"[" + digits + b"]", serializer.content_type, ALL)[0], int)
    except EncodingError as error:
        assert "valid" in str(error)
    with pytest.raises(ProtocolError):
        Message.decode(b'{"task":"x","t\\u0061sk":' + digits + b"}")


def test_a_call_that_is_nested_too_deeply_is_refused_where_it_is_made(app: FastQ) -> None:
    @app.task
    def echo(value: object) -> object:
        return value

    with pytest.raises(EncodingError, match="The call of .*echo is nested more deeply than 100 levels"):
        echo.delay(nested(150))
    with pytest.raises(EncodingError, match="nested more deeply"):
        echo.apply((nested(99),)).get()
    assert echo.apply((nested(90),)).get() == nested(90)
