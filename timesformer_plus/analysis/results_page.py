"""``RESULTS.md``: what finished sweeps have found, as a page of the repository.

Every figure is read from the sweeps' folders, and every sentence follows from intervals by a rule that stands beside
it; nothing is written by hand. Equal results make equal pages, byte for byte.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from ..engine.altered_clips import CONDITIONS
from ..engine.atomic_file import write_atomically
from .markdown import escape, table
from .paper_table import PAPER, compare_pairs, sum_up
from .report import format_count, format_difference
from .reproduce import sweep_commands
from .results_read import Scored, SuiteResults, SweepResults, read_sweep
from .sentences import format_percent
from .statistics import PairedDifference, correct, is_separated
from .time_sensitivity import CONDITION_NAMES

RULES = (
    "A score is the mean over seeds with its 95 % interval (Student's t). It speaks about another seed on the same "
    "test videos, not about other videos.",
    "A difference is paired by seed. It is called better, worse, higher or lower where p of the paired t-test is below "
    "0.05 after Holm's correction for all comparisons of that table (with altered clips: of that column); everything "
    "else is called not separated, which does not mean equal. Where the difference is the same number in every seed, "
    "its spread is taken to be that of rounding to whole videos.",
    "GFLOPs are 10⁹ multiply-adds on one clip view, all attention counted.",
)


def results_page(sweeps: Sequence[SweepResults], *, tool: str = "") -> str:
    """The page as GitHub Markdown.

    Args:
        sweeps: In the order in which they are to be shown.
        tool: Command that wrote the page; shown at its end, if given.
    """
    lines = ["# Results", "", "Written by `tools/results.py` from finished runs; not edited by hand.", ""]
    lines += [f"- {escape(rule)}" for rule in RULES] + [""]
    for sweep in sweeps:
        lines += _sweep(sweep)
    if tool:
        lines += ["## This page", "", f"    {tool}", ""]
    return "\n".join(lines)


def _sweep(sweep: SweepResults) -> Iterator[str]:
    yield from (f"## {escape(sweep.title)}", "")
    seeds = ", ".join(map(str, sweep.seeds))
    yield from (f"{sweep.finished} of {sweep.total} runs are finished; seeds {seeds}.", "")
    for suite in sweep.suites:
        yield from _suite(suite)
    for plain, matched in budget_pairs(sweep.suites):
        yield from _budgets(plain, matched)
    compared = [suite for suite in sweep.suites if len(PAPER.keys() & suite.by_pattern().keys()) > 1]
    if compared:
        yield from _paper(compared)
    yield from ("### How to repeat it", "")
    # indented: no fence that a path could close
    yield from (f"    {line}" for line in sweep_commands(sweep.command) or ["(the command is not known)"])
    yield ""
    yield from (f"- {escape(name)}: {escape(value)}" for name, value in sweep.environment.items())
    yield ""


def _suite(suite: SuiteResults) -> Iterator[str]:
    yield from (f"### {escape(suite.title)}", "")
    if not suite.rows:
        yield from ("No run is finished.", "")
    else:
        yield from _scores(suite)
        yield from _sensitivity(suite)
    yield from (f"- missing: {escape(missing)}" for missing in suite.missing)
    if suite.missing:
        yield ""


def _scores(suite: SuiteResults) -> Iterator[str]:
    reference = suite.by_name.get(suite.reference)
    differences = _to_reference(suite)
    p = correct(differences)
    rows = []
    for row in suite.rows:
        difference = differences.get(row.variant)
        rows.append(
            [
                row.variant,
                format_percent(row.score),
                "reference" if row is reference else format_difference(difference),
                _format_p(p.get(row.variant)),
                _count(row),
                _gflops(row),
                str(len(row.scores)),
            ]
        )
    head = ["variant", f"{suite.split} {suite.metric}", f"to {suite.reference}, points", "p (Holm)"]
    yield from table([*head, "parameters", "GFLOPs", "seeds"], rows)
    yield ""
    yield from (f"- {escape(finding)}" for finding in suite.findings)
    if suite.findings:
        yield ""


def _to_reference(suite: SuiteResults) -> dict[str, PairedDifference]:
    reference = suite.by_name.get(suite.reference)
    if reference is None:
        return {}
    found = {row.variant: row.minus(reference) for row in suite.rows if row is not reference}
    return {name: difference for name, difference in found.items() if difference is not None}


def _sensitivity(suite: SuiteResults) -> Iterator[str]:
    known = [row for row in suite.rows if row.altered]
    if not known:
        return
    yield from (f"The same models on altered clips, {escape(suite.metric)}, and its change in points:", "")
    rows = []
    for row in known:
        cells = [row.variant]
        for condition in CONDITIONS:
            scores = list(row.altered[condition].values())
            mean = f"{100 * sum(scores) / len(scores):.1f} %"
            cells.append(mean if condition == "as_is" else f"{mean} ({format_difference(row.change(condition))})")
        rows.append([*cells, str(len(row.altered["as_is"]))])
    yield from table(["variant", *(CONDITION_NAMES[condition] for condition in CONDITIONS), "seeds"], rows)
    yield ""
    yield from (f"- {escape(sentence)}" for sentence in sensitivity_sentences(known))
    yield ""


def sensitivity_sentences(rows: Sequence[Scored]) -> Iterator[str]:
    """What altering the clips has cost, a sentence a condition, by the rule of the page."""
    for condition in CONDITIONS[1:]:
        found = {row.variant: row.change(condition) for row in rows}
        changes = {name: change for name, change in found.items() if change is not None}
        p = correct(changes)
        sorts: dict[str, list[str]] = {"lower": [], "higher": [], "the same": [], "not separated": []}
        for name, change in changes.items():
            exact = change.mean == 0 and not change.std and change.n > 1
            sort = "lower" if change.mean < 0 else "higher"
            sorts["the same" if exact else sort if is_separated(change, p[name]) else "not separated"].append(name)
        said = {
            "lower": "scores are lower for",
            "higher": "higher for",
            "the same": "the same in every seed for",
            "not separated": "not separated from those on the clips as they are for",
        }
        text = "; ".join(f"{said[sort]} {_list(names)}" for sort, names in sorts.items() if names or sort == "lower")
        yield f"Clips {CONDITION_NAMES[condition]}: {text}."


def budget_pairs(suites: Sequence[SuiteResults]) -> list[tuple[SuiteResults, SuiteResults]]:
    """Suites that compare the same variants of one recipe on the same score, as they are and with equal parameters."""
    return [
        (plain, matched)
        for plain in suites
        for matched in suites
        if (plain.matched, matched.matched) == ("none", "params")
        and (plain.metric, plain.split, plain.reference) == (matched.metric, matched.split, matched.reference)
        and plain.setting == matched.setting
        and len(plain.by_name.keys() & matched.by_name.keys()) > 1
    ]


def _budgets(plain: SuiteResults, matched: SuiteResults) -> Iterator[str]:
    yield from (f"### {escape(plain.title)}, and with equal parameters", "")
    both = [name for name in plain.by_name if name in matched.by_name]
    differences = {suite.name: _to_reference(suite) for suite in (plain, matched)}
    rows = []
    for name in both:
        cells = [name]
        for suite in (plain, matched):
            row = suite.by_name[name]
            is_reference = name == suite.reference
            difference = "reference" if is_reference else format_difference(differences[suite.name].get(name))
            cells += [_count(row), format_percent(row.score), difference]
        rows.append(cells)
    head = ["parameters", f"{plain.metric}", f"to {plain.reference}"]
    yield from table(["variant", *head, *(f"{title}, matched" for title in head)], rows)
    verdicts = {}
    for suite in (plain, matched):
        p = correct(differences[suite.name])
        verdicts[suite.name] = {
            name: (difference.mean > 0) - (difference.mean < 0) if is_separated(difference, p[name]) else 0
            for name, difference in differences[suite.name].items()
        }
    sorts: dict[str, list[str]] = {}
    for name in both:
        if name in verdicts[plain.name] and name in verdicts[matched.name]:
            sorts.setdefault(_beside(verdicts[plain.name][name], verdicts[matched.name][name]), []).append(name)
    yield ""
    yield from (f"- Against {escape(plain.reference)}, {how}: {escape(_list(names))}." for how, names in sorts.items())
    yield ""


def _beside(plain: int, matched: int) -> str:
    words = {1: "better", -1: "worse", 0: "not separated"}
    if plain == matched:
        return f"{words[plain]} both as they are and with equal parameters"
    return f"{words[plain]} as they are, {words[matched]} with equal parameters"


def _paper(suites: Sequence[SuiteResults]) -> Iterator[str]:
    yield from ("### Beside the paper's Table 1", "")
    yield (
        "The paper's figures ([arXiv 2102.05095](https://arxiv.org/abs/2102.05095v4): ViT-B/16, 8 x 224 px, one "
        "training a scheme) beside ours. Only the order can be compared, and without intervals nobody knows which of "
        "the paper's differences are more than luck."
    )
    yield ""
    ours = {suite.name: suite.by_pattern() for suite in suites}
    shown = [pattern for pattern in PAPER if any(pattern in rows for rows in ours.values())]
    rows = []
    for pattern in shown:
        paper = PAPER[pattern]
        figures = [f"{paper.params:.1f}M", f"{paper.kinetics:.1f}", f"{paper.something:.1f}"]
        mine = [_cell(ours[suite.name].get(pattern)) for suite in suites]
        rows.append([paper.name, pattern, *figures, *mine])
    titles = [f"ours: {suite.title}" for suite in suites]
    yield from table(
        ["scheme", "pattern", "parameters", "Kinetics-400", "Something-Something v2", *titles], rows, left=2
    )
    yield ""
    for suite in suites:
        yield from _pairs(suite)


def _pairs(suite: SuiteResults) -> Iterator[str]:
    pairs = compare_pairs({pattern: row.scores for pattern, row in suite.by_pattern().items()})
    if not pairs:
        return
    yield from (f"{escape(suite.title)}, every two schemes, second minus first in percentage points:", "")
    rows = [
        [
            f"{pair.second} against {pair.first}",
            f"{pair.something:+.1f}",
            f"{pair.kinetics:+.1f}",
            format_difference(pair.ours),
            _format_p(pair.p),
            pair.verdict(pair.something),
            pair.verdict(pair.kinetics),
        ]
        for pair in pairs
    ]
    head = ["pair", "paper, Something-Something v2", "paper, Kinetics-400", f"ours, {suite.metric}", "p (Holm)"]
    yield from table([*head, "with Something-Something v2", "with Kinetics-400"], rows)
    yield ""
    yield from (f"- {escape(sentence)}" for sentence in sum_up(pairs))
    yield ""


def _cell(row: Scored | None) -> str:
    return "–" if row is None else format_percent(row.score)


def _count(row: Scored) -> str:
    return "–" if row.params is None else format_count(row.params)


def _gflops(row: Scored) -> str:
    return "–" if row.gflops is None else f"{row.gflops:.3g}"


def _format_p(p: float | None) -> str:
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.2g}"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page of the sweeps that the command line names.

    Returns:
        Exit status: 2 where a sweep cannot be read, else 0.
    """
    parser = ArgumentParser(
        prog="results", description="Write RESULTS.md from the folders of finished sweeps.", allow_abbrev=False
    )
    parser.add_argument("sweeps", nargs="+", type=Path, metavar="OUTPUT", help="Output folder of a sweep.")
    parser.add_argument("--page", type=Path, default=Path("RESULTS.md"), help="File to write (default: RESULTS.md).")
    options = parser.parse_args(argv)
    try:
        sweeps = [read_sweep(folder) for folder in options.sweeps]
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    page = [] if options.page == Path("RESULTS.md") else ["--page", str(options.page)]
    command = shlex.join(["python", "tools/results.py", *map(str, options.sweeps), *page])
    write_atomically(options.page, results_page(sweeps, tool=command))
    print(f"{options.page}: {sum(sweep.finished for sweep in sweeps)} runs of {len(sweeps)} sweeps")
    return 0
