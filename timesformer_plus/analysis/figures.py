"""The pictures of a report as plotly figures: colours and fonts are left to the page, which knows light from dark."""

from __future__ import annotations

from html import escape

import plotly.graph_objects as go

from .findings import Row, SuiteReport
from .statistics import MeanInterval

# Okabe and Ito's colours, which colour-blind readers tell apart, then four more; they show on light and dark paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#A6761D", "#7F7F7F", "#B2A000")


def ranking(suite: SuiteReport) -> go.Figure:
    """Score of every variant with its interval, the seeds as small points, the ceiling as a line."""
    figure = go.Figure()
    rows = [row for row in suite.rows if row.score is not None]
    for place, row in enumerate(rows):
        name = escape(row.variant)
        figure.add_scatter(
            x=[100 * score for score in row.scores.values()],
            y=[place + 0.27] * len(row.scores),
            mode="markers",
            marker={"size": 6, "color": _colour(suite, row), "opacity": 0.55},
            hovertemplate=[f"{name}, seed {seed}: %{{x:.1f}} %<extra></extra>" for seed in row.scores],
        )
        figure.add_scatter(
            x=[100 * _mean(row)],
            y=[place],
            error_x=_error_bar(row.score),
            mode="markers",
            marker={"size": 11, "color": _colour(suite, row), "symbol": "diamond"},
            hovertemplate=f"{name}: {_spell(row.score)}<extra></extra>",
        )
    _draw_ceiling(figure, suite, vertical=True)
    figure.update_layout(showlegend=False, height=100 + 46 * max(len(rows), 2))
    figure.update_xaxes(title=_axis(suite), range=[-2, 103], ticksuffix=" %", dtick=25)
    names = [escape(row.variant) for row in rows]
    figure.update_yaxes(range=[len(rows) - 0.4, -0.6], tickvals=list(range(len(rows))), ticktext=names)
    return figure


def accuracy_against_cost(suite: SuiteReport) -> go.Figure:
    """Score over GFLOPs a clip view with intervals; the seeds as small points."""
    figure = go.Figure()
    rows = sorted((row for row in suite.rows if row.score is not None and row.gflops is not None), key=_gflops)
    for index, row in enumerate(rows):
        name = escape(row.variant)
        figure.add_scatter(
            x=[row.gflops] * len(row.scores),
            y=[100 * score for score in row.scores.values()],
            mode="markers",
            marker={"size": 20, "color": _colour(suite, row), "symbol": "line-ew-open"},
            hovertemplate=[f"{name}, seed {seed}: %{{y:.1f}} %<extra></extra>" for seed in row.scores],
        )
        figure.add_scatter(
            x=[row.gflops],
            y=[100 * _mean(row)],
            error_y=_error_bar(row.score),
            mode="markers+text",
            text=[f"<b>{name}</b>"],
            textposition=("top right", "bottom right")[index % 2],
            textfont={"color": _colour(suite, row), "size": 14},
            marker={"size": 12, "color": _colour(suite, row), "symbol": "diamond"},
            hovertemplate=f"{name}: {_spell(row.score)} at %{{x:.4g}} GFLOPs<extra></extra>",
        )
    _draw_ceiling(figure, suite, vertical=False)
    wide = bool(rows) and _gflops(rows[-1]) > 10 * _gflops(rows[0])
    figure.update_layout(showlegend=False, height=430)
    figure.update_xaxes(title="GFLOPs a clip view (multiply-adds)", **({"type": "log", "dtick": "D2"} if wide else {}))
    figure.update_yaxes(title=_axis(suite), range=[-2, 108], ticksuffix=" %", dtick=25)
    return figure


def parts_heat_map(suite: SuiteReport) -> go.Figure:
    """Score of every variant on every class or bit.

    Where theory has a word on the parts (``readable``) each is held against the ceiling: green where the whole interval
    is above it, else grey; outlined what can be read. A ceiling on the whole says nothing about a part: who always
    guesses one of two classes is always right about that one.
    """
    rows = [row for row in suite.rows if row.parts]
    parts = suite.parts
    ceiling = suite.suite.ceiling if suite.suite.readable else None
    crowded = len(parts) > 4
    scores = [[row.parts.get(part) for part in parts] for row in rows]
    hover = [
        [f"{escape(row.variant)}, {escape(part)}: {_spell(row.parts.get(part))}" for part in parts] for row in rows
    ]
    figure = go.Figure(
        go.Heatmap(
            z=[[_shade(score, ceiling) for score in row] for row in scores],
            text=[[_cell(score, " %" * (not crowded)) for score in row] for row in scores],
            x=[escape(part) for part in parts],
            y=[escape(row.variant) for row in rows],
            zmin=0,
            zmax=100,
            colorscale=_colour_scale(ceiling),
            xgap=4,
            ygap=4,
            texttemplate="%{text}",
            textfont={"size": 13 if crowded else 15},
            customdata=hover,
            hovertemplate="%{customdata}<extra></extra>",
            colorbar={"ticksuffix": " %", "thickness": 12, "outlinewidth": 0, "tickvals": _ticks(ceiling)},
        )
    )
    for y, row in enumerate(rows):
        for x, part in enumerate(parts):
            if part in suite.suite.readable.get(row.variant, ()):
                figure.add_shape(
                    type="rect",
                    x0=x - 0.47,
                    x1=x + 0.47,
                    y0=y - 0.45,
                    y1=y + 0.45,
                    line={"width": 3, "color": "#D55E00"},
                )
    figure.update_layout(height=100 + 46 * max(len(rows), 2))
    figure.update_xaxes(side="top", type="category", showgrid=False)
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
    return figure


def _colour(suite: SuiteReport, row: Row) -> str:
    return COLOURS[[other.variant for other in suite.rows].index(row.variant) % len(COLOURS)]


def _mean(row: Row) -> float:
    return row.score.mean if row.score is not None else float("nan")


def _gflops(row: Row) -> float:
    return row.gflops or 0.0


def _error_bar(score: MeanInterval | None) -> dict[str, object]:
    if score is None or score.low is None or score.high is None:
        return {"visible": False}
    return {
        "type": "data",
        "symmetric": False,
        "array": [100 * (score.high - score.mean)],
        "arrayminus": [100 * (score.mean - score.low)],
        "thickness": 2,
        "width": 5,
    }


def _draw_ceiling(figure: go.Figure, suite: SuiteReport, *, vertical: bool) -> None:
    if suite.suite.ceiling is None:
        return
    level, line = 100 * suite.suite.ceiling, {"dash": "dot", "width": 2, "color": "#D55E00"}
    text = f"ceiling {level:.0f} %"
    if vertical:
        figure.add_vline(x=level, line=line, annotation_text=text, annotation_position="top")
    else:
        figure.add_hline(y=level, line=line, annotation_text=text, annotation_position="bottom left")


def _axis(suite: SuiteReport) -> str:
    return escape(f"{suite.suite.metric} on {suite.suite.split}")


def _spell(score: MeanInterval | None) -> str:
    if score is None:
        return "no run"
    interval = (
        "one seed" if score.low is None or score.high is None else f"{100 * score.low:.1f} to {100 * score.high:.1f}"
    )
    return f"{100 * score.mean:.1f} % ({interval})"


def _shade(score: MeanInterval | None, ceiling: float | None) -> float | None:
    """Place on the colour scale, in percent: the mean, but green only for what is above the ceiling for sure."""
    if score is None:
        return None
    return 100 * (score.mean if ceiling is None or score.is_above(ceiling) else min(score.mean, ceiling))


def _cell(score: MeanInterval | None, unit: str) -> str:
    return "" if score is None else f"{100 * score.mean:.0f}{unit}"


def _colour_scale(ceiling: float | None) -> list[tuple[float, str]]:
    if ceiling is None or not 0 < ceiling < 1:
        return [(0.0, "#F1F4F6"), (1.0, "#00688B")]
    above = min(ceiling + 1e-3, 1.0)  # a score of exactly the ceiling is not above it
    return [(0.0, "#F3F3F1"), (above, "#CFCFCB"), (above, "#D3ECE4"), (1.0, "#00664F")]


def _ticks(ceiling: float | None) -> list[float]:
    return sorted({0.0, 100.0, 50.0 if ceiling is None else 100 * ceiling})
