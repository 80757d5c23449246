"""Scores of parts: every variant on every class or bit, and what the videos of a class were taken for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape

import plotly.graph_objects as go

from .findings import Row, SuiteReport
from .page_class_table import class_table
from .page_data import Confusion, Evidence
from .page_marks import HEAT, INK, SOFT, error_bars, ranked, row_names, say_instead, spell_score
from .page_parts import choose, fold_away, picture
from .statistics import MeanInterval
from .time_sensitivity import CONDITION_NAMES


def parts_heat_map(suite: SuiteReport) -> go.Figure:
    """Score of every variant on every class or bit.

    Where theory has a word on the parts (``readable``) each is held against the ceiling: green where the whole interval
    is above it, else grey; outlined what can be read. A ceiling on the whole says nothing about a part: who always
    guesses one of two classes is always right about that one.
    """
    rows = [row for row in ranked(suite) if row.parts]
    parts = suite.parts
    names = row_names(suite, rows)
    ceiling = suite.suite.ceiling if suite.suite.readable else None
    scores = [[row.parts.get(part) for part in parts] for row in rows]
    hover = [
        [f"<b>{escape(row.variant)}</b>, {escape(part)}<br>{spell_score(row.parts.get(part))}" for part in parts]
        for row in rows
    ]
    crowded = len(parts) > 4
    figure = go.Figure(
        go.Heatmap(
            z=[[_shade(score, ceiling) for score in row] for row in scores],
            text=[["" if s is None else f"{100 * s.mean:.0f}" + " %" * (not crowded) for s in row] for row in scores],
            x=[escape(part) for part in parts],
            y=[escape(name) for name in names],
            zmin=0,
            zmax=100,
            colorscale=_colour_scale(ceiling),
            xgap=3,
            ygap=3,
            texttemplate="%{text}" if len(parts) <= 24 else "",
            textfont={"size": 12 if crowded else 14, "color": INK},
            customdata=hover,
            hovertemplate="%{customdata}<extra></extra>",
            showscale=False,
        )
    )
    for y, row in enumerate(rows):
        for x, part in enumerate(parts):
            if part in suite.suite.readable.get(row.variant, ()):
                box = {"x0": x - 0.47, "x1": x + 0.47, "y0": y - 0.44, "y1": y + 0.44}
                figure.add_shape(type="rect", **box, line={"width": 2, "color": INK})
    figure.update_layout(height=72 + 36 * max(len(rows), 2))
    figure.update_xaxes(side="top", type="category", showgrid=False, tickangle=-40 if crowded else 0)
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
    return figure


def class_scores(row: Row, evidence: Evidence) -> go.Figure:
    """One variant class by class: the clips as they are with intervals, altered ones as small marks."""
    if not row.parts:
        return say_instead("no scores by class")
    figure = go.Figure()
    parts = list(row.parts)
    name = escape(row.variant)
    marks = {"reversed": "triangle-left", "shuffled": "x-thin-open", "repeated": "square-open", "half": "diamond-open"}
    for key, condition in evidence.conditions.items():
        classes = [part for part in parts if part in condition.classes]
        if key == "as_is" or not classes:
            continue
        figure.add_scatter(
            x=[100 * (row.parts[part].mean + condition.classes[part]) for part in classes],
            y=[parts.index(part) for part in classes],
            mode="markers",
            name=CONDITION_NAMES[key],
            marker={"size": 9, "color": SOFT, "symbol": marks[key], "line": {"width": 1.5, "color": SOFT}},
            hovertemplate=[
                f"<b>{escape(p)}</b>, {CONDITION_NAMES[key]}<br>%{{x:.0f}} %<extra>{name}</extra>" for p in classes
            ],
        )
    figure.add_scatter(
        x=[100 * score.mean for score in row.parts.values()],
        y=list(range(len(parts))),
        error_x=error_bars(list(row.parts.values()), INK),
        mode="markers",
        name=CONDITION_NAMES["as_is"],
        marker={"size": 10, "color": INK},
        hovertemplate=[f"<b>{escape(p)}</b><br>{spell_score(s)}<extra>{name}</extra>" for p, s in row.parts.items()],
    )
    legend = len(figure.data) > 1
    figure.update_layout(
        height=80 + 30 * max(len(parts), 2) + 40 * legend,
        showlegend=legend,
        legend={"orientation": "h", "y": -0.12, "yanchor": "top", "x": 0},
    )
    figure.update_xaxes(range=[-3, 103], ticksuffix=" %", dtick=25)
    labels = [escape(part) for part in parts]
    figure.update_yaxes(
        range=[len(parts) - 0.5, -0.5], tickvals=list(range(len(parts))), ticktext=labels, showgrid=False
    )
    return figure


def confusion_matrix(row: Row, confusion: Confusion | None) -> go.Figure:
    """What the videos of every class were taken for, in percent of the class."""
    if confusion is None:
        return say_instead("no predictions kept, or not of every seed")
    counts = confusion.counts
    unread = bool(counts[:, -1].any())
    shown = counts if unread else counts[:, :-1]
    totals = counts.sum(axis=1, keepdims=True).clip(min=1)
    share = 100 * shown / totals
    names = [escape(name) for name in confusion.classes]
    columns = [*names, *(["could not be read"] if unread else [])]
    crowded = len(names) > 12
    figure = go.Figure(
        go.Heatmap(
            z=share.round(1).tolist(),
            x=list(range(len(columns))),
            y=list(range(len(names))),
            text=[[f"{value:.0f}" if value >= 0.5 else "" for value in line] for line in share],
            texttemplate="" if crowded else "%{text}",
            textfont={"color": INK},
            customdata=[
                [
                    f"<b>{true}</b> taken for <b>{taken}</b><br>{n} of {total}"
                    for taken, n in zip(columns, line, strict=True)
                ]
                for true, line, total in zip(names, shown.tolist(), totals[:, 0].tolist(), strict=True)
            ],
            hovertemplate=f"%{{customdata}}<extra>{escape(row.variant)}</extra>",
            zmin=0,
            zmax=100,
            colorscale=[[0, "var(--cell)"], [1, HEAT]],
            xgap=2,
            ygap=2,
            showscale=False,
        )
    )
    figure.update_layout(height=120 + (16 if crowded else 34) * len(names))
    ticks = {"showgrid": False, "tickfont": {"size": 9 if crowded else 12}}
    figure.update_xaxes(title="taken for", tickvals=list(range(len(columns))), ticktext=columns, tickangle=-40, **ticks)
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=names, autorange="reversed", **ticks)
    return figure


def class_views(index: int, suite: SuiteReport, evidence: Mapping[str, Evidence]) -> Iterator[str]:
    """Scores by class and the confusion of any variant, folded away; the scores in numbers as well."""
    rows = [row for row in ranked(suite) if row.parts or evidence[row.variant].confusion is not None]
    views: dict[str, str] = {}
    if any(row.parts for row in rows):
        altered = any(key != "as_is" for row in rows for key in evidence[row.variant].conditions)
        marks = " Small marks: its mean on altered clips, see the key below the picture." * altered
        views[f"classes-{index}"] = picture(
            f"classes-{index}",
            [class_scores(row, evidence[row.variant]) for row in rows],
            "Score by class",
            f"Dot: mean over the seeds with its 95 % interval.{marks} Nothing here is held against the reference.",
            numbers="means in the table Class by class in numbers",
        )
    if any(evidence[row.variant].confusion for row in rows):
        views[f"confusion-{index}"] = picture(
            f"confusion-{index}",
            [confusion_matrix(row, evidence[row.variant].confusion) for row in rows],
            "Taken for",
            "Every line a true class, in percent of its videos over all seeds; on the diagonal what was right.",
            numbers="in no table: they are counted from the predictions in the folders of the runs",
        )
    if views:
        control = choose("Variant", row_names(suite, rows), list(views))
        pair = f'<div class="pair">{"".join(views.values())}</div>'
        yield fold_away("Class by class, and what was taken for what", control + pair)
    if any(row.parts for row in rows):
        yield fold_away("Class by class in numbers", class_table(suite, evidence))


def _shade(score: MeanInterval | None, ceiling: float | None) -> float | None:
    """Place on the colour scale, in percent: the mean, but green only for what is above the ceiling for sure."""
    if score is None:
        return None
    return 100 * (score.mean if ceiling is None or score.is_above(ceiling) else min(score.mean, ceiling))


def _colour_scale(ceiling: float | None) -> list[tuple[float, str]]:
    if ceiling is None or not 0 < ceiling < 1:
        return [(0.0, "var(--cell)"), (1.0, HEAT)]
    above = min(ceiling + 1e-3, 1.0)  # a score of exactly the ceiling is not above it
    return [(0.0, "var(--cell)"), (above, "var(--cell-grey)"), (above, "var(--cell-green)"), (1.0, HEAT)]
