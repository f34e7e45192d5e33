"""The lanes: how many messages are fetched when some can't run here now, and which go back."""

from __future__ import annotations

import pytest

from fastq.broker import Delivery
from fastq.message import Message
from fastq.pool import TaskInfo
from fastq.worker.lanes import Lanes
from fastq.worker.triage import Flight


def flights(kinds: str) -> list[Flight]:
    """Return flights of sync (s) and async (a) tasks."""
    return [
        Flight(
            Delivery(b"", "default", n, 1), Message(b"", "t", "default", b""), b"", TaskInfo("t", is_async=each == "a")
        )
        for n, each in enumerate(kinds)
    ]


def kinds_of(found: list[Flight]) -> str:
    return "".join("sa"[flight.lane] for flight in found)


def test_one_lane_has_the_room_of_its_window() -> None:
    lanes = Lanes([4], most=100)
    assert [lanes.room([held], 0.0) for held in (0, 3, 4, 5)] == [4, 1, 0, 0]


def test_what_there_is_no_room_for_goes_back() -> None:
    lanes = Lanes([2, 3], most=100)
    fitting, surplus = lanes.sift(flights("sssaaaas"), [1, 0], 0.0)
    assert (kinds_of(fitting), kinds_of(surplus)) == ("saaa", "ssas")


def test_fetches_follow_the_mix_of_what_comes() -> None:
    lanes = Lanes([2, 100], most=1000)
    assert lanes.room([0, 0], 0.0) == 4  # nothing is known: half and half
    for _ in range(20):
        lanes.sift(flights("a" * 16), [0, 0], 0.0)
    assert lanes.room([0, 0], 0.0) >= 100
    for _ in range(40):
        lanes.sift(flights("s" * 2), [0, 0], 0.0)
    assert lanes.room([0, 0], 0.0) == 2
    assert lanes.room([1, 0], 0.0) == 1


def test_while_a_lane_is_full_it_is_looked_ever_farther_and_more_rarely_for_the_other() -> None:
    lanes = Lanes([2, 100], most=1000)
    now, looks, waits = 0.0, [], []
    for _ in range(6):
        began = now
        while not (look := lanes.room([2, 0], now)):
            now += 0.01
        looks.append(look)
        waits.append(round(now - began, 1))
        lanes.sift(flights("s" * look), [2, 0], now)
    assert looks == [16, 32, 64, 128, 256, 256]
    assert waits == pytest.approx([0, 0.1, 0.2, 0.4, 0.8, 1.0], abs=0.05)
    lanes.sift(flights("ssa"), [2, 0], now)
    assert lanes.room([2, 1], now + 0.11) == 256
    lanes.sift(flights("a"), [2, 1], now)
    assert lanes.room([2, 2], now) == 16


def test_when_all_lanes_are_full_nothing_is_fetched() -> None:
    assert Lanes([2, 3], most=100).room([2, 3], 0.0) == 0


def test_a_window_with_some_to_spare_asks_for_more_than_there_are_children() -> None:
    window = Lanes([2], most=100).windows[0]
    window.spare = 1
    assert [window.room(held, 0.0) for held in (0, 2, 3)] == [3, 1, 0]
