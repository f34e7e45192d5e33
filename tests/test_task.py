"""Tasks: declaring them, calling them in the background, and every way to ask for what can't be."""

from __future__ import annotations

import functools
import runpy
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import fastq
from fastq import FastQ, Task, current_task
from fastq.broker import Delivery
from fastq.errors import (
    ConfigurationError,
    EncodingError,
    FastQError,
    ProtocolError,
    SerializerRefused,
    TaskError,
    UnknownSerializer,
)
from fastq.message import Message, now_us

ANY_ID = "00112233-4455-6677-8899-aabbccddeeff"


@pytest.fixture
def add(app: FastQ) -> Task[[int, int], int]:
    @app.task
    def add(x: int, y: int = 0) -> int:
        return x + y

    return add


def sent(app: FastQ, *queues: str) -> list[Message]:
    """Take what waits in queues, and is due."""
    subscription = app.broker.subscribe(queues or ("default",), 30.0, {})
    deliveries: list[Delivery] = []
    while more := subscription.fetch(100, 0.0):
        deliveries += more
    return [Message.decode(delivery.frame) for delivery in deliveries]


# -- declaring ------------------------------------


def test_a_task_is_still_the_function(add: Task[[int, int], int]) -> None:
    assert add(4, y=4) == 8
    assert (add.__name__, add.__doc__, add.__wrapped__) == ("add", None, add.function)  # type: ignore[attr-defined]


def test_a_task_is_named_after_the_place_of_its_function(app: FastQ) -> None:
    assert app.task(sent).name == f"{__name__}.sent"
    assert repr(app.tasks[f"{__name__}.sent"]) == f"<Task {__name__}.sent>"


def test_the_decorator_takes_options_or_none_with_brackets_or_without(app: FastQ) -> None:
    @app.task()
    def empty() -> None: ...

    @app.task(name="shop.full", queue="mail", priority=7, ack="early", serializer="msgpack", ignore_result=True)
    def full() -> None: ...

    assert empty.options.queue == "default"
    assert app.tasks["shop.full"] is full
    assert (full.options.queue, full.options.priority, full.options.ack) == ("mail", 7, "early")
    assert (full.options.serializer.name, full.options.ignore_result) == ("msgpack", True)


def test_a_function_s_own_attributes_do_not_change_the_task(app: FastQ) -> None:
    def function() -> None: ...

    function.name, function.app, function.colour = "other", None, "red"  # type: ignore[attr-defined]
    task = app.task(function)

    assert (task.name.rpartition(".")[2], task.app, task.colour) == ("function", app, "red")  # type: ignore[attr-defined]


def test_a_task_of_a_script_is_named_after_the_file(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("import fastq\n@fastq.task\ndef add(): ...\nprint(add.name)")

    output = subprocess.run([sys.executable, "shop.py"], capture_output=True, text=True, check=True).stdout
    as_module = subprocess.run([sys.executable, "-m", "shop"], capture_output=True, text=True, check=True).stdout

    assert (output, as_module) == ("shop.add\n", "shop.add\n")


def test_a_generator_is_no_task_because_its_call_would_run_nothing(app: FastQ) -> None:
    def lines() -> Iterator[str]:
        yield "a"

    async def later() -> AsyncIterator[str]:
        yield "a"

    for function in (lines, later):
        with pytest.raises(ConfigurationError, match=f"{function.__name__} has yield: .* return a list instead"):
            app.task(function)
    assert app.tasks == {}


def test_two_functions_under_one_name_are_an_error_that_names_both_places(app: FastQ) -> None:
    @app.task(name="shop.add")
    def one() -> None: ...

    with pytest.raises(ConfigurationError, match=r"Two functions are the task 'shop.add': .*\.py:\d+ and .*\.py:\d+"):

        @app.task(name="shop.add")
        def two() -> None: ...

    with pytest.raises(ConfigurationError, match="Two functions"):

        @app.task(name="shop.add")
        def one() -> None: ...


def test_a_module_that_is_imported_twice_declares_its_tasks_twice_in_peace(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("import fastq\n@fastq.task(name='add')\ndef add(): return __name__")

    runpy.run_path("shop.py", run_name="first")
    runpy.run_path("shop.py", run_name="second")

    assert fastq.default_app().tasks["add"]() == "second"


def test_what_is_written_anew_at_a_prompt_replaces_the_task() -> None:
    declare = "exec(compile('@fastq.task\\ndef add(): return {n}', '<cell {n}>', 'exec'))\n"
    text = f"import fastq\n{declare.format(n=1)}{declare.format(n=2)}print(fastq.default_app().tasks['__main__.add']())"

    output = subprocess.run([sys.executable], input=text, capture_output=True, text=True, check=True).stdout

    assert output == "2\n"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"name": ""}, "'' is not a task name"),
        ({"name": "a b"}, "'a b' is not a task name"),
        ({"name": "a\nb"}, r"'a\\nb' is not a task name"),
        ({"name": 7}, "name is 7; it takes text"),
        ({"queue": ""}, "'' is not a queue name"),
        ({"queue": "a/b"}, "'a/b' is not a queue name"),
        ({"queue": ["mail"]}, r"queue is \['mail'\]; it takes text"),
        ({"priority": 10}, "priority is 10; it takes 0 to 9"),
        ({"priority": -1}, "priority is -1"),
        ({"priority": 5.0}, "priority is 5.0"),
        ({"priority": True}, "priority is True"),
        ({"priority": "high"}, "priority is 'high'"),
        ({"ack": "never"}, "ack is 'never'; it takes 'late' or 'early'"),
    ],
)
def test_an_option_that_can_not_be_is_an_error_at_the_declaration(
    app: FastQ, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        app.task(**options)


def test_an_option_that_there_is_not_is_a_type_error(app: FastQ) -> None:
    with pytest.raises(TypeError, match="max_retry"):
        app.task(max_retry=3)  # type: ignore[call-overload]


def test_a_serializer_that_is_unknown_or_refused_is_an_error_at_the_declaration(app: FastQ) -> None:
    with pytest.raises(UnknownSerializer, match="did you mean 'json'"):
        app.task(serializer="jsn")
    with pytest.raises(SerializerRefused, match="'pickle' is not accepted"):
        app.task(serializer="pickle")


@pytest.mark.parametrize("what", ["mail", 7, functools.partial(print)], ids=repr)
def test_what_is_no_function_or_has_no_name_can_not_be_a_task(app: FastQ, what: Any) -> None:
    with pytest.raises(ConfigurationError, match="is not a function|has no name of its own"):
        app.task(what)


def test_a_function_whose_name_no_task_can_have_needs_another(app: FastQ) -> None:
    def function() -> None: ...

    function.__qualname__ = "x" * 300

    with pytest.raises(ConfigurationError, match="is not a task name.*give it one, name="):
        app.task(function)
    assert app.task(name="short")(function).name == "short"


# -- calling ------------------------------------


def test_delay_sends_the_arguments(app: FastQ, add: Task[[int, int], int]) -> None:
    before = now_us()

    result = add.delay(4, y=5)

    (message,) = sent(app)
    assert (message.task, message.body, message.uuid) == (add.name, b'[[4],{"y":5}]', result.id)
    assert (message.queue, message.priority, message.eta, message.expires) == ("default", 0, 0, 0)
    assert before <= message.enqueued_at <= now_us()


def test_every_option_of_a_call_is_in_its_message(app: FastQ, add: Task[[int, int], int]) -> None:
    result = add.apply_async(
        (4,), {"y": 5}, queue="mail", priority=7, expires=60, task_id=ANY_ID, serializer="msgpack",
        headers={"tenant": "blue"}, ignore_result=True,
    )  # fmt: skip

    (message,) = sent(app, "mail")
    assert (result.id, message.uuid) == (ANY_ID, ANY_ID)
    assert (message.priority, message.content_type, message.ignore_result) == (7, "application/msgpack", True)
    assert message.extras.headers == {"tenant": "blue"}
    assert message.expires - message.enqueued_at == 60_000_000


def test_a_call_that_is_not_due_yet_is_not_delivered(app: FastQ, add: Task[[int, int], int]) -> None:
    add.apply_async((1,), countdown=3600)
    add.apply_async((2,), eta=datetime.now(timezone.utc) + timedelta(hours=1))
    add.apply_async((3,), eta=datetime(1999, 1, 1))

    assert [message.body for message in sent(app)] == [b"[[3],{}]"]
    assert app.broker.depth("default") == 2


def test_a_time_has_the_zone_that_it_says_or_else_utc(app: FastQ, add: Task[[int, int], int]) -> None:
    add.apply_async((1,), eta=datetime(2001, 1, 1, 12))
    add.apply_async((1,), eta=datetime(2001, 1, 1, 14, tzinfo=timezone(timedelta(hours=2))))

    one, other = sent(app)
    assert one.eta == other.eta == 978_350_400_000_000


def test_the_highest_priority_goes_first(app: FastQ, add: Task[[int, int], int]) -> None:
    for priority in (0, 9, 4):
        add.apply_async((priority,), priority=priority)

    assert [message.priority for message in sent(app)] == [9, 4, 0]


def test_a_call_by_name_needs_no_declaration(app: FastQ) -> None:
    result = app.send_task("elsewhere.add", [4], {"y": 5}, queue="mail", priority=1, headers={"a": 1}, task_id=ANY_ID)

    (message,) = sent(app, "mail")
    assert (message.task, message.body, message.uuid, result.id) == ("elsewhere.add", b'[[4],{"y":5}]', ANY_ID, ANY_ID)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1, 2, 3), {}), ((1,), {"z": 1}), ((1,), {"x": 1})],
)
def test_arguments_that_the_function_does_not_take_are_a_type_error_at_the_call(
    app: FastQ, add: Task[..., int], args: tuple[int, ...], kwargs: dict[str, int]
) -> None:
    for call in (
        lambda: add.delay(*args, **kwargs),
        lambda: add.apply_async(args, kwargs),
        lambda: add.apply(args, kwargs),
    ):
        with pytest.raises(TypeError, match=r"add\(x: .*int.*, y: .*int.* = 0\)"):
            call()
    assert not sent(app)


def test_a_required_keyword_is_missed_at_the_call(app: FastQ) -> None:
    @app.task
    def send(to: str, *parts: str, subject: str) -> None: ...

    with pytest.raises(TypeError, match="subject"):
        send.delay("me", "one", "two")  # type: ignore[call-arg]
    assert send.delay("me", "one", "two", subject="x")


@pytest.mark.parametrize(
    ("options", "error", "reason"),
    [
        ({"args": "ab"}, TypeError, "args is of type str"),
        ({"args": b"ab"}, TypeError, "args is of type bytes"),
        ({"args": 4}, TypeError, "args is of type int"),
        ({"args": {4}}, TypeError, "args is of type set"),
        ({"args": None}, TypeError, "args is of type NoneType"),
        ({"kwargs": [1]}, TypeError, r"kwargs is \[1\]"),
        ({"kwargs": {1: 2}}, TypeError, r"kwargs is \{1: 2\}"),
        ({"headers": [1]}, TypeError, r"headers is \[1\]"),
        ({"headers": {1: 2}}, EncodingError, "headers.*has the key 1 of type int"),
        ({"headers": {"a": object()}}, EncodingError, r"headers.*it\['a'\] is <object .* of type object"),
        ({"headers": {"a": float("nan")}}, EncodingError, r"it\['a'\] is nan"),
        ({"countdown": -1}, ConfigurationError, "countdown is -1; it takes seconds from now, 0 or more"),
        ({"countdown": float("nan")}, ConfigurationError, "countdown is nan"),
        ({"countdown": float("inf")}, ConfigurationError, "countdown is inf"),
        ({"countdown": "5"}, ConfigurationError, "countdown is '5'"),
        ({"countdown": True}, ConfigurationError, "countdown is True"),
        ({"countdown": 1, "eta": datetime(2030, 1, 1)}, ConfigurationError, "give one of them"),
        ({"eta": 1_900_000_000}, ConfigurationError, "eta is 1900000000; it takes a datetime"),
        ({"eta": "2030-01-01"}, ConfigurationError, "eta is '2030-01-01'; it takes a datetime"),
        ({"eta": datetime(1960, 1, 1)}, ConfigurationError, "before 1970"),
        ({"expires": -1}, ConfigurationError, "expires is -1"),
        ({"expires": datetime(1960, 1, 1)}, ConfigurationError, "before 1970"),
        ({"expires": datetime.max.replace(tzinfo=timezone(-timedelta(hours=2)))}, ProtocolError, "after the year 9999"),
        ({"priority": 10}, ConfigurationError, "priority is 10"),
        ({"queue": "a b"}, ConfigurationError, "'a b' is not a queue name"),
        ({"queue": ""}, ConfigurationError, "'' is not a queue name"),
        ({"task_id": "my-task"}, ConfigurationError, "task_id is 'my-task'; it takes a UUID"),
        ({"task_id": ""}, ConfigurationError, "task_id is ''"),
        ({"task_id": 7}, ConfigurationError, "task_id is 7"),
        ({"serializer": "jsn"}, UnknownSerializer, "did you mean 'json'"),
        ({"serializer": "pickle"}, SerializerRefused, "'pickle' is not accepted"),
    ],
    ids=repr,
)
def test_an_option_of_a_call_that_can_not_be_is_an_error_and_nothing_is_sent(
    app: FastQ, options: dict[str, Any], error: type[Exception], reason: str
) -> None:
    @app.task
    def anything(*args: Any, **kwargs: Any) -> None: ...

    with pytest.raises(error, match=reason):
        anything.apply_async(**options)
    assert app.broker.depth("default") == 0


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "x" * 256, 7])
def test_a_call_by_a_name_that_no_task_can_have_is_an_error(app: FastQ, name: Any) -> None:
    with pytest.raises(ConfigurationError, match="is not a task name|it takes text"):
        app.send_task(name)


@pytest.mark.parametrize(
    "argument", [object(), {1, 2}, b"x", 1 << 64, float("nan"), float("inf"), "\ud800", {1: 2}], ids=repr
)
def test_an_argument_that_can_not_be_carried_is_named_with_its_type_and_nothing_is_sent(
    app: FastQ, add: Task[..., int], argument: object
) -> None:
    with pytest.raises(EncodingError, match=r"The call of .*\.add can't be carried by json: args\[1\] .*of type"):
        add.delay(1, argument)
    with pytest.raises(EncodingError, match=r"kwargs\['y'\] .*of type"):
        add.delay(1, y=argument)
    assert not sent(app)


def test_a_call_that_is_too_large_is_refused_with_the_limit_s_name(memory_url: str) -> None:
    with FastQ(broker=memory_url, max_message_bytes=10_000) as app:
        echo = app.task(name="echo")(lambda text: text)

        with pytest.raises(ConfigurationError, match="The call of echo has .* bytes; max_message_bytes is 10000"):
            echo.delay("x" * 10_000)
        with pytest.raises(ConfigurationError, match="max_message_bytes is 10000"):
            echo.apply_async(("x",), headers={"long": "x" * 10_000})
        echo.apply_async(("x" * 4_000,), headers={"long": "x" * 4_000})

        assert [len(message.encode()) < 10_000 for message in sent(app)] == [True]


# -- what a task knows of itself ------------------------------------


def test_the_current_task_is_known_inside_and_an_error_outside(app: FastQ, worker: Any) -> None:
    @app.task(name="who")
    def who() -> list[Any]:
        return [
            current_task.id,
            current_task.name,
            current_task.queue,
            current_task.attempt,
            dict(current_task.headers),
        ]

    result = who.apply_async(queue="mail", headers={"tenant": "blue"})
    worker.run("mail")

    assert result.get(timeout=0) == [result.id, "who", "mail", 1, {"tenant": "blue"}]
    with pytest.raises(TaskError, match="No task is running here"):
        _ = current_task.id


def test_the_headers_of_a_task_can_be_sent_on(app: FastQ, worker: Any) -> None:
    @app.task(name="first")
    def first() -> None:
        app.send_task("second", headers=current_task.headers)

    first.apply_async(headers={"tenant": "blue"})
    first.delay()
    worker.run("default")

    # `second` is not declared here, and was refused by the worker.
    letters = app.broker.dead_letters("default", 10)
    assert sorted(str(Message.decode(letter.frame).extras.headers) for letter in letters) == [
        "{'tenant': 'blue'}",
        "{}",
    ]


def test_whatever_is_wrong_with_a_call_can_be_caught_as_one_of_two(add: Task[..., int]) -> None:
    """Mistakes in the program are TypeError; everything else is under FastQError."""
    calls: list[Callable[[], object]] = [
        lambda: add.delay(object()), lambda: add.apply_async((1,), queue="!"), lambda: add.apply_async((1,), eta="now"),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(FastQError):
            call()
