"""The report as one HTML file that opens anywhere, offline: plotly.js, figures, styles and tables are all inside it.

Everything a user named (suites, variants, classes, paths, messages) is escaped where it enters the page, and the page
forbids itself every connection (Content-Security-Policy), so that opening it asks nobody anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape

from plotly.offline import get_plotlyjs

from .figures import curve_choices, differences, learning_curves, ranking
from .findings import Report, SuiteReport
from .page_assets import STYLE
from .page_classes import class_views, parts_heat_map
from .page_data import COSTS, Evidence, read_evidence
from .page_drawings import draw_interleaving
from .page_marks import say_unequal_seeds, short_names
from .page_parts import fold_away, picture, sensitivity_table, switch, tick
from .page_price import accuracy_against_cost
from .page_protocol import read_protocol
from .page_script import SCRIPT
from .page_table import render_table
from .report import notes

NO_SCRIPT = (
    '<noscript><p class="warning">The pictures need JavaScript. The tables hold the means, intervals, costs and scores '
    "by class; the scores of single seeds are in results.csv, learning curves and predictions in the folders of the "
    "runs.</p></noscript>"
)


def render_page(report: Report) -> str:
    """Draw the whole report.

    Args:
        report: What a sweep found.

    Returns:
        A complete HTML document, about 5 MB, most of it plotly.js.
    """
    sections = "\n".join(_section(report, index, suite) for index, suite in enumerate(report.suites))
    links = "".join(f'<a href="#suite-{index}">{escape(suite.title)}</a>' for index, suite in enumerate(report.suites))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline';
 style-src 'unsafe-inline'; img-src data: blob:">
<link rel="icon" href="data:,">
<title>{escape(report.title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<p class="eyebrow">timesformer_plus · ablation</p>
<h1>{escape(report.title)}</h1>
{_ledes(report)}
<p class="facts">{_facts(report)}</p>
<nav aria-label="Sections">{links}<a href="#method">How this was made</a></nav>
</header>
<main>
{NO_SCRIPT}
{sections}
{_method(report)}
</main>
<script>{get_plotlyjs()}</script>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _ledes(report: Report) -> str:
    several = len(report.suites) > 1
    return "".join(
        f'<p class="lede">{f"<b>{escape(suite.title)}</b> " if several else ""}{escape(suite.findings[0])}</p>'
        for suite in report.suites
    )


def _facts(report: Report) -> str:
    complete = report.finished == report.total
    partial, planned = ("", "seeds") if complete else (": a partial report", "seeds planned:")
    return (
        f'<span class="{"done" if complete else "partial"}">{report.finished} of {report.total} runs finished{partial}'
        f"</span><span>{planned} {', '.join(map(str, report.seeds))}</span><span>95 % intervals, Student t</span>"
    )


def _section(report: Report, index: int, suite: SuiteReport) -> str:
    spec = suite.suite
    evidence = {row.variant: read_evidence(report, suite, row) for row in suite.rows}
    note = f'<p class="note"><b>Ceiling.</b> {escape(spec.ceiling_note)}</p>' if spec.ceiling_note else ""
    description = f'<p class="description">{escape(spec.description)}</p>' if spec.description else ""
    return f"""<section id="suite-{index}">
<h2>{escape(suite.title)}</h2>
{description}
{"".join(_missing(suite))}
{"".join(_headline(index, suite))}
{_findings(report, suite)}
{"".join(f'<p class="note"><b>Careful.</b> {escape(warning)}</p>' for warning in suite.warnings)}
{note}
{"".join(_pictures(index, suite, evidence))}
{"".join(_drawings(suite, evidence))}
{"".join(sensitivity_table(suite, evidence))}
<h3>Every number</h3>
{render_table(suite, evidence)}
{"".join(_folded(report, index, suite, evidence))}
</section>"""


def _findings(report: Report, suite: SuiteReport) -> str:
    """What the head of the page does not say already."""
    left = suite.findings if len(report.suites) > 1 else suite.findings[1:]
    return f'<ul class="findings">{"".join(f"<li>{escape(finding)}</li>" for finding in left)}</ul>' if left else ""


def _headline(index: int, suite: SuiteReport) -> Iterator[str]:
    if any(row.score for row in suite.rows):
        caption = (
            "Diamond: mean over the seeds with its 95 % interval; the number on the right is that mean. Small points: "
            f"the single seeds. {_verdict_legend(suite)} {say_unequal_seeds(suite)}".rstrip()
        )
        metric, split = escape(suite.suite.metric), escape(suite.suite.split)
        yield picture(f"ranking-{index}", [ranking(suite)], f"{metric} on {split}, best first", caption)


def _verdict_legend(suite: SuiteReport) -> str:
    if not any(row.difference for row in suite.rows):
        return ""
    reference = escape(suite.suite.reference)
    return (
        '<span class="key better">better</span> or <span class="key worse">worse</span> than, or '
        f'<span class="key unclear">not separated</span> from, the reference {reference} (hollow), at 95 % for all '
        "comparisons together (Holm)."
    )


def _pictures(index: int, suite: SuiteReport, evidence: Mapping[str, Evidence]) -> Iterator[str]:
    metric = escape(suite.suite.metric)
    scored = [row for row in suite.rows if row.score]
    costs = [cost for cost in COSTS if any(cost in evidence[row.variant].costs for row in scored)]
    if costs:
        figures = [accuracy_against_cost(suite, evidence, cost) for cost in costs]
        name = f"cost-{index}"
        control = switch("against", [COSTS[cost][0] for cost in costs], [name])
        caption = (
            "Higher is better, and so is further left, or further right for a speed. The dotted steps join the Pareto "
            "front, in bold: no other is at least as good in both and better in one, by the means alone. Variants of "
            "one price stand side by side. Names without room are left out: point at a mark, or see the table."
        )
        yield picture(name, figures, f"{metric} against its price", caption, control)
    pair = []
    if any(row.difference for row in suite.rows):
        caption = (
            "Paired seed by seed: what a seed's luck does to both cancels. An interval across zero separates nothing. "
            "Intervals are each row's own, colours hold for all comparisons together (Holm): an interval clear of zero "
            "can still be grey."
        )
        pair.append(picture(f"differences-{index}", [differences(suite)], "Difference to the reference", caption))
    if any(row.parts for row in suite.rows) and len(suite.parts) <= 40:
        held = suite.suite.ceiling is not None and bool(suite.suite.readable)
        ceiling = " Green: above the ceiling with 95 % confidence. Grey: the others." if held else ""
        outlined = " Outlined: theory says that this variant can read this one." if suite.suite.readable else ""
        caption = f"Mean over the seeds, in percent.{ceiling}{outlined}"
        numbers, title = "means in the table Class by class in numbers", f"{metric}, part by part"
        pair.append(picture(f"parts-{index}", [parts_heat_map(suite)], title, caption, numbers=numbers))
    if pair:
        yield f'<div class="pair">{"".join(pair)}</div>'


def _drawings(suite: SuiteReport, evidence: Mapping[str, Evidence]) -> Iterator[str]:
    drawn: dict[str, list[str]] = {}
    for row in suite.rows:
        geometry = evidence[row.variant].geometry
        if geometry is not None:
            drawn.setdefault(draw_interleaving(geometry), []).append(row.variant)
    if not drawn:
        return
    cards = "".join(
        f'<div class="card"><h4>{escape(", ".join(short_names(names)))}</h4>{drawing}</div>'
        for drawing, names in drawn.items()
    )
    yield (
        '<h3>Which tokens see which</h3><p class="note">The frames of a clip, cut into patches. The outlined token has '
        'seen the coloured patches after an attention: <span class="key new">new with this one</span> '
        '<span class="key old">from before</span>. Computed from the pattern, exactly; what attention makes of it is '
        f'another matter.</p><div class="cards">{cards}</div>'
    )


def _folded(report: Report, index: int, suite: SuiteReport, evidence: Mapping[str, Evidence]) -> Iterator[str]:
    curves = list(dict.fromkeys(name for row in suite.rows for name in evidence[row.variant].curves))
    if curves:
        name = f"curves-{index}"
        figures = [learning_curves(suite, evidence, curve) for curve in curves]
        control = switch("of", curves, [name]) if len(curves) > 1 else ""
        caption = "Line: mean over the seeds. Band: from the lowest seed to the highest. Tick a name to show its line."
        title = "While training" if control else escape(curves[0].capitalize())
        numbers = "in no table: they are in metrics.jsonl of every run"
        lines = tick("show", curve_choices(suite, evidence), name)
        drawn = picture(name, figures, title, caption, control, numbers=numbers, lines=lines)
        yield fold_away("Learning curves", drawn)
    yield from class_views(index, suite, evidence)
    protocol = read_protocol(report, suite, evidence)
    if protocol:
        yield fold_away("Protocol: data, views, model, training, hardware", _list_of(protocol))


def _missing(suite: SuiteReport) -> Iterator[str]:
    if suite.missing:
        items = "".join(f"<li><code>{escape(m.name)}</code>: {escape(m.why)}</li>" for m in suite.missing)
        yield (
            f'<details class="warning"{" open" * (len(suite.missing) <= 5)}>'
            f"<summary>Runs missing from these figures: {len(suite.missing)}</summary><ul>{items}</ul></details>"
        )


def _method(report: Report) -> str:
    return f"""<section id="method">
<h2>How this was made</h2>
<pre tabindex="0"><code>{escape(chr(10).join(report.commands))}</code></pre>
{fold_away("How to read the numbers", f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes(report))}</ul>")}
{fold_away("Versions, commit and hardware", _list_of(report.environment))}
</section>"""


def _list_of(facts: Mapping[str, str]) -> str:
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(value)}</dd>' for name, value in facts.items())}</dl>"
