"""The report as one HTML file that opens anywhere, offline: plotly.js, figures, styles and tables are all inside it.

Everything a user named (suites, variants, classes, paths, messages) is escaped where it enters the page, and the page
forbids itself every connection (Content-Security-Policy), so that opening it asks nobody anything.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs
from plotly.utils import PlotlyJSONEncoder

from .figures import accuracy_against_cost, parts_heat_map, ranking
from .findings import Report, SuiteReport
from .page_assets import SCRIPT, STYLE
from .report import PATTERN, cells, headings, notes


def render_page(report: Report) -> str:
    """Draw the whole report.

    Args:
        report: What a sweep found.

    Returns:
        A complete HTML document, about 5 MB, most of it plotly.js.
    """
    sections = "\n".join(_section(index, suite) for index, suite in enumerate(report.suites))
    navigation = "".join(
        f'<a href="#suite-{index}">{escape(suite.title)}</a>' for index, suite in enumerate(report.suites)
    )
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
<p class="eyebrow">timesformer_plus ablation</p>
<h1>{escape(report.title)}</h1>
{"".join(f'<p class="lede"><b>{escape(s.title)}</b> {escape(s.findings[0])}</p>' for s in report.suites)}
<p class="chips">{_chips(report)}</p>
<nav>{navigation}<a href="#method">How this was made</a></nav>
</header>
<main>
<noscript><p class="warning">The pictures need JavaScript; the tables below them hold the same numbers.</p></noscript>
{sections}
{_method(report)}
</main>
<script>{get_plotlyjs()}</script>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _chips(report: Report) -> str:
    complete = report.finished == report.total
    seeds = ", ".join(map(str, report.seeds))
    return (
        f'<span class="{"good" if complete else "bad"}">{report.finished} of {report.total} runs finished</span>'
        f"<span>seeds {seeds}</span><span>intervals 95 %, Student t</span>"
    )


def _section(index: int, suite: SuiteReport) -> str:
    spec = suite.suite
    note = f'<p class="note"><b>Ceiling.</b> {escape(spec.ceiling_note)}</p>' if spec.ceiling_note else ""
    return f"""<section id="suite-{index}">
<h2>{escape(suite.title)}</h2>
<p>{escape(spec.description)}</p>
{note}
<ul class="findings">{"".join(f"<li>{escape(finding)}</li>" for finding in suite.findings)}</ul>
{"".join(_missing(suite))}
<div class="pictures">{"".join(_pictures(index, suite))}</div>
{_table(suite)}
</section>"""


def _pictures(index: int, suite: SuiteReport) -> Iterator[str]:
    metric = escape(suite.suite.metric)
    if any(row.score for row in suite.rows):
        caption = "Diamond: mean over the seeds with its 95 % interval. Points below it: the single seeds."
        yield _picture(f"ranking-{index}", ranking(suite), f"{metric} of every variant", caption)
    if any(row.parts for row in suite.rows):
        held = suite.suite.ceiling is not None and bool(suite.suite.readable)
        ceiling = " Green: above the ceiling with 95 % confidence. Grey: the others." if held else ""
        outlined = " Outlined: theory says that this variant can read this one." if suite.suite.readable else ""
        caption = f"Mean over the seeds, in percent.{ceiling}{outlined}"
        yield _picture(f"parts-{index}", parts_heat_map(suite), f"{metric}, part by part", caption)
    if any(row.score and row.gflops for row in suite.rows):
        caption = "Up is better, left is cheaper: one forward pass on one clip view. Dashes: the single seeds."
        yield _picture(f"cost-{index}", accuracy_against_cost(suite), f"{metric} against cost", caption, wide=True)


def _picture(name: str, figure: go.Figure, title: str, caption: str, *, wide: bool = False) -> str:
    # "<" inside JSON could end the script element or open a comment; <!-- and </script> must not survive.
    spec = json.dumps(figure.to_plotly_json(), cls=PlotlyJSONEncoder).replace("<", "\\u003c").replace("&", "\\u0026")
    return (
        f"<figure{' class=wide' if wide else ''}><h3>{title}</h3>"
        f'<div class="plot" id="{name}" role="img" aria-label="{title}; numbers in the table"></div>'
        f'<script type="application/json" data-for="{name}">{spec}</script>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _missing(suite: SuiteReport) -> Iterator[str]:
    if suite.missing:
        items = "".join(f"<li><code>{escape(m.name)}</code>: {escape(m.why)}</li>" for m in suite.missing)
        yield (
            f'<details class="warning" open><summary>Runs missing from these figures: {len(suite.missing)}</summary>'
            f"<ul>{items}</ul></details>"
        )


def _table(suite: SuiteReport) -> str:
    heads = headings(suite)
    classes = [' class="pattern"' if heading == PATTERN else "" for heading in heads]
    head = "".join(f'<th scope="col"{c}>{escape(heading)}</th>' for heading, c in zip(heads, classes, strict=True))
    body = ""
    for row in suite.rows:
        first, *rest = cells(suite, row)
        marks = ' class="reference"' if row.variant == suite.suite.reference else ""
        columns = "".join(f"<td{c}>{escape(cell)}</td>" for cell, c in zip(rest, classes[1:], strict=True))
        body += f'<tr{marks}><th scope="row">{escape(first)}</th>{columns}</tr>\n'
    speed = f"<p class='note'>clips/s on {escape(suite.speed)}.</p>" if suite.speed else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(suite.title)}: table">'
        f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>{speed}"
    )


def _method(report: Report) -> str:
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in report.environment.items())
    return f"""<section id="method">
<h2>How this was made</h2>
<ul>{"".join(f"<li>{escape(note)}</li>" for note in notes(report))}</ul>
<h3>The same again</h3>
<pre><code>{escape(chr(10).join(report.commands))}</code></pre>
<h3>Trained with</h3>
<dl>{facts}</dl>
</section>"""
