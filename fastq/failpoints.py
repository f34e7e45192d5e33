"""Failpoints: named places in fastq where a process can be made to die, stop, sleep or fail, for tests.

They are off unless ``FASTQ_FAILPOINTS`` names some; off, a point costs a look at `on`. The variable is a list, by
commas, of ``POINT=ACTION`` with words behind it, by colons::

    FASTQ_FAILPOINTS="P8=kill9:once:child, P12=sleep(0.5):0.1:parent"

POINT is one of `POINTS`, or ``*`` for a quarter of them, which the seed chooses. ACTION is ``kill9``, ``stop``
(SIGSTOP), ``sleep(SECONDS)``, ``raise`` (RuntimeError), ``enospc`` (OSError) or ``exit0``. The words are ``once``, a
probability, and the role of the processes that are meant: ``producer``, ``parent`` or ``child``. In
``FASTQ_FAILPOINTS_DIR``, a folder that the processes share, each firing is noted; ``once`` needs it.
``FASTQ_FAILPOINTS_SEED`` is what probabilities are drawn with.
"""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING, NamedTuple

from .errors import ConfigurationError, did_you_mean

if TYPE_CHECKING:
    from random import Random

#: What each point is; `docs/reliability.rst` has what must hold when a process ends there.
POINTS = {
    "P0": "a producer is about to send",
    "P1": "what is to be published was sent, and no answer has come",
    "P2": "the broker has accepted it, and `publish` has not returned",
    "P3": "the broker gives messages, and the worker does not have them yet",
    "P4": "they are leased, and not in the pool",
    "P5": "they are in the pool",
    "P6": "a child has taken one",
    "P7": "the broker was told of a start, before it happens",
    "P8": "in the midst of a task: the task's own code hits it",
    "P9": "the task has returned, and its outcome has not left the child",
    "P10": "the parent has the outcome, and nothing is stored",
    "P11": "the outcome is stored, and the message not settled",
    "P12": "the message is settled, or so the broker was told",
    "P13": "what follows in a workflow is about to be published",
    "P14": "messages of a dead worker are being taken over",
    "P15": "a dead letter is written, and its message not removed",
    "P16": "the next attempt is written, and this one not removed",
}
ROLES = ("producer", "parent", "child")
VARIABLES = ("FASTQ_FAILPOINTS", "FASTQ_FAILPOINTS_SEED", "FASTQ_FAILPOINTS_DIR")

_ACTIONS = ("kill9", "stop", "sleep", "raise", "enospc", "exit0")
_ENTRY = re.compile(r"\s*(P\d+|\*)\s*=\s*([a-z0-9]+)(?:\(([\d.]+)\))?((?::[^:]*)*)\s*")
_QUARTER = 0.25


class Failpoint(NamedTuple):
    """What is to happen at a point."""

    point: str
    action: str
    seconds: float = 0.0  # of a sleep
    once: bool = False
    chance: float = 1.0
    role: str = ""  # empty: any


class _Armed:
    """The failpoints of this process, and what they are drawn with."""

    def __init__(self, failpoints: list[Failpoint], seed: str, folder: str) -> None:
        self.failpoints = failpoints
        self.seed = seed
        self.folder = folder
        self.dice: Random | None = None


#: Whether any failpoint is armed.
on = bool(os.environ.get("FASTQ_FAILPOINTS"))
#: What this process is.
role = "producer"
_armed: _Armed | None = None


def hit(point: str) -> None:
    """Say that this process is at a point; it may not return. Call it only where `on`."""
    for failpoint in _now_armed().failpoints:
        if failpoint.point in (point, "*") and failpoint.role in ("", role) and _fires(failpoint, point):
            _strike(failpoint, point)


def enter(new_role: str) -> None:
    """Say what this process is from now on."""
    global role
    role = new_role
    if _armed is not None:
        _armed.dice = None  # a forked process has luck of its own


def arm(text: str, *, seed: str = "0", folder: str = "") -> None:
    """Arm failpoints in this process, in place of those of the environment; none for "". Raises ConfigurationError."""
    global on, _armed
    failpoints = parse(text)
    if not folder and any(failpoint.once for failpoint in failpoints):
        raise ConfigurationError(f"FASTQ_FAILPOINTS is {text!r}; `once` takes a folder in FASTQ_FAILPOINTS_DIR, too")
    on, _armed = bool(failpoints), _Armed(failpoints, seed, folder)


def check() -> None:
    """Arm what the environment says. Raises ConfigurationError where it says nonsense."""
    if _armed is None and on:
        _now_armed()


def parse(text: str) -> list[Failpoint]:
    """Return the failpoints of a text. Raises ConfigurationError."""
    return [_parsed(entry) for entry in text.split(",") if entry.strip()]


def _parsed(entry: str) -> Failpoint:
    match = _ENTRY.fullmatch(entry)
    if match is None:
        raise ConfigurationError(f"FASTQ_FAILPOINTS has {entry.strip()!r}; an entry is like P8=kill9:once:child")
    point, action, seconds, words = match.groups()
    if point != "*" and point not in POINTS:
        raise ConfigurationError(f"FASTQ_FAILPOINTS names {point!r}; {did_you_mean(point, POINTS)}")
    if action not in _ACTIONS:
        raise ConfigurationError(f"FASTQ_FAILPOINTS has the action {action!r}; {did_you_mean(action, _ACTIONS)}")
    if (action == "sleep") != (seconds is not None):
        raise ConfigurationError(f"FASTQ_FAILPOINTS has {entry.strip()!r}; sleep takes seconds, and nothing else does")
    failpoint = Failpoint(point, action, _number(seconds or "0", entry))
    for word in words.split(":")[1:]:
        failpoint = _with(failpoint, word.strip(), entry)
    return failpoint


def _with(failpoint: Failpoint, word: str, entry: str) -> Failpoint:
    if word == "once":
        return failpoint._replace(once=True)
    if word in ROLES:
        return failpoint._replace(role=word)
    if re.fullmatch(r"[\d.]+", word) and 0 < (chance := _number(word, entry)) <= 1:
        return failpoint._replace(chance=chance)
    raise ConfigurationError(
        f"FASTQ_FAILPOINTS has {word!r} in {entry.strip()!r}; it takes once, a probability, {', '.join(ROLES)}"
    )


def _number(text: str, entry: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigurationError(f"FASTQ_FAILPOINTS has {text!r} in {entry.strip()!r}, which is no number") from None


def _now_armed() -> _Armed:
    if _armed is None:
        text, seed, folder = (os.environ.get(variable, "") for variable in VARIABLES)
        arm(text, seed=seed or "0", folder=folder)
    assert _armed is not None
    return _armed


def _fires(failpoint: Failpoint, point: str) -> bool:
    from random import Random

    armed = _now_armed()
    if failpoint.point == "*" and Random(f"{armed.seed} {point}").random() > _QUARTER:
        return False
    if failpoint.chance < 1:
        if armed.dice is None:
            armed.dice = Random(f"{armed.seed} {role} {_incarnation(armed.folder)}")
        if armed.dice.random() > failpoint.chance:
            return False
    return not failpoint.once or _is_first(armed.folder, failpoint)


def _incarnation(folder: str) -> int:
    """Return a number that no other process with this folder has had; they rise from 1."""
    if not folder:
        return 0
    file = os.open(f"{folder}/processes", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, b".")
        return os.lseek(file, 0, os.SEEK_CUR)
    finally:
        os.close(file)


def _is_first(folder: str, failpoint: Failpoint) -> bool:
    """Return whether no process with this folder has come here before."""
    try:
        name = f"once.{failpoint.point}.{failpoint.role}".replace("*", "any")
        os.close(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return False
    return True


def _strike(failpoint: Failpoint, point: str) -> None:
    import signal

    armed, action = _now_armed(), failpoint.action
    if armed.folder:
        file = os.open(f"{armed.folder}/fired", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(file, f"{point} {action} {role} {os.getpid()} {time.monotonic():.6f}\n".encode())
        os.close(file)
    if action == "kill9":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif action == "sleep":
        time.sleep(failpoint.seconds)
    elif action == "exit0":
        os._exit(0)
    elif action == "enospc":
        import errno

        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}, says the failpoint {point}")
    else:
        raise RuntimeError(f"the failpoint {point} says so")
