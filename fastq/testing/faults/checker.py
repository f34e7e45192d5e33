"""The checker: what became of everything that was accepted, and which promises were broken.

The invariants, as far as a machine can see them:

====  ===============================================================================================
I1    nothing accepted is lost: a late task ended or is a dead letter; an early one began, or its caller is told
I2    nothing began that nobody sent
I3    an early task began once at most
I4    a late task began `max_deliveries` times at most, and once in processes that nobody killed
I5    an end that was recorded was never replaced by another
I6    when all is quiet, nothing is left in a queue
I7    nothing is left behind: processes, descriptors, shared memory, files
I8    processes ended with the status that is theirs, and without unexpected errors
====  ===============================================================================================
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fastq.testing.faults.ledger import ACCEPTED, ATTEMPTED, END, START, Line


@dataclass(frozen=True)
class Verdict:
    """What a run came to, in numbers of tasks, and which invariants it broke, in words."""

    attempted: int
    accepted: int
    started: int
    finished: int
    lost: int  # accepted, and neither finished nor a dead letter nor still queued
    duplicated: int  # began more than once
    dead_lettered: int
    violations: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every promise was kept."""
        return not self.violations

    def numbers(self) -> dict[str, int]:
        """Return the numbers by name."""
        return {name: value for name, value in asdict(self).items() if name != "violations"}

    def as_json(self) -> dict[str, Any]:
        """Return all of it, fit for JSON."""
        return {**self.numbers(), "violations": list(self.violations)}


def judge(
    lines: Iterable[Line], *, ack: str = "late", dead: Collection[str] = (), left: Collection[str] = (),
    told: Collection[str] = (), killed: Collection[int] | None = None, max_deliveries: int = 5, may_lose: int = 0,
    ends_before: Mapping[str, object] | None = None, ends_after: Mapping[str, object] | None = None,
    behind: Sequence[str] = (), misbehaved: Sequence[str] = (),
) -> Verdict:  # fmt: skip
    """Compare what a ledger says with what was promised.

    `dead` and `left` are the ids of dead letters, and of what is still in a queue when all is quiet; `told` those of
    early tasks that are recorded as lost. `killed` are the processes that did not end by themselves, or None where that
    is not known. `may_lose` is how many early tasks may be acknowledged at the same time without having begun, where
    their worker was killed. `ends_before` and `ends_after` are ends as they were recorded at two moments, by id;
    `behind` is what `Audit.left` found, and `misbehaved` what else is wrong with processes, in words.
    """
    ids: dict[str, set[str]] = {ATTEMPTED: set(), ACCEPTED: set(), END: set()}
    starts: Counter[str] = Counter()
    healthy: Counter[str] = Counter()  # those in processes that nobody killed
    for line in lines:
        if line.word == START:
            starts[line.id] += 1
            healthy[line.id] += line.pid not in (killed or ())
        elif line.word in ids:
            ids[line.word].add(line.id)
    attempted, accepted, ended = ids.values()
    lost = accepted - ended - set(dead) - set(left)
    untold = lost - starts.keys() - set(told) if ack == "early" else lost
    most = 1 if ack == "early" else max_deliveries
    found = [
        _broken("I1", "lost", untold if len(untold) > (may_lose if ack == "early" else 0) else ()),
        _broken("I2", "ran, and nobody sent them", starts.keys() - attempted),
        _broken("I3" if ack == "early" else "I4", f"began more than {most} times", _above(starts, most)),
        _broken("I4", "ran again, and nobody killed them", _above(healthy, 1) if killed is not None else ()),
        _broken("I5", "ended twice, and differently", _changed(ends_before or {}, ends_after or {})),
        _broken("I6", "are left in queues", left),
        _broken("I7", "left behind", behind),
        _broken("I8", "misbehaved", misbehaved),
    ]
    return Verdict(
        attempted=len(attempted), accepted=len(accepted), started=len(starts), finished=len(ended), lost=len(lost),
        duplicated=len(_above(starts, 1)), dead_lettered=len(set(dead)),
        violations=tuple(violation for violation in found if violation),
    )  # fmt: skip


def table(rows: Sequence[tuple[str, Verdict]]) -> list[str]:
    """Return verdicts as the lines of a table, with a head."""
    heads = ("attempted", "accepted", "started", "finished", "lost", "duplicated", "dead-lettered")
    width = max([4, *(len(name) for name, _ in rows)])
    lines = [f"{'':{width}}  " + "  ".join(heads)]
    for name, verdict in rows:
        numbers = zip(heads, verdict.numbers().values(), strict=True)
        flaws = "".join(f"  {violation}" for violation in verdict.violations)
        lines.append(f"{name:{width}}  " + "  ".join(f"{number:{len(head)}}" for head, number in numbers) + flaws)
    return lines


def _above(counts: Counter[str], most: int) -> set[str]:
    return {id for id, count in counts.items() if count > most}


def _changed(before: Mapping[str, object], after: Mapping[str, object]) -> set[str]:
    return {id for id, end in before.items() if after.get(id) != end}


def _broken(invariant: str, what: str, which: Collection[str]) -> str:
    """Return a violation in words, with some of what it is about; "" if there is none."""
    if not which:
        return ""
    shown = ", ".join(sorted(which)[:3])
    return f"{invariant}: {len(which)} {what}: {shown}{', …' if len(which) > 3 else ''}"
