"""Failures: failpoints that are to fire in other processes, and what is known of those that did."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from fastq import failpoints


class Firing(NamedTuple):
    """A failpoint that fired. `at` is in seconds of the monotonic clock."""

    point: str
    action: str
    role: str
    pid: int
    at: float


class Failures:
    """Owns a folder in which processes note what fired; see `fastq.failpoints` for what can."""

    def __init__(self, folder: Path, text: str, *, seed: int = 0) -> None:
        failpoints.parse(text)  # an error is told here rather than in another process
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self.text = text
        self.seed = seed

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process that is started with it fail."""
        values = self.text, str(self.seed), str(self._folder)
        return dict(zip(failpoints.VARIABLES, values, strict=True))

    def arm(self) -> None:
        """Make this process fail."""
        failpoints.arm(self.text, seed=str(self.seed), folder=str(self._folder))

    def fired(self) -> list[Firing]:
        """Return what fired up to now, in order."""
        notes = self._folder / "fired"
        rows = (row.split() for row in notes.read_text().splitlines()) if notes.exists() else ()
        return [Firing(point, action, role, int(pid), float(at)) for point, action, role, pid, at in rows]
