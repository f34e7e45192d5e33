"""What the suite of task semantics stands on: an app and real workers, on every system in turn."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from fastq import FastQ
from fastq.broker import Capability
from fastq.errors import FastQError
from fastq.settings import Settings
from fastq.testing.workers import RunningWorker, running_worker
from tests.conftest import require_service
from tests.rabbit_server import own_vhost, prefix_of, queues_deleted, url_of
from tests.redis_server import RedisServer, has_redis, one_for_all

ROOT = str(Path(__file__).parents[2])
SYSTEMS = ("memory", "sqlite", "redis", "amqp", "amqp-quorum")
#: What is tried on RabbitMQ in every run: where a broker makes the difference. The rest, and quorum queues, are soak.
ON_RABBITMQ = ("retries", "pause", "revoke", "limits", "canvas_failures")

Start = Callable[..., AbstractContextManager[RunningWorker]]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave to the soak what takes long on RabbitMQ."""
    for item in items:
        if item.path.parent != Path(__file__).parent or not hasattr(item, "callspec"):
            continue
        system = item.callspec.params.get("url")
        if system == "amqp-quorum" or (system == "amqp" and item.path.stem.removeprefix("test_") not in ON_RABBITMQ):
            item.add_marker(pytest.mark.soak)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Skip what looks into queues on a broker that declares that it can't show them."""
    try:
        yield
    except FastQError as error:
        if Capability.INSPECT.value in str(error):
            pytest.skip(str(error))
        raise


@pytest.fixture(scope="session", autouse=True)
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer | None]:
    """One Redis for the whole suite, started before the first test looks at what it leaves behind."""
    yield from one_for_all(tmp_path_factory.mktemp("redis"))


@pytest.fixture(scope="session")
def rabbit_vhost() -> Iterator[str]:
    """A virtual host of RabbitMQ for the whole suite."""
    with own_vhost() as name:
        yield name


@pytest.fixture
def rabbit_url(request: pytest.FixtureRequest, rabbit_vhost: str) -> Iterator[str]:
    """The URL of RabbitMQ for one test, whose queues end with it."""
    with queues_deleted(rabbit_vhost):
        yield f"{url_of(rabbit_vhost)}?prefix={prefix_of(request.node.name)}"


@pytest.fixture(params=SYSTEMS)
def url(request: pytest.FixtureRequest, tmp_path: Path, redis_server: RedisServer | None) -> str:
    """The URL of a system that is broker, backend and shared state, and empty; RabbitMQ has Redis beside it."""
    if request.param == "memory":
        if request.node.get_closest_marker("processes"):
            pytest.skip("needs processes, which don't share a memory")
        return f"memory://{uuid.uuid4().hex}"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/fastq.db"
    require_service("Redis", has_redis)
    assert redis_server is not None
    if request.param.startswith("amqp"):
        queue_type = "quorum&priorities=2" if request.param == "amqp-quorum" else "classic"
        return f"{request.getfixturevalue('rabbit_url')}&queue_type={queue_type}"
    return f"{redis_server.url}?prefix=t{uuid.uuid4().hex}"


def beside(url: str, redis_server: RedisServer | None) -> dict[str, str]:
    """Return the settings that a broker needs beside it, if it keeps no results and no shared state."""
    if not url.startswith("amqp:"):
        return {}
    assert redis_server is not None
    other = f"{redis_server.url}?prefix=t{uuid.uuid4().hex}"
    return {"backend": other, "state": other}


@pytest.fixture
def app(request: pytest.FixtureRequest, url: str, redis_server: RedisServer | None) -> Iterator[FastQ]:
    """The app that the test module names in `APP`, "package.module", on the system of this test."""
    app: FastQ = import_module(request.module.APP).app
    before = app.settings
    app.settings = Settings.load({"broker": url, **beside(url, redis_server)})
    yield app
    app.close()
    app.settings = before


@pytest.fixture
def start(request: pytest.FixtureRequest, app: FastQ) -> Start:
    """Return what runs a worker for the app: ``with start(concurrency=2, lease_s=3.0):``."""

    @contextlib.contextmanager
    def start(**options: Any) -> Iterator[RunningWorker]:
        if app.settings.broker.startswith("memory:"):
            options.setdefault("pool", "solo")
        with running_worker(app, f"{request.module.APP}:app", folder=ROOT, **options) as worker:
            yield worker

    return start
