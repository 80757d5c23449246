"""Scores, differences and learning curves as plotly figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

import plotly.graph_objects as go

from .findings import Row, SuiteReport
from .page_data import Evidence
from .page_marks import (
    SERIES,
    SOFT,
    draw_ceiling,
    error_bar,
    extent,
    mean_marker,
    mean_score,
    ranked,
    row_names,
    short_names,
    spell_difference,
    spell_score,
    verdict_colours,
)
from .page_parts import Choice


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
            marker={"size": 6, "color": colour, "opacity": 0.7},
            hovertemplate=[f"<b>{name}</b>, seed {seed}<br>%{{x:.1f}} %<extra></extra>" for seed in row.scores],
        )
        figure.add_scatter(
            x=[100 * mean_score(row)],
            y=[place],
            error_x=error_bar(row.score, colour),
            mode="markers",
            marker=mean_marker(suite, row, colour, 12),
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
    low, high = extent(suite, rows)
    draw_ceiling(figure, suite, vertical=True)
    figure.update_layout(showlegend=False, height=78 + 40 * max(len(rows), 2), meta={"right": 52})
    figure.update_xaxes(range=[low, high], ticksuffix=" %", nticks=7)
    _name_rows(figure, row_names(suite, rows))
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
    # a difference rests on the seeds that both have
    _name_rows(figure, row_names(suite, rows, [row.difference.n if row.difference else 0 for row in rows]))
    return figure


def learning_curves(suite: SuiteReport, evidence: Mapping[str, Evidence], curve: str) -> go.Figure:
    """Mean over the seeds of every variant, and a band from the lowest seed to the highest.

    Which variants are seen is what ``curve_choices`` begins with; a trace's ``meta`` says whose it is.
    """
    figure = go.Figure()
    for row, name, line, shown in _curve_lines(suite):
        seeds = evidence[row.variant].curves.get(curve, {})
        if not seeds:
            continue
        points = list(zip(*seeds.values(), strict=False))  # seeds may have been logged for other lengths
        x = [sum(p[0] for p in at) / len(at) for at in points]
        values = [[p[1] for p in at] for at in points]
        whose = {"meta": {"variant": row.variant}, "visible": shown}
        if len(seeds) > 1:
            figure.add_scatter(
                x=[*x, *reversed(x)],
                y=[*map(max, values), *reversed([min(at) for at in values])],
                fill="toself",
                fillcolor=line["color"],
                line={"width": 0, "color": line["color"]},
                opacity=0.16,
                hoverinfo="skip",
                **whose,
            )
        figure.add_scatter(
            x=x,
            y=[sum(at) / len(at) for at in values],
            mode="lines",
            name=escape(name),
            line={"width": 2, **line},
            hovertemplate=f"<b>{escape(row.variant)}</b><br>epoch %{{x:.1f}}: %{{y:.3g}}<extra></extra>",
            **whose,
        )
    figure.update_layout(height=400, showlegend=False)
    figure.update_xaxes(title="epoch", nticks=8, rangemode="tozero")
    figure.update_yaxes(title=curve, nticks=6)
    return figure


def curve_choices(suite: SuiteReport, evidence: Mapping[str, Evidence]) -> list[Choice]:
    """The variants that have curves."""
    return [
        Choice(row.variant, name, line["color"], line["dash"], shown)
        for row, name, line, shown in _curve_lines(suite)
        if evidence[row.variant].curves
    ]


def _curve_lines(suite: SuiteReport) -> Iterator[tuple[Row, str, dict[str, str], bool]]:
    """Row, its name, its line, and whether it is seen at first: of many the best, the last and the reference are."""
    rows = ranked(suite)
    for index, (row, name) in enumerate(zip(rows, row_names(suite, rows), strict=True)):
        shown = index < 3 or index == len(rows) - 1 or len(rows) <= 6 or row.variant == suite.suite.reference
        dash = "solid" if index < len(SERIES) else "dash"
        yield row, name, {"color": SERIES[index % len(SERIES)], "dash": dash}, shown


def _name_rows(figure: go.Figure, names: Sequence[str]) -> None:
    places = list(range(len(names)))
    shown = [escape(name) for name in names]
    figure.update_yaxes(range=[len(names) - 0.4, -0.6], tickvals=places, ticktext=shown, showgrid=False)


def _short_reference(suite: SuiteReport) -> str:
    names = [row.variant for row in suite.rows]
    return short_names(names)[names.index(suite.suite.reference)]
