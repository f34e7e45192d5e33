"""Serializers: what each carries, how it says that it can't, and that only accepted ones are used."""

from __future__ import annotations

import enum
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastq import FastQ, Serializer, encoder, register_serializer
from fastq.encoder import decode, encode, serializer_named
from fastq.errors import ConfigurationError, EncodingError, SerializerRefused, UnknownSerializer

ALL = ("json", "msgpack", "yaml", "pickle")

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "é"]), inner, max_size=3),
    max_leaves=10,
)


@pytest.fixture(autouse=True)
def known_serializers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget what a test registers."""
    monkeypatch.setattr(encoder, "_by_name", dict(encoder._by_name))
    monkeypatch.setattr(encoder, "_by_content_type", dict(encoder._by_content_type))
    yield


def refusal(value: object, name: str = "json") -> str:
    """Return what is said when a value can't be carried as a call's argument."""
    with pytest.raises(EncodingError) as refused:
        encode([[value], {}], serializer_named(name, ALL), "The call of shop.add", ("args", "kwargs"))
    text = str(refused.value)
    assert text.startswith(f"The call of shop.add can't be carried by {name}: ")
    return text.partition(f"{name}: ")[2]


@pytest.mark.parametrize("name", ALL)
@given(value=plain)
def test_plain_values_come_back_as_they_were(name: str, value: object) -> None:
    serializer = serializer_named(name, ALL)

    assert decode(encode(value, serializer, "it"), serializer.content_type, ALL) == value


@pytest.mark.parametrize("name", ["msgpack", "yaml", "pickle"])
@pytest.mark.parametrize("value", [b"\x00\xff", {1: "one"}, float("inf")], ids=repr)
def test_all_but_json_carry_bytes_other_keys_and_infinity(name: str, value: object) -> None:
    serializer = serializer_named(name, ALL)

    assert decode(encode(value, serializer, "it"), serializer.content_type, ALL) == value


class Opaque:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class Level(enum.Enum):
    NONE = float("nan")


@dataclass
class Point:
    x: float


@pytest.mark.parametrize(
    ("value", "culprit"),
    [
        (object(), "args[0] is <object"),
        (Opaque(), "args[0] is <Opaque instance at"),
        ({"a": [1, {2}]}, "args[0]['a'][1] is {2} of type set"),
        (({"deep": ({"er": b"x"},)},), "args[0][0]['deep'][0]['er'] is b'x' of type bytes"),
        ({"a": {1: 2}}, "args[0]['a'] has the key 1 of type int"),
        ([0, 1 << 64], "args[0][1] is 18446744073709551616 of type int"),
        (10**5000, "args[0] is <int"),
        ("\ud800", "args[0] is '\\ud800' of type str"),
        (float("nan"), "args[0] is nan of type float: JSON has no form for a number that is not finite"),
        ([None, {"a": float("-inf")}], "args[0][1]['a'] is -inf of type float"),
        (Level.NONE, "args[0] is <Level.NONE: nan> of type Level"),
        (Point(float("nan")), "args[0] is Point(x=nan) of type Point"),
        ("x" * 1000 + "\ud800", "args[0] is 'xxx"),
    ],
    ids=lambda value: repr(value)[:20] if not isinstance(value, Opaque | int) else type(value).__name__,
)
def test_the_part_that_can_not_be_carried_is_named_with_its_place_and_type(value: object, culprit: str) -> None:
    text = refusal(value)

    assert text.startswith(culprit)
    assert len(text) < 300
    assert "\n" not in text


def test_the_part_is_what_this_serializer_can_not_carry() -> None:
    assert refusal([b"bytes are fine", {1: "and so are keys"}, object()], "msgpack").startswith("args[0][2] is <object")
    assert refusal([1, lambda: 1], "pickle").startswith("args[0][1] is <function")
    assert refusal([1, object()], "yaml").startswith("args[0][1] is <object")


@pytest.mark.parametrize("name", ["json", "msgpack"])
def test_a_value_that_holds_itself_is_refused(name: str) -> None:
    value: list[object] = []
    value.append(value)

    assert "limit" in refusal(value, name)


def test_a_keyword_argument_is_named() -> None:
    with pytest.raises(EncodingError, match=r"kwargs\['y'\] is \{1\} of type set"):
        encode([[1], {"x": 2, "y": {1}}], serializer_named("json", ALL), "The call of shop.add", ("args", "kwargs"))


@pytest.mark.parametrize(
    ("content_type", "data"),
    [
        ("application/json", b"{"),
        ("application/json", b"[" * 100_000),
        ("application/msgpack", b"\xdd\xff\xff\xff\xff"),
        ("application/msgpack", b"\xc6\xff\xff\xff\xff"),
        ("application/msgpack", b"\x91" * 100_000),
        ("application/yaml", b"!!python/object/apply:os.system ['touch canary']"),
        ("application/yaml", b"[" * 2_000),
        ("application/x-pickle", b"\x80\x04."),
    ],
)
def test_bytes_that_are_not_what_they_claim_to_be_are_an_encoding_error(
    content_type: str, data: bytes, tmp_path: Path
) -> None:
    with pytest.raises(EncodingError, match="are not valid"):
        decode(data, content_type, ALL)
    assert not list(tmp_path.iterdir())


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("canary").touch, ())


@pytest.mark.parametrize(
    "content_type", ["application/x-pickle", "application/json", "application/msgpack", "", "pickle"]
)
def test_pickled_bytes_run_no_code_unless_pickle_is_accepted(content_type: str, tmp_path: Path) -> None:
    with pytest.raises((SerializerRefused, UnknownSerializer, EncodingError)):
        decode(pickle.dumps(Bomb()), content_type, FastQ(broker="memory://").settings.accept)

    assert not list(tmp_path.iterdir())


def test_pickle_is_refused_until_it_is_accepted_and_the_error_says_how() -> None:
    with pytest.raises(SerializerRefused, match=r"'pickle' is not accepted.*add it there if you trust every writer"):
        serializer_named("pickle", FastQ(broker="memory://").settings.accept)

    assert serializer_named("pickle", ["pickle"]).name == "pickle"


def test_an_unknown_serializer_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(UnknownSerializer, match="did you mean 'json'"):
        serializer_named("jsn", ALL)
    with pytest.raises(UnknownSerializer, match="there are json, msgpack, pickle, yaml"):
        serializer_named("protobuf", ALL)
    with pytest.raises(UnknownSerializer, match="content type 'text/html'"):
        decode(b"", "text/html", ALL)


def reversed_text() -> Serializer:
    return Serializer(
        "reversed", "text/x-reversed", lambda value: value[::-1].encode(), lambda data: data.decode()[::-1]
    )


def test_a_serializer_of_the_user_s_is_used_once_it_is_registered_and_accepted() -> None:
    register_serializer(reversed_text())

    with pytest.raises(SerializerRefused):
        serializer_named("reversed", ALL)

    assert encode("abc", serializer_named("reversed", ["reversed"]), "it") == b"cba"
    assert decode(b"cba", "text/x-reversed", ["reversed"]) == "abc"


@pytest.mark.parametrize("content_type", ["", "two words", "a\nb", "x" * 256, "é"])
def test_a_serializer_whose_content_type_no_message_can_name_is_refused(content_type: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a content type"):
        register_serializer(Serializer("ours", content_type, bytes, bytes))


def test_a_serializer_does_not_take_the_content_type_of_another() -> None:
    with pytest.raises(ConfigurationError, match="is that of the serializer 'json'"):
        register_serializer(Serializer("ours", "application/json", bytes, bytes))


def test_a_serializer_that_makes_no_bytes_is_an_encoding_error() -> None:
    serializer = register_serializer(Serializer("ours", "text/x-ours", lambda value: value, str))  # type: ignore[arg-type]

    with pytest.raises(EncodingError, match="made str of it, not bytes"):
        encode("text", serializer, "it")
