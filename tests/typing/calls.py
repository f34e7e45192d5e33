"""What a type checker says of the user API. Read by test_typing.py, and never run.

A comment ``# E: text`` stands where mypy has to report an error that begins so; anywhere else, `assert_type`
included, it has to be silent.
"""

from __future__ import annotations

from typing import Any

from typing_extensions import assert_type

import fastq
from fastq import AsyncResult, FastQ, State, TaskSet, TaskSetResult

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
add.s("4")  # E: Argument 1 to "s" of "Task" has incompatible type "str"; expected "int"
TaskSet([add])  # E: Argument 1 to "TaskSet" has incompatible type "list[Task[[int, int], int]]"

# The rest of the API.

assert_type(app.send_task("elsewhere.add", [4]).get(), Any)
assert_type(app.result("id").get(), Any)
assert_type(State.SUCCESS.terminal, bool)
app.task(queue=4)  # E: No overload variant of "task" of "FastQ" matches argument type "int"
app.task(prority=4)  # E: Unexpected keyword argument "prority" for overloaded function "task" of "FastQ"
