"""What a benchmark found: rows with a target each, for people and for programs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One figure. `at_least` tells whether the target is a floor or a ceiling; no target always holds."""

    name: str
    value: float
    unit: str
    target: float | None = None
    at_least: bool = False

    @property
    def holds(self) -> bool:
        """Whether the value meets its target."""
        if self.target is None:
            return True
        return self.value >= self.target if self.at_least else self.value <= self.target


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a benchmark the options that all have."""
    parser.add_argument("--json", action="store_true", help="end with a line of JSON: the list of rows")
    parser.add_argument("--check", action="store_true", help="exit 1 if a row misses its target")


def report(title: str, rows: Sequence[Row], arguments: argparse.Namespace) -> int:
    """Print the rows and return the exit code."""
    table = Table(title=title, title_justify="left")
    table.add_column("figure")
    for column in ("value", "unit", "target", "holds"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for row in rows:
        sign = "≥" if row.at_least else "≤"
        target = "" if row.target is None else f"{sign} {row.target:g}"
        holds = "" if row.target is None else ("yes" if row.holds else "NO")
        table.add_row(row.name, f"{row.value:,.3f}".rstrip("0").rstrip("."), row.unit, target, holds)
    Console(width=100).print(table)
    if arguments.json:
        print(json.dumps([{**asdict(row), "holds": row.holds} for row in rows]), flush=True)
    return 1 if arguments.check and not all(row.holds for row in rows) else 0


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile of unsorted values; 0 without any."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
