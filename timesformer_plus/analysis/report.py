"""The findings of a sweep on the terminal and as Markdown, and all of its files."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..engine.atomic_file import new_file
from .bootstrap import TestSetInterval
from .findings import Report, Row, SuiteReport, collect
from .json_files import write_json
from .markdown import escape, table
from .runs import Run
from .sentences import format_percent
from .statistics import MeanInterval, PairedDifference
from .sweep import Sweep
from .tables import to_csv, to_json

PATTERN = "pattern"
SEEDS_TO_RESAMPLE = 4  # on a side


def write_report(sweep: Sweep, runs: Sequence[Run], *, command: str = "") -> Report:
    """Collect what the folders hold and write ``results.json``, ``results.csv``, ``report.md`` and ``report.html``.

    Args:
        sweep: The sweep.
        runs: Its runs, finished or not.
        command: What repeats it, shown in the report.

    Returns:
        What was written.
    """
    from .page import render_page  # plotly is imported when a page is drawn, not before

    report = collect(sweep, runs, command=command)
    write_json(sweep.output / "results.json", to_json(report))
    with new_file(sweep.output / "results.csv") as staged:
        staged.write_text(to_csv(report), encoding="utf-8", newline="")
    (sweep.output / "report.md").write_text(to_markdown(report), encoding="utf-8")
    (sweep.output / "report.html").write_text(render_page(report), encoding="utf-8")
    return report


def print_report(report: Report, console: Console) -> None:
    """Print a table a suite, narrow enough for 80 columns, what is missing, and where the files lie."""
    for suite in report.suites:
        console.print()
        console.print(_terminal_table(suite, report.seeds, console.width))
        if suite.suite.readable and suite.parts:
            console.print(_terminal_parts(suite))
            if suite.suite.ceiling is not None:
                held = f"Green: above the ceiling of {100 * suite.suite.ceiling:.0f} % with 95 % confidence."
                console.print(Padding(Text(held, style="dim"), (0, 0, 1, 2)))
        for finding in suite.findings:
            console.print(Padding(Text(finding), (0, 0, 0, 2)))
        for warning in suite.warnings:
            console.print(Padding(Text(warning, style="yellow"), (0, 0, 0, 2)))
        for missing in suite.missing:
            console.print(Padding(Text(f"missing: {missing.name}: {missing.why}", style="red"), (0, 0, 0, 2)))
    console.print()
    console.print(f"{report.finished} of {report.total} runs are in the figures.", highlight=False)
    where = Text(f"Report: {report.output / 'report.html'}", style="bold")
    console.print(where, soft_wrap=True)


def headings(suite: SuiteReport) -> list[str]:
    """Column heads of a suite's table; ``cells`` fills them."""
    return list(_columns(suite, suite.rows[0]))


def cells(suite: SuiteReport, row: Row) -> list[str]:
    """A row of a suite's table as text, one cell a heading."""
    return list(_columns(suite, row).values())


def format_part(score: MeanInterval | None) -> str:
    """``"97 %"``."""
    return "–" if score is None else f"{100 * score.mean:.0f} %"


def format_difference(difference: PairedDifference | None) -> str:
    """``"+12.0 [8.1, 15.9]"``, in percentage points."""
    if difference is None:
        return "–"
    mean = f"{100 * difference.mean:+.1f}"
    if difference.low is None or difference.high is None:
        return f"{mean} [one seed]"
    return f"{mean} [{100 * difference.low:.1f}, {100 * difference.high:.1f}]"


def format_elsewhere(interval: TestSetInterval | None, *, signed: bool = False) -> str:
    """``"[42.0, 61.3]"``, percent or (signed) percentage points; empty where there is none."""
    if interval is None:
        return ""
    return f"[{100 * interval.low:{'+' if signed else ''}.1f}, {100 * interval.high:{'+' if signed else ''}.1f}]"


def format_improvement(suite: SuiteReport, row: Row) -> str:
    """``"96 % [84, 100]"``; empty for the reference, and with one pair of seeds, whose share says next to nothing.

    The interval needs four seeds on a side: over two or three a percentile bootstrap is far too narrow, and has no
    width as soon as they do not overlap.
    """
    improvement = row.improvement
    reference = next((len(each.scores) for each in suite.rows if each.variant == suite.suite.reference), 0)
    if improvement is None or len(row.scores) * reference < 2:
        return ""
    probability = f"{100 * improvement.probability:.0f} %"
    if improvement.low is None or improvement.high is None or min(len(row.scores), reference) < SEEDS_TO_RESAMPLE:
        return probability
    return f"{probability} [{100 * improvement.low:.0f}, {100 * improvement.high:.0f}]"


def format_p(p: float | None) -> str:
    """Two digits; empty where it is undefined."""
    return "" if p is None else f"{p:.2g}"


def format_count(number: int) -> str:
    """``"85.9M"``, ``"151k"``."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.4g}{unit}" if number < 10 * size else f"{number / size:.1f}{unit}"
    return str(number)


def to_markdown(report: Report) -> str:
    """The report as GitHub Markdown."""
    lines = [f"# {escape(report.title)}", ""]
    for suite in report.suites:
        lines += [f"## {escape(suite.title)}", ""]
        lines += [escape(suite.suite.description), ""] if suite.suite.description else []
        lines += [f"- {escape(finding)}" for finding in suite.findings]
        lines += [f"- **Careful:** {escape(warning)}" for warning in suite.warnings]
        rows = [cells(suite, row) for row in suite.rows]
        lines += ["", *table(headings(suite), rows, left=2)]
        lines += [""] + [f"- missing: {escape(m.name)}: {escape(m.why)}" for m in suite.missing] + [""]
    lines += ["## How this was made", "", *(f"- {escape(note)}" for note in notes(report))]
    lines += [f"- {escape(name)}: {escape(value)}" for name, value in report.environment.items()]
    lines += ["", *(f"    {line}" for line in report.commands)]  # indented: no fence that a path could close
    return "\n".join(lines) + "\n"


def notes(report: Report) -> list[str]:
    """How the figures came about, a sentence each."""
    return [
        f"{report.finished} of {report.total} runs are in the figures; seeds {', '.join(map(str, report.seeds))}.",
        "Intervals are 95 % Student-t intervals over seeds, cut to 0 to 100 %; they speak about another seed, not "
        "about another test set. One seed has no interval; no width means that all seeds agree to the last clip.",
        "Differences are in percentage points, paired by seed, their intervals cut to -100 to 100; they speak about "
        "other seeds on this test set. p is the two-sided paired t-test of that row alone, and empty for one seed; "
        "where all seeds differ by the same number, their spread is taken to be that of rounding to whole videos. "
        "p (Holm) is corrected for all variants of the table, and alone decides what is called better, worse or not "
        "separated.",
        "p (sign flips) is exact and supposes no normal scores: how often differences as large come about when each "
        "seed's sign is left to chance, for that row alone. With n seeds it is never below 2 / 2ⁿ, which is .0625 for "
        "five, so that it cannot separate anything with fewer than six.",
        "Another test set: seeds and test videos (for the metric pair, whole pairs) are both drawn again, 2000 times, "
        "the same videos for all seeds and variants. This interval speaks about other seeds on other videos of the "
        "same kind; asked for 95 %, it covers 92 to 99 % in simulations. Where all seeds score alike on all videos, it "
        "says how many videos may be otherwise that none has shown. It is not corrected for the number of variants, "
        "and is there only where predictions are kept and the metric is a mean over videos or pairs.",
        "P(better) is the share of pairs of seeds, one of the variant and one of the reference, that the variant wins, "
        "ties one half; from four seeds on each side with a 95 % percentile bootstrap over them, rough for a handful "
        "(91 % of the time right for five). It speaks about single trainings, not about means.",
        "GFLOPs are 10⁹ multiply-adds of matrix products and convolutions on one clip view, all attention counted.",
        "clips/s are clip views in inference, measured while nothing was training, the variants taking turns; median.",
        f"Training time is wall-clock with {report.jobs} trainings at a time, {report.threads} thread(s) each.",
    ]


def _terminal_table(suite: SuiteReport, seeds: Sequence[int], width: int) -> Table:
    table = Table(title=Text(suite.title, style="bold"), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.collapse_padding = True
    table.add_column("variant", min_width=7, overflow="fold")
    shown = {
        _score_heading(suite): f"{suite.suite.metric}, %",
        _to_reference(suite): f"to {suite.suite.reference}",
        **{heading: heading for heading in ("params", "GFLOPs", "clips/s", *(("training",) if width >= 96 else ()))},
    }
    for heading in shown.values():
        table.add_column(Text(heading), justify="right", no_wrap=True)
    for row in suite.rows:
        columns = _columns(suite, row)
        few = f" ({len(row.scores)} of {len(seeds)})" if 0 < len(row.scores) < len(seeds) else ""
        text = [row.variant + few, *(columns[heading].replace(" %", "") for heading in shown)]
        table.add_row(*map(Text, text), style="dim" if row.score is None else "")
    return table


def _terminal_parts(suite: SuiteReport) -> Table:
    ceiling = suite.suite.ceiling
    table = Table(
        title=Text(f"{suite.suite.metric}, part by part"), title_justify="left", box=SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("variant")
    for part in suite.parts:
        table.add_column(Text(part), justify="right")
    for row in suite.rows:
        scores = [row.parts.get(part) for part in suite.parts]
        above = [score is not None and ceiling is not None and score.is_above(ceiling) for score in scores]
        styled = [
            Text(format_part(score), style="bold green" if up else "") for score, up in zip(scores, above, strict=True)
        ]
        table.add_row(Text(row.variant), *styled)
    return table


def _columns(suite: SuiteReport, row: Row) -> dict[str, str]:
    patterns = {PATTERN: row.pattern} if any(other.pattern != other.variant for other in suite.rows) else {}
    parts = {part: format_part(row.parts.get(part)) for part in suite.parts if suite.suite.readable}
    reference = row.variant == suite.suite.reference
    return {
        "variant": row.variant,
        **patterns,
        _score_heading(suite): format_percent(row.score),
        **parts,
        _to_reference(suite): "reference" if reference else format_difference(row.difference),
        "p": "" if row.difference is None else format_p(row.difference.p),
        **_further_statistics(suite, row),
        "params": "–" if row.params is None else format_count(row.params),
        "GFLOPs": "–" if row.gflops is None else f"{row.gflops:.3g}",
        "clips/s": "–" if row.clips_per_second is None else f"{row.clips_per_second:,.0f}",
        "training": "–" if row.train_seconds is None else f"{row.train_seconds:,.0f} s",
        "seeds": str(len(row.scores)),
    }


def _further_statistics(suite: SuiteReport, row: Row) -> dict[str, str]:
    """Columns that only some sweeps can fill; those that no row of this one can are left out."""
    columns = {
        "p (Holm)": [format_p(each.holm_p) for each in suite.rows],
        "p (sign flips)": [format_p(each.difference.permutation_p if each.difference else None) for each in suite.rows],
        "P(better)": [format_improvement(suite, each) for each in suite.rows],
        "another test set": [format_elsewhere(each.elsewhere) for each in suite.rows],
        "difference there": [format_elsewhere(each.difference_elsewhere, signed=True) for each in suite.rows],
        "budget": [each.matched for each in suite.rows],
    }
    place = next(index for index, each in enumerate(suite.rows) if each.variant == row.variant)
    return {heading: texts[place] for heading, texts in columns.items() if any(texts)}


def _score_heading(suite: SuiteReport) -> str:
    return f"{suite.suite.metric} [95 %]"


def _to_reference(suite: SuiteReport) -> str:
    return f"difference to {suite.suite.reference} [95 %]"
