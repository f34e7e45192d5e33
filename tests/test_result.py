"""Results: looking, waiting, and what a caller gets instead of a value."""

from __future__ import annotations

import json
import threading
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from fastq import AsyncResult, FastQ, State, failure
from fastq.errors import (
    ConfigurationError,
    DeadLettered,
    EncodingError,
    RemoteError,
    RemoteTraceback,
    ResultTimeout,
    SerializerRefused,
    TaskLost,
    TaskRevoked,
)
from fastq.failure import Failure
from fastq.outcome import Outcome

if TYPE_CHECKING:
    from tests.conftest import InlineWorker


@pytest.fixture
def tasks(app: FastQ, monkeypatch: pytest.MonkeyPatch) -> FastQ:
    """An app with a task that returns what it is given and one that raises what it is told to."""
    monkeypatch.setattr(failure, "_registered", {})
    app.task(name="echo")(lambda value: value)

    @app.task(name="fail")
    def fail(kind: str) -> None:
        raise ERRORS[kind]

    return app


class Declined(Exception):
    pass


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


ERRORS: dict[str, BaseException] = {
    "builtin": ZeroDivisionError("by 0"),
    "unregistered": Declined("card", 402),
    "unprintable": Unprintable(),
    "surrogate": ValueError("\ud800"),
    "exit": SystemExit(3),
    "interrupt": KeyboardInterrupt(),
}


def stored(app: FastQ, state: State, body: bytes, content_type: str = "application/json") -> AsyncResult[Any]:
    """Return the result of a task of which a backend says so."""
    id = uuid.uuid4()
    app.backend.store([Outcome(id.bytes, state, body, content_type, finished_at=1_000_000)])
    return app.result(str(id))


def test_a_task_that_has_not_run_is_pending(tasks: FastQ) -> None:
    result = tasks.tasks["echo"].delay(8)

    assert (result.state, result.status, result.result, result.traceback) == (State.PENDING, State.PENDING, None, None)
    assert not (result.ready() or result.successful() or result.failed() or result.finished_at)


def test_a_task_that_returned_is_successful_and_has_its_value(tasks: FastQ, worker: InlineWorker) -> None:
    result = tasks.tasks["echo"].delay({"a": [8]})
    worker.run()

    assert result.ready()
    assert result.successful()
    assert not result.failed()
    assert (result.state, result.result, result.traceback) == (State.SUCCESS, {"a": [8]}, None)
    assert result.get() == result.wait(timeout=0) == {"a": [8]}
    assert result.finished_at is not None


def test_a_task_that_raised_has_failed_and_get_raises_its_exception(tasks: FastQ, worker: InlineWorker) -> None:
    result = tasks.tasks["fail"].delay("builtin")
    worker.run()

    assert result.ready()
    assert result.failed()
    assert not result.successful()
    assert isinstance(result.result, ZeroDivisionError)
    with pytest.raises(ZeroDivisionError, match="by 0") as raised:
        result.get()
    assert isinstance(raised.value.__cause__, RemoteTraceback)
    assert result.traceback is not None
    assert "raise ERRORS[kind]" in result.traceback
    assert "execution.py" not in result.traceback, "the frames of fastq itself are left out"


@pytest.mark.parametrize(
    ("kind", "type_name", "text"),
    [
        ("unregistered", "tests.test_result.Declined", "('card', 402)"),
        ("unprintable", "tests.test_result.Unprintable", "<tests.test_result.Unprintable, whose text can't be made>"),
        ("exit", "SystemExit", "3"),
        ("interrupt", "KeyboardInterrupt", ""),
    ],
)
def test_an_exception_that_is_not_known_here_is_a_remote_error(
    tasks: FastQ, worker: InlineWorker, kind: str, type_name: str, text: str
) -> None:
    result = tasks.tasks["fail"].delay(kind)
    worker.run()

    with pytest.raises(RemoteError) as raised:
        result.get()
    assert (raised.value.type_name, raised.value.message) == (type_name, text)
    assert isinstance(raised.value.__cause__, RemoteTraceback)


def test_an_exception_with_a_lone_surrogate_is_told_with_it_escaped(tasks: FastQ, worker: InlineWorker) -> None:
    result = tasks.tasks["fail"].delay("surrogate")
    worker.run()

    with pytest.raises(ValueError, match=r"\\ud800"):
        result.get()


def test_an_exception_that_a_task_says_it_throws_comes_back_as_itself(tasks: FastQ, worker: InlineWorker) -> None:
    @tasks.task(name="pay", throws=[Declined])
    def pay() -> None:
        raise Declined("card", 402)

    result = pay.delay()
    worker.run()

    with pytest.raises(Declined) as raised:
        result.get()
    assert raised.value.args == ("card", 402)


@pytest.mark.parametrize("throws", [[7], ["ValueError"], [int]], ids=repr)
def test_what_a_task_throws_are_exception_types(app: FastQ, throws: Any) -> None:
    with pytest.raises(TypeError, match="is not an exception type"):
        app.task(throws=throws)


@pytest.mark.parametrize("value", [object(), {1}, float("nan"), b"x", 1 << 64, "\ud800"], ids=repr)
def test_a_return_value_that_can_not_be_carried_is_the_task_s_failure(
    app: FastQ, worker: InlineWorker, value: object
) -> None:
    result = app.task(name="make")(lambda: {"a": value}).delay()
    worker.run()

    assert result.state is State.FAILURE
    with pytest.raises(
        EncodingError, match=r"The return value of make can't be carried by json: it\['a'\] is .* of type"
    ):
        result.get()


def test_wrong_arguments_from_elsewhere_are_the_task_s_failure(tasks: FastQ, worker: InlineWorker) -> None:
    result = tasks.send_task("echo", [1, 2, 3])
    worker.run()

    with pytest.raises(TypeError, match="positional argument"):
        result.get()


# -- waiting ------------------------------------


@pytest.mark.parametrize("timeout", [0, 0.01, -1])
def test_waiting_ends_at_the_timeout(tasks: FastQ, timeout: float) -> None:
    result = tasks.tasks["echo"].delay(8)

    with pytest.raises(ResultTimeout, match=f"Task {result.id} has not ended within {timeout} s") as raised:
        result.get(timeout=timeout)
    assert isinstance(raised.value, TimeoutError)


def test_waiting_ends_when_the_task_does(tasks: FastQ, worker: InlineWorker) -> None:
    result = tasks.tasks["echo"].delay(8)
    running = threading.Thread(target=worker.run)
    running.start()

    assert result.get(timeout=30) == 8
    running.join()


def test_there_is_nothing_to_wait_for_where_the_result_is_ignored(tasks: FastQ, worker: InlineWorker) -> None:
    ignored = tasks.tasks["echo"].apply_async((8,), ignore_result=True)
    by_task = tasks.task(name="quiet", ignore_result=True)(lambda: object())
    worker.run()

    for result in (ignored, by_task.delay(), by_task.apply()):
        with pytest.raises(ConfigurationError, match="was sent with ignore_result"):
            result.get()
        assert result.result is None


def test_a_result_is_found_by_its_id_elsewhere(tasks: FastQ, worker: InlineWorker, memory_url: str) -> None:
    result = tasks.tasks["echo"].delay(8)
    worker.run()

    with FastQ("other", broker=memory_url) as elsewhere:
        found = elsewhere.result(result.id.upper())

    assert (found, hash(found), found.get()) == (result, hash(result), 8)
    assert repr(found) == f"<AsyncResult {result.id}>"
    for wrong in ("7", 7, None):
        with pytest.raises(ValueError, match=f"{wrong!r} is not a task id, which is a UUID"):
            tasks.result(wrong)  # type: ignore[arg-type]


def test_a_forgotten_result_is_gone_here_and_at_the_backend(tasks: FastQ, worker: InlineWorker) -> None:
    result = tasks.tasks["echo"].delay(8)
    worker.run()
    assert result.get() == 8

    result.forget()

    assert (result.state, tasks.result(result.id).state) == (State.PENDING, State.PENDING)


# -- what a backend may say ------------------------------------


@pytest.mark.parametrize(
    ("state", "error"), [(State.LOST, TaskLost), (State.REVOKED, TaskRevoked), (State.FAILURE, DeadLettered)]
)
def test_a_task_that_did_not_come_to_its_end_says_why(app: FastQ, state: State, error: type[Exception]) -> None:
    result = stored(app, state, Failure.of(error("this is why")).encode())

    assert (result.state, result.failed(), result.traceback) == (
        state,
        True,
        f"{error.__module__}.{error.__name__}: this is why\n",
    )
    with pytest.raises(error, match="this is why"):
        result.get(timeout=0)


def test_a_task_that_goes_on_has_no_result_yet(app: FastQ) -> None:
    result = stored(app, State.RETRY, Failure.of(ValueError("again")).encode())

    assert (result.state, result.ready(), result.failed(), result.result, result.traceback) == (
        State.RETRY, False, False, None, None,
    )  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"exc_type": "system", "exc_module": "os", "exc_message": "touch canary"}).encode(),
        json.dumps(["os.system", "touch canary", ["touch canary"], ""]).encode(),
        json.dumps(["builtins.exec", "open('canary', 'w')", ["open('canary', 'w')"], ""]).encode(),
        b"\x80\x04cos\nsystem\n(S'touch canary'\ntR.",
    ],
)
def test_a_failure_that_an_intruder_stored_is_raised_and_runs_nothing(app: FastQ, body: bytes, tmp_path: Any) -> None:
    result = stored(app, State.FAILURE, body, "application/x-pickle")

    with pytest.raises((RemoteError, EncodingError)):
        result.get(timeout=0)
    assert not list(tmp_path.iterdir())


def test_a_value_that_an_intruder_pickled_is_refused(app: FastQ, tmp_path: Any) -> None:
    result = stored(app, State.SUCCESS, b"\x80\x04cos\nsystem\n(S'touch canary'\ntR.", "application/x-pickle")

    with pytest.raises(SerializerRefused):
        result.get(timeout=0)
    with pytest.raises(SerializerRefused):
        _ = result.result
    assert not list(tmp_path.iterdir())
