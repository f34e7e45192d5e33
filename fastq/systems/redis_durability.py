"""What a deployment of Redis really promises, in one line: its version, what it writes to disk, what it evicts."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import hiredis

from fastq.errors import BrokerUnavailable
from fastq.systems.redis_url import RedisUrl
from fastq.systems.redis_wire import Wire, pack

logger = logging.getLogger(__name__)

_OLDEST = (6, 2)
_SETTINGS = ("appendfsync", "save", "maxmemory")


def report(url: RedisUrl, wire: Wire) -> None:
    """Log it, with warnings where messages may be lost. Raises BrokerUnavailable for a server that is too old."""
    info, settings = _look(wire)
    version = info.get("redis_version", "0")
    if tuple(int(part) for part in version.split(".")[:2] if part.isdecimal()) < _OLDEST:
        raise BrokerUnavailable(f"Redis at {url.shown} is {version}; fastq needs 6.2 or later, or Valkey")
    name = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {version}"
    policy = info.get("maxmemory_policy", "unknown")
    logger.info("%s at %s: %s; maxmemory-policy %s", name, url.shown, durability(info, settings), policy)
    if policy.startswith("allkeys"):
        logger.warning(
            "%s at %s may evict messages when its memory is full: set maxmemory-policy noeviction", name, url.shown
        )
    elif policy.startswith("volatile"):
        logger.warning(
            "%s at %s may evict results before they expire when its memory is full: set maxmemory-policy noeviction",
            name, url.shown,
        )  # fmt: skip


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
