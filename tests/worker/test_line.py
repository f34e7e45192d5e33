"""The line before a limit: who was refused asks again in time, and not too often."""

from __future__ import annotations

import pytest

from fastq.worker.line import Line


def returns(line: Line, count: int, now: float = 100.0) -> list[float]:
    """Return when each of many that are refused at the same moment comes back."""
    return [now + line.wait(now) for _ in range(count)]


def test_the_first_comes_back_soon() -> None:
    assert Line(100.0).wait(100.0) <= 0.1


def test_the_pause_grows_with_the_time_in_which_nothing_started_up_to_a_bound() -> None:
    line = Line(100.0)
    pauses = [line.wait(now) for now in (100.0, 104.0, 108.0, 116.0)]
    assert pauses == sorted(pauses)
    assert line.wait(200.0) <= Line.LONGEST_S * 1.25 + Line.TICK_S
    line.started(1, 300.0)
    assert line.wait(300.0) < 0.2


def test_many_come_back_one_after_the_other_and_none_too_late() -> None:
    moments = returns(Line(100.0), 100_000)
    first_second = sum(moment < 101.0 for moment in moments)
    assert 200 <= first_second <= 500, "as many as may start, by the first guess, and some more"
    assert max(moments) <= 100.0 + Line.FURTHEST_S + Line.TICK_S


@pytest.mark.parametrize("a_second", [1, 50, 1000])
def test_the_more_start_the_more_come_back(a_second: int) -> None:
    line = Line(0.0)
    for tick in range(1, 1001):
        line.started(a_second, tick / 1.0) if a_second == 1 else line.started(a_second // 50, tick / 50)
    now = 1000.0 if a_second == 1 else 20.0
    soon = sum(moment < now + 2.0 for moment in returns(line, 20_000, now))
    assert soon >= min(20_000, 2 * a_second), "or else slots would be idle"
    assert soon <= max(100, 3 * Line.EAGER * a_second), "or else it would be for nothing"


def test_those_who_come_back_later_come_many_at_once() -> None:
    line = Line(100.0)
    moments = [moment for moment in returns(line, 1_000, now=120.0) if moment > 121.0]
    assert len(set(moments)) <= (max(moments) - min(moments)) / Line.TICK_S + 2


def test_a_least_wait_is_kept() -> None:
    line = Line(100.0)
    waits = [line.wait(100.0, least_s=10.0) for _ in range(1_000)]
    assert min(waits) >= 7.5
    assert max(waits) <= Line.FURTHEST_S + Line.TICK_S


def test_a_line_is_over_when_nobody_is_in_it_and_nothing_has_started_for_long() -> None:
    line = Line(100.0)
    line.wait(100.0)
    assert not line.is_over(100.0)
    assert line.is_over(200.0)
    line.started(1, 198.0)
    assert not line.is_over(200.0)
