"""What the benchmark prints."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from .compare import Comparison
from .rows import Row, is_reached

_UNITS = {"ratio": "x", "percent": " %", "exponent": "", "seconds": " s", "MB": " MB"}
# endings of what is shown of a row's detail, the longest first, and their units
_SHOWN = {"clips_per_second": " clips/s", "_clips_per_s": " clips/s", "_mb": " MB", "_s": " s"}


class Line:
    """Progress on a terminal: one line that changes. Elsewhere a line for each step.

    Args:
        console: Where to print.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.said: list[str] = []
        self._start = time.monotonic()
        self._table = ""
        self._status = Status("", console=console)

    def begin(self, table: str) -> None:
        """Name the table that the steps which follow belong to."""
        self._table = table
        if self.console.is_terminal:
            self._status.start()

    def end(self) -> None:
        """Take the line away."""
        self._status.stop()

    def __call__(self, text: str) -> None:
        """Show what is being measured."""
        seconds = int(time.monotonic() - self._start)
        line = Text(f"{seconds // 60:2d}:{seconds % 60:02d}  {self._table}: {text}")
        if self.console.is_terminal:
            self._status.update(line)
        else:
            self.console.print(line, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print a line that stays, and keep it."""
        if text not in self.said:
            self.said.append(text)
            self.console.print(Text(text), highlight=False, soft_wrap=True)


def print_run(run: Mapping[str, Any], console: Console) -> None:
    """Print machine and versions."""
    machine, git = run["machine"], run["git"]
    commit = "not in a repository" if git is None else git["commit"][:10] + " with changes" * git["modified"]
    lines = (
        f"{machine['device']}, {run['threads']} threads, {machine['memory_gb']} GB, {machine['platform']}",
        ", ".join(f"{name} {version}" for name, version in run["versions"].items() if version),
        f"commit {commit}",
    )
    for line in lines:
        console.print(Text(line), highlight=False, soft_wrap=True)


def print_rows(name: str, rows: Sequence[Row], console: Console) -> None:
    """Print a table: medians with quartiles, targets, and what they were made of."""
    table = Table(title=name, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("", "median", "quartiles", "target"):
        table.add_column(column, justify="left" if column == "" else "right", no_wrap=column != "")
    table.add_column("medians", overflow="fold")
    table.add_column("note", overflow="fold")
    said = ""
    for row in rows:
        unit, reached = _UNITS[row["unit"]], is_reached(row)
        median = Text(f"{_number(row['median'])}{unit}", style="" if reached is None else "green" if reached else "red")
        sign = "" if reached is None else {True: " yes", False: " no"}[reached]
        target = (
            "" if row["target"] is None else f"{'>=' if row['better'] == 'higher' else '<='} {row['target']:g}{sign}"
        )
        quartiles = f"{_number(row['q1'])} .. {_number(row['q3'])}"
        made_of = _made_of(row)
        # rows of one comparison follow each other and are made of the same
        table.add_row(
            Text(row["name"]), median, quartiles, target, Text(made_of * (made_of != said)), Text(row["note"])
        )
        said = made_of
    console.print(table)


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print what has changed beyond noise, and what could not be compared."""
    if comparison.unlike:
        console.print(Text(f"only ratios are compared: {'; '.join(comparison.unlike)}"), soft_wrap=True)
    for verdict in ("better", "worse"):
        changes = [change for change in comparison.changes if change.verdict == verdict]
        for change in changes:
            console.print(Text(f"{verdict}  {change}", style="red" if verdict == "worse" else "green"), soft_wrap=True)
    for name in comparison.vanished:
        console.print(Text(f"vanished  {name}", style="red"), soft_wrap=True)
    for name in comparison.left_out:
        console.print(Text(f"not measured again  {name}"), soft_wrap=True)
    better = sum(change.verdict == "better" for change in comparison.changes)
    console.print(
        f"{len(comparison.changes)} rows compared: {len(comparison.worse)} worse beyond noise, {better} better; "
        f"{len(comparison.vanished)} vanished",
        highlight=False,
        soft_wrap=True,
    )


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _made_of(row: Row) -> str:
    """Absolute medians among what a row was made of."""
    parts = []
    for key, value in row["detail"].items():
        if isinstance(value, (int, float)) and key.endswith(tuple(_SHOWN)):
            ending = next(ending for ending in _SHOWN if key.endswith(ending))
            parts.append(f"{key.removesuffix(ending).replace('_', ' ').strip()} {_number(value)}{_SHOWN[ending]}")
    return ", ".join(parts)
