"""Middleware and task classes: code around publishing and running, called where it is declared and nowhere else."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from fastq import FastQ, Middleware, Task
from fastq.errors import ConfigurationError
from fastq.message import Message
from fastq.middleware import Outgoing
from fastq.task import AsyncTask
from tests.apps import around
from tests.ledger import eventually
from tests.semantics.conftest import Start

APP = "tests.apps.around"


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The ledger that the app writes to."""
    path = tmp_path / "ledger"
    path.touch()
    monkeypatch.setenv("LEDGER", str(path))
    return path


def said(lines: Path, *beginnings: str) -> list[str]:
    return [line for line in lines.read_text().splitlines() if line.startswith(beginnings)]


# -- with a worker --------------------------------------------------------------------------------------


def test_hooks_are_called_around_runs_in_the_child(start: Start, lines: Path) -> None:
    with start():
        assert around.echo.delay(4).get(10) == 4
        assert around.echo_later.delay(5).get(10) == 5
    assert said(lines, "before", "after") == [
        "before echo 4", "after echo SUCCESS True", "before echo_later 5", "after echo_later SUCCESS True",
    ]  # fmt: skip


def test_headers_that_a_hook_sets_go_with_the_message(start: Start, lines: Path) -> None:
    with start():
        assert around.whoami.delay().get(10)["headers"] == {"tenant": "nobody"}
        result = around.whoami.apply_async(headers={"tenant": "shop", "other": 1})
        assert result.get(10)["headers"] == {"tenant": "shop", "other": 1}


def test_what_a_hook_raises_before_publishing_is_raised_at_the_caller(app: FastQ) -> None:
    with pytest.raises(PermissionError, match="nobody may call this"):
        around.unsendable.delay()
    with pytest.raises(PermissionError, match="nobody may call this"):
        around.unsendable.s().delay()
    assert app.broker.depth("default") == 0


def test_what_a_hook_raises_before_a_run_the_task_has_raised(start: Start, lines: Path) -> None:
    with start():
        result = around.echo.apply_async(("never",), headers={"tenant": "locked-out"})
        with pytest.raises(PermissionError, match="not for you"):
            result.get(10)
    assert said(lines, "before", "after") == ["after echo FAILURE True"]


def test_what_a_hook_raises_after_a_run_changes_nothing(app: FastQ, start: Start, lines: Path) -> None:
    with start():
        assert around.echo.delay("spoil the end").get(10) == "spoil the end"
        assert around.echo.delay("go on").get(10) == "go on"
    assert app.broker.depth("default") == 0


def test_the_methods_of_a_task_class_are_called_in_the_child(start: Start, lines: Path) -> None:
    with start():
        assert around.by_class.delay("fine").get(10) == "fine"
        with pytest.raises(ValueError, match="fail"):
            around.by_class.delay("fail").get(10)
        with pytest.raises(OSError, match="retry"):
            around.by_class.delay("retry").get(10)
    assert said(lines, "before_start", "on_", "after_return") == [
        "before_start True fine", "on_success fine", "after_return SUCCESS",
        "before_start True fail", "on_failure ValueError True", "after_return FAILURE",
        "before_start True retry", "on_retry OSError", "after_return RETRY",
        "before_start True retry", "on_failure OSError True", "after_return FAILURE",
    ]  # fmt: skip


@pytest.mark.processes
def test_a_task_class_has_a_state_in_each_process(start: Start, lines: Path) -> None:
    with start(concurrency=2):
        assert [result.get(10) for result in around.connected.starmap([()] * 20)] == [True] * 20


# -- without one ------------------------------------------------------------------------------------------


class Seen(Middleware):
    def __init__(self, name: str, seen: list[str]) -> None:
        self.name, self.seen = name, seen

    def before_publish(self, outgoing: Outgoing) -> None:
        self.seen.append(f"{self.name} before {outgoing.task} {outgoing.queue} {len(outgoing.id)}")

    def after_publish(self, messages: Sequence[Message]) -> None:
        self.seen.append(f"{self.name} after {len(messages)}")


@pytest.fixture
def small(memory_url: str) -> FastQ:
    """An app in memory."""
    return FastQ("small", broker=memory_url)


def test_hooks_are_called_in_order_before_and_in_reverse_after(small: FastQ) -> None:
    seen: list[str] = []
    add = small.task(name="add")(lambda: 1)
    small.add_middleware(Seen("a", seen), Seen("b", seen))
    add.delay()
    with small.batch():
        add.delay()
        add.delay()
    assert seen == [
        "a before add default 36", "b before add default 36", "b after 1", "a after 1",
        *["a before add default 36", "b before add default 36"] * 2, "b after 2", "a after 2",
    ]  # fmt: skip


def test_what_a_hook_raises_after_publishing_is_logged(small: FastQ, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Middleware):
        def after_publish(self, messages: Sequence[Message]) -> None:
            raise RuntimeError("too late")

    small.add_middleware(Broken())
    small.task(name="add")(lambda: 1).delay()
    assert small.broker.depth("default") == 1
    assert "1 messages were sent, but a hook failed" in caplog.text


def test_without_hooks_nothing_is_called(small: FastQ) -> None:
    class Idle(Middleware):
        """Overrides nothing."""

    add = small.task(name="add")(lambda: 1)
    small.add_middleware(Idle())
    assert add.hooks is None
    assert small._before_publish == small._after_publish == ()


def test_what_is_no_middleware_is_refused(small: FastQ) -> None:
    class Later(Middleware):
        async def before_publish(self, outgoing: Outgoing) -> None: ...  # type: ignore[override]

    with pytest.raises(ConfigurationError, match="Later.before_publish is a coroutine"):
        small.add_middleware(Later())
    with pytest.raises(ConfigurationError, match="is no middleware"):
        FastQ("other", middleware=[Middleware])  # type: ignore[list-item]


def test_tasks_of_an_app_may_have_a_class_in_common(memory_url: str) -> None:
    class Mine(Task[..., object]):
        colour = "blue"

    app = FastQ("classes", broker=memory_url, task_class=Mine)

    @app.task(name="a")
    def a() -> str:
        return "a"

    @app.task(name="b")
    async def b() -> None: ...

    assert a.colour == b.colour == "blue"  # type: ignore[attr-defined]
    assert (isinstance(a, AsyncTask), isinstance(b, AsyncTask)) == (False, True)
    assert a.apply().get() == "a"
    with pytest.raises(ConfigurationError, match="it takes a class derived from"):
        app.task(name="c", base=str)(lambda: 1)  # type: ignore[call-overload]


# -- what a task knows, and hands on ------------------------------------------------------------------


def test_a_tasks_children_know_their_root_and_parent(app: FastQ, start: Start, lines: Path) -> None:
    mark = "0199f3a2-5d4e-7c31-8f6b-2a9d0c1e4b57"
    headers = {"tenant": "shop", "grandchild": mark, "private": 1}
    with start(propagate_headers=("tenant", "grandchild")):
        me = around.family.apply_async(headers=headers).get(10)
        last = app.result(mark).get(10)
    assert (me["root"], me["parent"]) == (me["id"], None)
    assert (last["root"], last["parent"]) == (me["id"], me["child"])
    assert last["headers"] == {"tenant": "shop", "grandchild": mark, "trace": "its own"}


def test_a_task_knows_its_deadline_and_its_tries(start: Start, lines: Path) -> None:
    with start():
        me = around.whoami.delay().get(10)
        other = around.whoami.apply_async(time_limit=600).get(10)
    assert (me["retries"], me["is_retry"]) == (0, False)
    assert 55 <= me["left"] <= 60
    assert 590 <= other["left"] <= 600
    assert me["deadline"].endswith("+00:00")


@pytest.mark.processes
def test_records_of_a_task_say_so(start: Start, lines: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with start():
        id = around.logs.delay("by hand").id
        around.app.result(id).get(10)
    shown = capfd.readouterr().err.splitlines()
    name = f"tests.apps.around.logs[{id}]"
    assert [line.partition(" WARNING ")[2] for line in shown if "by hand" in line] == [
        f"somewhere.else in {name}: by hand", f"tests.apps.around in {name}: by hand",
    ]  # fmt: skip


def test_the_logger_of_tasks_marks_its_records(lines: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        around.logs.apply(("hello",))
        around.logger.warning("outside")
    inside, outside = [record for record in caplog.records if record.name == "tests.apps.around"]
    assert (inside.task_name, len(inside.task_id)) == ("tests.apps.around.logs", 36)  # type: ignore[attr-defined]
    assert (outside.task_name, outside.task_id) == ("", "")  # type: ignore[attr-defined]


def test_secret_arguments_are_not_shown() -> None:
    assert around.log_in.shown(("me", "sesame"), {}).endswith("log_in('me', '***')")
    assert repr(around.log_in.s("sesame", user="me")).endswith("log_in('***', user='me')")
    assert around.log_in.shown((), {"user": "me", "password": "sesame"}).endswith("log_in(user='me', password='***')")
    with pytest.raises(Exception, match="some of them are secret") as caught:
        around.log_in.delay("me", {"sesame"})
    assert "sesame" not in "".join(map(str, [caught.value, caught.value.__cause__, caught.value.__context__]))


def test_no_key_is_made_of_a_secret_argument(small: FastQ) -> None:
    def log_in(password: str) -> None: ...

    with pytest.raises(ConfigurationError, match="limit_by names 'password', which is secret"):
        small.task(secret=["password"], limit_by="password", max_concurrency=1)(log_in)
    with pytest.raises(ConfigurationError, match="fair_by names 'password', which is secret"):
        small.task(secret=["password"], fair_by="password")(log_in)


def test_before_anything_runs_expired_tasks_call_no_hook(start: Start, lines: Path) -> None:
    result = around.echo.apply_async(("late",), expires=0.001)
    with start():
        eventually(result.ready)
        assert around.echo.delay("on time").get(10) == "on time"
    assert said(lines, "before") == ["before echo on time"]
