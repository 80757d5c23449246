"""What the pictures of the page share: colours, names, error bars, and how an interval is said in words.

Colours are CSS variables such as ``var(--ink)``, which the page's script resolves, so that a picture follows the page
from light to dark. What a name means stands in ``page_assets.STYLE``.
"""

from __future__ import annotations

from collections.abc import Sequence

from .findings import Row, SuiteReport
from .statistics import MeanInterval, PairedDifference, correct, is_separated

INK, SOFT, LINE, PAPER = "var(--ink)", "var(--soft)", "var(--line)", "var(--paper)"
HEAT, BETTER, WORSE, NEUTRAL, CEILING = (
    "var(--heat)",
    "var(--better)",
    "var(--worse)",
    "var(--neutral)",
    "var(--ceiling)",
)
# Okabe and Ito's colours, which colour-blind readers tell apart; one that is told by its colour alone also has a name
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#A6761D", "#7F7F7F", "#B2A000")


def short_names(names: Sequence[str]) -> list[str]:
    """Names for an axis: without the words that all of them begin with, ``pattern=``."""
    common = "pattern="
    return [name.removeprefix(common) for name in names] if all(n.startswith(common) for n in names) else list(names)


def verdicts(suite: SuiteReport) -> dict[str, str]:
    """Variant -> ``better``, ``worse``, ``unclear`` or ``reference``, at 95 % for all comparisons together (Holm)."""
    apart = {row.variant: row.difference for row in suite.rows if row.difference is not None}
    corrected = correct(apart)
    found = {row.variant: "unclear" for row in suite.rows}
    found[suite.suite.reference] = "reference"
    for name, d in apart.items():
        if is_separated(d, corrected[name]):
            found[name] = "better" if d.mean > 0 else "worse"
    return found


def verdict_colours(suite: SuiteReport) -> dict[str, str]:
    colours = {"better": BETTER, "worse": WORSE, "unclear": NEUTRAL, "reference": INK}
    return {name: colours[verdict] for name, verdict in verdicts(suite).items()}


def ranked(suite: SuiteReport) -> list[Row]:
    """Rows with a score, the highest mean first."""
    return sorted((row for row in suite.rows if row.score is not None), key=lambda row: -mean_score(row))


def mean_score(row: Row) -> float:
    return row.score.mean if row.score is not None else float("nan")


def error_bar(interval: MeanInterval | PairedDifference | None, colour: str) -> dict[str, object]:
    return {"visible": False} if interval is None else error_bars([interval], colour)


def error_bars(intervals: Sequence[MeanInterval | PairedDifference], colour: str) -> dict[str, object]:
    if all(interval.low is None or interval.high is None for interval in intervals):
        return {"visible": False}
    return {
        "type": "data",
        "symmetric": False,
        "array": [100 * ((i.mean if i.high is None else i.high) - i.mean) for i in intervals],
        "arrayminus": [100 * (i.mean - (i.mean if i.low is None else i.low)) for i in intervals],
        "thickness": 2,
        "width": 0,
        "color": colour,
    }


def spell_score(score: MeanInterval | None) -> str:
    if score is None:
        return "no run"
    seeds = f"{score.n} seed{'s' * (score.n > 1)}"
    if score.low is None or score.high is None:
        return f"{100 * score.mean:.1f} % (one seed)"
    return f"{100 * score.mean:.1f} % ({100 * score.low:.1f} to {100 * score.high:.1f}, {seeds})"


def spell_difference(d: PairedDifference) -> str:
    if d.low is None or d.high is None:
        return f"{100 * d.mean:+.1f} points (one seed)"
    return f"{100 * d.mean:+.1f} points ({100 * d.low:+.1f} to {100 * d.high:+.1f}, {d.n} seeds)"
