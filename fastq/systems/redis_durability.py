"""What a deployment of Redis really promises, in one line: its version, what it writes to disk, what it evicts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

import hiredis

from fastq.diagnosis import Diagnosis, Weakness
from fastq.errors import BrokerUnavailable
from fastq.systems.redis_url import RedisUrl
from fastq.systems.redis_wire import Wire, pack

logger = logging.getLogger(__name__)

_OLDEST = (6, 2)
_SETTINGS = ("appendfsync", "save", "maxmemory")

#: The first release of each branch in which a script can't run code of its own in the server (CVE-2025-49844).
_SAFE_SCRIPTS: Mapping[str, Mapping[tuple[int, ...], int]] = {
    "Redis": {(6, 2): 20, (7, 2): 11, (7, 4): 6, (8, 0): 4, (8, 2): 2},
    "Valkey": {(7, 2): 11, (8, 0): 6, (8, 1): 4},
}


def report(url: RedisUrl, wire: Wire) -> None:
    """Log it, with warnings where messages may be lost. Raises BrokerUnavailable for a server that is too old."""
    found = diagnose(url, wire)
    logger.info("%s: %s", found.system, found.promise)
    for weakness in found.weaknesses:
        if "evict" in weakness.what:  # the others are in the line above
            logger.warning("%s: %s: %s", found.system, weakness.what, weakness.remedy)


def diagnose(url: RedisUrl, wire: Wire) -> Diagnosis:
    """Return what a deployment promises. Raises BrokerUnavailable for a server that is too old."""
    info, settings = _look(wire)
    version = info.get("redis_version", "0")
    if tuple(int(part) for part in version.split(".")[:2] if part.isdecimal()) < _OLDEST:
        raise BrokerUnavailable(f"Redis at {url.shown} is {version}; fastq needs 6.2 or later, or Valkey")
    product = "Valkey" if "valkey_version" in info else "Redis"
    name = f"{product} {info.get('valkey_version', version)}"
    policy = info.get("maxmemory_policy", "unknown")
    seconds, micros = wire.exchange(pack(("TIME",)), 1)[0]
    return Diagnosis(
        f"{name} at {url.shown}",
        f"{durability(info, settings)}; maxmemory-policy {policy}",
        (*_holes(product, info.get("valkey_version", version)), *_weaknesses(url, info, settings, policy)),
        int(seconds) * 1_000_000 + int(micros),
    )


def _holes(product: str, version: str) -> Iterator[Weakness]:
    """Yield the known hole of a version, by which whoever may run scripts can take over the server."""
    fixed, numbers = _SAFE_SCRIPTS[product], [int(part) for part in version.split(".") if part.isdecimal()]
    branch, patch = tuple(numbers[:2]), numbers[2] if len(numbers) > 2 else 0
    if len(numbers) >= 2 and (patch < fixed[branch] if branch in fixed else branch < max(fixed)):
        releases = ", ".join(f"{major}.{minor}.{first}" for (major, minor), first in fixed.items())
        yield Weakness(
            f"{product} {version} lets whoever may run scripts take over the server (CVE-2025-49844), unless your "
            "distribution has mended it without a new number",
            f"use a release in which it is mended: {releases} or later; let nobody but fastq log in",
        )


def _weaknesses(url: RedisUrl, info: Mapping[str, str], settings: Mapping[str, str], policy: str) -> Iterator[Weakness]:
    if policy.startswith("allkeys"):
        yield Weakness("it may evict messages when its memory is full", "set maxmemory-policy noeviction")
    elif policy.startswith("volatile"):
        yield Weakness(
            "it may evict results before they expire when its memory is full", "set maxmemory-policy noeviction"
        )
    if info.get("aof_enabled") != "1":
        lost = "what came after the last snapshot" if settings.get("save") else "all messages"
        yield Weakness(f"a restart loses {lost}", "set appendonly yes; see docs/redis.rst")
    elif settings.get("appendfsync") != "always":
        yield Weakness("a power failure may lose the last second or more", "set appendfsync always, if that matters")
    if url.kind in ("cluster", "sentinel") or int(info.get("connected_slaves", "0") or 0):
        yield Weakness(
            "a failover loses what the new master had not received", "set min-replicas-to-write 1, to lose less of it"
        )
    if not settings.get("maxmemory", "0").strip("0"):
        yield Weakness(
            "it has no maxmemory, so a flood of messages ends with the death of the server",
            "set maxmemory, and publishing says BrokerFull instead",
        )


def durability(info: Mapping[str, str], settings: Mapping[str, str]) -> str:
    """Return what becomes of accepted messages when the server's process or host dies."""
    if info.get("aof_enabled") == "1":
        fsync = settings.get("appendfsync", "")
        if fsync == "always":
            return "appendonly with fsync always, so accepted messages survive its process and its host's power"
        if fsync == "no":
            return "appendonly without fsync, so accepted messages survive its process; its host may lose half a minute"
        shown = fsync or "of unknown frequency"
        return f"appendonly with fsync {shown}, so a crash may lose the messages of about the last second"
    if settings.get("save", ""):
        return f"snapshots only (save {settings['save']}), so a crash loses all messages since the last one"
    if "save" not in settings:
        return "no appendonly, so a crash loses all messages since the last snapshot, if there is any"
    return "no persistence, so a restart loses all messages"


def _look(wire: Wire) -> tuple[dict[str, str], dict[str, str]]:
    config = b"".join(pack(("CONFIG", "GET", name)) for name in _SETTINGS)
    info_text, *answers = wire.exchange(pack(("INFO",)) + config, 1 + len(_SETTINGS))
    if isinstance(info_text, hiredis.ReplyError):
        return {"redis_version": "6.2"}, {}  # not allowed to look; what it can't do will show
    lines = [line.partition(":") for line in info_text.decode("utf-8", "replace").splitlines()]
    info = {name: value for name, colon, value in lines if colon}
    settings: dict[str, str] = {}
    for answer in answers:  # providers forbid CONFIG
        if isinstance(answer, dict):
            settings.update((name.decode(), value.decode()) for name, value in answer.items())
        elif isinstance(answer, list):
            settings.update(
                (name.decode(), value.decode()) for name, value in zip(answer[::2], answer[1::2], strict=True)
            )
    return info, settings
