"""The window: how many messages a worker holds, at rates that are made up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastq.worker.window import Window


def after(window: Window, rate: float, seconds: float, *, batch: int = 1, start: float = 0.0) -> float:
    """Let messages end evenly at a rate; return the time at the end."""
    count = int(seconds * rate / batch)
    for number in range(1, count + 1):
        window.ended(batch, start + number * batch / rate)
    return start + seconds


def test_at_the_start_there_is_one_message_for_each_child() -> None:
    assert Window(children=4, most=1000).size(now=12345.0) == 4


@pytest.mark.parametrize("rate", [0.2, 1, 5])
def test_long_tasks_are_not_held_beyond_the_children_so_that_another_worker_can_have_them(rate: float) -> None:
    window = Window(children=4, most=1000)

    now = after(window, rate, seconds=60)

    assert window.size(now) == 4


@pytest.mark.parametrize("batch", [1, 10, 100])
@pytest.mark.parametrize("rate", [1_000, 10_000])
def test_short_tasks_are_held_for_a_tenth_of_a_second_ahead(rate: int, batch: int) -> None:
    window = Window(children=4, most=100_000)

    now = after(window, rate, seconds=5, batch=batch)

    assert window.size(now) == pytest.approx(4 + rate * 0.1, rel=0.15)


def test_the_window_closes_again_when_nothing_ends() -> None:
    window = Window(children=4, most=100_000)
    now = after(window, 10_000, seconds=5)

    sizes = [window.size(now + seconds) for seconds in (0, 0.5, 1, 2, 10)]

    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] == pytest.approx(sizes[0] / 2.72, rel=0.05)
    assert sizes[-1] == 4


def test_the_window_is_never_wider_than_the_most() -> None:
    window = Window(children=4, most=50)
    now = after(window, 100_000, seconds=1, batch=100)

    assert window.size(now) == 50
    assert Window(children=4, most=2).size(0.0) == 2


@given(st.lists(st.tuples(st.integers(0, 10_000), st.floats(0, 10)), max_size=30))
def test_whatever_ends_when_the_window_is_between_the_children_and_the_most(ends: list[tuple[int, float]]) -> None:
    window = Window(children=2, most=64)
    for count, now in ends:  # not in order: two threads read the clock
        window.ended(count, now)

        assert 2 <= window.size(now) <= 64
