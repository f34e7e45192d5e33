"""What a worker says of itself when it starts: a panel at a terminal, one line in a log."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastq import __version__
from fastq.routing import shown
from fastq.systems import mask
from fastq.worker.logs import escape

if TYPE_CHECKING:
    from fastq.pool import Manifest
    from fastq.settings import Settings

logger = logging.getLogger("fastq.worker")

_NAMES_SHOWN = 12


def announce(
    manifest: Manifest, settings: Settings, queues: Sequence[str], children: int, *, plain: bool = False
) -> None:
    """Say what this worker is. `plain` asks for the one line at a terminal too."""
    from fastq.cli import bodies

    same = settings.backend_url == settings.broker
    facts = {
        "app": manifest.app,
        "tasks": _tasks(manifest),
        "broker": mask(settings.broker),
        "results": "at the broker" if same else mask(settings.backend_url),
        "queues": shown(queues).replace(",", ", "),
        "pool": f"{settings.pool} × {children}",
        "speedups": bodies(),
    }
    facts = {name: escape(text) for name, text in facts.items()}
    if sys.stderr.isatty() and not plain and logger.isEnabledFor(logging.INFO):
        _show_panel(facts)
    else:
        tasks = f"{len(manifest.tasks)} {'task' if len(manifest.tasks) == 1 else 'tasks'}"
        line = ", ".join(f"{name} {text}" for name, text in facts.items() if name not in ("tasks", "speedups"))
        logger.info("fastq %s worker: %s, %s, %s", __version__, line, tasks, facts["speedups"])


def _tasks(manifest: Manifest) -> str:
    names = sorted(manifest.tasks)
    shown = ", ".join(names[:_NAMES_SHOWN]) or "none"
    left = len(names) - _NAMES_SHOWN
    return f"{shown} and {left} more" if left > 0 else shown


def _show_panel(facts: dict[str, str]) -> None:
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, text in facts.items():
        table.add_row(name, Text(text))
    panel = Panel(
        table, title=f"fastq {__version__} worker", title_align="left", subtitle="^C stops, ^C ^C stops at once",
        subtitle_align="right", expand=False,
    )  # fmt: skip
    Console(stderr=True, highlight=False).print(panel)
