"""What is measured of a contender, how, and in which sessions; a session is one worker on one empty database."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.figures import percentile
from benchmarks.load.contender import Contender


@dataclass(frozen=True)
class Measure:
    """One measured thing; `how` it is taken is for readers."""

    key: str
    title: str
    unit: str
    how: str
    more_is_better: bool = True


@dataclass(frozen=True)
class Sizes:
    """How long things take. `seconds` is what one drain is sized for, by the contender's own speed."""

    seconds: float = 1.5
    trips: int = 200
    idle_s: float = 2.0
    mixed_s: float = 8.0
    mixed_runs: int = 2
    recovery_s: float = 40.0
    recovery_runs: int = 1
    members: int = 10_000
    chord_s: float = 120.0
    floor_s: float = 1.0


QUICK = Sizes(seconds=0.7, trips=50, idle_s=1.0, mixed_s=4.0, mixed_runs=1, recovery_s=10.0, members=500, floor_s=0.3)

CHILDREN = 2
MOST = 200_000
LARGE = "x" * 10_000
RATE = 250  # with every hundredth of 1 s: two or three of four children are busy with long ones, never all

FROZEN = (
    "Calls are sent while the warm worker's processes are stopped by SIGSTOP; what is timed begins with SIGCONT and "
    "ends when every call has run and, where results are kept, the result of the call that was sent last is there."
)
MEASURES = (
    Measure(
        "drain", "Drain, results kept", "tasks/s",
        f"No-op with one integer, which it returns. {FROZEN} As many calls as the contender does in some seconds, "
        "by its warm-up of two drains.",
    ),
    Measure("drain_unkept", "Drain, no results", "tasks/s", "The same with results switched off."),
    Measure(
        "drain_large", "Drain, 10 kB arguments", "tasks/s",
        "A task that takes a text of 10,000 bytes and returns its length; otherwise as above, results kept.",
    ),
    Measure(
        "bulk", "Enqueue, in bulk", "calls/s",
        "No-op calls, a thousand in a bulk, in the quickest way that the contender offers: its call for many, or its "
        "single call on one connection, or a hundred at once on its event loop. The worker stands still meanwhile.",
    ),
    Measure(
        "single", "Enqueue, one at a time", "calls/s",
        "Each call is made when the one before is accepted by the broker. The worker stands still meanwhile.",
    ),
    Measure(
        "trip_p50", "Round trip on an idle worker, p50", "ms",
        "A no-op is sent and its result waited for, one at a time, in the quickest way that the contender offers: "
        "by push where it has it, else by polling every millisecond. Event loops stay on their loop.",
        more_is_better=False,
    ),
    Measure("trip_p99", "Round trip on an idle worker, p99", "ms", "The 99th percentile of the same.", False),
    Measure(
        "short_p99", "Wait of short tasks beside long ones, p99", "ms",
        f"Four children. {RATE} calls a second, evenly, one at a time; every hundredth sleeps for 1 s (on the event "
        "loop, where the worker is one), the others note how long it is since they were sent.",
        more_is_better=False,
    ),
    Measure("short_p50", "Wait of short tasks beside long ones, p50", "ms", "The median of the same.", False),
    Measure(
        "chord", "A chord of 10,000", "s",
        "10,000 no-ops, and a task that is given all their values when the last has ended; from before the chord is "
        "sent until the value of that task is there, on a worker that has run a chord of a hundred.",
        more_is_better=False,
    ),
    Measure(
        "chord_lag", "From a chord's last member to its callback", "ms",
        "How long after the body of the last of the 10,000 members the body of the callback begins.",
        more_is_better=False,
    ),
    Measure(
        "boot", "Boot to first task", "s",
        "One call waits in the queue; from the start of the worker's process until the call has run. Files are in "
        "the page cache, modules compiled.",
        more_is_better=False,
    ),
    Measure(
        "memory", "Memory of an idle worker", "MB PSS",
        "The sum of Pss in /proc/PID/smaps_rollup over all processes of the worker, before its second task.",
        more_is_better=False,
    ),
    Measure(
        "idle_cpu", "CPU of an idle worker", "% of a CPU",
        "User and system time of all processes of the worker over some seconds without calls.",
        more_is_better=False,
    ),
    Measure(
        "recover_child", "Recovery after kill -9 of a child", "s",
        "The child that runs a task of 0.5 s is killed; until the task has run again, less 0.5 s. Default timeouts.",
        more_is_better=False,
    ),
    Measure(
        "recover_worker", "Recovery after kill -9 of the worker", "s",
        "All processes of the worker are killed while a task runs, and another worker is started at once; as above.",
        more_is_better=False,
    ),
)  # fmt: skip
BY_KEY: Mapping[str, Measure] = {each.key: each for each in MEASURES}

#: What a session found: figures by the measure's key, or why there is none.
Found = dict[str, float | str]


def kept(contender: Contender, sizes: Sizes) -> Found:
    """Measure with results kept: boot, idleness, round trips, enqueueing, draining."""
    found: Found = {"boot": contender.start(CHILDREN)}
    contender.idle(1)
    idle = contender.idle(sizes.idle_s)
    found |= {"memory": idle["memory_mb"], "idle_cpu": idle["cpu_percent"]}
    if contender.keeps:
        contender.round_trips(10, 5)
        trips = [trip * 1e3 for trip in contender.round_trips(sizes.trips, 10)]
        found |= {"trip_p50": percentile(trips, 50), "trip_p99": percentile(trips, 99)}
    count = warm(contender, sizes)
    found["bulk"], drained = filled_and_drained(contender, "same", 7, count)
    if contender.keeps:
        found["drain"] = drained
        _, found["drain_large"] = filled_and_drained(contender, "size", LARGE, min(max(count // 3, 200), 20_000))
    else:
        found |= dict.fromkeys(("drain", "drain_large", "trip_p50", "trip_p99"), "keeps no results")
    contender.freeze()
    found["single"] = contender.send_each("same", 7, min(sizes.seconds, 2))
    return found


def unkept(contender: Contender, sizes: Sizes) -> Found:
    """Measure with results switched off: draining."""
    contender.start(CHILDREN)
    return {"drain_unkept": filled_and_drained(contender, "same", 7, warm(contender, sizes))[1]}


def chorded(contender: Contender, sizes: Sizes) -> Found:
    """Measure a chord."""
    contender.start(CHILDREN)
    if isinstance(first := contender.chord(100, 20), str):
        return dict.fromkeys(("chord", "chord_lag"), first)
    found = contender.chord(sizes.members, sizes.chord_s)
    assert not isinstance(found, str)
    return {"chord": found["seconds"], "chord_lag": found["lag_s"] * 1e3}


def mixed(contender: Contender, sizes: Sizes) -> Found:
    """Measure how long short tasks wait beside long ones."""
    contender.start(4)
    contender.mixed(RATE, 0.5)
    waits = [wait * 1e3 for wait in contender.mixed(RATE, sizes.mixed_s)]
    return {"short_p50": percentile(waits, 50), "short_p99": percentile(waits, 99)}


def recovery(contender: Contender, sizes: Sizes) -> Found:
    """Measure how long it takes to recover from two kinds of death."""
    contender.start(CHILDREN)
    return {"recover_child": contender.recover_child(sizes.recovery_s)}


def recovery_of_worker(contender: Contender, sizes: Sizes) -> Found:
    contender.start(CHILDREN)
    return {"recover_worker": contender.recover_worker(CHILDREN, sizes.recovery_s)}


@dataclass(frozen=True)
class Session:
    """One kind of session: which measures it takes, whether results are kept in it, and how often it is held."""

    take: Callable[[Contender, Sizes], Found]
    keys: tuple[str, ...]
    keep: bool = True
    kills: bool = False
    runs: Callable[[int, Sizes], int] = lambda runs, _: runs


SESSIONS = (
    Session(kept, ("drain", "drain_large", "bulk", "single", "trip_p50", "trip_p99", "boot", "memory", "idle_cpu")),
    Session(unkept, ("drain_unkept",), keep=False),
    Session(chorded, ("chord", "chord_lag")),
    Session(mixed, ("short_p50", "short_p99"), runs=lambda runs, sizes: min(runs, sizes.mixed_runs)),
    Session(recovery, ("recover_child",), kills=True, runs=lambda runs, sizes: min(runs, sizes.recovery_runs)),
    Session(
        recovery_of_worker, ("recover_worker",), kills=True, runs=lambda runs, sizes: min(runs, sizes.recovery_runs)
    ),
)


# -- steps -------------------------------------------------------------------------------------------


def warm(contender: Contender, sizes: Sizes) -> int:
    """Drain twice, so that everything is warm; return how many calls take `sizes.seconds`."""
    count = 500
    for seconds in (sizes.seconds / 2, sizes.seconds):
        _, rate = filled_and_drained(contender, "same", 7, count)
        count = min(max(int(rate * seconds), 300), MOST)
    return count


def filled_and_drained(contender: Contender, task: str, argument: object, count: int) -> tuple[float, float]:
    """Fill the queue beside a warm worker, and have it drained; return both rates."""
    contender.freeze()
    filled = contender.send_bulk(task, argument, count, 20)
    return filled, contender.drain(90)
