"""The table of a suite: every number of every variant, sorted by the reader."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import NamedTuple

from .findings import Row, SuiteReport
from .page_data import COSTS, Evidence
from .page_marks import ranked, row_names, verdicts
from .report import format_count, format_difference, format_elsewhere, format_improvement, format_p


class Cell(NamedTuple):
    """What a cell says and what it is sorted by; an empty key always comes last."""

    text: str
    key: float | str | None
    kind: str = ""


VERDICTS = {"better": "better", "worse": "worse", "unclear": "not separated", "reference": "reference"}

HELP = {
    "95 % interval": "Student t over seeds: speaks about other seeds on this test set",
    "difference": "to the reference, in percentage points, paired by seed, with its 95 % interval over seeds",
    "verdict": "against the reference, at 95 % for all comparisons of the table together",
    "p (Holm)": "paired t-test over seeds, corrected for all variants of the table",
    "p (sign flips)": "exact permutation p of this row alone; with n seeds never below 2 / 2ⁿ",
    "P(better)": "how probably a training of this beats one of the reference; with an interval from four seeds each",
    "another test set": "95 % interval of the score, seeds and test videos both drawn again",
    "difference there": "95 % interval of the difference, seeds and test videos both drawn again",
    "budget": "what gives this variant the budget of another one",
}


def render_table(suite: SuiteReport, evidence: Mapping[str, Evidence]) -> str:
    """Draw the table.

    Args:
        suite: The comparison.
        evidence: Variant -> what its folders hold.

    Returns:
        HTML; the page's script sorts it by the head that is pressed.
    """
    outcome = verdicts(suite)
    order = [*ranked(suite), *(row for row in suite.rows if row.score is None)]
    names = row_names(suite, order)
    lines = [
        _cells(suite, row, name, evidence[row.variant], outcome[row.variant])
        for row, name in zip(order, names, strict=True)
    ]
    shown = [head for head in lines[0] if any(line[head].text not in ("", "–") for line in lines)]
    # the rows come sorted by score; before anything is finished nothing sorts them
    heads = "".join(
        f'<th scope="col"{_kind(lines[0][head])} aria-sort="{"descending" if head == suite.suite.metric else "none"}">'
        f'<button type="button"{_help(head)}>{escape(head)}</button></th>'
        for head in shown
    )
    body = ""
    for row, line in zip(order, lines, strict=True):
        first, *rest = (line[head] for head in shown)
        mark = ' class="reference"' if row.variant == suite.suite.reference else ""
        cells = "".join(f"<td{_kind(cell)}{_key(cell)}>{escape(cell.text)}</td>" for cell in rest)
        body += f'<tr{mark}><th scope="row"{_key(first)}>{escape(first.text)}</th>{cells}</tr>\n'
    speed = f'<p class="note">Speed, latency and memory: {escape(suite.speed)}.</p>' if suite.speed else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(suite.title)}: table">'
        f'<table class="sortable"><thead><tr>{heads}</tr></thead><tbody>\n{body}</tbody></table></div>{speed}'
    )


def _cells(suite: SuiteReport, row: Row, name: str, evidence: Evidence, verdict: str) -> dict[str, Cell]:
    score, difference = row.score, row.difference
    named = any(other.pattern and other.pattern not in other.variant for other in suite.rows)
    costs = {}
    for key, (cost, _) in COSTS.items():
        number = evidence.costs.get(key)
        costs[cost] = Cell("–" if number is None else _format_cost(key, number), number)
    return {
        "variant": Cell(name, name),
        suite.suite.metric: Cell("–" if score is None else f"{100 * score.mean:.1f} %", score.mean if score else None),
        "95 % interval": Cell(_interval(row), score.low if score else None, "quiet"),
        **({"pattern": Cell(row.pattern, row.pattern, "pattern")} if named else {}),
        "difference": Cell(format_difference(difference).replace("-", "−"), difference.mean if difference else None),
        "verdict": Cell(VERDICTS[verdict] if score else "–", VERDICTS[verdict] if score else None, verdict),
        "p (Holm)": Cell(format_p(row.holm_p), row.holm_p),
        **_statistics(suite, row),
        **costs,
        "budget": Cell(row.matched, row.matched or None),
        "seeds": Cell(str(len(row.scores)), len(row.scores)),
    }


def _statistics(suite: SuiteReport, row: Row) -> dict[str, Cell]:
    p = row.difference.permutation_p if row.difference else None
    spelt, score, difference = format_improvement(suite, row), row.elsewhere, row.difference_elsewhere
    signed = format_elsewhere(difference, signed=True).replace("-", "−")
    return {
        "p (sign flips)": Cell(format_p(p), p),
        "P(better)": Cell(spelt, row.improvement.probability if row.improvement and spelt else None),
        "another test set": Cell(format_elsewhere(score), score.low if score else None, "quiet"),
        "difference there": Cell(signed, difference.low if difference else None, "quiet"),
    }


def _interval(row: Row) -> str:
    if row.score is None:
        return "–"
    if row.score.low is None or row.score.high is None:
        return "one seed"
    return f"{100 * row.score.low:.1f} to {100 * row.score.high:.1f}"


def _format_cost(key: str, number: float) -> str:
    if key == "params":
        return format_count(int(number))
    if key == "gflops":
        return f"{number:.3g}"
    units = {
        "latency_ms": " ms",
        "train_seconds": " s",
        "clips_per_second": " clips/s",
        "train_clips_per_second": " clips/s",
    }
    digits = 1 if key == "latency_ms" and number < 100 else 0
    return f"{number:,.{digits}f}{units.get(key, ' MB')}"


def _help(head: str) -> str:
    return f' title="{escape(HELP[head])}"' if head in HELP else ""


def _kind(cell: Cell) -> str:
    return f' class="{cell.kind}"' if cell.kind else ""


def _key(cell: Cell) -> str:
    return "" if cell.key is None else f' data-key="{escape(str(cell.key))}"'
