"""What the pictures of the page share: colours, names, error bars, and how an interval is said in words.

Colours are CSS variables such as ``var(--ink)``, which the page's script resolves, so that a picture follows the page
from light to dark. What a name means stands in ``page_assets.STYLE``.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go

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
# after Okabe and Ito, whom colour-blind readers tell apart; one that is told by its colour alone also has a name
SERIES = tuple(f"var(--series-{place})" for place in range(10))


def short_names(names: Sequence[str]) -> list[str]:
    """Names for an axis: without the words that all of them begin with, ``pattern=``."""
    common = "pattern="
    return [name.removeprefix(common) for name in names] if all(n.startswith(common) for n in names) else list(names)


def row_names(suite: SuiteReport, rows: Sequence[Row], counts: Sequence[int] | None = None) -> list[str]:
    """Short names of rows; behind one with fewer seeds than the sweep asked for stands how many: ``ts (3 of 5)``.

    Args:
        suite: The comparison.
        rows: Rows of it.
        counts: Seeds that count, where they are others than those with a score.
    """
    names = []
    for place, name in enumerate(short_names([row.variant for row in rows])):
        row = rows[place]
        planned = len(row.scores) + sum(missing.variant == row.variant for missing in suite.missing)
        count = len(row.scores) if counts is None else counts[place]
        names.append(f"{name} ({count} of {planned})" if 0 < count < planned else name)
    return names


def say_unequal_seeds(suite: SuiteReport) -> str:
    """What the marks of ``row_names`` mean, as a sentence; empty where no name has one."""
    rows = ranked(suite)
    if row_names(suite, rows) == short_names([row.variant for row in rows]):
        return ""
    marks = "(n of N) behind a name says that n of the N planned seeds are in its mean"
    unequal = len({frozenset(row.scores) for row in rows}) > 1
    return f"Means rest on different seeds: {marks}." if unequal else f"{marks}."


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


def mean_marker(suite: SuiteReport, row: Row, colour: str, size: int) -> dict[str, object]:
    """A diamond, the reference's hollow."""
    if row.variant == suite.suite.reference:
        return {"size": size, "color": PAPER, "symbol": "diamond", "line": {"width": 2.5, "color": colour}}
    return {"size": size, "color": colour, "symbol": "diamond"}


def extent(suite: SuiteReport, rows: Sequence[Row]) -> tuple[float, float]:
    """Percent from below the lowest interval to above the highest; a narrow lead must not be a hair on a wide axis."""
    ends = [100 * end for row in rows if row.score for end in (row.score.low, row.score.high) if end is not None]
    ends += [100 * score for row in rows for score in row.scores.values()]
    ends += [100 * suite.suite.ceiling] if suite.suite.ceiling is not None else []
    pad = max(0.06 * (max(ends) - min(ends)), 1.0) if ends else 1.0
    return (max(min(ends) - pad, -2), min(max(ends) + pad, 102)) if ends else (0.0, 100.0)


def draw_ceiling(figure: go.Figure, suite: SuiteReport, *, vertical: bool) -> None:
    if suite.suite.ceiling is None:
        return
    level, line = 100 * suite.suite.ceiling, {"dash": "dot", "width": 1.5, "color": CEILING}
    label = {"annotation_text": f"ceiling {level:.0f} %", "annotation_font_color": CEILING}
    if vertical:
        figure.add_vline(x=level, line=line, annotation_position="top", **label)
    else:
        figure.add_hline(y=level, line=line, annotation_position="top left", **label)


def say_instead(text: str) -> go.Figure:
    """A figure for what there is no figure of."""
    figure = go.Figure()
    where = {"x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper", "showarrow": False}
    figure.add_annotation(text=escape(text), font={"color": SOFT}, **where)
    figure.update_layout(height=160)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure
