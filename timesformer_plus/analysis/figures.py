"""Scores, differences, prices and learning curves as plotly figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import plotly.graph_objects as go

from .findings import Row, SuiteReport
from .page_data import COSTS, Evidence
from .page_marks import (
    CEILING,
    INK,
    PAPER,
    SERIES,
    SOFT,
    error_bar,
    mean_score,
    ranked,
    short_names,
    spell_difference,
    spell_score,
    verdict_colours,
)


def ranking(suite: SuiteReport) -> go.Figure:
    """Score of every variant with its interval, best on top; the seeds as small points, the ceiling as a line."""
    figure = go.Figure()
    rows, colours = ranked(suite), verdict_colours(suite)
    for place, row in enumerate(rows):
        name, colour = escape(row.variant), colours[row.variant]
        figure.add_scatter(
            x=[100 * score for score in row.scores.values()],
            y=[place + 0.24] * len(row.scores),
            mode="markers",
            marker={"size": 6, "color": colour, "opacity": 0.45},
            hovertemplate=[f"<b>{name}</b>, seed {seed}<br>%{{x:.1f}} %<extra></extra>" for seed in row.scores],
        )
        figure.add_scatter(
            x=[100 * mean_score(row)],
            y=[place],
            error_x=error_bar(row.score, colour),
            mode="markers",
            marker=_mean_marker(suite, row, colour, 12),
            hovertemplate=f"<b>{name}</b><br>{spell_score(row.score)}<extra></extra>",
        )
        figure.add_annotation(
            x=1,
            xref="paper",
            xanchor="left",
            xshift=10,
            y=place,
            text=f"<b>{100 * mean_score(row):.1f}</b>",
            showarrow=False,
        )
    low, high = _extent(suite, rows)
    _draw_ceiling(figure, suite, vertical=True)
    figure.update_layout(showlegend=False, height=78 + 40 * max(len(rows), 2), meta={"right": 52})
    figure.update_xaxes(range=[low, high], ticksuffix=" %", nticks=7)
    _name_rows(figure, rows)
    return figure


def differences(suite: SuiteReport) -> go.Figure:
    """Difference of every variant to the reference, paired by seed, with its interval; in percentage points."""
    figure = go.Figure()
    rows = [row for row in ranked(suite) if row.difference is not None]
    colours = verdict_colours(suite)
    for place, row in enumerate(rows):
        difference = row.difference
        if difference is None:
            continue
        colour = colours[row.variant]
        figure.add_scatter(
            x=[100 * difference.mean],
            y=[place],
            error_x=error_bar(difference, colour),
            mode="markers",
            marker={"size": 10, "color": colour},
            hovertemplate=f"<b>{escape(row.variant)}</b><br>{spell_difference(difference)}<extra></extra>",
        )
    figure.add_vline(x=0, line={"width": 1.5, "color": SOFT})
    figure.update_layout(showlegend=False, height=86 + 34 * max(len(rows), 2))
    figure.update_xaxes(title=f"points to {escape(_short_reference(suite))}", tickformat="+~f", nticks=6)
    _name_rows(figure, rows)
    return figure


def accuracy_against_cost(suite: SuiteReport, evidence: Mapping[str, Evidence], cost: str) -> go.Figure:
    """Score over a cost with intervals; the line joins what no other variant beats in both."""
    figure = go.Figure()
    colours = verdict_colours(suite)
    known = {
        row.variant: evidence[row.variant].costs[cost] for row in suite.rows if cost in evidence[row.variant].costs
    }
    rows = sorted(
        (row for row in suite.rows if row.score is not None and row.variant in known), key=lambda r: known[r.variant]
    )
    more_is_better = cost.endswith("clips_per_second")
    points = {row.variant: (known[row.variant], mean_score(row)) for row in rows}
    front = pareto_front(points, more_is_better=more_is_better)
    figure.add_scatter(
        x=[known[name] for name in front],
        y=[100 * mean_score(row) for name in front for row in rows if row.variant == name],
        mode="lines",
        line={"color": SOFT, "width": 1.5, "dash": "dot"},
        hoverinfo="skip",
    )
    names = dict(zip((row.variant for row in rows), short_names([row.variant for row in rows]), strict=True))
    sides = _label_sides(list(points.values()))
    for row, side in zip(rows, sides, strict=True):
        name, colour = escape(row.variant), colours[row.variant]
        weight = f"<b>{escape(names[row.variant])}</b>" if row.variant in front else escape(names[row.variant])
        figure.add_scatter(
            x=[known[row.variant]],
            y=[100 * mean_score(row)],
            error_y={**error_bar(row.score, colour), "thickness": 1},
            mode="markers+text" if side else "markers",
            text=[weight],
            textposition=side or "middle right",
            textfont={"color": INK if row.variant in front else SOFT, "size": 12.5},
            marker=_mean_marker(suite, row, colour, 11),
            cliponaxis=False,
            hovertemplate=f"<b>{name}</b><br>{spell_score(row.score)}<br>%{{x:.4~s}} {COSTS[cost][0]}<extra></extra>",
        )
    _draw_ceiling(figure, suite, vertical=False)
    values = sorted(known[row.variant] for row in rows)
    wide = bool(values) and values[-1] > 10 * values[0] > 0
    figure.update_layout(showlegend=False, height=440, meta={"right": 44})
    figure.update_xaxes(title=COSTS[cost][1], **({"type": "log", "dtick": "D2"} if wide else {"nticks": 6}))
    figure.update_yaxes(range=list(_extent(suite, rows)), ticksuffix=" %", nticks=6)
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


def learning_curves(suite: SuiteReport, evidence: Mapping[str, Evidence], curve: str) -> go.Figure:
    """Mean over the seeds of every variant, and a band from the lowest seed to the highest.

    Of many variants the first ones, the last one and the reference are drawn, the others when their name is pressed.
    """
    figure = go.Figure()
    rows = ranked(suite)
    names = short_names([row.variant for row in rows])
    for index, row in enumerate(rows):
        drawn = index < 3 or index == len(rows) - 1 or len(rows) <= 6 or row.variant == suite.suite.reference
        seeds = evidence[row.variant].curves.get(curve, {})
        if not seeds:
            continue
        points = list(zip(*seeds.values(), strict=False))  # seeds may have been logged for other lengths
        x = [sum(p[0] for p in at) / len(at) for at in points]
        values = [[p[1] for p in at] for at in points]
        colour = SERIES[index % len(SERIES)]
        name = escape(names[index])
        if len(seeds) > 1:
            figure.add_scatter(
                x=[*x, *reversed(x)],
                y=[*map(max, values), *reversed([min(at) for at in values])],
                fill="toself",
                fillcolor=colour,
                line={"width": 0, "color": colour},
                opacity=0.16,
                hoverinfo="skip",
                legendgroup=name,
                showlegend=False,
                visible=True if drawn else "legendonly",
            )
        figure.add_scatter(
            x=x,
            y=[sum(at) / len(at) for at in values],
            mode="lines",
            name=name,
            legendgroup=name,
            visible=True if drawn else "legendonly",
            line={"width": 2, "color": colour, "dash": "solid" if index < len(SERIES) else "dash"},
            hovertemplate=f"<b>{escape(row.variant)}</b><br>epoch %{{x:.1f}}: %{{y:.3g}}<extra></extra>",
        )
    figure.update_layout(height=430, legend={"orientation": "h", "y": -0.18, "yanchor": "top", "x": 0})
    figure.update_xaxes(title="epoch", nticks=8, rangemode="tozero")
    figure.update_yaxes(title=curve, nticks=6)
    return figure


def _label_sides(points: Sequence[tuple[float, float]]) -> list[str]:
    """Where names of points go so that neighbours' do not lie on each other; empty where there is no room."""
    wide, high = (max(axis) - min(axis) or 1.0 for axis in zip(*points, strict=True)) if points else (1.0, 1.0)
    sides: list[str] = []
    for x, y in points:
        near = {
            side
            for (a, b), side in zip(points, sides, strict=False)
            if abs(a - x) < 0.06 * wide and abs(b - y) < 0.07 * high
        }
        order = ("middle right", "middle left", "top right", "bottom left")
        sides.append(next((side for side in order if side not in near), ""))
    return sides


def _name_rows(figure: go.Figure, rows: Sequence[Row]) -> None:
    names = [escape(name) for name in short_names([row.variant for row in rows])]
    places = list(range(len(rows)))
    figure.update_yaxes(range=[len(rows) - 0.4, -0.6], tickvals=places, ticktext=names, showgrid=False)


def _short_reference(suite: SuiteReport) -> str:
    names = [row.variant for row in suite.rows]
    return short_names(names)[names.index(suite.suite.reference)]


def _mean_marker(suite: SuiteReport, row: Row, colour: str, size: int) -> dict[str, object]:
    if row.variant == suite.suite.reference:
        return {"size": size, "color": PAPER, "symbol": "diamond", "line": {"width": 2.5, "color": colour}}
    return {"size": size, "color": colour, "symbol": "diamond"}


def _extent(suite: SuiteReport, rows: Sequence[Row]) -> tuple[float, float]:
    """Percent from below the lowest interval to above the highest; a narrow lead must not be a hair on a wide axis."""
    ends = [100 * end for row in rows if row.score for end in (row.score.low, row.score.high) if end is not None]
    ends += [100 * score for row in rows for score in row.scores.values()]
    ends += [100 * suite.suite.ceiling] if suite.suite.ceiling is not None else []
    pad = max(0.06 * (max(ends) - min(ends)), 1.0) if ends else 1.0
    return (max(min(ends) - pad, -2), min(max(ends) + pad, 102)) if ends else (0.0, 100.0)


def _draw_ceiling(figure: go.Figure, suite: SuiteReport, *, vertical: bool) -> None:
    if suite.suite.ceiling is None:
        return
    level, line = 100 * suite.suite.ceiling, {"dash": "dot", "width": 1.5, "color": CEILING}
    label = {"annotation_text": f"ceiling {level:.0f} %", "annotation_font_color": CEILING}
    if vertical:
        figure.add_vline(x=level, line=line, annotation_position="top", **label)
    else:
        figure.add_hline(y=level, line=line, annotation_position="top left", **label)
