"""What a scan shows: progress while it runs, and a summary at its end."""

from __future__ import annotations

import shlex
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from timesformer_plus.data.scan_table import ScanRow

# seconds between two lines of progress where there is no terminal
LINE_EVERY = 10.0
# rows that a part of the summary has at most
MOST = 12


class ScanProgress:
    """A bar on a terminal, a line every ten seconds elsewhere; on stderr, for the summary is the output.

    Args:
        total: Videos to check.
        enabled: Whether to show anything.
    """

    def __init__(self, total: int, *, enabled: bool) -> None:
        self.total = total
        self.done = self.bad = 0
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._lines = console if enabled and not console.is_terminal else None
        # without refreshing by itself: that would be a thread, for nothing
        self._bar = Progress(
            TextColumn("scanning"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[bad]} bad"),
            console=console,
            disable=not (enabled and console.is_terminal and total),
            auto_refresh=False,
            transient=True,
        )
        self._task = self._bar.add_task("", total=total, bad=0)
        self._start = self._shown = time.monotonic()

    def __enter__(self) -> ScanProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self, row: ScanRow) -> None:
        """Count a video."""
        self.done += 1
        self.bad += row.verdict == "bad"
        self._bar.update(self._task, advance=1, bad=self.bad)
        now = time.monotonic()
        if self._lines is None:
            if now - self._shown > 0.1:
                self._bar.refresh()
                self._shown = now
        elif now - self._shown > LINE_EVERY:
            speed = self.done / (now - self._start)
            self._lines.print(f"scanned {self.done} of {self.total}, {self.bad} bad, {speed:.1f} videos/s")
            self._shown = now


def print_summary(rows: Sequence[ScanRow], *, checked: int, console: Console | None = None) -> None:
    """Print how many are good and bad, and what the videos are.

    Args:
        rows: All rows of the scan.
        checked: How many of them were found out now.
        console: Where to; stdout if not given.
    """
    console = console or Console(highlight=False, soft_wrap=True)
    good = [row for row in rows if row.verdict == "ok"]
    bad = [row for row in rows if row.verdict == "bad"]
    size = sum(row.size_bytes for row in rows)
    console.print(
        f"{len(rows)} videos, {_bytes(size)}: {len(good)} good, {len(bad)} bad; {checked} checked now, "
        f"{len(rows) - checked} known from before"
    )
    if bad:
        table = Table("bad", "videos", "such as", title_justify="left")
        for kind, count in Counter(row.kind for row in bad).most_common():
            first = next(row for row in bad if row.kind == kind)
            # Text: in a string, "[something]" in a name would be markup
            table.add_row(kind, str(count), Text(_one_line(f"{first.path}: {first.reason}")))
        console.print(table)
    if good:
        table = Table("good videos by", "")
        table.add_row("codec", _counts(f"{row.codec} in {row.container}".removeprefix(" in ") for row in good))
        table.add_row("height x width", _counts(f"{row.height}x{row.width}" for row in good))
        table.add_row("frames a second", _counts(f"{row.fps:.5g}" for row in good if row.fps))
        table.add_row("frames", _span([row.frames_decoded for row in good], ""))
        table.add_row("seconds", _span([row.seconds for row in good if row.seconds], " s"))
        console.print(table)
    _print_duplicates(rows, console)


def _print_duplicates(rows: Sequence[ScanRow], console: Console) -> None:
    same: dict[str, list[str]] = {}
    for row in rows:
        if row.sha256:
            same.setdefault(row.sha256, []).append(row.path)
    groups = [paths for paths in same.values() if len(paths) > 1]
    if not groups:
        return
    surplus = sum(map(len, groups)) - len(groups)
    console.print(f"{surplus} videos have the content of another; in two splits, that is a leak:")
    for paths in groups[:MOST]:
        more = f" and {len(paths) - 4} more" if len(paths) > 4 else ""
        console.print(Text("  " + _one_line(" = ".join(paths[:4])) + more))
    if len(groups) > MOST:
        console.print(f"  and {len(groups) - MOST} more such groups; see column sha256")


def _counts(words: Iterable[str]) -> str:
    # by number, then by word: equal numbers in the same order every time
    ranked = sorted(Counter(words).items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{word}: {count}" for word, count in ranked[:MOST]]
    if len(ranked) > MOST:
        shown.append(f"{len(ranked) - MOST} others: {sum(count for _, count in ranked[MOST:])}")
    return "\n".join(shown)


def _span(values: Sequence[float], unit: str) -> str:
    if not values:
        return "not known"
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{low:.4g} to {high:.4g}{unit}, median {middle:.4g}{unit}, {sum(values):,.0f}{unit} together"


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.4g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"


def _one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


def what_to_do(exclude: Path | None, words: Sequence[str], root: Path) -> str:
    """How to go on with bad videos: the commands, with the options that this scan was started with.

    Args:
        exclude: The list of them that was written.
        words: The command line of this scan.
        root: The folder that was scanned.
    """
    if exclude is not None:
        return (
            f"{exclude} lists the bad ones; the manifests stay as they are. To train without them, add to its command\n"
            f"  --data.exclude {shlex.quote(str(exclude))}"
        )
    named = root / "bad.txt"
    again = shlex.join(["python", "tools/scan.py", *words, "--exclude", str(named)])
    return (
        f"training refuses splits with bad videos; mend them and scan again, or leave them out: write a list of "
        f"them (nothing is checked twice)\n  {again}\nand add to the command of training\n"
        f"  --data.exclude {shlex.quote(str(named))}\n"
        "The manifests stay as they are; made anew, they would divide the videos anew."
    )
