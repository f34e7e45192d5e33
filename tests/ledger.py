"""What tests wait for and look at: the ledger of what tasks did, and whether processes live."""

import time
from collections.abc import Callable

from fastq.testing.faults import Ledger, alive, children_of

__all__ = ["Ledger", "alive", "children_of", "eventually"]


def eventually(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until a condition holds; fail when it has not within `seconds`."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "it never came true"
        time.sleep(0.01)
