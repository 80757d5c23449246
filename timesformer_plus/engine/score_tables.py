"""Scores for people: tables on a terminal, and the confusion matrix as a CSV file."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from timesformer_plus.engine.atomic_file import new_file
from timesformer_plus.engine.metrics import UNREADABLE, Metrics

# longer tables are for files
MOST_CLASSES = 50
WORST_CLASSES = 10
# metrics that are no shares of one
PLAIN = ("loss", "ece")

Confusion = Mapping[str, Mapping[str, int]]


@contextlib.contextmanager
def scoring_bar(total: int, *, enabled: bool) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how many of the clips of this process are done.

    Args:
        total: How many there are.
        enabled: Whether to show anything.

    Yields:
        What to call with the number of clips that have just been done.
    """
    console = Console(stderr=True)
    with Progress(
        TextColumn("scoring clips"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not (enabled and console.is_terminal),
        transient=True,
    ) as bar:
        task = bar.add_task("", total=total)
        yield lambda clips: bar.advance(task, clips)


def print_metrics(title: str, metrics: Metrics) -> None:
    """Print metrics as a table, fractions in percent; those of single classes where they are few."""
    # Text: in a string, "[something]" in the name of a class or a file would be markup
    table = Table("metric", "value", title=Text(title, style="table.title"))
    table.columns[1].justify = "right"
    flat: dict[str, Any] = {}
    for name, value in metrics.items():
        if not isinstance(value, dict):
            flat[name] = value
        elif len(value) <= MOST_CLASSES:
            flat |= {f"{name}: {key}": item for key, item in value.items()}
    for name, value in flat.items():
        table.add_row(Text(name), f"{value:.4f}" if name in PLAIN else f"{100 * value:.2f} %")
    Console().print(table)


def print_classes(confusion: Confusion) -> None:
    """Print for each class its videos, how many of them are right, and what the others are most often taken for.

    Of many classes those with the smallest share of right ones.
    """
    if not confusion:
        return
    shown = list(confusion.items())
    if len(shown) > MOST_CLASSES:
        shown = sorted(shown, key=lambda item: item[1].get(item[0], 0) / sum(item[1].values()))[:WORST_CLASSES]
        print(f"the {WORST_CLASSES} worst of {len(confusion)} classes; --output has all")
    table = Table("class", "videos", "right", "most often taken for")
    for column in table.columns[1:3]:
        column.justify = "right"
    for name, guesses in shown:
        wrong = {guess: count for guess, count in guesses.items() if guess != name}
        worst = max(wrong, key=lambda guess: wrong[guess], default="")
        note = f"{worst} ({wrong[worst]})" if worst else ""
        videos, right = sum(guesses.values()), guesses.get(name, 0)
        table.add_row(Text(name), str(videos), f"{100 * right / videos:.2f} %", Text(note))
    Console().print(table)


def print_videos(counts: Mapping[str, int], unreadable: Mapping[str, str]) -> None:
    """Print what became of the videos, a line for each count, and a line for each that could not be read."""
    explained = {
        "missing": "not there, not scored",
        "unreadable": "by the scan, counted as wrong",
        "excluded": "by the list, not scored",
        "short": "scored, but with frames that come again",
    }
    for name, count in counts.items():
        print(f"videos {name}: {count}" + (f" ({explained[name]})" if count and name in explained else ""))
    for name, reason in unreadable.items():
        print(f"could not be read, counts as wrong: {name} ({reason})")


def write_confusion(path: Path, confusion: Confusion, classes: Sequence[str]) -> None:
    """Write a confusion matrix as CSV: a row for each true class, a column for each guess and one for unreadable ones.

    Raises:
        OSError: The file cannot be written.
    """
    columns = [*classes, UNREADABLE]
    with new_file(path) as staged, staged.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class", *columns])
        for name in classes:
            row = confusion.get(name, {})
            writer.writerow([name, *(row.get(guess, 0) for guess in columns)])
