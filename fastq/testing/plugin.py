"""The pytest plugin: the fixture ``fastq_kit``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from fastq.app import FastQ
from fastq.testing.kit import Kit


@pytest.fixture
def fastq_kit() -> Iterator[Callable[[FastQ], Kit]]:
    """Return what puts an app on a `Kit` until the test ends: ``kit = fastq_kit(app)``."""
    with ExitStack() as stack:
        yield lambda app: stack.enter_context(Kit(app))
