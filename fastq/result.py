"""AsyncResult: the caller's handle on what a task comes to."""

from __future__ import annotations

import time
import uuid
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from .encoder import decode
from .errors import ConfigurationError, ResultTimeout
from .failure import Failure
from .outcome import Outcome, State

if TYPE_CHECKING:
    from .app import FastQ

R = TypeVar("R")


class AsyncResult(Generic[R]):
    """The result of one task, wherever it is by now. Cheap to make from an id, in any process."""

    def __init__(self, id: str, app: FastQ, *, ignored: bool = False, outcome: Outcome | None = None) -> None:
        self.id = id
        self._app = app
        self._ignored = ignored
        self._final = outcome

    def __repr__(self) -> str:
        return f"<AsyncResult {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncResult) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    # -- looking, without waiting ---------------------------------------------------------------

    @property
    def state(self) -> State:
        """The task's state by the backend; PENDING is also what nobody has heard of."""
        outcome = self._look()
        return State.PENDING if outcome is None else outcome.state

    @property
    def status(self) -> State:
        """The same as `state`."""
        return self.state

    def ready(self) -> bool:
        """Return whether the task has ended, well or not."""
        return self.state.terminal

    def successful(self) -> bool:
        """Return whether the task has ended and returned a value."""
        return self.state is State.SUCCESS

    def failed(self) -> bool:
        """Return whether the task has ended without returning a value."""
        return self.state.terminal and not self.successful()

    @property
    def result(self) -> R | BaseException | None:
        """The return value, or the exception, or None while there is neither."""
        outcome = self._look()
        if outcome is None or not outcome.state.terminal or self._ignored:
            return None
        return self._value(outcome) if outcome.state is State.SUCCESS else Failure.decode(outcome.body).exception()

    @property
    def traceback(self) -> str | None:
        """The remote traceback of a task that failed."""
        outcome = self._look()
        failed = outcome is not None and outcome.state.terminal and outcome.state is not State.SUCCESS
        return Failure.decode(outcome.body).traceback or None if outcome is not None and failed else None

    @property
    def finished_at(self) -> datetime | None:
        """When the task ended, in UTC."""
        outcome = self._look()
        if outcome is None or not outcome.finished_at:
            return None
        return datetime.fromtimestamp(outcome.finished_at / 1e6, timezone.utc)

    # -- waiting -----------------------------------------------------------------------------------

    def get(self, timeout: float | None = None) -> R:
        """Wait for the task to end and return its value, or raise its exception with the remote traceback.

        Raises ResultTimeout after `timeout` seconds, TaskLost, TaskRevoked, DeadLettered, RemoteError for an
        exception type that is not known here, and BackendUnavailable.
        """
        if self._ignored:
            raise ConfigurationError(f"Task {self.id} was sent with ignore_result: there is nothing to wait for")
        if self._final is None:
            self._final = self._await(timeout)
        if self._final.state is not State.SUCCESS:
            raise Failure.decode(self._final.body).exception()
        return self._value(self._final)

    def wait(self, timeout: float | None = None) -> R:
        """The same as `get`."""
        return self.get(timeout)

    def forget(self) -> None:
        """Delete the result, at the backend and here."""
        self._app.backend.forget([self._key])
        self._final = None

    # -- steps ----------------------------------------------------------------------------------------

    def _await(self, timeout: float | None) -> Outcome:
        deadline = None if timeout is None else time.monotonic() + timeout
        for outcome in self._app.backend.wait([self._key], deadline):
            return outcome
        raise ResultTimeout(f"Task {self.id} has not ended within {timeout} s")

    def _look(self) -> Outcome | None:
        if self._final is not None:
            return self._final
        outcome = self._app.backend.load([self._key])[0]
        if outcome is not None and outcome.state.terminal:
            self._final = outcome
        return outcome

    def _value(self, outcome: Outcome) -> R:
        value: Any = decode(outcome.body, outcome.content_type, self._app.settings.accept)
        return cast("R", value)

    @property
    def _key(self) -> bytes:
        return uuid.UUID(self.id).bytes
