"""What the parts of the suite of shared state have in common: its fixtures, and how tests use threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from fastq.state import SharedState
from fastq.testing.clocks import Clock, RealClock

T = TypeVar("T")

#: Long enough for any system to answer, and never waited for in full when all is well.
SOON_S = 20.0


def all_at_once(count: int, do: Callable[[int], T]) -> list[T]:
    """Return what `do` of 0, 1, … returns in as many threads."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(do, range(count)))


class StateCase:
    """The fixtures: a subclass overrides `state` and `other`, and `clock` where it can."""

    #: How long things last in the tests that wait for their end. With a clock moved by hand it may be long.
    expires_s = 0.3

    @pytest.fixture
    def state(self) -> SharedState:
        """Override: an open state with nothing in it."""
        raise NotImplementedError("a subclass gives the state")

    @pytest.fixture
    def other(self, state: SharedState) -> SharedState:
        """Override: another client of the same state."""
        raise NotImplementedError("a subclass gives another client")

    @pytest.fixture
    def clock(self) -> Clock:
        """Override if the clock of the state can be moved by hand."""
        return RealClock()
