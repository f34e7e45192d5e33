"""Conformance of shared state: facts."""

from __future__ import annotations

import pytest

from fastq.state import SharedState
from fastq.testing.clocks import Clock
from fastq.testing.state_case import StateCase, all_at_once

LONG_S = 3600.0


class Remembering(StateCase):
    """What becomes of facts."""

    def test_facts_are_got_in_the_order_asked_for(self, state: SharedState, other: SharedState) -> None:
        state.put("f", {"a": b"1", "b": b"2"}, LONG_S)
        assert other.get("f", ["b", "c", "a", "b"]) == [b"2", None, b"1", b"2"]

    def test_a_fact_replaces_that_of_the_same_name(self, state: SharedState) -> None:
        state.put("f", {"a": b"1", "b": b"2"}, LONG_S)
        state.put("f", {"a": b"3"}, LONG_S)
        assert state.find("f") == {"a": b"3", "b": b"2"}

    def test_families_are_apart(self, state: SharedState) -> None:
        state.put("f", {"a": b"1"}, LONG_S)
        state.put("g", {"a": b"2"}, LONG_S)
        assert (state.find("f"), state.find("g"), state.find("h")) == ({"a": b"1"}, {"a": b"2"}, {})
        assert state.delete("f", ["a"]) == 1
        assert state.get("g", ["a"]) == [b"2"]

    @pytest.mark.parametrize("value", [b"", b"\0", bytes(range(256)) * 400, b"'; --", "ü".encode()])
    def test_values_are_any_bytes(self, state: SharedState, value: bytes) -> None:
        state.put("f", {"a": value}, LONG_S)
        assert state.get("f", ["a"]) == [value]
        assert state.put_new("f", "a", b"", LONG_S) == value
        assert state.delete_if("f", "a", value)

    @pytest.mark.parametrize("name", ["", "a b", "a:b", "{a}", "ü\u2028", "x" * 200, "%", "A"])
    def test_names_are_any_text(self, state: SharedState, name: str) -> None:
        state.put(name, {name: b"1", "a": b"2"}, LONG_S)
        assert state.get(name, [name]) == [b"1"]
        assert state.find(name) == {name: b"1", "a": b"2"}

    def test_batches_of_none_are_fine(self, state: SharedState) -> None:
        state.put("f", {}, LONG_S)
        assert state.get("f", []) == []
        assert state.delete("f", []) == 0
        assert state.find("f") == {}

    def test_ten_thousand_facts_are_one_batch(self, state: SharedState) -> None:
        facts = {f"name{number}": b"%d" % number for number in range(10_000)}
        state.put("f", facts, LONG_S)
        assert state.get("f", list(facts)) == list(facts.values())
        assert state.find("f") == facts
        assert state.delete("f", list(facts)) == 10_000
        assert state.find("f") == {}

    # -- expiry ------------------------------------------------------------------------------------

    def test_facts_expire(self, state: SharedState, clock: Clock) -> None:
        state.put("f", {"a": b"1"}, self.expires_s)
        assert state.get("f", ["a"]) == [b"1"]
        clock.advance(self.expires_s + 0.05)
        assert state.get("f", ["a"]) == [None]
        assert state.find("f") == {}
        assert state.delete("f", ["a"]) == 0
        assert not state.delete_if("f", "a", b"1")

    def test_each_fact_has_its_own_time(self, state: SharedState, clock: Clock) -> None:
        state.put("f", {"long": b"1"}, LONG_S * 24)
        state.put("f", {"short": b"2"}, self.expires_s)
        assert state.find("f") == {"long": b"1", "short": b"2"}
        clock.advance(self.expires_s + 0.05)
        assert state.find("f") == {"long": b"1"}
        assert state.get("f", ["short", "long"]) == [None, b"1"]

    def test_a_fact_that_is_put_again_lasts_from_then_on(self, state: SharedState, clock: Clock) -> None:
        for _ in range(3):
            state.put("f", {"a": b"1"}, self.expires_s)
            clock.advance(self.expires_s * 0.6)
        assert state.get("f", ["a"]) == [b"1"]

    def test_what_has_expired_is_in_nobodys_way(self, state: SharedState, clock: Clock) -> None:
        assert state.put_new("f", "a", b"1", self.expires_s) is None
        clock.advance(self.expires_s + 0.05)
        assert state.put_new("f", "a", b"2", LONG_S) is None
        assert state.get("f", ["a"]) == [b"2"]

    # -- in one step -------------------------------------------------------------------------------

    def test_a_new_fact_is_kept_only_where_there_is_none(self, state: SharedState, other: SharedState) -> None:
        assert state.put_new("f", "a", b"1", LONG_S) is None
        assert other.put_new("f", "a", b"2", LONG_S) == b"1"
        assert state.put_new("f", "a", b"1", LONG_S) == b"1"
        state.delete("f", ["a"])
        assert other.put_new("f", "a", b"2", LONG_S) is None
        assert state.get("f", ["a"]) == [b"2"]

    def test_who_comes_second_does_not_make_the_fact_last(self, state: SharedState, clock: Clock) -> None:
        state.put_new("f", "a", b"1", self.expires_s)
        state.put_new("f", "a", b"2", LONG_S * 24)
        clock.advance(self.expires_s + 0.05)
        assert state.get("f", ["a"]) == [None]

    def test_of_many_new_facts_at_once_one_is_kept(self, state: SharedState, other: SharedState) -> None:
        for name in ("a", "b", "c"):
            stood = all_at_once(8, lambda at: (state, other)[at % 2].put_new("f", name, b"%d" % at, LONG_S))  # noqa: B023
            (winner,) = (at for at, value in enumerate(stood) if value is None)
            assert set(stood) == {None, b"%d" % winner}
            assert state.get("f", [name]) == [b"%d" % winner]

    def test_deleting_tells_how_many_there_were(self, state: SharedState) -> None:
        state.put("f", {"a": b"1", "b": b"2"}, LONG_S)
        assert state.delete("f", ["a", "c", "b"]) == 2
        assert state.delete("f", ["a", "b"]) == 0

    def test_a_fact_is_deleted_only_if_it_has_the_value(self, state: SharedState) -> None:
        state.put("f", {"a": b"1"}, LONG_S)
        assert not state.delete_if("f", "a", b"2")
        assert not state.delete_if("f", "b", b"1")
        assert state.get("f", ["a"]) == [b"1"]
        assert state.delete_if("f", "a", b"1")
        assert state.get("f", ["a"]) == [None]

    def test_a_fact_is_replaced_and_lasts_for_longer_only_if_it_has_the_value(
        self, state: SharedState, clock: Clock
    ) -> None:
        state.put("f", {"a": b"1", "b": b"2"}, self.expires_s)
        assert not state.replace_if("f", "b", b"1", b"3", LONG_S * 24)
        assert not state.replace_if("f", "c", b"1", b"3", LONG_S * 24)
        assert state.find("f") == {"a": b"1", "b": b"2"}
        assert state.replace_if("f", "a", b"1", b"3", LONG_S * 24)
        clock.advance(self.expires_s + 0.05)
        assert state.find("f") == {"a": b"3"}
        assert not state.replace_if("f", "b", b"2", b"3", LONG_S)
        assert state.replace_if("f", "a", b"3", b"3", self.expires_s)
        clock.advance(self.expires_s + 0.05)
        assert state.find("f") == {}

    def test_of_many_who_replace_a_fact_at_once_one_did(self, state: SharedState, other: SharedState) -> None:
        for _ in range(3):
            state.put("f", {"a": b"1"}, LONG_S)
            did = all_at_once(8, lambda at: (state, other)[at % 2].replace_if("f", "a", b"1", b"%d!" % at, LONG_S))
            assert state.get("f", ["a"]) == [b"%d!" % did.index(True)]
            assert sorted(did) == [False] * 7 + [True]

    def test_of_many_who_delete_a_fact_at_once_one_did(self, state: SharedState, other: SharedState) -> None:
        for _ in range(3):
            state.put("f", {"a": b"1"}, LONG_S)
            did = all_at_once(8, lambda at: (state, other)[at % 2].delete_if("f", "a", b"1"))
            assert sorted(did) == [False] * 7 + [True]

    def test_what_was_closed_may_be_closed_again(self, other: SharedState) -> None:
        other.close()
        other.close()
