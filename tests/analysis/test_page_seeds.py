"""Variants with fewer seeds than the sweep asked for, and P(better) of few seeds."""

import re

import pytest
from report_fakes import finish

from timesformer_plus.analysis.figures import differences, ranking
from timesformer_plus.analysis.findings import collect
from timesformer_plus.analysis.page import render_page
from timesformer_plus.analysis.page_data import Evidence
from timesformer_plus.analysis.page_marks import row_names, say_unequal_seeds
from timesformer_plus.analysis.page_table import render_table
from timesformer_plus.analysis.report import format_improvement
from timesformer_plus.analysis.sweep import plan_runs


@pytest.fixture
def collected(make_sweep):
    """Collect a sweep of five seeds of which those given are finished: ``collected(s=(0, 1), ts=(1, 2))``."""

    def collect_(**finished):
        names = {"pattern=" + name: seeds for name, seeds in finished.items()}
        sweep = make_sweep({name: {"fake.n": n} for n, name in enumerate(names)}, seeds=range(5))
        for run in plan_runs(sweep):
            if run.seed in names[run.variant]:
                # ts is better, but for its first seed
                finish(run, 0.5 + 0.01 * run.seed + (0.2 if run.variant == "pattern=ts" and run.seed else 0))
        return collect(sweep, plan_runs(sweep))

    return collect_


def test_names_say_how_many_seeds_there_are_of_how_many(collected):
    report = collected(s=(0, 1, 2, 3, 4), ts=(0, 1, 2), j=())
    suite = report.suites[0]
    assert row_names(suite, suite.rows) == ["s", "ts (3 of 5)", "j"]
    assert ranking(suite).layout.yaxis.ticktext == ("ts (3 of 5)", "s")
    assert say_unequal_seeds(suite).startswith("Means rest on different seeds: (n of N)")
    assert ">ts (3 of 5)<" in render_table(suite, {row.variant: Evidence() for row in suite.rows})
    assert "Means rest on different seeds" in render_page(report)


def test_a_difference_counts_the_seeds_that_both_have(collected):
    suite = collected(s=(0, 1, 2), ts=(1, 2, 3, 4)).suites[0]
    assert differences(suite).layout.yaxis.ticktext == ("ts (2 of 5)",)
    assert ranking(suite).layout.yaxis.ticktext == ("ts (4 of 5)", "s (3 of 5)")


def test_the_same_few_seeds_of_all_are_not_called_different(collected):
    assert say_unequal_seeds(collected(s=(0, 1), ts=(0, 1)).suites[0]).startswith("(n of N) behind a name")
    assert say_unequal_seeds(collected(s=range(5), ts=range(5)).suites[0]) == ""


@pytest.mark.parametrize(
    ("s", "ts", "shown"),
    [
        ((0,), (0,), r""),
        ((0, 1), (0, 1), r"62 %"),  # of four pairs two are won and one is a tie
        ((0, 1, 2, 3, 4), (1, 2, 3), r"100 %"),
        ((0, 1, 2, 3), (0, 1, 2, 3), r"78 % \[\d+, 100\]"),  # twelve of sixteen, and a tie
        ((0, 1, 2, 3), (1, 2, 3, 4), r"100 % \[100, 100\]"),
    ],
)
def test_probability_has_an_interval_from_four_seeds_on(collected, s, ts, shown):
    suite = collected(s=s, ts=ts).suites[0]
    assert re.fullmatch(shown, format_improvement(suite, suite.rows[1]))
    assert format_improvement(suite, suite.rows[0]) == ""
