"""Process titles: what ``ps`` and ``top`` show of a worker's processes."""

from __future__ import annotations

from setproctitle import setproctitle


class Title:
    """The title of one process: ``fastq:app:role doing``, set only when it changes.

    There is no space before the role has been said, because the kernel's short name of the process is the title's
    first 15 bytes, and much software that reads it, Python included, stumbles over spaces.
    """

    def __init__(self, app: str, role: str) -> None:
        self._front = f"fastq:{'-'.join(app.split())}:{role}"
        self._doing: str | None = None

    def show(self, doing: str = "") -> None:
        """Say what the process is doing."""
        if doing != self._doing:
            self._doing = doing
            setproctitle(f"{self._front} {doing}" if doing else self._front)
