"""What is kept of a model's costs and altered clips: used for the runs that it is of, and for no others."""

import json
from dataclasses import replace

import pytest

from timesformer_plus.analysis import ablation
from timesformer_plus.analysis.ablation import _check_options
from timesformer_plus.analysis.findings import collect
from timesformer_plus.analysis.json_files import read_json, write_json
from timesformer_plus.analysis.sweep import plan_runs


def gflops(sweep):
    rows = json.loads((sweep.output / "results.json").read_text())["suites"]["task"]["rows"]
    return [row["gflops"] for row in rows]


def test_costs_are_reported_whether_runs_share_decoded_videos_or_not(make_sweep, run, measure):
    sweep = make_sweep({"s": {}}, cache_mb=100)
    assert run(sweep)[0] == 0
    assert gflops(sweep) == [0.5]
    assert run(replace(sweep, cache_mb=200))[0] == 0
    assert gflops(sweep) == [0.5]
    assert len(measure.asked) == 1


def test_costs_of_a_model_of_another_size_are_taken_again(make_sweep, run, measure):
    sweep = make_sweep({"s": {}}, seeds=(0,))
    run(sweep)
    (one,) = plan_runs(sweep)
    # the data had more classes when it was run again, with the same options
    write_json(one.folder / "result.json", {**one.result(), "params": 2000})
    assert collect(sweep, [one]).suites[0].rows[0].gflops is None
    run(sweep)
    assert len(measure.asked) == 2


def test_environment_is_that_of_the_runs_in_the_figures(make_sweep, run):
    sweep = make_sweep({"s": {}, "ts": {"fake.score": 0.6}}, seeds=(0,))
    run(sweep)
    for one in plan_runs(sweep):
        write_json(one.folder / "environment.json", {"device": f"the one of {one.variant}", "packages": {}})
    changed = make_sweep({"s": {}, "ts": {"fake.score": 0.7}}, seeds=(0,))
    assert collect(changed, plan_runs(changed)).environment["device"] == "the one of s"


def test_altered_clips_of_another_split_than_the_compared_one_are_not_paid_for(make_sweep, run, probe):
    sweep = make_sweep({"s": {}}, suite={"split": "val"}, seeds=(0,))
    (one,) = plan_runs(sweep)
    run(sweep)
    has_test = bool((read_json(one.folder / "result.json") or {}).get("test"))
    assert probe.asked == ([] if has_test else [["s seed=0"]])
    assert has_test


def test_a_report_that_fails_stops_no_training(make_sweep, run, monkeypatch):
    monkeypatch.setattr("timesformer_plus.analysis.runner.SECONDS_BETWEEN_REPORTS", 0.0)
    monkeypatch.setattr(ablation, "write_report", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(ablation, "collect", lambda *_, **__: 1 / 0)
    sweep = make_sweep({"s": {}, "ts": {}, "h": {}}, seeds=(0,))
    with pytest.raises(ZeroDivisionError):  # at the very end nothing else is to be said
        run(sweep)
    assert [one.state() for one in plan_runs(sweep)] == ["finished"] * 3


def test_a_comparison_on_test_needs_one(make_sweep, tmp_path):
    base = tmp_path / "recipe.yaml"
    base.write_text("data: {root: videos, test: null}\nmodel: {name: timesformer_test_patch8_32}\n")
    sweep = make_sweep({"ts": {"model.pattern": "ts"}}, seeds=(0,))
    sweep = replace(sweep, suites={"task": replace(sweep.suites["task"], base=base)})
    with pytest.raises(ValueError, match=r"task/ts/seed=0 cannot be trained: the suite compares scores on test, and"):
        _check_options(sweep, plan_runs(sweep))
