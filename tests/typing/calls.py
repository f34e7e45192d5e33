"""What a type checker says of the user API. Read by test_typing.py, and never run.

A comment ``# E: text`` stands where mypy has to report an error that begins so; anywhere else, `assert_type`
included, it has to be silent.
"""

from __future__ import annotations

from typing import Any

from typing_extensions import assert_type

import fastq
from fastq import (
    AsyncResult,
    FastQ,
    Progress,
    Signature,
    State,
    Step,
    Task,
    TaskSet,
    TaskSetResult,
    aas_completed,
    as_completed,
    chord,
    current_task,
    group,
)

app = FastQ("shop", broker="memory://", concurrency=4)


@app.task
def add(x: int, y: int = 0) -> int:
    return x + y


@app.task(name="shop.greet", queue="mail", priority=7, throws=[ValueError])
def greet(name: str, *, loudly: bool = False) -> str:
    return name.upper() if loudly else name


@app.task
async def fetch(url: str) -> bytes:
    return url.encode()


@app.task(ignore_result=True)
async def ping() -> None: ...


@fastq.task
def of_the_default_app(x: int) -> float:
    return x / 2


@fastq.task(serializer="msgpack")
async def of_the_default_app_too(x: int) -> float:
    return x / 2


# A call in the background takes what the function takes, and promises what it returns.

assert_type(add.delay(4, 4), AsyncResult[int])
assert_type(add.delay(4, 4).get(), int)
assert_type(add.delay(x=4).wait(timeout=1.5), int)
assert_type(greet.delay("me", loudly=True).get(), str)
assert_type(of_the_default_app.delay(1).get(), float)
assert_type(add.apply_async((4, 4), countdown=5).get(), int)
assert_type(add.apply((4, 4)).get(), int)
assert_type(add.delay(4).result, int | BaseException | None)
assert_type(add.delay(4).state, State)

add.delay("4")  # E: Argument 1 to "delay" of "Task" has incompatible type "str"; expected "int"
add.delay(4, y="4")  # E: Argument "y" to "delay" of "Task" has incompatible type "str"; expected "int"
add.delay()  # E: Missing positional argument "x" in call to "delay" of "Task"
add.delay(4, 4, 4)  # E: Too many arguments for "delay" of "Task"
add.delay(4, z=4)  # E: Unexpected keyword argument "z" for "delay" of "Task"
greet.delay("me", True)  # E: Too many positional arguments for "delay" of "Task"
of_the_default_app.delay("1")  # E: Argument 1 to "delay" of "Task" has incompatible type "str"; expected "int"
add.apply_async((4,), retries=3)  # E: Unexpected keyword argument "retries" for "apply_async" of "Task"
add.apply_async(4)  # E: Argument 1 to "apply_async" of "Task" has incompatible type "int"; expected "Sequence[Any]"
wrong: AsyncResult[str] = add.delay(4)  # E: Incompatible types in assignment

# A coroutine's task gives what the coroutine gives, once it is awaited.

assert_type(fetch.delay("https://example.org").get(), bytes)
assert_type(of_the_default_app_too.delay(1).get(), float)
fetch.delay(4)  # E: Argument 1 to "delay" of "Task" has incompatible type "int"; expected "str"
ping.delay()
ping.delay(1)  # E: Too many arguments for "delay" of "Task"


async def awaits() -> None:
    assert_type(await fetch("https://example.org"), bytes)


# So is a call that is awaited, and its result.

assert_type(add.map(range(10)), list[AsyncResult[int]])
assert_type(add.starmap([(1, 2)], queue="mail"), list[AsyncResult[int]])
assert_type([result.get() for result in as_completed(add.map([1, 2]))], list[int])
add.map(4)  # E: Argument 1 to "map" of "Task" has incompatible type "int"; expected "Iterable[Any]"
add.map([4], prority=4)  # E: Unexpected keyword argument "prority" for "map" of "Task"


async def calls_and_waits() -> None:
    assert_type(await add.adelay(4, 4), AsyncResult[int])
    assert_type(await greet.aapply_async(("me",), priority=3), AsyncResult[str])
    assert_type(await add.delay(4), int)
    assert_type(await (await fetch.adelay("a")).aget(timeout=1), bytes)
    assert_type([await result async for result in aas_completed(add.map([1]))], list[int])
    await add.adelay("4")  # E: Argument 1 to "adelay" of "Task" has incompatible type "str"; expected "int"
    await add.aapply_async((4,), retries=3)  # E: Unexpected keyword argument "retries" for "aapply_async" of "Task"


# A bound task takes what its function takes behind the task itself.


class Counted(Task[..., Any]):
    calls = 0


@app.task(bind=True)
def bound(self: Counted, x: int) -> int:
    return x + self.calls


@app.task(bind=True, base=Counted, max_retries=5)
async def bound_later(self: Counted, x: int) -> str:
    return str(x + self.calls)


assert_type(bound.delay(4), AsyncResult[int])
assert_type(bound_later.delay(4).get(), str)
bound.delay("4")  # E: Argument 1 to "delay" of "Task" has incompatible type "str"; expected "int"
bound_later.delay("4")  # E: Argument 1 to "delay" of "Task" has incompatible type "str"; expected "int"
bound.delay(4, 4)  # E: Too many arguments for "delay" of "Task"
app.task(base=str)  # E: Argument "base" to "task" of "FastQ" has incompatible type "type[str]"

# What a task does in steps keeps its type.


async def in_steps() -> None:
    assert_type(current_task.step("one", len, "text"), int)
    assert_type(await current_task.step("two", later, 4), str)
    with current_task.step("three") as step:
        assert_type(step, Step)
        assert_type(step.done, bool)
    assert_type(add.delay(4).progress, Progress | None)
    current_task.step("four", later, "4")  # E: No overload variant of "step" of "CurrentTask" matches argument types
    current_task.progress("half")  # E: Argument 1 to "progress" of "CurrentTask" has incompatible type "str"


async def later(x: int) -> str:
    return str(x)


# The function stays what it was.

assert_type(add(4, 4), int)
assert_type(greet("me"), str)
add("4")  # E: Argument 1 to "__call__" of "Task" has incompatible type "str"; expected "int"

# So do calls that are made together.

calls = TaskSet(add.s(n, n) for n in range(10))
assert_type(calls, TaskSet[int])
assert_type(calls.apply_async(), TaskSetResult[int])
assert_type(calls.apply_async().join(timeout=1), list[int])
assert_type([result.get() for result in calls.apply_async()], list[int])
assert_type(TaskSet([fetch.s("a"), fetch.s("b")]).apply_async().join(), list[bytes])
assert_type(TaskSetResult.restore("id", app), TaskSetResult[Any])

# Calls that follow from each other promise the value of the last; only `si` can be checked, which is given nothing.

assert_type((add.s(1, 2) | add.s(4)).apply_async(), AsyncResult[int])
assert_type((add.s(1, 2) | greet.si("me")).delay().get(), str)
assert_type((add.s(1, 2) | group(greet.si("me"), greet.si("you"))).apply_async(), TaskSetResult[str])
assert_type((group(add.s(n) for n in range(4)) | fetch.si("a")).delay(4).get(), bytes)
assert_type(chord([add.s(1, 2), add.s(3, 4)], greet.si("me")).apply_async(), AsyncResult[str])
assert_type(add.chunks([(1, 2), (3, 4)], 2).apply_async().join(), list[list[int]])
assert_type(add.s(1, 2).set(queue="mail").link(add.s(4)).on_error(greet.si("me")), Signature[int])
assert_type(add.apply_async((4, 4), link=add.s(4), link_error=[greet.s()]).get(), int)
add.si("4")  # E: Argument 1 to "si" of "Task" has incompatible type "str"; expected "int"
add.s(4).set(prority=4)  # E: Unexpected keyword argument "prority" for "set" of "Signature"
TaskSet([add])  # E: Argument 1 to "TaskSet" has incompatible type "list[Task[[int, int], int]]"

# The rest of the API.

assert_type(app.send_task("elsewhere.add", [4]).get(), Any)
assert_type(app.result("id").get(), Any)
assert_type(State.SUCCESS.terminal, bool)
app.task(queue=4)  # E: No overload variant of "task" of "FastQ" matches argument type "int"
app.task(prority=4)  # E: Unexpected keyword argument "prority" for overloaded function "task" of "FastQ"
