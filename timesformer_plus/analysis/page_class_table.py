"""Scores of parts as a plain table, for who sees no pictures or has no script."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from .findings import SuiteReport
from .page_data import Evidence
from .page_marks import ranked, row_names
from .time_sensitivity import CONDITION_NAMES


def class_table(suite: SuiteReport, evidence: Mapping[str, Evidence]) -> str:
    """Draw the table.

    Args:
        suite: The comparison.
        evidence: Variant -> what its folders hold.

    Returns:
        HTML: a column a variant, a line a class or bit; first the means on the clips as they are, then, for every way
        in which clips were altered, what that changes.
    """
    rows = [row for row in ranked(suite) if row.parts]
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in row_names(suite, rows))
    means = {part: [row.parts[part].mean if part in row.parts else None for row in rows] for part in suite.parts}
    groups = _group(f"{CONDITION_NAMES['as_is']}: {suite.suite.metric}, %", means, len(rows), signed=False)
    for key, name in CONDITION_NAMES.items():
        conditions = [evidence[row.variant].conditions.get(key) for row in rows]
        changes = {part: [c.classes.get(part) if c else None for c in conditions] for part in suite.parts}
        if key != "as_is" and any(change is not None for line in changes.values() for change in line):
            groups += _group(f"{name}: change, points", changes, len(rows), signed=True)
    return (
        '<p class="note">Means over the seeds. Below: what altering the clips changes, where that was tried.</p>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(suite.title)}: class by class">'
        f'<table class="groups"><thead><tr><th scope="col">class</th>{heads}</tr></thead>{groups}</table></div>'
    )


def _group(title: str, lines: Mapping[str, list[float | None]], columns: int, *, signed: bool) -> str:
    head = f'<tr><th scope="rowgroup" colspan="{columns + 1}">{escape(title)}</th></tr>'
    body = ""
    for part, numbers in lines.items():
        cells = "".join(f"<td>{_spell(number, signed=signed)}</td>" for number in numbers)
        body += f'<tr><th scope="row">{escape(part)}</th>{cells}</tr>'
    return f"<tbody>{head}{body}</tbody>"


def _spell(number: float | None, *, signed: bool) -> str:
    if number is None:
        return "–"
    return f"{100 * number:{'+' if signed else ''}.1f}".replace("-", "−")
