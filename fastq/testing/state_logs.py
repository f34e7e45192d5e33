"""Conformance of shared state: logs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from fastq.state import Follower, SharedState
from fastq.testing.clocks import Clock
from fastq.testing.state_case import SOON_S, StateCase, all_at_once

LONG_S = 3600.0
MANY = 1_000_000

Follow = Callable[..., Follower]


def numbered(first: int, last: int) -> list[bytes]:
    """Return different entries."""
    return [b"%d" % number for number in range(first, last)]


def now_there(follower: Follower) -> list[bytes]:
    """Read all that is there."""
    entries: list[bytes] = []
    while found := follower.read(time.monotonic()):
        entries += found
    return entries


def soon(follower: Follower, count: int = 1) -> list[bytes]:
    """Read so many entries or more, waiting for them."""
    entries: list[bytes] = []
    deadline = time.monotonic() + SOON_S
    while len(entries) < count and time.monotonic() < deadline:
        entries += follower.read(deadline)
    return entries


class Following(StateCase):
    """What becomes of what is added to logs."""

    @pytest.fixture
    def follow(self, state: SharedState) -> Iterator[Follow]:
        """Follow a log; what is still open is closed after the test."""
        opened = []

        def follow(log: str = "log", *, by: SharedState = state, from_start: bool = False) -> Follower:
            opened.append(by.follow(log, from_start=from_start))
            return opened[-1]

        yield follow
        for follower in opened:
            follower.close()

    def test_a_follower_reads_what_is_added_from_now_on(self, state: SharedState, follow: Follow) -> None:
        state.append("log", [b"before"], MANY, LONG_S)
        follower = follow()
        assert now_there(follower) == []
        state.append("log", [b"1", b"2"], MANY, LONG_S)
        state.append("log", [b"3"], MANY, LONG_S)
        assert soon(follower, 3) == [b"1", b"2", b"3"]
        assert now_there(follower) == []

    def test_from_the_start_it_reads_what_is_kept_too(self, state: SharedState, follow: Follow) -> None:
        state.append("log", [b"1", b"2"], MANY, LONG_S)
        follower = follow(from_start=True)
        state.append("log", [b"3"], MANY, LONG_S)
        assert soon(follower, 3) == [b"1", b"2", b"3"]

    @pytest.mark.parametrize("from_start", [False, True])
    def test_a_log_may_be_followed_before_there_is_one(
        self, state: SharedState, follow: Follow, from_start: bool
    ) -> None:
        follower = follow(from_start=from_start)
        assert now_there(follower) == []
        state.append("log", [b"1"], MANY, LONG_S)
        assert soon(follower) == [b"1"]

    def test_logs_are_apart(self, state: SharedState, follow: Follow) -> None:
        names = ["log", "log2", "", "a:b", "{a}", "ü", "LOG"]
        followers = [follow(name, from_start=True) for name in names]
        for name in names:
            state.append(name, [name.encode()], MANY, LONG_S)
        assert [soon(follower) for follower in followers] == [[name.encode()] for name in names]
        assert [now_there(follower) for follower in followers] == [[]] * len(names)

    @pytest.mark.parametrize("entry", [b"", b"\0", bytes(range(256)) * 400])
    def test_entries_are_any_bytes(self, state: SharedState, follow: Follow, entry: bytes) -> None:
        follower = follow()
        state.append("log", [], MANY, LONG_S)
        state.append("log", [entry], MANY, LONG_S)
        assert soon(follower) == [entry]

    def test_ten_thousand_entries_are_one_batch(self, state: SharedState, follow: Follow) -> None:
        follower = follow()
        state.append("log", numbered(0, 10_000), MANY, LONG_S)
        assert soon(follower, 10_000) == numbered(0, 10_000)
        assert soon(follow(from_start=True), 10_000) == numbered(0, 10_000)

    def test_every_follower_reads_every_entry(self, state: SharedState, other: SharedState, follow: Follow) -> None:
        followers = [follow(by=client) for client in (state, other, state)]
        with ThreadPoolExecutor(3) as pool:
            reading = [pool.submit(soon, follower, 100) for follower in followers]
            for number in range(100):
                (state, other)[number % 2].append("log", [b"%d" % number], MANY, LONG_S)
            assert [it.result(SOON_S) for it in reading] == [numbered(0, 100)] * 3

    def test_all_see_one_order_of_what_many_add_at_once(
        self, state: SharedState, other: SharedState, follow: Follow
    ) -> None:
        followers = [follow(by=client) for client in (state, other)]

        def append(at: int) -> None:
            for number in range(20):
                (state, other)[at % 2].append("log", [b"%d-%d" % (at, number)], MANY, LONG_S)

        all_at_once(4, append)
        one, two = (soon(follower, 80) for follower in followers)
        assert one == two
        for at in range(4):
            assert [it for it in one if it.startswith(b"%d-" % at)] == [b"%d-%d" % (at, it) for it in range(20)]

    # -- what is kept ------------------------------------------------------------------------------

    def test_a_log_keeps_the_last_entries_or_a_few_more(self, state: SharedState, follow: Follow) -> None:
        for at in range(0, 1000, 20):
            state.append("log", numbered(at, at + 20), 100, LONG_S)
        kept = now_there(follow(from_start=True))
        assert 100 <= len(kept) <= 250
        assert kept == numbered(1000 - len(kept), 1000)

    def test_who_falls_behind_goes_on_with_the_oldest_entry_there_is(self, state: SharedState, follow: Follow) -> None:
        follower = follow()
        state.append("log", numbered(0, 10), 100, LONG_S)
        assert len(soon(follower, 10)) == 10
        state.append("log", numbered(10, 2000), 100, LONG_S)
        rest = now_there(follower)
        assert 100 <= len(rest) <= 250
        assert rest == numbered(2000 - len(rest), 2000)

    def test_a_log_vanishes_some_time_after_its_last_entry(
        self, state: SharedState, follow: Follow, clock: Clock
    ) -> None:
        follower = follow()
        for number in range(3):
            state.append("log", [b"%d" % number], MANY, self.expires_s)
            clock.advance(self.expires_s * 0.6)
        assert now_there(follow(from_start=True)) == numbered(0, 3)
        clock.advance(self.expires_s * 0.4 + 0.05)
        assert now_there(follow(from_start=True)) == []
        assert now_there(follower) == []
        state.append("log", [b"new"], MANY, LONG_S)
        assert soon(follower) == [b"new"]
        assert now_there(follow(from_start=True)) == [b"new"]

    # -- waiting -----------------------------------------------------------------------------------

    def test_reading_returns_nothing_at_the_deadline(self, follow: Follow) -> None:
        deadline = time.monotonic() + 0.05
        assert follow().read(deadline) == []
        assert time.monotonic() >= deadline

    def test_a_follower_that_waits_is_woken_by_what_another_client_adds(
        self, other: SharedState, follow: Follow
    ) -> None:
        follower = follow()
        with ThreadPoolExecutor(1) as pool:
            for number in range(5):
                reading = pool.submit(follower.read, None)
                other.append("log", [b"%d" % number], MANY, LONG_S)
                assert reading.result(SOON_S) == [b"%d" % number]

    def test_interrupt_ends_a_read_that_waits(self, state: SharedState, follow: Follow) -> None:
        follower = follow()
        with ThreadPoolExecutor(1) as pool:
            for number in range(3):
                reading = pool.submit(follower.read, None)
                follower.interrupt()
                assert reading.result(SOON_S) == []
                state.append("log", [b"%d" % number], MANY, LONG_S)
                assert soon(follower) == [b"%d" % number]

    def test_interrupt_ends_the_next_read_once(self, state: SharedState, follow: Follow) -> None:
        follower = follow()
        follower.interrupt()
        follower.interrupt()
        state.append("log", [b"1"], MANY, LONG_S)
        assert follower.read(None) == []
        assert follower.read(None) == [b"1"]

    def test_what_comes_between_two_reads_is_not_missed(self, state: SharedState, follow: Follow) -> None:
        follower, done = follow(), threading.Event()

        def append() -> None:
            for number in range(200):
                state.append("log", [b"%d" % number], MANY, LONG_S)
            done.set()

        got: list[bytes] = []
        with ThreadPoolExecutor(1) as pool:
            appending = pool.submit(append)
            while not done.is_set():
                got += follower.read(time.monotonic() + 0.001)
            appending.result(SOON_S)
        assert got + now_there(follower) == numbered(0, 200)

    def test_a_follower_may_be_closed_again(self, follow: Follow) -> None:
        for deadline in (None, time.monotonic()):
            follower = follow()
            if deadline is not None:
                follower.read(deadline)
            follower.close()
            follower.close()
