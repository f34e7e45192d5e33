"""Progress: what a task says of how far it is, kept in the shared state for whoever looks."""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import orjson

from .errors import FastQError

if TYPE_CHECKING:
    from .app import FastQ
    from .current import Run
    from .outcome import Outcome
    from .state import SharedState

logger = logging.getLogger("fastq.progress")

_FAMILY = "progress"
_EVERY_S = 0.1
_LONGEST_NOTE = 1_000


class Progress(NamedTuple):
    """How far a task is, in units of its own."""

    done: float
    total: float | None = None  # None: nobody knows
    note: str = ""


def report(run: Run, progress: Progress) -> None:
    """Keep what a running task says. Raises NotSupported, StateUnavailable, TypeError, ValueError."""
    _check(progress)
    writer = _writer_of(run.app)
    if not run.reports:
        run.reports = True
        id = run.message.uuid

        def flush(_: Outcome) -> None:
            writer.flush(id)

        run.finally_call(flush, blocks=True)
    writer.write_soon(run.message.uuid, orjson.dumps(list(progress)))


def progress_of(app: FastQ, id: str) -> Progress | None:
    """Return what a task last said; None if nothing is known. Raises NotSupported, StateUnavailable."""
    (value,) = app.state.get(_FAMILY, [id])
    return None if value is None else Progress(*orjson.loads(value))


class _Writer:
    """Writes what the tasks of one app say in this process, in a thread that is there while there is need.

    So a task never waits for the state, and however often it speaks, the state is written ten times a second.
    """

    def __init__(self, state: SharedState, expires_s: float) -> None:
        self._state = state
        self._expires_s = expires_s
        self._lock = threading.Lock()
        self._writing = threading.Lock()  # so that what is older is not written over what is newer
        self._said: dict[str, bytes] = {}
        self._thread: threading.Thread | None = None

    def write_soon(self, id: str, value: bytes) -> None:
        with self._lock:
            self._said[id] = value
            if self._thread is None or not self._thread.is_alive():  # it is dead in a forked process
                self._thread = threading.Thread(target=self._run, name="fastq-progress", daemon=True)
                self._thread.start()

    def flush(self, id: str) -> None:
        """Write what a task has said last, if that has not happened yet."""
        with self._writing:
            with self._lock:
                value = self._said.pop(id, None)
            if value is not None:
                self._write({id: value})

    def _run(self) -> None:
        while True:
            with self._writing:
                with self._lock:
                    said, self._said = self._said, {}
                    if not said:
                        self._thread = None
                        return
                self._write(said)
            time.sleep(_EVERY_S)

    def _write(self, said: dict[str, bytes]) -> None:
        try:
            self._state.put(_FAMILY, said, self._expires_s)
        except FastQError as error:
            logger.warning("The progress of %d tasks could not be kept: %s", len(said), error)


_making_writer = threading.Lock()
_writers: WeakKeyDictionary[FastQ, tuple[SharedState, _Writer]] = WeakKeyDictionary()


def _writer_of(app: FastQ) -> _Writer:
    state = app.state
    with _making_writer:
        known, writer = _writers.get(app, (None, None))
        if writer is None or known is not state:  # it is another one after the app was closed
            writer = _Writer(state, app.settings.result_expires_s)
            _writers[app] = state, writer
        return writer


def _check(progress: Progress) -> None:
    numbers: tuple[tuple[str, Any], ...] = (("done", progress.done), ("total", progress.total))
    for what, number in numbers:
        if what == "total" and number is None:
            continue
        if type(number) not in (int, float):
            raise TypeError(f"{what} is {number!r:.60}; it takes a number")
        if not 0 <= number < math.inf:
            raise ValueError(f"{what} is {number!r}; it takes a number that is not negative")
    if not isinstance(progress.note, str):
        raise TypeError(f"note is {progress.note!r:.60}; it takes text")
    if len(progress.note) > _LONGEST_NOTE:
        raise ValueError(f"note has {len(progress.note)} characters; it takes up to {_LONGEST_NOTE}")
