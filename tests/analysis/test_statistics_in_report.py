"""What the statistics of a suite become: fields of its rows, sentences, columns, warnings."""

import io
from dataclasses import replace

import pytest
from report_fakes import finish, write_predictions
from rich.console import Console

from timesformer_plus.analysis.findings import collect
from timesformer_plus.analysis.json_files import write_json
from timesformer_plus.analysis.matching import Match
from timesformer_plus.analysis.page import render_page
from timesformer_plus.analysis.report import print_report, to_markdown
from timesformer_plus.analysis.sentences import find_warnings
from timesformer_plus.analysis.sweep import plan_runs

TRUE = [0, 1, 2] * 20


@pytest.fixture
def suite_of(make_sweep):
    """Finish runs with that many of 60 videos right, `{variant: [a number a seed]}`, the last videos wrong."""

    def make(right, *, suite=None, keep=True):
        sweep = make_sweep({name: {"model.pattern": name} for name in right}, suite=suite, seeds=(0, 1, 2, 3, 4))
        runs = plan_runs(sweep)
        for run in runs:
            number = right[run.variant][run.seed]
            finish(run, number / 60)
            if keep:
                taken = [true if row < number else (true + 1) % 3 for row, true in enumerate(TRUE)]
                write_predictions(run.folder, TRUE, taken)
        return collect(sweep, runs)

    return make


def test_rows_hold_every_statistic(suite_of):
    report = suite_of({"s": [30, 31, 29, 30, 32], "ts": [50, 52, 51, 49, 53], "h": [31, 30, 30, 29, 33]})
    s, ts, h = report.suites[0].rows
    assert (s.holm_p, s.improvement, s.difference_elsewhere) == (None, None, None)
    assert ts.difference.permutation_p == pytest.approx(2 / 32)
    assert ts.holm_p == pytest.approx(2 * ts.difference.p)  # the smaller of two
    assert h.holm_p == h.difference.p > 0.05
    assert ts.improvement.probability == 1.0
    # 30 31 29 30 32 against 31 30 30 29 33: 14 pairs won and 4 even of 25
    wins = sum((a > b) + 0.5 * (a == b) for a in (31, 30, 30, 29, 33) for b in (30, 31, 29, 30, 32))
    assert h.improvement.probability == pytest.approx(wins / 25)
    # of 60 videos 51 right: the videos add far more to the interval than the seeds do
    assert ts.elsewhere.mean == pytest.approx(ts.score.mean)
    assert ts.elsewhere.high - ts.elsewhere.low > 2 * (ts.score.high - ts.score.low)
    assert (ts.elsewhere.seeds, ts.elsewhere.units) == (5, 60)
    # the reference's videos are right in all of them: the difference is less a matter of videos than the score
    assert ts.difference_elsewhere.low > 0
    assert ts.difference_elsewhere.mean == pytest.approx(ts.difference.mean)


def test_sentences_speak_of_another_test_set(suite_of):
    # five seeds agree that two videos of sixty are gained: separated here, not on other videos
    suite = suite_of({"s": [30, 31, 29, 30, 32], "ts": [32, 33, 31, 32, 34], "h": [50, 52, 51, 49, 53]}).suites[0]
    assert suite.findings[1].endswith("better ts, h; worse none; not separated none.")
    assert suite.findings[2].endswith("as well: separated still h; not separated ts.")


def test_neighbours_that_are_too_close_are_named_with_the_seeds_they_need(suite_of):
    right = {"s": [30, 31, 29, 30, 32], "h": [31, 30, 30, 29, 33], "ts": [50, 52, 51, 49, 53]}
    collected = suite_of(right).suites[0]
    [warning] = collected.warnings
    # differences 1 -1 1 -1 1 of 60: mean .2, std 1.095, a fifth of it: n = 2 + (1.96 + .84)^2 / (.2 / 1.095)^2 = 238
    assert "h and s (gap 0.3, about 238)" in warning
    assert warning.count("(gap") == 1
    assert not list(find_warnings(collected.suite, collected.rows[::2]))  # s and ts
    suite = replace(collected.suite, readable={"ts": ["tiem"]})
    first, _ = find_warnings(suite, collected.rows)
    assert first.startswith("`readable` names tiem, which the score top1 does not have")


def test_without_predictions_nothing_is_said_of_other_test_sets(suite_of):
    report = suite_of({"s": [30, 31, 29, 30, 32], "ts": [50, 52, 51, 49, 53]}, keep=False)
    assert [row.elsewhere for row in report.suites[0].rows] == [None, None]
    assert "another test set |" not in to_markdown(report)
    assert not any("other test sets" in finding for finding in report.suites[0].findings)


def test_predictions_of_another_score_are_not_believed(make_sweep):
    sweep = make_sweep({"s": {}}, seeds=(0, 1))
    runs = plan_runs(sweep)
    for run in runs:
        finish(run, 0.5)
        write_predictions(run.folder, [0, 1, 2], [0, 1, 2])
    suite = collect(sweep, runs).suites[0]
    assert suite.rows[0].elsewhere is None
    assert suite.warnings == (
        "No interval for another test set counts task/s/seed=0: its predictions come to 100.00 %, its result says "
        "50.00 %. The same goes for 1 more runs.",
    )


def test_every_form_shows_them(suite_of):
    report = suite_of({"s": [30, 31, 29, 30, 32], "ts": [50, 52, 51, 49, 53], "h": [31, 30, 30, 29, 33]})
    warning = report.suites[0].warnings[0]
    markdown = to_markdown(report)
    for heading in ("p (Holm)", "p (sign flips)", "P(better)", "another test set", "difference there"):
        assert f"| {heading} |" in markdown
    assert "0.062" in markdown
    assert "100 % [100, 100]" in markdown.replace("\\", "")
    assert warning[:40] in markdown
    page = render_page(report)
    assert "<b>Careful.</b> Too few seeds" in page
    assert "never below 2 / 2ⁿ" in page
    text = io.StringIO()
    print_report(report, Console(file=text, width=80))
    assert "Too few seeds" in text.getvalue()
    assert max(len(line) for line in text.getvalue().splitlines() if not line.startswith("Report: ")) <= 80


def test_matched_budgets_are_told(make_sweep):
    sweep = make_sweep({"s": {}, "ts": {}})
    runs = plan_runs(sweep)
    solution = {"value": 2.515625, "quantity": 10100, "target": 10000, "classes": None, "solved_for": ""}
    write_json(sweep.output / "matches.json", {"task": {"s": {**solution, "value": None}, "ts": solution}})
    object.__setattr__(sweep.suites["task"], "match", Match("params", "s", "mlp_ratio"))
    report = collect(sweep, runs)
    assert [row.matched for row in report.suites[0].rows] == [
        "as it is",
        "mlp_ratio 2.51562 for the params of s (+1.00 %)",
    ]
    assert "mlp_ratio 2.51562" in to_markdown(report).replace("\\", "")
