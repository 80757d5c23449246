"""Accuracy against a cost: the Pareto front, and where marks and names go at the widths that a page has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go

from .findings import Row, SuiteReport
from .page_data import COSTS, Evidence
from .page_labels import A_CHARACTER, Box, place_names, spread
from .page_marks import (
    INK,
    SOFT,
    draw_ceiling,
    error_bar,
    extent,
    mean_marker,
    mean_score,
    ranked,
    short_names,
    spell_score,
    verdict_colours,
)

# Window -> width of the plot in it and pixels between marks of one cost. The widest is what a figure says of itself;
# the others stand in each trace's `meta`, and the page's script puts them in place. Of every range of widths it is the
# smallest plot: on a larger one names only get further apart.
WIDTHS = {"wide": (950.0, 6.0), "medium": (500.0, 5.0), "narrow": (250.0, 3.5)}
HEIGHT, PLOT_HEIGHT = 440, 365.0
RIGHT = 44


def accuracy_against_cost(suite: SuiteReport, evidence: Mapping[str, Evidence], cost: str) -> go.Figure:
    """Score over a cost with intervals; steps join what no other variant beats by the means.

    Variants of one cost stand side by side, a few pixels apart. The reference lies on top of the others.
    """
    figure = go.Figure()
    known = {name: found.costs[cost] for name, found in evidence.items() if cost in found.costs}
    rows = sorted((row for row in ranked(suite) if row.variant in known), key=lambda row: known[row.variant])
    costs = [known[row.variant] for row in rows]
    points = {row.variant: (known[row.variant], mean_score(row)) for row in rows}
    front = pareto_front(points, more_is_better=cost.endswith("clips_per_second"))
    names = short_names([row.variant for row in rows])  # how many seeds there are is on the axis of the ranking
    axis = _Axis(costs)
    layouts: dict[str, list[dict[str, Any]]] = {}
    for window, (width, step) in WIDTHS.items():
        places = [width * axis.share(price) for price in costs]
        # the best of one cost comes first, so that marks of the front stay where they belong
        across = spread(places, step)
        sides = _sides(suite, rows, names, across, front, width)
        layouts[window] = [
            {
                "x": [price if x == place else axis.cost(x / width)],
                "mode": "markers+text" if side else "markers",
                "textposition": side or "middle right",
            }
            for price, place, x, side in zip(costs, places, across, sides, strict=True)
        ]
    figure.add_scatter(
        x=[known[name] for name in front],
        y=[100 * points[name][1] for name in front],
        mode="lines",
        # what can be had at a price: as much as at the last mark, until the next
        line={"color": SOFT, "width": 1.5, "dash": "dot", "shape": "hv"},
        hoverinfo="skip",
    )
    colours = verdict_colours(suite)
    for place, row in enumerate(rows):
        colour = colours[row.variant]
        bold = row.variant in front
        figure.add_scatter(
            **layouts["wide"][place],
            y=[100 * mean_score(row)],
            error_y={**error_bar(row.score, colour), "thickness": 1},
            text=[f"<b>{escape(names[place])}</b>" if bold else escape(names[place])],
            textfont={"color": INK if bold else SOFT, "size": 12.5},
            marker=mean_marker(suite, row, colour, 11),
            cliponaxis=False,
            zorder=int(row.variant == suite.suite.reference),  # a hollow mark is lost below others
            customdata=[known[row.variant]],  # where the mark stands may be a few pixels off
            hovertemplate=f"<b>{escape(row.variant)}</b><br>{spell_score(row.score)}<br>"
            f"%{{customdata:.4~s}} {COSTS[cost][0]}<extra></extra>",
            meta={window: layouts[window][place] for window in WIDTHS if window != "wide"},
        )
    draw_ceiling(figure, suite, vertical=False)
    figure.update_layout(showlegend=False, height=HEIGHT, meta={"right": RIGHT})
    figure.update_xaxes(title=COSTS[cost][1], range=list(axis.range), **axis.ticks)
    figure.update_yaxes(range=list(extent(suite, rows)), ticksuffix=" %", nticks=6)
    return figure


def pareto_front(points: Mapping[str, tuple[float, float]], *, more_is_better: bool = False) -> list[str]:
    """Find what nothing else beats.

    Args:
        points: Name -> (cost, score).
        more_is_better: Whether the cost is none, but a speed.

    Returns:
        Names for which no other has at least the score at no higher cost and is better in one; cheapest first.
    """
    sign = -1 if more_is_better else 1

    def beaten(name: str) -> bool:
        cost, score = sign * points[name][0], points[name][1]
        return any(
            sign * c <= cost and s >= score and (sign * c < cost or s > score)
            for other, (c, s) in points.items()
            if other != name
        )

    return sorted((name for name in points if not beaten(name)), key=lambda name: (sign * points[name][0], name))


class _Axis:
    """An axis of costs, logarithmic where they are far apart."""

    def __init__(self, costs: Sequence[float]) -> None:
        least, most = (min(costs), max(costs)) if costs else (0.0, 1.0)
        self.is_log = most > 10 * least > 0
        low, high = self._along(least), self._along(most)
        pad = 0.05 * (high - low) or 0.1 * abs(high) or 1.0
        self.range = (low - pad, high + pad)
        self.ticks: dict[str, Any] = {"type": "log", "dtick": "D2"} if self.is_log else {"nticks": 6}

    def _along(self, cost: float) -> float:
        return math.log10(cost) if self.is_log else cost

    def share(self, cost: float) -> float:
        """Place on the axis, 0 to 1."""
        return (self._along(cost) - self.range[0]) / (self.range[1] - self.range[0])

    def cost(self, share: float) -> float:
        """What stands at a place; undoes ``share``."""
        along = self.range[0] + share * (self.range[1] - self.range[0])
        return float(10**along) if self.is_log else along


def _sides(
    suite: SuiteReport,
    rows: Sequence[Row],
    names: Sequence[str],
    across: Sequence[float],
    front: Sequence[str],
    width: float,
) -> list[str]:
    """A side for the name of every row, empty where there is no room; ``across`` in pixels."""
    low, high = extent(suite, rows)

    def down(score: float) -> float:
        return PLOT_HEIGHT * (high - 100 * score) / (high - low)

    marks = [(x, down(mean_score(row))) for x, row in zip(across, rows, strict=True)]
    lines = [
        Box(x - 1, down(row.score.high), x + 1, down(row.score.low))
        for x, row in zip(across, rows, strict=True)
        if row.score is not None and row.score.low is not None and row.score.high is not None
    ]
    if suite.suite.ceiling is not None:
        level = down(suite.suite.ceiling)
        lines += [Box(0, level - 1, width, level + 1), Box(0, level - 20, 13 * A_CHARACTER, level)]
    places = {row.variant: place for place, row in enumerate(rows)}
    lines += _steps([marks[places[name]] for name in front])
    first = [places[name] for name in (suite.suite.reference, *front) if name in places]
    frame = Box(0, -16, width + RIGHT - 4, PLOT_HEIGHT)
    return place_names(names, marks, frame, first=first, lines=lines)


def _steps(marks: Sequence[tuple[float, float]]) -> list[Box]:
    """The line that joins the front, as boxes: across at the height of the one, then up or down to the next."""
    boxes = []
    for (x, y), (further, other) in pairwise(marks):
        boxes.append(Box(min(x, further), y - 1, max(x, further), y + 1))
        boxes.append(Box(further - 1, min(y, other), further + 1, max(y, other)))
    return boxes
