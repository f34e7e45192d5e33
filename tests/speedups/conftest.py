"""Each test that asks for `channels`, `frames` or `new_id` runs on both bodies, in one process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from .crew import Crew, body


@pytest.fixture(params=["c", "py"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def frames(kind: str) -> ModuleType:
    return body(kind, "frames")


@pytest.fixture
def new_id(kind: str) -> Callable[[], bytes]:
    return body("c", "frames").new_id if kind == "c" else body("py", "ids").new_id


@pytest.fixture
def channels(kind: str) -> ModuleType:
    return body(kind, "channel")


@pytest.fixture
def crew(channels: ModuleType) -> Iterator[Callable[..., Crew]]:
    """Make a crew on the body under test; it is killed when the test is over."""
    crews: list[Crew] = []

    def make(children: int = 2, capacity: int = 100, **options: Any) -> Crew:
        crews.append(Crew(channels, children, capacity, **options))
        return crews[-1]

    yield make
    for one in crews:
        for pid in one.pids.values():
            os.kill(pid, signal.SIGCONT)
        one.close()
