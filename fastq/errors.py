"""Every error that fastq raises, in one tree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about a wrong name: the right one that is nearest to it, or else all there are."""
    from difflib import get_close_matches  # only those who err pay for it

    names = sorted(known)
    near = get_close_matches(name, names, 1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names) or 'none'}"


class FastQError(Exception):
    """The root: catch this to catch whatever fastq raises on purpose."""


# -- configuration ---------------------------------------------------------------------------


class ConfigurationError(FastQError):
    """Raised when a setting, URL, app path or declaration can't be used as it is written."""


class UnknownSetting(ConfigurationError):
    """Raised when a setting's name is not one that fastq has."""


class UnknownScheme(ConfigurationError):
    """Raised when a broker or backend URL names a system that fastq doesn't know."""


class MissingExtra(ConfigurationError):
    """Raised when a feature needs a library that is not installed; the message names the extra."""


class AppNotFound(ConfigurationError):
    """Raised when an app path leads to no app, or to more than one."""


class NotSupported(ConfigurationError):
    """Raised when something is asked of a system that it declares it can't do."""


# -- bytes and values ------------------------------------------------------------------------


class ProtocolError(FastQError):
    """Raised when bytes are neither of fastq's envelopes, or break its rules."""


class SealBroken(ProtocolError):
    """Raised when a signature is missing where one is asked for, or is not good, or is not for this."""


class EncodingError(FastQError):
    """Raised when a value can't be carried by the serializer, or bytes can't be read by it."""


class UnknownSerializer(EncodingError):
    """Raised when no serializer is registered under a name or content type."""


class SerializerRefused(EncodingError):
    """Raised when a serializer exists, but the app doesn't accept it."""


# -- brokers and backends --------------------------------------------------------------------


class BrokerError(FastQError):
    """Raised when a broker refuses or fails; the task was not accepted unless said otherwise."""


class BrokerUnavailable(BrokerError):
    """Raised when the broker can't be reached or used; trying again later may help."""


class BrokerFull(BrokerError):
    """Raised when the broker has no room for another message."""


class PublishUnknown(BrokerError):
    """Raised when the connection broke before the broker's answer: the task may or may not run."""


class LeaseLost(BrokerError):
    """Raised when a subscription's lease has ended: its messages may be in other hands by now."""


class BackendError(FastQError):
    """Raised when a result backend refuses or fails."""


class BackendUnavailable(BackendError):
    """Raised when the backend can't be reached or used; trying again later may help."""


class StateUnavailable(FastQError):
    """Raised when the shared state can't be reached or used; trying again later may help."""


# -- tasks and results -----------------------------------------------------------------------


class TaskError(FastQError):
    """The root of what a caller may get instead of a task's return value."""


class UnknownTask(TaskError):
    """Raised when a message names a task that the app does not have."""


class ResultTimeout(TaskError, TimeoutError):
    """Raised when a result did not arrive by the caller's deadline; the task may still run."""


class WaitRefused(TaskError):
    """Raised when a task waits for another one, which may be the one that needs its place to run."""


class RemoteError(TaskError):
    """Raised at the caller for an exception whose type the caller has not registered.

    ``type_name`` is the dotted name of the remote type and ``message`` its text. The type is never
    imported because a message names it.
    """

    def __init__(self, type_name: str, message: str) -> None:
        super().__init__(type_name, message)  # so that it can be pickled, and pass through a second task
        self.type_name = type_name
        self.message = message

    def __str__(self) -> str:
        return f"{self.type_name}: {self.message}" if self.message else self.type_name


class RemoteTraceback(FastQError):
    """The cause of a re-raised remote exception: its text is the traceback from the worker."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}" if self.args else ""


class TaskLost(TaskError):
    """Raised at the caller when the process running the task died and the task will not run again."""


class TaskRevoked(TaskError):
    """Raised at the caller when the task was revoked or had expired before it could start."""


class Retry(TaskError):
    """Raised by `Task.retry` to end this attempt and begin another later; not to be caught.

    ``due`` is when, in microseconds since the epoch.
    """

    def __init__(self, message: str, due: int = 0) -> None:
        super().__init__(message)
        self.due = due


class MaxRetriesExceeded(TaskError):
    """Raised when a task asks to be tried again, and has been tried as often as it may be."""


class SoftTimeLimitExceeded(TaskError):
    """Raised within a task that runs past its soft time limit; it may be caught to clean up."""


class Interrupted(TaskError):
    """Raised within an interruptible task when its worker stops; it may be caught to save something, and raised again.

    A task that it leaves, or that raises it itself once `current_task.stopping`, goes back to its queue, uncharged.
    """


class TimeLimitExceeded(TaskError):
    """Raised at the caller when the task was broken off at its time limit."""


class DuplicateTask(TaskError):
    """Raised when a unique task is not accepted, because another one of its kind is there already."""


class UpstreamFailed(TaskError):
    """Raised at the caller when a task did not run because one failed whose value it needs."""


class DeadLettered(TaskError):
    """Raised at the caller when the task's message went to the dead letters; the text has the reason."""


# -- pools and workers -----------------------------------------------------------------------


class UnknownWorker(FastQError):
    """Raised when a command is meant for a worker that is not there."""


class CommandFailed(FastQError):
    """Raised when a worker could not do what it was told.

    ``errors`` has the reasons by worker, and ``replies`` the answers of those that could.
    """

    def __init__(self, command: str, errors: Mapping[str, str], replies: Mapping[str, Any]) -> None:
        super().__init__(command, errors, replies)
        self.command = command
        self.errors = dict(errors)
        self.replies = replies

    def __str__(self) -> str:
        return f"{self.command}: " + "; ".join(f"{worker} answers: {error}" for worker, error in self.errors.items())


class WorkerStuck(FastQError):
    """Raised by a worker that ends itself, because a part of it hangs and did not come back when it was reconnected."""


class PoolError(FastQError):
    """Raised when a pool can't start or go on."""


class AppImportError(PoolError):
    """Raised when the user's app raised while it was imported; ``traceback`` has the remote text."""

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback
