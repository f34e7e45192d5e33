"""Which queue a call goes to: routes by the task's name, and the shares of fair queues; pure.

A fair queue has a number of shares beside itself, which are queues, too: ``mail:fair-0``, ``mail:fair-1``, … A call
goes to the share that the hash of its key names, and workers serve the shares in turn: stochastic fairness queueing
(McKenney, "Stochastic Fairness Queueing", 1990). Nobody has to know who the keys are.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from .errors import ConfigurationError
from .message import check_queue

_SHARE = re.compile(r"(.+):fair-\d{1,4}", re.ASCII)
_MOST_TURNS = 100
_ORDERS = 8  # how many orders of its shares a worker goes through


def route(routes: Iterable[tuple[str, str]], task: str) -> str | None:
    """Return the queue that routes give a task: that of its very name, or else of the first pattern; None if none."""
    found = None
    for pattern, queue in routes:
        if pattern == task:
            return queue
        if found is None and fnmatchcase(task, pattern):
            found = queue
    return found


def share_of(queue: str, shares: int, key: str, weight: int = 1) -> str:
    """Return the share of a fair queue for a call of this key; one of `weight` has calls in that many shares."""
    from hashlib import blake2b  # which is slow to import, and few queues are fair

    which = random.randrange(weight) if weight > 1 else 0
    digest = blake2b(f"{which} {key}".encode(), digest_size=8).digest()
    return f"{queue}:fair-{int.from_bytes(digest, 'big') % shares}"


def queues_of(text: str) -> list[str]:
    """Read the queues that a worker is to serve, "a:3,b": each is returned as often as it has a turn.

    Raises ProtocolError for what is no queue name, ConfigurationError for a weight that can't be.
    """
    weights: dict[str, int] = {}
    for part in text.split(","):
        name, _, weight = part.strip().rpartition(":")
        if not name or not (weight.isascii() and weight.isdigit()):
            name, weight = part.strip(), "1"
        if not 1 <= int(weight[:9]) <= _MOST_TURNS:
            raise ConfigurationError(
                f"{part.strip()!r:.60} gives {name} {weight:.9} turns; it takes 1 to {_MOST_TURNS}"
            )
        weights[check_queue(name)] = int(weight)
    return [name for turn in range(max(weights.values())) for name, weight in weights.items() if turn < weight]


def shown(queues: Iterable[str]) -> str:
    """Return queues as `queues_of` reads them."""
    return ",".join(name if count == 1 else f"{name}:{count}" for name, count in Counter(queues).items())


def queue_of_share(name: str) -> str:
    """Return the queue that a share belongs to; any other queue is its own."""
    match = _SHARE.fullmatch(name)
    return match[1] if match else name


def family(queue: str, shares: Mapping[str, int]) -> list[str]:
    """Return a queue and its shares."""
    return [queue, *(f"{queue}:fair-{number}" for number in range(shares.get(queue, 0)))]


def turns(queues: Sequence[str], shares: Mapping[str, int]) -> list[str]:
    """Return the queues that a worker subscribes to which is to serve `queues`: with the shares of those that are fair.

    A queue that is named several times has as many turns. The order of the shares changes from one round to the
    next, because whoever comes after shares that are empty has their turns as well as its own.
    """
    families = {queue: family(queue, shares) for queue in queues}
    longest = max(map(len, families.values()), default=1)
    if longest == 1:
        return list(queues)
    dice = random.Random(longest)  # the same for all
    upcoming: dict[str, list[str]] = {queue: [] for queue in families}
    found: list[str] = []
    for _ in range(_ORDERS * longest):
        for queue in queues:
            if not upcoming[queue]:
                upcoming[queue] = dice.sample(families[queue], len(families[queue]))
            found.append(upcoming[queue].pop())
    return found
