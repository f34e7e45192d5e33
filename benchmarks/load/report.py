"""What was measured, for people and for programs: tables in the terminal, ``results.json``, reStructuredText, plots."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.figures import shown
from benchmarks.load.measures import MEASURES, Measure
from benchmarks.load.run import Results


@dataclass(frozen=True)
class Row:
    """A contender's line in a measure's table. `ratio` is how many times better fastq is, where both have a figure."""

    name: str
    median: str
    spread: str
    runs: int
    ratio: float | None

    @property
    def times(self) -> str:
        return "" if self.ratio is None else f"{shown(self.ratio)} ×"


def rows(results: Results, measure: Measure) -> list[Row]:
    """Return a measure's table, fastq first and then the best first."""
    ours = results.of(results.ours[0], measure.key)
    found: list[tuple[float, Row]] = []
    for name in results.delivery:
        values = results.of(name, measure.key)
        if not values:
            reason = results.missing.get(name, {}).get(measure.key)
            if reason is not None:
                found.append((float("inf"), Row(name, "–", reason[:80], 0, None)))
            continue
        median = statistics.median(values)
        ratio = better_by(statistics.median(ours), median, measure) if ours and name != results.ours[0] else None
        row = Row(name, shown(median), f"{shown(min(values))} to {shown(max(values))}", len(values), ratio)
        rank = -1e18 if name in results.ours else (-median if measure.more_is_better else median)
        found.append((rank, row))
    return [row for _, row in sorted(found, key=lambda pair: pair[0])]


def better_by(ours: float, theirs: float, measure: Measure) -> float | None:
    """Return how many times better the first figure is; None where one of them is nothing."""
    if ours <= 0 or theirs <= 0:
        return None
    return ours / theirs if measure.more_is_better else theirs / ours


def lost(results: Results) -> list[str]:
    """Return the rows in which a peer has the better figure than fastq with its compiled bodies."""
    sentences = []
    for measure in MEASURES:
        ours = results.of(results.ours[0], measure.key)
        if not ours:
            continue
        mine = statistics.median(ours)
        for name in results.delivery:
            values = results.of(name, measure.key)
            if name in results.ours or not values:
                continue
            theirs = statistics.median(values)
            if theirs > mine if measure.more_is_better else theirs < mine:
                sentences.append(f"{measure.title}: {name} {shown(theirs)} {measure.unit}, fastq {shown(mine)}")
    return sentences


#: How near fastq comes to what Redis does for a process that runs nothing.
LIMITS = (
    ("drain", "taken and settled, with results"),
    ("drain_unkept", "taken and settled, without results"),
    ("single", "LPUSH, one at a time, raw socket"),
    ("bulk", "LPUSH, pipeline of 100, raw socket"),
)


def nearness(results: Results) -> list[str]:
    """Return, for each limit that was measured, how much of it fastq reaches."""
    sentences = []
    for key, name in LIMITS:
        ours, limit = results.of(results.ours[0], key), results.floor.get(name)
        if ours and limit:
            percent = statistics.median(ours) / statistics.median(limit) * 100
            title = next(measure.title for measure in MEASURES if measure.key == key)
            sentences.append(f'{title}: fastq does {shown(percent)} % of "{name}"')
    return sentences


# -- terminal -----------------------------------------------------------------------------------------


def show(results: Results) -> None:
    """Print every table, and what we lose."""
    console = Console()
    for measure in MEASURES:
        found = rows(results, measure)
        if not found:
            continue
        table = Table(title=f"{measure.title}, {measure.unit}", title_justify="left")
        for column in ("contender", "median", "spread", "runs", "fastq is better by"):
            table.add_column(column, justify="right" if column in ("median", "runs") else "left")
        for row in found:
            table.add_row(row.name, row.median, row.spread, str(row.runs or ""), row.times)
        console.print(table)
    if results.floor:
        table = Table(title="The floor: Redis commands from one process that runs nothing", title_justify="left")
        for column in ("commands", "median, k/s", "spread"):
            table.add_column(column, justify="right" if column.startswith("median") else "left")
        for name, median, spread in floor_rows(results):
            table.add_row(name, median, spread)
        console.print(table)
        for sentence in nearness(results):
            console.print(f"  {sentence}", highlight=False)
    console.print("Rows that fastq loses:" if lost(results) else "fastq loses no row.")
    for sentence in lost(results):
        console.print(f"  {sentence}", highlight=False)
    for note in results.notes:
        console.print(f"[yellow]{note}[/]")


def floor_rows(results: Results) -> Iterator[tuple[str, str, str]]:
    for name, values in results.floor.items():
        thousands = [value / 1e3 for value in values]
        yield name, shown(statistics.median(thousands)), f"{shown(min(thousands))} to {shown(max(thousands))}"


# -- files ----------------------------------------------------------------------------------------------


def read_json(path: Path) -> Results:
    """Return what `write_json` wrote. Raises OSError, ValueError."""
    found = json.loads(path.read_text())
    return Results(**{each.name: found[each.name] for each in fields(Results)})


def write_json(results: Results, path: Path) -> None:
    """Write every value that was taken."""
    medians = {
        name: {key: statistics.median(values) for key, values in by_key.items()}
        for name, by_key in results.values.items()
    }
    path.write_text(json.dumps({**asdict(results), "medians": medians}, indent=1) + "\n")


def write_rst(results: Results, path: Path, plots: Sequence[Path]) -> None:
    """Write the page of the documentation."""
    path.write_text("\n".join(rst_lines(results, path, plots)) + "\n")


def rst_lines(results: Results, path: Path, plots: Sequence[Path]) -> Iterator[str]:
    yield from titled("Benchmarks", "=")
    yield "This page was written by ``python -m benchmarks.load``; do not edit it."
    yield "Figures hold for the machine that they were taken on. Run it on yours."
    yield ""
    if results.quick:
        yield "**These are from a quick run, with small sizes: a trial of the suite, and no measurement.**"
        yield ""
    for note in results.notes:
        yield f"**{note}**"
        yield ""
    yield from titled("Rows that we lose", "-")
    yield from (f"* {sentence}" for sentence in lost(results) or ["None, against the contenders below."])
    yield ""
    yield from titled("Where, and what", "-")
    yield from table(("", ""), [*results.machine.items(), ("broker", results.broker)])
    contenders = [(name, results.versions[folder_of(results, name)], what) for name, what in results.delivery.items()]
    yield from table(("contender", "version", "a task whose worker dies is run"), contenders)
    yield from FAIRNESS.strip().splitlines()
    yield ""
    yield from titled("Figures", "-")
    for plot in plots:
        yield f".. image:: {plot.relative_to(path.parent)}"
        yield ""
    for measure in MEASURES:
        lines = [(row.name, row.median, row.spread, str(row.runs or ""), row.times) for row in rows(results, measure)]
        if not lines:
            continue
        yield from titled(f"{measure.title}, {measure.unit}", "~")
        yield measure.how
        yield ""
        yield from table(("contender", "median", "spread", "runs", "fastq is better by"), lines)
    if results.floor:
        yield from titled("The floor", "~")
        yield "Redis commands from one process that runs no task: messages of 200 bytes, results of 50; in k/s."
        yield "What is taken and settled goes from a list into a pending hash, and out of it with the results stored"
        yield "in a small hash, 400 tasks by one script call each way."
        yield ""
        yield from table(("commands", "median", "spread"), list(floor_rows(results)))
        yield from (f"* {sentence}" for sentence in nearness(results))


FAIRNESS = """
Everyone runs the same four tasks (``benchmarks/peers/NAME/tasks.py``), on the same server, with the same Python,
and is driven by the same driver, from an environment of its own with pinned versions. Each is in its best
configuration for two CPUs, with the reason beside it in its adapter. Durability is the same, as far as a contender
can: messages are given up when their task has ended, and results are stored for an hour or, in fastq, a day; where a
contender can't, the table says "at most once". Warm-up is left out for all: two drains before anything is timed.
Runs are interleaved, a session of each contender in turn, each on an empty database. How many calls are drained is
sized by each contender's own speed, so that everyone works for about as long. A task counts its own run in shared
memory, some 0.2 µs, which is in everybody's figures.
"""


def folder_of(results: Results, name: str) -> str:
    """Return the folder of a contender; names begin with it."""
    return next(folder for folder in results.versions if name.startswith(folder))


def titled(title: str, line: str) -> list[str]:
    return [title, line * len(title), ""]


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield a list-table."""
    yield ".. list-table::"
    if any(head):
        yield "   :header-rows: 1"
    yield ""
    for first, *others in [head, *lines] if any(head) else lines:
        yield f"   * - {first}"
        yield from (f"     - {cell}" for cell in others)
    yield ""


# -- plots ---------------------------------------------------------------------------------------------


def write_plots(results: Results, folder: Path) -> list[Path]:
    """Write a bar chart a measure as SVG and PNG; return the SVGs, and nothing where there is no matplotlib."""
    try:
        import matplotlib  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return []
    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "fastq", "font.size": 9})
    from matplotlib import pyplot  # type: ignore[import-not-found, unused-ignore]

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for measure in MEASURES:
        if measure.key not in ("drain", "bulk", "single", "trip_p50", "memory", "boot", "short_p99", "chord"):
            continue
        names = [row.name for row in rows(results, measure) if row.runs][::-1]
        if not names:
            continue
        values = [results.of(name, measure.key) for name in names]
        medians = [statistics.median(each) for each in values]
        errors = [
            [median - min(each) for median, each in zip(medians, values, strict=True)],
            [max(each) - median for median, each in zip(medians, values, strict=True)],
        ]
        figure, axes = pyplot.subplots(figsize=(7, 0.35 * len(names) + 1))
        colours = ["#c0392b" if name in results.ours else "#a9b4b8" for name in names]
        bars = axes.barh(names, medians, xerr=errors, color=colours, capsize=2, error_kw={"elinewidth": 0.8})
        axes.bar_label(bars, [shown(median) for median in medians], padding=6)
        axes.margins(x=0.12)
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.set_title(f"{measure.title} ({measure.unit}; {'more' if measure.more_is_better else 'less'} is better)")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        figure.tight_layout()
        for kind in ("svg", "png"):
            figure.savefig(folder / f"{measure.key}.{kind}", metadata={"Date": None} if kind == "svg" else None)
        pyplot.close(figure)
        written.append(folder / f"{measure.key}.svg")
    return written
