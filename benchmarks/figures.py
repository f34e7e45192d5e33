"""Figures: a median with its spread, and a table of them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One measured thing: what it is, its unit, every value that was taken, and the goal if there is one."""

    name: str
    unit: str
    values: Sequence[float]
    goal: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> str:
        return f"{shown(min(self.values))} to {shown(max(self.values))}"


def shown(value: float) -> str:
    """Return a number with three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value below which `percent` of the values are."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def show(title: str, figures: Sequence[Figure]) -> None:
    """Print figures as a table."""
    table = Table(title=title, title_justify="left")
    for column in ("figure", "median", "unit", "spread", "runs", "goal"):
        table.add_column(column, justify="right" if column in ("median", "runs") else "left")
    for each in figures:
        table.add_row(each.name, shown(each.median), each.unit, each.spread, str(len(each.values)), each.goal)
    Console().print(table)
