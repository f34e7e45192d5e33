"""Run the kills: ``python -m benchmarks.kills``. It takes some minutes, most of which nothing happens in."""

from __future__ import annotations

import json
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import click

from benchmarks.kills.contenders import contenders
from benchmarks.kills.scenarios import SCENARIOS, Outcome, play

HEADS = ("scenario", "contender", "accepted", "finished", "lost", "still held", "ran twice", "dead", "most starts")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--scenarios", default=",".join(SCENARIOS), show_default=True, help="Names, by commas.")
@click.option("--jobs", type=click.IntRange(1, 16), default=3, show_default=True, help="How many go on at once.")
@click.option("--output", type=click.Path(path_type=Path), help="For what was counted, as JSON.")
def main(scenarios: str, jobs: int, output: Path | None) -> None:
    """Do the same harm to fastq and to Celery on Redis, and count what is lost and what is done twice."""
    names = [name.strip() for name in scenarios.split(",")]
    if unknown := [name for name in names if name not in SCENARIOS]:
        raise click.UsageError(f"There is no scenario {unknown[0]!r}; there are {', '.join(SCENARIOS)}")
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        waiting = [
            pool.submit(play, scenario, contender, Path(folder) / f"{scenario}-{contender.title}".replace(" ", "-"))
            for scenario in names
            for contender in contenders()
        ]
        for each in as_completed(waiting):
            click.echo("  ".join(_row(each.result())), err=True)
        outcomes = [each.result() for each in waiting]
    rows = [_row(outcome) for outcome in outcomes]
    for line in aligned(rows):
        click.echo(line)
    if output is not None:
        output.write_text(json.dumps([dict(zip(HEADS, row, strict=True)) for row in rows], indent=1))


def _row(outcome: Outcome) -> tuple[str, ...]:
    verdict = outcome.verdict
    numbers = (
        verdict.accepted, verdict.finished, verdict.lost, outcome.held, verdict.duplicated, verdict.dead_lettered,
        outcome.most_starts,
    )  # fmt: skip
    return (outcome.scenario, outcome.contender, *map(str, numbers))


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Return rows as a table of reStructuredText."""
    widths = [max(map(len, column)) for column in zip(HEADS, *rows, strict=True)]
    rule = "  ".join("=" * width for width in widths)

    def line(row: tuple[str, ...]) -> str:
        return "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()

    return [rule, line(HEADS), rule, *map(line, rows), rule]


if __name__ == "__main__":
    main()
