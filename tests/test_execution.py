"""Running a message's task: whatever the message holds and the user's code does, there is an outcome."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastq import FastQ, Serializer, State, current_task, execution, register_serializer
from fastq._speedups import glance_call
from fastq.current import running
from fastq.errors import TaskError
from fastq.execution import answer, execute
from fastq.failure import Failure
from fastq.message import Message
from fastq.outcome import Outcome


@pytest.fixture(autouse=True)
def no_loop_left(nothing_left_behind: None) -> Iterator[None]:
    """Close the loop that stays open for the next task of a child."""
    yield
    if loop := getattr(execution._local, "loop", None):
        loop.close()
        del execution._local.loop


def call(task: str, body: bytes = b"[[],{}]", **fields: Any) -> Message:
    return Message(bytes(15) + b"\1", task, "default", body, **fields)


def failure(outcome: Outcome) -> Failure:
    return Failure.decode(outcome.body)


def test_a_value_is_returned_in_the_serializer_of_the_task(app: FastQ) -> None:
    app.task(name="add", serializer="msgpack")(lambda x, y: x + y)

    outcome = execute(app, call("add", b'[[4],{"y":4}]', attempt=3))

    assert (outcome.state, outcome.body, outcome.content_type) == (State.SUCCESS, b"\x08", "application/msgpack")
    assert (outcome.id, outcome.attempt) == (bytes(15) + b"\1", 3)
    assert 0 < outcome.started_at <= outcome.finished_at


def test_an_ignored_result_is_not_encoded(app: FastQ) -> None:
    app.task(name="make")(object)

    assert execute(app, call("make", ignore_result=True)).body == b""


@pytest.mark.parametrize(
    "name", ["os.system", "builtins.exec", "__main__.x", "a/../b", "tests.test_execution.call", "аdd"]
)
def test_a_task_that_is_not_registered_is_refused_and_nothing_is_imported_or_called(app: FastQ, name: str) -> None:
    app.task(name="add")(lambda: None)

    outcome = execute(app, call(name))

    assert outcome.state is State.REFUSED
    assert failure(outcome).type_name == "fastq.errors.UnknownTask"


@pytest.mark.parametrize(
    ("body", "content_type", "type_name"),
    [
        (b"", "application/json", "EncodingError"),
        (b"{", "application/json", "EncodingError"),
        (b"[" * 100_000, "application/json", "EncodingError"),
        (b"{}", "application/json", "ProtocolError"),
        (b"null", "application/json", "ProtocolError"),
        (b"[[]]", "application/json", "ProtocolError"),
        (b"[[],{},{}]", "application/json", "ProtocolError"),
        (b"[{},[]]", "application/json", "ProtocolError"),
        (b'["ab",{}]', "application/json", "ProtocolError"),
        (b"\x92\x90\x81\x01\x02", "application/msgpack", "ProtocolError"),
        (b"\x80\x04cos\nsystem\n(S'touch canary'\ntR.", "application/x-pickle", "SerializerRefused"),
        (b"[[],{}]", "text/html", "UnknownSerializer"),
    ],
)
def test_a_body_that_is_no_pair_of_arguments_is_refused(
    app: FastQ, body: bytes, content_type: str, type_name: str
) -> None:
    app.task(name="any")(lambda *args, **kwargs: None)

    outcome = execute(app, call("any", body, content_type=content_type))

    assert (outcome.state, failure(outcome).type_name) == (State.REFUSED, f"fastq.errors.{type_name}")


@given(st.binary(max_size=60) | st.lists(st.lists(st.none()) | st.dictionaries(st.text(), st.none())).map(orjson.dumps))
def test_any_body_comes_to_an_outcome(body: bytes) -> None:
    app = FastQ(broker="memory://")
    app.task(name="any")(lambda *args, **kwargs: None)

    for content_type in ("application/json", "application/msgpack"):
        assert execute(app, call("any", body, content_type=content_type)).state in (State.SUCCESS, State.REFUSED)


class Nasty(BaseException):
    @property
    def args(self) -> Any:  # type: ignore[override]
        raise SystemExit

    def __str__(self) -> str:
        raise SystemExit

    __repr__ = __str__


@pytest.mark.parametrize(
    "error",
    [ValueError(), SystemExit(1), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError(), Nasty()],
    ids=type,
)
def test_whatever_a_task_raises_is_a_failure(app: FastQ, error: BaseException) -> None:
    @app.task(name="fail")
    def fail() -> None:
        raise error

    @app.task(name="fail_later")
    async def fail_later() -> None:
        await asyncio.sleep(0)
        raise error

    assert [execute(app, call(name)).state for name in ("fail", "fail_later")] == [State.FAILURE, State.FAILURE]


def test_a_task_that_never_stops_calling_itself_is_a_failure(app: FastQ) -> None:
    def deeper() -> None:
        deeper()

    app.task(name="deep")(deeper)

    assert failure(execute(app, call("deep"))).type_name == "RecursionError"


def test_the_traceback_begins_in_the_task(app: FastQ) -> None:
    app.task(name="fail")(lambda: 1 / 0)

    lines = failure(execute(app, call("fail"))).traceback.splitlines()

    assert lines[0] == "Traceback (most recent call last):"
    assert __file__ in lines[1]


def test_a_coroutine_is_run_to_its_value_on_one_loop(app: FastQ) -> None:
    @app.task(name="loop")
    async def loop() -> list[Any]:
        await asyncio.sleep(0)
        return [id(asyncio.get_running_loop()), current_task.name]

    @app.task(name="wrapped")
    def wrapped() -> Any:
        return loop.function()

    values = [orjson.loads(execute(app, call(name)).body) for name in ("loop", "loop", "wrapped")]

    assert len({value[0] for value in values}) == 1, "connections that a task keeps stay usable"
    assert [value[1] for value in values] == ["loop", "loop", "wrapped"]


def test_a_task_is_current_only_while_it_runs(app: FastQ) -> None:
    app.task(name="inner")(lambda: current_task.name)

    @app.task(name="outer")
    def outer() -> list[str]:
        inner = app.tasks["inner"].apply().get()
        return [inner, current_task.name]

    assert orjson.loads(execute(app, call("outer")).body) == ["inner", "outer"]
    with pytest.raises(TaskError):
        _ = current_task.name


# -- apply ------------------------------------


def test_applying_a_task_runs_it_here_by_way_of_both_frames(app: FastQ) -> None:
    seen = []

    @app.task(name="shape")
    def shape(value: object) -> object:
        seen.append(value)
        return (value,)

    result = shape.apply(((1, 2),))

    assert seen == [[1, 2]], "a tuple arrives as a list, as it does in a worker"
    assert result.get() == [[1, 2]]
    assert (result.state, result.ready(), app.broker.depth("default")) == (State.SUCCESS, True, 0)


def test_applying_a_task_that_raises_keeps_the_exception_for_get(app: FastQ) -> None:
    result = app.task(name="fail")(lambda: 1 / 0).apply()

    assert result.failed()
    with pytest.raises(ZeroDivisionError):
        result.get()


def test_applying_a_coroutine_within_a_loop_is_a_failure_that_says_so(app: FastQ) -> None:
    @app.task(name="loop")
    async def loop() -> None: ...

    async def main() -> Any:
        return loop.apply()

    with warnings.catch_warnings(), contextlib.closing(asyncio.new_event_loop()) as running:
        warnings.simplefilter("error")
        result = running.run_until_complete(main())

    with pytest.raises(RuntimeError, match="another loop is running"):
        result.get()


# -- the short way ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ignore_result", [False, True])
@pytest.mark.parametrize("argument", [7, "text", None, "fail", "unsayable", "leave", "retry"])
def test_the_short_way_ends_as_the_long_one_does(app: FastQ, argument: object, ignore_result: bool) -> None:
    @app.task(name="plain", autoretry_for=(LookupError,), default_retry_delay=0, ignore_result=ignore_result)
    def plain(value: object) -> object:
        seen.append((current_task.id, current_task.attempt))
        if value == "fail":
            raise ValueError("no luck")
        if value == "leave":
            raise SystemExit(3)
        if value == "retry":
            raise KeyError("later")
        return {1} if value == "unsayable" else value

    seen: list[tuple[str, int]] = []
    message = plain._call((argument,), None).message(app.settings)
    assert plain.is_plain
    glance = glance_call(message.encode())
    assert glance is not None

    short = answer(app, plain, message.encode(), glance)
    one = Outcome.decode(short) if isinstance(short, bytes) else short
    other = execute(app, message)

    assert seen == [(message.uuid, 1)] * 2
    assert isinstance(short, bytes) == (other.state is State.SUCCESS)
    assert (one.id, one.state, one.content_type, one.attempt) == (
        other.id, other.state, other.content_type, other.attempt,
    )  # fmt: skip
    if one.state is State.SUCCESS:
        assert one.body == other.body
    else:
        assert Failure.decode(one.body)[:3] == Failure.decode(other.body)[:3]
    assert one.started_at <= one.finished_at


@pytest.mark.parametrize("body", [b"", b"[[1]]", b"[1,{}]", b'[[1],{"a":1,2:3}]', b"not json"])
def test_a_body_that_can_not_be_read_is_refused_by_the_short_way_too(app: FastQ, body: bytes) -> None:
    @app.task(name="plain")
    def plain(value: object) -> object:
        raise AssertionError("it must not run")

    message = plain._call((1,), None).message(app.settings)._replace(body=body)
    glance = glance_call(message.encode())
    assert glance is not None

    ended = answer(app, plain, message.encode(), glance)

    assert isinstance(ended, Outcome)
    assert ended.state is State.REFUSED


def test_what_a_task_leaves_to_be_done_afterwards_is_done_on_the_short_way_too(app: FastQ) -> None:
    @app.task(name="plain")
    def plain() -> int:
        run = running.get()
        assert run is not None
        run.finally_call(ends.append)
        return 8

    ends: list[Outcome] = []
    frame = plain._call((), None).message(app.settings).encode()
    glance = glance_call(frame)
    assert glance is not None

    ended = answer(app, plain, frame, glance)

    assert ends == [ended]
    assert isinstance(ended, Outcome)
    assert (ended.state, ended.body) == (State.SUCCESS, b"8")


def test_a_task_that_asks_for_something_special_is_not_plain(app: FastQ) -> None:
    @app.task(name="limited", soft_time_limit=1.0)
    def limited() -> None: ...

    register_serializer(Serializer("ours", "application/x-ours", lambda value: b"", lambda data: None))
    app.settings = replace(app.settings, accept=("json", "ours"))

    @app.task(name="foreign", serializer="ours")
    def foreign() -> None: ...

    assert not limited.is_plain
    assert not foreign.is_plain
