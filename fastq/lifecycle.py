"""What an app does when the processes of a worker begin and end: connections opened, caches filled, files closed."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .ending import Ending
from .errors import AppImportError

if TYPE_CHECKING:
    from .app import FastQ

logger = logging.getLogger("fastq.lifecycle")

Step = Callable[[], Any]


class Lifecycle:
    """The functions of an app that are called in a worker's processes, in the order in which they were declared."""

    def __init__(self, app: FastQ) -> None:
        self._app = app
        self.worker_start: list[Step] = []
        self.child_start: list[Step] = []
        self.child_stop: list[Step] = []
        #: Of the worker that this process is part of.
        self.ending = Ending()

    def begin_worker(self) -> None:
        """Call what prepares the process that children are forked from. Raises AppImportError."""
        try:
            for function in self.worker_start:
                function()
        except Exception as error:
            said = f"What the app does on_worker_start failed: {type(error).__name__}: {error}"
            raise AppImportError(said, traceback.format_exc()) from error

    def begin_child(self) -> None:
        """Call what prepares a process that runs tasks. Raises what the user's code raises."""
        for function in [*self.child_start, *(task.on_child_start for task in self._app.tasks.values())]:
            function()

    def end_child(self) -> None:
        """Call what cleans up at the end of a process that ran tasks; in reverse, and whatever it raises is logged."""
        for function in [*(task.on_child_stop for task in self._app.tasks.values()), *reversed(self.child_stop)]:
            try:
                function()
            except Exception:
                logger.exception("A child ends, but what was to be called then failed")
