"""Pieces that the page is made of: pictures with a choice, what is folded away, the table of altered clips."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import NamedTuple

import plotly.graph_objects as go
from plotly.utils import PlotlyJSONEncoder

from .findings import SuiteReport
from .page_data import Condition, Evidence
from .page_marks import ranked, row_names
from .time_sensitivity import CONDITION_NAMES


class Choice(NamedTuple):
    """A line of a picture that can be shown and hidden: whose it is, how it looks, and whether it is seen at first."""

    key: str
    name: str
    colour: str
    dash: str
    shown: bool


def picture(
    name: str,
    figures: Sequence[go.Figure],
    title: str,
    caption: str,
    control: str = "",
    *,
    numbers: str = "numbers in the table",
    lines: str = "",
) -> str:
    """Draw a figure, or one of several that a control chooses from.

    Args:
        name: Identity within the page.
        figures: What there is to choose from, the first shown first.
        title: Heading, HTML.
        caption: Below it, HTML.
        control: What chooses, from ``switch`` or ``choose``.
        numbers: Where who sees no picture finds what it shows, HTML.
        lines: What shows and hides single lines of it, from ``tick``.

    Returns:
        HTML.
    """
    # "<" inside JSON could end the script element or open a comment; <!-- and </script> must not survive.
    spec = json.dumps([figure.to_plotly_json() for figure in figures], cls=PlotlyJSONEncoder)
    spec = spec.replace("<", "\\u003c").replace("&", "\\u0026")
    height = figures[0].layout.height or 300
    return (
        f'<figure><div class="head"><h3>{title}</h3>{control}</div>{lines}'
        f'<div class="plot" id="{name}" role="img" aria-label="{title}; {numbers}"'
        f' style="min-height:{height}px"></div>'
        f'<script type="application/json" data-for="{name}">{spec}</script>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def switch(legend: str, names: Sequence[str], pictures: Sequence[str]) -> str:
    """Buttons of which one is pressed, in front of pictures with as many figures as there are names."""
    buttons = "".join(
        f'<label><input type="radio" name="switch-{pictures[0]}" value="{place}" data-governs="{" ".join(pictures)}"'
        f"{' checked' * (place == 0)}><span>{escape(name)}</span></label>"
        for place, name in enumerate(names)
    )
    return f'<fieldset class="switch"><legend>{escape(legend)}</legend>{buttons}</fieldset>'


def choose(label: str, names: Sequence[str], pictures: Sequence[str]) -> str:
    """A list to choose from, for more names than buttons have room for."""
    options = "".join(f'<option value="{place}">{escape(name)}</option>' for place, name in enumerate(names))
    return (
        f'<label class="choose">{escape(label)} <select data-governs="{" ".join(pictures)}">{options}</select></label>'
    )


def tick(legend: str, choices: Sequence[Choice], picture: str) -> str:
    """Boxes to tick, one a line of a picture, each beside a piece of its line."""
    boxes = "".join(
        f'<label><input type="checkbox" value="{escape(choice.key)}" data-shows="{picture}"{" checked" * choice.shown}>'
        f'<i style="border-top: 3px {"solid" if choice.dash == "solid" else "dashed"} {choice.colour}"></i>'
        f"{escape(choice.name)}</label>"
        for choice in choices
    )
    return f'<fieldset class="lines"><legend>{escape(legend)}</legend>{boxes}</fieldset>'


def fold_away(summary: str, content: str) -> str:
    """Keep what only some want to see behind a line."""
    return f'<details class="fold"><summary>{escape(summary)}</summary><div>{content}</div></details>'


def sensitivity_table(suite: SuiteReport, evidence: Mapping[str, Evidence]) -> Iterator[str]:
    """Scores on altered clips, the change beside them."""
    rows = [row for row in ranked(suite) if evidence[row.variant].conditions]
    if not rows:
        return
    keys = [key for key in CONDITION_NAMES if any(key in evidence[row.variant].conditions for row in rows)]
    heads = "".join(f'<th scope="col">{CONDITION_NAMES[key]}</th>' for key in keys)
    body = ""
    tried = [max(condition.score.n for condition in evidence[row.variant].conditions.values()) for row in rows]
    for row, name in zip(rows, row_names(suite, rows, tried), strict=True):
        conditions = evidence[row.variant].conditions
        cells = "".join(_condition(conditions.get(key), first=key == "as_is") for key in keys)
        body += f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'
    yield (
        f'<h3>What time is worth</h3><p class="note">{escape(suite.suite.metric)} of the trained models on altered '
        "clips, in percent; below it the change to the clips as they are, in points, with its 95 % interval. A model "
        "that does not use the order of the frames loses nothing when they are shuffled.</p>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(suite.title)}: altered clips">'
        f'<table class="heat"><thead><tr><th scope="col">variant</th>{heads}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def _condition(condition: Condition | None, *, first: bool) -> str:
    if condition is None:
        return "<td>–</td>"
    score, change = condition.score, condition.change
    low, high = change.low, change.high
    interval = "one seed" if low is None or high is None else f"{100 * low:+.1f} to {100 * high:+.1f}"
    below = "" if first else f"<small>{100 * change.mean:+.1f} <i>[{interval}]</i></small>".replace("-", "−")
    return f'<td style="--share:{100 * score.mean:.0f}%"><b>{100 * score.mean:.1f}</b>{below}</td>'
