"""Accuracy against cost: the front, its steps, and marks of one cost."""

import pytest
from report_fakes import finish, write_cost

from timesformer_plus.analysis.findings import collect
from timesformer_plus.analysis.page_data import read_evidence
from timesformer_plus.analysis.page_price import accuracy_against_cost, pareto_front
from timesformer_plus.analysis.sweep import plan_runs

SCORES = {"a": 0.5, "b": 0.7, "c": 0.6, "ref": 0.65}
GFLOPS = {"a": 1.0, "b": 2.0, "c": 2.0, "ref": 2.0}


@pytest.fixture
def draw(make_sweep):
    sweep = make_sweep({name: {"fake.n": place} for place, name in enumerate(SCORES)}, suite={"reference": "ref"})
    for run in plan_runs(sweep):
        finish(run, SCORES[run.variant] + 0.01 * run.seed)
        write_cost(run, GFLOPS[run.variant])
    report = collect(sweep, plan_runs(sweep))
    suite = report.suites[0]
    evidence = {row.variant: read_evidence(report, suite, row) for row in suite.rows}
    return lambda cost: accuracy_against_cost(suite, evidence, cost)


def test_pareto_front_by_hand():
    points = {"a": (1.0, 0.5), "b": (2.0, 0.5), "c": (2.0, 0.7), "d": (3.0, 0.6), "e": (4.0, 0.9)}
    assert pareto_front(points) == ["a", "c", "e"]
    assert pareto_front(points, more_is_better=True) == ["e"]
    assert pareto_front({"a": (1.0, 0.5), "b": (1.0, 0.5)}) == ["a", "b"]  # neither is better
    assert pareto_front({}) == []


def test_front_is_steps_from_the_cheapest_on(draw):
    steps = draw("gflops").data[0]
    assert steps.line.shape == "hv"
    assert steps.x == (1, 2)
    assert steps.y == pytest.approx((50.5, 70.5))
    # 50 / GFLOPs clips a second: the fastest is the cheapest, so the line begins on the right
    fast = draw("clips_per_second").data[0]
    assert fast.x[0] == pytest.approx(50)
    assert fast.x[0] > fast.x[1]
    assert "more is better" in draw("clips_per_second").layout.xaxis.title.text


def test_marks_of_one_cost_stand_side_by_side_and_tell_the_true_one(draw):
    marks = {trace.hovertemplate[3:].partition("<")[0]: trace for trace in draw("gflops").data[1:]}
    # 6 pixels apart; two GFLOPs at 950 pixels with a margin of 5 % on both sides are 1.1 / 950 a pixel
    step = 6 * 1.1 / 950
    assert [marks[name].x[0] for name in ("c", "ref")] == pytest.approx([2 - step, 2 + step])
    assert [marks[name].x[0] for name in ("a", "b")] == [1, 2]  # the best of a cost stays where it is
    assert [marks[name].customdata[0] for name in ("b", "ref", "c")] == [2.0] * 3
    narrow = 3.5 * 1.1 / 250
    assert marks["ref"].meta["narrow"]["x"][0] == pytest.approx(2 + narrow)


def test_reference_lies_on_top_and_the_front_is_bold(draw):
    marks = {trace.text[0]: trace for trace in draw("gflops").data[1:]}
    assert {text: trace.zorder for text, trace in marks.items()} == {"<b>a</b>": 0, "<b>b</b>": 0, "c": 0, "ref": 1}
    assert marks["ref"].marker.color == "var(--paper)"
