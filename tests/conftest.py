"""What every test stands on: a clean environment, a fresh app, and a look at what a test left behind."""

from __future__ import annotations

import gc
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import settings

import fastq.app
from fastq import FastQ, _speedups
from fastq.broker import Action, Decision
from fastq.completion import Completed, completion_of
from fastq.execution import execute
from fastq.message import Message
from fastq.outcome import Outcome, State

settings.register_profile("fastq", deadline=None, database=None, print_blob=True)
settings.load_profile("fastq")

_NOT_SETTINGS = ("FASTQ_SPEEDUPS", "FASTQ_REQUIRE_SERVICES")
_PATIENCE_S = 2.0  # how long what a test started may take to go away


@pytest.fixture(autouse=True)
def clean_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings in the environment, an empty folder to work in, and a default app that is not made yet."""
    for name in os.environ:
        if name.startswith("FASTQ_") and name not in _NOT_SETTINGS:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fastq.app, "_default", None)
    yield
    if fastq.app._default is not None:
        fastq.app._default.close()


@pytest.fixture(autouse=True)
def nothing_left_behind(clean_surroundings: None) -> Iterator[None]:
    """Fail a test that leaves threads, child processes or open files. A module may override this fixture."""
    before = _threads(), _children(), _files()
    yield
    give_up = time.monotonic() + _PATIENCE_S
    while left := _left(before):
        if time.monotonic() > give_up:
            pytest.fail(f"The test left behind: {', '.join(sorted(left))}")
        gc.collect()
        threading.Event().wait(0.01)  # a thread or child that is on its way out


def _left(before: tuple[set[str], set[str], set[str]]) -> set[str]:
    return (_threads() - before[0]) | (_children() - before[1]) | (_files() - before[2])


def _threads() -> set[str]:
    return {f"thread {thread.name} ({thread.ident})" for thread in threading.enumerate()}


def _children() -> set[str]:
    found: set[str] = set()
    for task in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended since
            found.update(f"child process {pid}" for pid in task.read_text().split())
    return found


def _files() -> set[str]:
    found = set()
    for descriptor in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):  # among them the one that lists the folder
            target = os.readlink(descriptor)
            if not target.startswith(("/dev/", "/proc/")):
                found.add(f"file {descriptor.name} ({target})")
    return found


@pytest.fixture
def memory_url() -> str:
    """The URL of a memory system that no other test knows."""
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def app(memory_url: str) -> Iterator[FastQ]:
    """An app on a memory system of its own."""
    with FastQ("test", broker=memory_url) as app:
        yield app


class InlineWorker:
    """Runs an app's messages in this thread, one at a time: fetch, execute, complete, and nothing else.

    The outcomes pass through their frame, as they do on the way from a child to the parent.
    """

    def __init__(self, app: FastQ) -> None:
        self._app = app

    def run(self, *queues: str) -> list[Outcome]:
        """Run what is ready in `queues`, and return what it came to in the order in which it ran."""
        subscription = self._app.broker.subscribe(queues or ("default",), 30.0, {})
        completion = completion_of(subscription, self._app.broker.system, self._app.backend)
        outcomes: list[Outcome] = []
        while deliveries := subscription.fetch(1, time.monotonic()):
            (delivery,) = deliveries
            message = Message.decode(delivery.frame)
            outcome = Outcome.decode(execute(self._app, message).encode())
            action = Action.DEAD if outcome.state is State.REFUSED else Action.ACK
            kept = None if message.ignore_result or action is Action.DEAD else outcome
            completion.complete([Completed(Decision(delivery, action), kept)])
            outcomes.append(outcome)
        subscription.close()
        return outcomes


@pytest.fixture
def worker(app: FastQ) -> InlineWorker:
    """A worker for the app of the test, without processes."""
    return InlineWorker(app)


@pytest.fixture(scope="module", params=["frames_py", "frames_c"])
def each_body(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run the tests of a module with the Python frames, and with the compiled ones where they are built."""
    try:
        frames = import_module(f"fastq._speedups.{request.param}")
    except ImportError as error:
        pytest.skip(f"the compiled frames are not built: {error}")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("pack_call", "unpack_call", "pack_end", "unpack_end"):
            patch.setattr(_speedups, name, getattr(frames, name))
        yield


class Document:
    """A page of the documentation, for tests that hold it to its word."""

    def __init__(self, path: Path) -> None:
        self.text = path.read_text("utf-8")

    def block(self, title: str) -> str:
        """Return the first literal block after `title`."""
        found = re.search(r"::\n\n((?: {4}.*\n|\n)+)", self._after(title))
        assert found, f"no literal block after {title!r}"
        return found[1]

    def bytes(self, title: str) -> bytes:
        """Return the bytes of a hex dump: lines of an offset, bytes, and a remark behind two spaces."""
        lines = [line.split(None, 1)[1] for line in self.block(title).splitlines() if line.strip()]
        return bytes.fromhex("".join(line.split("  ")[0] for line in lines))

    def table(self, title: str) -> list[list[str]]:
        """Return the rows, without the head, of the first list-table after `title`."""
        table = re.split(r"\n\n(?=\S)", self._after(title).partition(".. list-table::")[2])[0] + "\n"
        rows = re.findall(r"^   \* - (.*\n(?:     .*\n)*)", table, re.MULTILINE)
        return [re.split(r"\n     - ?", row.strip()) for row in rows][1:]

    def _after(self, title: str) -> str:
        _, found, after = self.text.partition(title)
        assert found, f"{title!r} is not in the document"
        return after


_DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture
def protocol() -> Document:
    """docs/protocol.rst."""
    return Document(_DOCS / "protocol.rst")


@pytest.fixture
def settings_page() -> Document:
    """docs/settings.rst."""
    return Document(_DOCS / "settings.rst")


def require_service(name: str, probe: Callable[[], object]) -> None:
    """Skip the test unless `probe` can reach a server; fail where FASTQ_REQUIRE_SERVICES=1."""
    try:
        probe()
    except Exception as error:
        reason = f"{name} is not there: {type(error).__name__}: {error}"
        if os.environ.get("FASTQ_REQUIRE_SERVICES") == "1":
            pytest.fail(f"{reason} (FASTQ_REQUIRE_SERVICES=1)")
        pytest.skip(reason)


@pytest.fixture(name="require_service")
def _require_service() -> Callable[[str, Callable[[], object]], None]:
    return require_service
