"""The floors of the house: imports go down only, and a few libraries are known to one room alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "fastq"

#: Which floor a room is on. A module that is in none of them fails the test.
FLOORS = {
    "fastq._speedups": 0,
    "fastq.errors": 1,
    "fastq.message": 1,
    "fastq.outcome": 1,
    "fastq.encoder": 1,
    "fastq.keyring": 1,
    "fastq.signing": 1,
    "fastq.sealing": 1,
    "fastq.compression": 1,
    "fastq.encryption": 1,
    "fastq.packing": 1,
    "fastq.claims": 1,
    "fastq.failure": 1,
    "fastq.schedule": 1,
    "fastq.retries": 1,
    "fastq.backoff": 1,
    "fastq.diagnosis": 1,
    "fastq.celery_names": 1,
    "fastq.rates": 1,
    "fastq.routing": 1,
    "fastq.keys": 1,
    "fastq.settings": 1,
    "fastq.failpoints": 1,
    "fastq.broker": 2,
    "fastq.backend": 2,
    "fastq.completion": 2,
    "fastq.state": 2,
    "fastq.pool": 2,
    "fastq.systems": 3,
    "fastq.brokers": 3,
    "fastq.backends": 3,
    "fastq.states": 3,
    "fastq.app": 4,
    "fastq.task": 4,
    "fastq.options": 4,
    "fastq.result": 4,
    "fastq.canvas": 4,
    "fastq.unique": 4,
    "fastq.broadcast": 4,
    "fastq.control": 4,
    "fastq.events": 4,
    "fastq.execution": 4,
    "fastq.soft_limit": 4,
    "fastq.current": 4,
    "fastq.batch": 4,
    "fastq.call": 4,
    "fastq.awaiting": 4,
    "fastq.middleware": 4,
    "fastq.lifecycle": 4,
    "fastq.ending": 4,
    "fastq.progress": 4,
    "fastq.steps": 4,
    "fastq.task_logging": 4,
    "fastq.discovery": 4,
    "fastq.deadletters": 4,
    "fastq.worker": 5,
    "fastq.pools": 5,
    "fastq.scheduler": 5,
    "fastq.cli": 6,
    "fastq.web": 6,
    "fastq.contrib": 6,
    "fastq.testing": 6,
    "fastq.__main__": 6,
}
PUBLIC = 4  # the floor of the package itself: its names are those of the user API

#: What a room must not import, though it is on a lower floor, or on its own.
FORBIDDEN = {
    "fastq.brokers": ["fastq.backends", "fastq.states"],
    "fastq.backends": ["fastq.brokers", "fastq.states"],
    "fastq.states": ["fastq.brokers", "fastq.backends"],
    "fastq.worker": ["fastq.brokers", "fastq.backends", "fastq.states", "fastq.systems", "argparse", "click"],
    "fastq.pools": ["fastq.brokers", "fastq.backends", "fastq.states", "fastq.systems", "argparse", "click"],
    "fastq.systems": ["fastq.brokers", "fastq.backends", "fastq.states"],
    "fastq.completion": ["fastq.broker", "fastq.backend"],
}

#: Which modules, by the beginnings of their names, may import a library; no other may.
RESERVED = {
    "sqlalchemy": ["fastq.systems.sql", "fastq.brokers.sql", "fastq.backends.sql"],
    "amqp": ["fastq._speedups.amqp_py"],
    "hiredis": ["fastq.systems.redis", "fastq.brokers.redis", "fastq.backends.redis"],
    "sqlite3": ["fastq.systems.sql"],
    "click": ["fastq.cli"],
    "rich": ["fastq.cli"],
    "argparse": ["fastq.cli"],
    "signal": ["fastq.worker", "fastq.pools", "fastq.scheduler", "fastq.cli", "fastq.testing", "fastq.failpoints"],
    "subprocess": ["fastq.pools", "fastq.cli", "fastq.testing"],
    "multiprocessing": ["fastq._speedups", "fastq.pools"],
    "billiard": ["fastq._speedups", "fastq.pools"],
    "cryptography": ["fastq.signing", "fastq.encryption"],
    "zstandard": ["fastq.compression"],
    "setproctitle": ["fastq.worker", "fastq.pools", "fastq.cli"],
}

#: Values know no I/O, threads or processes; settings are read from files, once.
NOT_IN_VALUES = {"asyncio", "concurrent", "select", "selectors", "socket", "threading", "logging", "tempfile", "shutil"}


def name_of(file: Path, root: Path = PACKAGE) -> str:
    parts = [root.name, *file.relative_to(root).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(text: str, module: str, *, is_package: bool = False) -> Iterator[str]:
    """Yield the dotted names that a module imports when it runs; those for the type checker alone don't count."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = node.level - is_package
                package = module.split(".")[:-above] if above else module.split(".")
                base = ".".join([*package, *([base] if base else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def within(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def floor_of(name: str) -> int | None:
    rooms = [room for room in FLOORS if within(name, room)]
    return FLOORS[max(rooms, key=len)] if rooms else None


def violations(module: str, text: str, *, is_package: bool = False) -> list[str]:
    """Return each import of a module that goes up, or where it must not, as "importer -> imported: why"."""
    floor = PUBLIC if module == "fastq" else floor_of(module)
    if floor is None:
        return [f"{module} is on no floor: put it into the table"]
    imports = imports_of(text, module, is_package=is_package)
    return [f"{module} -> {imported}: {why}" for imported in imports if (why := objection(module, floor, imported))]


def objection(module: str, floor: int, imported: str) -> str:
    """Return why a module on a floor may not import a name; "" if it may."""
    for reserved, rooms in RESERVED.items():
        if within(imported, reserved) and not module.startswith(tuple(rooms)):
            return f"only {', '.join(rooms)} may"
    for room, others in FORBIDDEN.items():
        if within(module, room) and any(within(imported, other) for other in others):
            return f"{room} must not know it"
    top = imported.partition(".")[0]
    if top == "fastq":
        theirs = floor_of(imported)
        theirs = PUBLIC if theirs is None else theirs
        return f"floor {floor} may not know floor {theirs}" if theirs > floor else ""
    if floor == 0 and top not in sys.stdlib_module_names and top not in RESERVED:
        return "speedups know the standard library alone"
    if floor == 1 and top in NOT_IN_VALUES:
        return "values know no I/O, threads or processes"
    return ""


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_module_imports_only_what_its_floor_may_know(file: Path) -> None:
    assert violations(name_of(file), file.read_text("utf-8"), is_package=file.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("module", "text", "culprit"),
    [
        ("fastq.message", "import fastq.broker", "fastq.broker"),
        ("fastq.message", "from .app import FastQ", "fastq.app"),
        ("fastq.message", "from . import result", "fastq.result"),
        ("fastq.message", "def f():\n    from fastq.task import Task", "fastq.task"),
        ("fastq.message", "try:\n    import socket\nexcept ImportError: ...", "socket"),
        ("fastq.broker", "from .brokers.memory import MemoryBroker", "fastq.brokers.memory"),
        ("fastq.brokers.memory", "from fastq.backends.memory import MemoryBackend", "fastq.backends.memory"),
        ("fastq.brokers.memory", "from ..backends import open_backend", "fastq.backends"),
        ("fastq.systems.memory", "from fastq.brokers import memory", "fastq.brokers"),
        ("fastq.systems.memory", "from fastq.app import FastQ", "fastq.app"),
        ("fastq.systems.memory", "import sqlalchemy", "sqlalchemy"),
        ("fastq.app", "from sqlalchemy.engine import Engine", "sqlalchemy"),
        ("fastq.app", "import signal", "signal"),
        ("fastq.task", "from .worker.worker import Worker", "fastq.worker"),
        ("fastq.worker.worker", "from fastq.brokers.memory import MemoryBroker", "fastq.brokers"),
        ("fastq.worker.worker", "from fastq.systems.sql import SqlSystem", "fastq.systems"),
        ("fastq.worker.worker", "from fastq.cli import main", "fastq.cli"),
        ("fastq.worker.worker", "import click", "click"),
        ("fastq._speedups.frames_py", "from fastq.errors import FastQError", "fastq.errors"),
        ("fastq._speedups.frames_py", "from ..errors import FastQError", "fastq.errors"),
        ("fastq._speedups.frames_py", "import orjson", "orjson"),
        ("fastq._speedups.frames_py", "import amqp", "amqp"),
        ("fastq.utils", "", "is on no floor"),
    ],
)
def test_an_import_that_is_not_allowed_is_found_and_named(module: str, text: str, culprit: str) -> None:
    (found,) = violations(module, text)

    assert found.startswith(module)
    assert culprit in found


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("fastq.completion", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .app import FastQ"),
        ("fastq.message", "from . import _speedups\nfrom .errors import ProtocolError"),
        ("fastq.systems.sql_schema", "import sqlalchemy"),
        ("fastq._speedups.amqp_py", "from amqp.serialization import dumps"),
        ("fastq.brokers.sql", "from fastq.systems.sql import SqlSystem"),
        ("fastq.pools.child", "import signal\nfrom fastq.app import FastQ"),
        ("fastq.cli.worker", "import click\nfrom fastq.worker.worker import Worker"),
    ],
)
def test_an_import_that_is_allowed_is_let_through(module: str, text: str) -> None:
    assert violations(module, text) == []


def test_the_init_modules_resolve_relative_imports_from_their_own_package() -> None:
    assert list(imports_of("from . import sql", "fastq.brokers", is_package=True)) == ["fastq.brokers.sql"]
    assert list(imports_of("from .sql import X", "fastq.brokers", is_package=True)) == ["fastq.brokers.sql.X"]
    assert list(imports_of("from ..errors import X", "fastq.brokers", is_package=True)) == ["fastq.errors.X"]
    assert list(imports_of("from ..errors import X", "fastq.brokers.sql")) == ["fastq.errors.X"]


HEAVY = [
    "sqlalchemy",
    "click",
    "rich",
    "asyncio",
    "billiard",
    "multiprocessing",
    "sqlite3",
    "yaml",
    "msgpack",
    "cryptography",
    "zstandard",
]


@pytest.mark.parametrize("statement", ["import fastq", "import fastq; fastq.FastQ('shop', broker='memory://').broker"])
def test_importing_fastq_loads_nothing_heavy(statement: str) -> None:
    code = f"import sys; before = set(sys.modules); {statement}; print(*set(sys.modules) - before)"

    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = {name.partition(".")[0] for name in output.split()}

    assert loaded.isdisjoint(HEAVY), loaded.intersection(HEAVY)
