"""Tokenize every file of Python's own standard library, in parallel, and kill a child half-way: nothing is lost.

Run it as ``python examples/standard_library.py [--files N] [--json]``. It needs nothing but fastq: it starts a
worker with two children on an SQLite file of its own, and takes away what it made.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import keyword
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fastq import FastQ, TaskSet, TaskSetResult
from fastq.errors import ResultTimeout

LIBRARY = Path(sysconfig.get_path("stdlib"))

app = FastQ("standard-library", broker="sqlite:///demo.db")


@app.task
def read(file: str) -> dict[str, Any]:
    """Count what is in one Python file. This runs in the worker's children."""
    source = (LIBRARY / file).read_bytes()
    count = {"lines": len(source.splitlines()), "sha256": hashlib.sha256(source).hexdigest(), "pid": os.getpid()}
    try:
        tokens = list(tokenize.tokenize(io.BytesIO(source).readline))
    except (SyntaxError, tokenize.TokenError):  # there are files that are wrong on purpose
        return {**count, "tokens": None, "names": {}}
    names = [token.string for token in tokens if token.type == tokenize.NAME]
    return {**count, "tokens": len(tokens), "names": Counter(name for name in names if not keyword.iskeyword(name))}


def main() -> int:
    """Send one task a file, follow them to their ends, show what they found; return 0 if nothing was lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=int, metavar="N", help="take the first N files only")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    console = Console(stderr=options.json, highlight=False)
    files = library_files()[: options.files]
    with temporary_folder() as folder, running_worker(folder / "worker.log") as log:
        console.print(f"A worker with 2 children is ready; {len(files):,} files are to be read")
        began = time.perf_counter()
        results = TaskSet(read.s(file) for file in files).apply_async()
        killed = follow(results, console)
        seconds = time.perf_counter() - began
        counts = [result.get() for result in results if result.successful()]
        app.close()
        said = [line.split(": ", 1)[1] for line in log.read_text().splitlines() if "SIGKILL" in line]
    figures = {**sum_up(counts), "killed": killed, "lost": len(files) - len(counts), "seconds": seconds}
    if options.json:
        print(json.dumps(figures))
    else:
        console.print(table_of(figures, said))
    return 0 if figures["lost"] == 0 else 1


def library_files() -> list[str]:
    """Return the standard library's own files, without what was installed into it."""
    found = (path.relative_to(LIBRARY) for path in LIBRARY.rglob("*.py"))
    return sorted(path.as_posix() for path in found if not {"site-packages", "dist-packages"} & set(path.parts))


def follow(results: TaskSetResult[dict[str, Any]], console: Console) -> int | None:
    """Show how far it is until all have ended. Half-way, kill the child that read the latest file; return its pid."""
    killed = None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("Reading", total=results.total)
        with contextlib.suppress(ResultTimeout):  # what has not ended by then is counted as lost
            for ended, result in enumerate(results.as_completed(timeout=300), 1):
                progress.update(bar, completed=ended)
                if killed is None and ended * 2 >= results.total:
                    killed = int(result.get()["pid"])
                    os.kill(killed, signal.SIGKILL)
                    progress.console.print(f"Killed child {killed}")
                if not console.is_terminal and ended * 10 // results.total > (ended - 1) * 10 // results.total:
                    console.print(f"{ended:,} of {results.total:,} files read")
    return killed


def sum_up(counts: list[dict[str, Any]]) -> dict[str, Any]:
    """Put the counts of all files together."""
    names: Counter[str] = Counter()
    for count in counts:
        names.update(count["names"])
    return {
        "files": len(counts),
        "not_tokenized": sum(count["tokens"] is None for count in counts),
        "lines": sum(count["lines"] for count in counts),
        "tokens": sum(count["tokens"] or 0 for count in counts),
        "names": sorted(names.items(), key=lambda item: (-item[1], item[0]))[:6],
        "sha256": hashlib.sha256("".join(count["sha256"] for count in counts).encode()).hexdigest(),
        "children": len({count["pid"] for count in counts}),
    }


def table_of(figures: dict[str, Any], said: list[str]) -> Table:
    """Return the figures for people."""
    seconds, lost = figures["seconds"], figures["lost"]
    table = Table(title=f"\nThe standard library of Python {sys.version.split()[0]}", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("files", f"{figures['files']:,}, of which {figures['not_tokenized']} are wrong on purpose")
    table.add_row("lines, tokens", f"{figures['lines']:,}, {figures['tokens']:,}")
    table.add_row("identifiers", ", ".join(f"{name} {count:,}" for name, count in figures["names"]))
    table.add_row("SHA-256 of all", figures["sha256"])
    table.add_row("time", f"{seconds:.1f} s, by 2 children at a time, {figures['children']} in all")
    table.add_row("files/s, tasks/s", f"{figures['files'] / seconds:,.0f}")
    table.add_row("tokens/s", f"{figures['tokens'] / seconds:,.0f}")
    table.add_row("the worker said", "\n".join(said))
    found = f"{figures['files']:,} of {figures['files'] + lost:,} results, {lost or 'none'} lost"
    table.add_row(f"killed child {figures['killed']}", found)
    return table


@contextlib.contextmanager
def running_worker(log: Path) -> Iterator[Path]:
    """Run ``fastq worker`` as anyone would, and stop it as an operator would, with SIGTERM."""
    here = Path(__file__).resolve()
    command = [sys.executable, "-m", "fastq", "worker", "--app", f"{here.stem}:app", "--folder", str(here.parent)]
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "--concurrency", "2"], stderr=output)
    try:
        while "Ready" not in log.read_text():
            if process.poll() is not None:
                raise SystemExit(f"The worker did not start:\n{log.read_text()}")
            time.sleep(0.01)
        yield log
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder and work in it: there sqlite:///demo.db is, for this process and for those that it starts."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="fastq-demo-") as folder:
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):  # ^C: what was started is stopped by now
        sys.exit(main())
    sys.exit(130)
