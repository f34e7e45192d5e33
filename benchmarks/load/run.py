"""One run over all contenders: sessions interleaved, so that a disturbance of the machine hits everyone alike."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from rich.console import Console

from benchmarks.load import venvs
from benchmarks.load.contender import OURS, PEERS, ROOT, ContenderError, Entry, driven
from benchmarks.load.measures import SESSIONS, Sizes
from benchmarks.load.resp import RedisAt
from fastq import __version__
from fastq.brokers import import_broker
from fastq.errors import FastQError

#: Redis databases that contenders use in turn; each is emptied before and after.
DATABASES = (9, 10, 11, 12, 13)
FLOOR_DATABASE = 13
ON_REDIS = ("redis", "amqp")  # brokers beside which results are in Redis
OTHERS = {"sqlite": "sqlite", "memory": "memory://bench"}


@dataclass
class Results:
    """Every value that was taken, by contender and measure; and the reason where there is none."""

    broker: str
    machine: dict[str, str]
    versions: dict[str, str]
    delivery: dict[str, str]
    quick: bool
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    missing: dict[str, dict[str, str]] = field(default_factory=dict)
    floor: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    ours: list[str] = field(default_factory=list)

    def add(self, name: str, found: dict[str, float | str]) -> None:
        """Take in what a session found."""
        for key, value in found.items():
            if isinstance(value, str):
                self.missing.setdefault(name, {})[key] = value
            else:
                self.values.setdefault(name, {}).setdefault(key, []).append(value)

    def of(self, name: str, key: str) -> list[float]:
        """Return the values of a contender's measure."""
        return self.values.get(name, {}).get(key, [])


def run(
    broker: str, redis_url: str, peers: Sequence[str], runs: int, sizes: Sizes, *, quick: bool, rabbit_url: str = ""
) -> Results:  # fmt: skip
    """Measure every contender, and the floor. A contender that fails has its reason in the results."""
    console = Console(stderr=True)
    entries = chosen(broker, peers)
    results = Results(
        broker=broker,
        machine=machine(redis_url if broker in ON_REDIS else None),
        versions=versions_of(entries),
        delivery={entry.name: entry.delivery for entry in entries},
        quick=quick,
        ours=[entry.name for entry in entries if entry.ours],
    )
    broker_of = dict.fromkeys(entries, broker)
    if broker == "redis" and (reason := refusal("redis")):
        results.notes.append(f"fastq is on SQLite here, and not comparable: {reason}")
        broker_of |= {entry: "sqlite" for entry in entries if entry.ours}
    for note in results.notes:
        console.print(f"[yellow]{note}[/]")
    for number in range(runs):
        for session in SESSIONS:
            if number >= session.runs(runs, sizes) or (broker == "memory" and session.kills):
                continue
            for turn, entry in enumerate(entries):
                url = database_url(redis_url, turn) if broker_of[entry] in ON_REDIS else OTHERS[broker_of[entry]]
                label = f"run {number + 1} of {runs}: {entry.name}, {session.take.__name__}"
                began = time.monotonic()
                try:
                    with (
                        console.status(label),
                        driven(
                            entry, url, keep=session.keep, rabbit=rabbit_url if broker == "amqp" else ""
                        ) as contender,
                    ):
                        found = session.take(contender, sizes)
                except ContenderError as error:
                    console.print(f"[red]{label}: {error}[/]", highlight=False)
                    found = {key: str(error).splitlines()[0] for key in session.keys}
                results.add(entry.name, found)
                console.print(f"{label}: {time.monotonic() - began:.0f} s", highlight=False, style="dim")
        if broker == "redis":
            for name, value in floor(redis_url, sizes.floor_s).items():
                results.floor.setdefault(name, []).append(value)
    return results


def chosen(broker: str, peers: Sequence[str]) -> list[Entry]:
    """Return fastq and the chosen peers, as far as they know the broker. Raises ValueError for unknown names."""
    folders = {entry.folder for entry in PEERS}
    if unknown := set(peers) - folders:
        raise ValueError(f"There are no peers {', '.join(sorted(unknown))}; there are {', '.join(sorted(folders))}")
    ours = [entry for entry in OURS if broker in entry.brokers]
    return ours + [entry for entry in PEERS if entry.folder in peers and broker in entry.brokers]


def refusal(scheme: str) -> str:
    """Return why this fastq can't use a scheme; nothing where it can."""
    try:
        import_broker(f"{scheme}://localhost")
    except FastQError as error:
        return str(error)
    return ""


def database_url(redis_url: str, turn: int) -> str:
    """Return the URL of a contender's own database."""
    return urlunsplit(urlsplit(redis_url)._replace(path=f"/{DATABASES[turn % len(DATABASES)]}"))


def floor(redis_url: str, seconds: float) -> dict[str, float]:
    """Return what Redis does for one process that runs no task, by the name of what it does."""
    url = urlunsplit(urlsplit(redis_url)._replace(path=f"/{FLOOR_DATABASE}"))
    command = [str(venvs.python_of("floor")), "-m", "benchmarks.peers.floor.commands", url, str(seconds)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True, timeout=60 + 20 * seconds
    )
    return dict(json.loads(done.stdout))


# -- where it was run ------------------------------------------------------------------------------------


def machine(redis_url: str | None) -> dict[str, str]:
    """Say what the figures hold for."""
    found = {
        "processor": f"{os.cpu_count()} × {field_of('/proc/cpuinfo', 'model name')}",
        "memory": f"{int(field_of('/proc/meminfo', 'MemTotal').split()[0]) / 1e6:.1f} GB",
        "system": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "load before": ", ".join(f"{value:.2f}" for value in os.getloadavg()),
        "taken": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "pinned": "nothing: processes run on any CPU",
    }
    if redis_url is not None:
        redis = RedisAt(redis_url)
        version, saves = redis.info()["redis_version"], redis.setting("save") or "off"
        appends = redis.setting("appendfsync") if redis.setting("appendonly") == "yes" else "off"
        found["Redis"] = f"{version}, on the same machine; save: {saves}; append-only file: {appends}"
        redis.close()
    return found


def field_of(path: str, name: str) -> str:
    """Return the first field of that name in a file of ``/proc``."""
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def versions_of(entries: Sequence[Entry]) -> dict[str, str]:
    """Return the version of every contender, and of the client libraries that matter to it; makes environments."""
    matter = ("redis", "hiredis", "coredis", "kombu", "taskiq-redis", "uvloop", "orjson")
    found: dict[str, str] = {}
    for folder in dict.fromkeys(entry.folder for entry in entries):
        if version := venvs.foreign_version(folder):
            found[folder] = version
            continue
        there = venvs.versions(sys.executable if folder == "fastq" else venvs.python_of(folder))
        extras = [f"{name} {there[name]}" for name in matter if name in there]
        version = __version__ if folder == "fastq" else there[folder]
        found[folder] = f"{version} ({', '.join(extras)})"
    return found
