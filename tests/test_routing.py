"""Routing: which queue a call goes to, and which queues a worker serves how often; and keys made of arguments."""

from __future__ import annotations

import inspect
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastq.errors import ConfigurationError, ProtocolError
from fastq.keys import Promised, chosen, key_of, name_of_lock
from fastq.message import check_queue
from fastq.routing import family, queue_of_share, queues_of, route, share_of, shown, turns

# -- routes ------------------------------------


@pytest.mark.parametrize(
    ("task", "queue"),
    [
        ("shop.mail.send", "mail"),
        ("shop.video.encode", "video"),
        ("shop.video.probe", "media"),
        ("shop.add", "shop"),
        ("blog.add", None),
        ("SHOP.add", None),
        ("shop", None),
    ],
)
def test_the_very_name_wins_and_then_the_first_pattern(task: str, queue: str | None) -> None:
    routes = {"shop.mail.*": "mail", "shop.video.*": "media", "shop.*": "shop", "shop.video.encode": "video"}
    assert route(routes.items(), task) == queue


# -- shares ------------------------------------


def test_a_key_always_has_the_same_share_and_many_keys_have_all_of_them() -> None:
    shares = [share_of("mail", 8, f"tenant-{number}") for number in range(200)]
    assert shares == [share_of("mail", 8, f"tenant-{number}") for number in range(200)]
    assert set(shares) == set(family("mail", {"mail": 8})) - {"mail"}
    assert max(Counter(shares).values()) < 50


def test_one_who_weighs_more_has_more_shares() -> None:
    assert len({share_of("mail", 100, "acme", weight=4) for _ in range(300)}) == 4
    assert share_of("mail", 100, "acme") in {share_of("mail", 100, "acme", weight=4) for _ in range(300)}


@pytest.mark.parametrize("queue", ["mail", "a:b", "mail:fair", "x" * 200])
def test_a_share_is_a_queue_and_known_as_one_of_another(queue: str) -> None:
    share = share_of(queue, 1000, "acme")
    assert check_queue(share)
    assert queue_of_share(share) == queue
    assert queue_of_share(queue) == queue


# -- turns ------------------------------------


def test_without_fair_queues_turns_are_what_was_asked_for() -> None:
    assert turns(["a", "b", "a"], {"mail": 4}) == ["a", "b", "a"]
    assert turns([], {"mail": 4}) == []


@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 4), min_size=1),
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 9)),
)
def test_a_family_has_as_many_turns_as_its_queue_was_named_and_all_in_it_have_some(
    weights: dict[str, int], shares: dict[str, int]
) -> None:
    queues = queues_of(",".join(f"{name}:{weight}" for name, weight in weights.items()))
    found = Counter(turns(queues, shares))
    of_families = Counter({name: sum(found[each] for each in family(name, shares)) for name in weights})
    (times,) = {of_families[name] / weight for name, weight in weights.items()}
    assert times >= 1
    assert set(found) == {each for name in weights for each in family(name, shares)}


def test_a_share_gains_nothing_by_empty_ones_before_it() -> None:
    order = turns(["mail"], {"mail": 16})
    first = Counter(
        next(each for each in order[at:] + order if each in ("mail:fair-3", "mail:fair-4")) for at in range(len(order))
    )
    assert min(first.values()) > len(order) / 4


# -- the queues of a worker, as text ------------------------------------


@pytest.mark.parametrize(
    ("text", "queues", "again"),
    [
        ("a", ["a"], "a"),
        ("a,b", ["a", "b"], "a,b"),
        (" a:3 , b", ["a", "b", "a", "a"], "a:3,b"),
        ("a:2,b:2", ["a", "b", "a", "b"], "a:2,b:2"),
        ("a,a", ["a"], "a"),
        ("tenant:x", ["tenant:x"], "tenant:x"),
        ("mail:fair-3", ["mail:fair-3"], "mail:fair-3"),
        ("tenant:7:1", ["tenant:7"], "tenant:7"),
    ],
)
def test_queues_are_read_with_their_turns(text: str, queues: list[str], again: str) -> None:
    assert queues_of(text) == queues
    assert shown(queues) == again


@pytest.mark.parametrize("text", ["", "a,,b", "a b", "a b:3"])
def test_what_is_no_queue_is_an_error(text: str) -> None:
    with pytest.raises(ProtocolError, match="is not a queue name"):
        queues_of(text)


@pytest.mark.parametrize("text", ["a:0", "a:101", "a:999999999999999999999"])
def test_a_weight_that_can_not_be_is_an_error_that_says_what_can(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"gives a \d+ turns; it takes 1 to 100"):
        queues_of(text)


# -- keys ------------------------------------


def bill(tenant: str, *items: int, month: int = 1, **more: Any) -> None: ...


def picked(by: Any, *args: Any, **kwargs: Any) -> object:
    return chosen("limit_by", by, inspect.signature(bill), args, kwargs)


def test_arguments_are_found_by_name_however_they_are_given() -> None:
    assert picked(["tenant"], "acme") == picked(["tenant"], tenant="acme") == ["acme"]
    assert picked(["month", "tenant"], "acme") == [1, "acme"]
    assert picked(["items", "month"], "acme", 1, 2, month=3) == [(1, 2), 3]
    assert picked(["color"], "acme", color="red") == ["red"]
    assert picked([], "acme", 7) == {"tenant": "acme", "items": (7,), "month": 1}
    assert picked(lambda tenant, *items, **more: tenant.lower(), "ACME", 7) == "acme"


def test_an_argument_that_a_call_does_not_have_is_an_error_that_names_it() -> None:
    with pytest.raises(ConfigurationError, match="limit_by names 'color', which this call does not have"):
        picked(["color"], "acme")


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("acme", "acme"),
        (["acme"], "acme"),
        (7, "7"),
        ([7, "a"], '[7,"a"]'),
        (None, "null"),
        ({"b": 1, "a": 2}, '{"a":2,"b":1}'),
    ],
    ids=repr,
)
def test_a_key_is_for_people_to_read_where_it_can_be(value: object, key: str) -> None:
    assert key_of("limit_by", value) == key


@pytest.mark.parametrize("value", ["", "two words", "a\nb", "x" * 151, "ü" * 100, {"a b": 1}], ids=repr)
def test_another_key_is_a_digest(value: object) -> None:
    key = key_of("limit_by", value)
    assert len(key) == 32
    assert key == key_of("limit_by", value)


def test_locks_are_the_same_for_the_same_arguments_alone() -> None:
    same = [{"a": 1, "b": {2, 1}}, {"b": {1, 2}, "a": 1}]
    assert len({name_of_lock("shop.add", value) for value in same}) == 1
    others = [{"a": 1}, {"a": "1"}, {"a": 1.0}, {"a": [1]}, {"a": b"1"}, {"a": {1}}, {}]
    assert len({name_of_lock("shop.add", value) for value in others}) == len(others)
    assert name_of_lock("shop.add", 1) != name_of_lock("shop.sub", 1)


def test_the_name_of_a_lock_fits_whatever_the_task_s_is() -> None:
    assert name_of_lock("shop.add", 1).startswith("shop.add:")
    assert len(name_of_lock("ü" * 127, 1).encode()) <= 200


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (object(), "a value of type object has no form"),
        (Promised(), "is a value that is not there yet"),
        (1 << 70, "exceeds"),
    ],
    ids=["object", "promised", "huge"],
)
def test_arguments_that_can_not_be_compared_are_an_error_that_says_why(value: object, words: str) -> None:
    with pytest.raises(ConfigurationError, match=f"unique can't tell whether two calls are the same: .*{words}"):
        name_of_lock("shop.add", [value])
