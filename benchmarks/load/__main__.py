"""Run the load benchmarks: ``python -m benchmarks.load --broker redis --peers celery``, ``… pool`` or ``… scale``."""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.load import pool, report, scale
from benchmarks.load.contender import PEERS, ROOT
from benchmarks.load.measures import QUICK, Sizes
from benchmarks.load.run import Results, run

ALL = ",".join(dict.fromkeys(entry.folder for entry in PEERS))

REDIS_URL = "redis://127.0.0.1:6379"
RABBIT_URL = "amqp://guest:guest@127.0.0.1:5672"


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--broker", type=click.Choice(["redis", "amqp", "sqlite", "memory"]), default="redis", show_default=True)
@click.option("--redis-url", default=REDIS_URL, show_default=True, help="Databases 9 to 13 are EMPTIED.")
@click.option("--rabbit-url", default=RABBIT_URL, show_default=True, help="Its virtual host fastq-bench is DELETED.")
@click.option("--peers", default=ALL, show_default=True, help="Names, by commas; empty for none.")
@click.option("--runs", type=click.IntRange(1, 50), default=5, show_default=True)
@click.option("--quick", is_flag=True, help="Small sizes, to see that everything works.")
@click.option("--output", type=click.Path(path_type=Path), help="For results.json and plots; by default build/bench.")
@click.option("--docs", type=click.Path(path_type=Path), help="The page to write; by default OUTPUT/benchmarks.rst.")
@click.pass_context
def main(
    context: click.Context,
    broker: str,
    redis_url: str,
    rabbit_url: str,
    peers: str,
    runs: int,
    *,
    quick: bool,
    output: Path | None,
    docs: Path | None,
) -> None:
    """Measure fastq and its peers, on one broker, in one interleaved run."""
    if context.invoked_subcommand is not None:
        return
    output = output or ROOT / "build" / "bench"
    page = docs or output / "benchmarks.rst"
    for folder in (output, page.parent):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        names = [name for name in peers.split(",") if name]
        results = run(broker, redis_url, names, runs, QUICK if quick else Sizes(), quick=quick, rabbit_url=rabbit_url)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    report.write_json(results, output / "results.json")
    told(results, output / "results.json", page)


def told(results: Results, source: Path, page: Path) -> None:
    """Show results, and write the page with its plots."""
    report.show(results)
    plots = report.write_plots(results, page.parent / "benchmarks")
    report.write_rst(results, page, plots)
    click.echo(f"Written: {source}, {page}, {len(plots) or 'no'} plots")
    if not plots:
        click.echo("Plots need matplotlib: pip install 'fastq-worker[bench]'")


@main.command("report")
@click.argument("source", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("page", type=click.Path(path_type=Path))
def report_alone(source: Path, page: Path) -> None:
    """Write the page once more, from the results.json of an earlier run."""
    told(report.read_json(source), source, page)


@main.command("pool")
def pool_alone() -> None:
    """Measure the pool alone, beside the pools of others."""
    pool.main()


@main.command("scale")
@click.option(
    "--deep", type=click.IntRange(min=2000), default=scale.DEEP, show_default=True, help="Messages in the deep queue."
)
def scale_alone(deep: int) -> None:
    """Measure deep queues, delayed messages and idle workers, on a Redis server of its own."""
    scale.main(deep)


if __name__ == "__main__":
    main()
