"""Apps: what making one does, and does not."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

import fastq
from fastq import FastQ
from fastq.errors import ConfigurationError, MissingExtra, UnknownScheme, UnknownTask


def test_making_an_app_opens_nothing(tmp_path: Path) -> None:
    app = FastQ("shop", broker="nowhere://", backend="nowhere://")
    app.task(name="add")(lambda: None)

    assert repr(app) == "<FastQ 'shop' with 1 tasks>"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("sqlit:///x.db", r"There is no broker for 'sqlit:///x.db': did you mean 'sqlite://'"),
        ("nowhere://", "There is no broker for 'nowhere://': there are .*memory"),
        ("x.db", "'x.db' is not a broker URL: it has the form scheme://"),
        ("", "'' is not a broker URL"),
        ("nowhere://me:secret@host", r"'nowhere://me:\*\*\*@host'"),
    ],
)
def test_a_broker_url_that_leads_nowhere_is_an_error_when_the_broker_is_needed(url: str, reason: str) -> None:
    app = FastQ(broker=url, backend="memory://")

    with pytest.raises(UnknownScheme, match=reason) as refused:
        app.send_task("add")
    assert "secret" not in str(refused.value)


def test_a_backend_url_that_leads_nowhere_is_an_error_when_the_backend_is_needed() -> None:
    app = FastQ(broker="memory://", backend="nowhere://")

    with pytest.raises(UnknownScheme, match="There is no backend for 'nowhere://'"):
        app.send_task("add").get(timeout=0)


def test_the_connections_are_opened_once_and_again_after_close(memory_url: str) -> None:
    with FastQ(broker=memory_url) as app:
        broker, backend = app.broker, app.backend
        assert (app.broker, app.backend) == (broker, backend)

    assert app.broker is not broker
    app.close()
    app.close()


def test_many_threads_that_need_the_broker_at_once_get_the_same(app: FastQ) -> None:
    found: list[object] = []
    start = threading.Barrier(8)
    threads = [threading.Thread(target=lambda: (start.wait(), found.append(app.broker))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 8
    assert len(set(map(id, found))) == 1


def test_a_task_that_the_app_does_not_have_is_an_error_that_names_both(app: FastQ) -> None:
    with pytest.raises(UnknownTask, match="The app 'test' has no task 'add'"):
        app.find_task("add")


def test_the_decorator_of_the_package_declares_in_the_default_app(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTQ_DEFAULT_QUEUE", "mail")

    @fastq.task
    def add() -> int:
        return 8

    @fastq.task(name="other", priority=3)
    def other() -> None: ...

    app = fastq.default_app()
    assert app is fastq.default_app()
    assert app.tasks == {add.name: add, "other": other}
    assert (add.options.queue, other.options.priority, add()) == ("mail", 3, 8)


def test_a_wrong_setting_is_an_error_when_the_app_is_made() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'broker'"):
        FastQ(brokr="memory://")


def test_a_serializer_whose_library_is_missing_names_the_extra(app: FastQ, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "msgpack", None)
    task = app.task(name="add", serializer="msgpack")(lambda: None)

    with pytest.raises(MissingExtra, match=r"pip install 'fastq-worker\[msgpack\]'"):
        task.delay()


def test_what_the_package_exports_is_there() -> None:
    assert all(hasattr(fastq, name) for name in fastq.__all__)
    assert fastq.__version__.count(".") == 2
