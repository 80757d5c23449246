"""What is collected from the folders, and the sentences that it supports."""

import json

import pytest

from timesformer_plus.analysis.findings import collect
from timesformer_plus.analysis.sweep import plan_runs


def store(run, *, output="result.json", environment=None, **result):
    """Pretend that a run has ended."""
    run.folder.mkdir(parents=True, exist_ok=True)
    run.write_inputs()
    (run.folder / output).write_text(json.dumps({"status": "finished", **result}))
    if environment:
        (run.folder / "environment.json").write_text(json.dumps(environment))


def top1(score, **more):
    return {"test": {"top1": score, "loss": 1.0, "per_class": {}, **more}, "params": 10, "train_seconds": 2.0}


@pytest.fixture
def suite_of(make_sweep):
    """Finish runs with the given scores, ``{variant: [score a seed, None for a run that did not end]}``."""

    def make(scores, *, suite=None, parts=None):
        seeds = tuple(range(max(3, *(len(values) for values in scores.values()))))
        sweep = make_sweep({name: {"model.pattern": name} for name in scores}, suite=suite, seeds=seeds)
        runs = plan_runs(sweep)
        for run in runs:
            score = dict(enumerate(scores[run.variant])).get(run.seed)
            if score is not None:
                own = {f"top1/{part}": value for part, value in (parts or {}).get(run.variant, {}).items()}
                store(run, **top1(score, **own))
        return collect(sweep, runs).suites[0]

    return make


def test_rows_hold_means_intervals_and_paired_differences(suite_of):
    suite = suite_of({"s": [0.4, 0.5, 0.6], "ts": [0.7, 0.85, 0.94]})
    s, ts = suite.rows
    assert s.difference is None
    assert s.score.mean == pytest.approx(0.5)
    assert s.score.low == pytest.approx(0.5 - 4.302653 * 0.1 / 3**0.5, abs=1e-6)
    # differences .3 .35 .34: mean .33, deviation .0264575, standard error .0152753
    assert ts.difference.mean == pytest.approx(0.33)
    assert ts.difference.high == pytest.approx(0.33 + 4.302653 * 0.0152753, abs=1e-6)
    assert (ts.pattern, ts.params, ts.train_seconds, ts.gflops) == ("ts", 10, 2.0, None)
    assert ts.scores == {0: 0.7, 1: 0.85, 2: 0.94}
    assert suite.findings[0] == (
        "Highest mean top1: ts, 83.0 % [52.9, 100.0]; the reference s has 50.0 % [25.2, 74.8]."
    )
    assert suite.findings[1].endswith("better ts; worse none; not separated none.")


def test_equal_means_share_the_first_place(suite_of):
    suite = suite_of({"s": [0.5, 0.6, 0.7], "ts": [0.7, 0.5, 0.6], "h": [0.1, 0.2, 0.3]})
    assert suite.findings[0].startswith("Highest mean top1: s, ts, 60.0 % [")


def test_headline_of_wide_intervals_does_not_claim_a_winner(suite_of):
    suite = suite_of({"s": [0.5, 0.52, 0.48], "ts": [0.45, 0.9, 0.6]})
    assert suite.findings[0] == (
        "Highest mean top1: ts, 65.0 % [8.1, 100.0]; the reference s has 50.0 % [45.0, 55.0], "
        "and 3 seeds do not tell the two apart at 95 %."
    )
    assert suite.findings[1].endswith("better none; worse none; not separated ts.")


def test_wide_difference_stays_possible(suite_of):
    difference = suite_of({"s": [0.02, 0.03, 0.01], "ts": [0.92, 0.66, 0.95]}).rows[1].difference
    assert difference.mean == pytest.approx(0.8233, abs=1e-4)
    assert difference.low == pytest.approx(0.404, abs=1e-3)
    assert difference.high == 1.0


def test_one_seed_is_not_held_against_the_ceiling(suite_of):
    suite = suite_of({"s": [0.5, None, None], "ts": [0.9, None, None]}, suite={"ceiling": 0.5, "readable": {"ts": []}})
    assert suite.findings[0].endswith(
        "ts, 90.0 % [one seed]; the reference s has 50.0 % [one seed], and 1 seed does not tell the two apart at 95 %."
    )
    assert suite.findings[-1] == "One seed has no interval that could be held against the ceiling of 50 %."


def test_differences_pair_only_the_seeds_that_both_have(suite_of):
    row = suite_of({"s": [0.4, None, 0.6], "ts": [0.7, 0.1, None]}).rows[1]
    assert (row.difference.n, row.difference.mean) == (1, pytest.approx(0.3))
    assert row.difference.low is None


def test_missing_runs_are_listed_with_the_reason(suite_of, make_sweep):
    suite = suite_of({"s": [0.4, None, 0.6], "ts": [None, None, None]})
    assert [m.name for m in suite.missing] == ["task/ts/seed=0", "task/s/seed=1", "task/ts/seed=1", "task/ts/seed=2"]
    assert {m.why for m in suite.missing} == {"not run"}
    assert suite.rows[1].score is None
    assert suite.rows[1].difference is None
    changed = make_sweep({"s": {"model.pattern": "h"}}, seeds=(0,))
    suite = collect(changed, plan_runs(changed)).suites[0]
    assert [(m.name, m.why) for m in suite.missing] == [("task/s/seed=0", "finished with other options")]
    assert suite.findings == ("No run is finished yet.",)


def test_failed_run_tells_its_status(make_sweep):
    sweep = make_sweep({"s": {}}, seeds=(0,))
    run = plan_runs(sweep)[0]
    store(run, output="status.json", status="failed", reason="exit status 3")
    missing = collect(sweep, [run]).suites[0].missing[0]
    assert missing.why == f"failed, exit status 3; see {run.log}"


def test_ceiling_of_whole_variants(suite_of):
    suite = suite_of({"s": [0.49, 0.5, 0.48], "ts": [0.9, 0.91, 0.92], "x": [0.4, 0.9, 0.6]}, suite={"ceiling": 0.5})
    assert suite.findings[-1] == (
        "Above the ceiling of 50 % with 95 % confidence: ts; "
        "at, below or not separated from it: s (49.0 %), x (63.3 % [0.8, 100.0])."
    )


def test_ceiling_cell_by_cell_against_theory(suite_of):
    suite = suite_of(
        {"s": [0.5, 0.5, 0.5], "ts": [0.9, 0.9, 0.9]},
        suite={"ceiling": 0.5, "readable": {"s": ["h"], "ts": ["t", "h"]}},
        parts={"s": {"t": 0.4, "h": 0.9}, "ts": {"t": 0.45, "h": 0.99}},
    )
    assert suite.parts == ["t", "h"]
    assert suite.rows[1].parts["t"].mean == 0.45
    assert suite.findings[-2:] == (
        "Above the ceiling of 50 %, each with 95 % confidence: 2 of 3 cells that theory says can be read; "
        "the others: ts/t (45 %).",
        "Above the ceiling of 50 %, each with 95 % confidence: 0 of 1 cells that theory says cannot be read.",
    )


def test_a_cell_that_theory_forbids_is_called_out(suite_of):
    suite = suite_of({"s": [0.5] * 3}, suite={"ceiling": 0.5, "readable": {"s": []}}, parts={"s": {"t": 0.8}})
    assert suite.findings[-1].endswith("1 of 1 cells that theory says cannot be read; against theory: s/t (80 %).")


def test_classes_are_the_parts_of_single_labels(make_sweep):
    sweep = make_sweep({"s": {}}, seeds=(0,))
    run = plan_runs(sweep)[0]
    store(run, **top1(0.5, per_class={"left": 0.25, "right": 0.75}))
    parts = collect(sweep, [run]).suites[0].rows[0].parts
    assert {name: interval.mean for name, interval in parts.items()} == {"left": 0.25, "right": 0.75}


def test_wrong_metric_is_refused_with_what_there_is(make_sweep):
    sweep = make_sweep({"s": {}}, suite={"metric": "pear"}, seeds=(0,))
    run = plan_runs(sweep)[0]
    store(run, **top1(0.5))
    with pytest.raises(ValueError, match=r"no test metric 'pear'; .* to one of \['top1'\]"):
        collect(sweep, [run])
    with pytest.raises(ValueError, match="metric=loss: less of it is better"):
        make_sweep({"s": {}}, suite={"metric": "loss"})


def test_costs_count_only_for_the_options_they_were_taken_with(make_sweep):
    sweep = make_sweep({"s": {}}, seeds=(0,))
    run = plan_runs(sweep)[0]
    store(run, **top1(0.5))
    figures = {
        "options": {key: value for key, value in run.options.items() if key != "seed"},
        "cost": {"params": 10, "gflops": 0.25},
        "speed": {"clips_per_second": 99.0, "batch_size": 8, "repeats": 11, "threads": 1, "device": "cpu"},
    }
    (run.folder.parent / "cost.json").write_text(json.dumps(figures))
    suite = collect(sweep, [run]).suites[0]
    assert (suite.rows[0].gflops, suite.rows[0].clips_per_second) == (0.25, 99.0)
    assert suite.speed == "cpu, 1 thread(s), 8 clip views a batch, median of 11"
    (run.folder.parent / "cost.json").write_text(json.dumps({**figures, "options": {}}))
    assert collect(sweep, [run]).suites[0].rows[0].gflops is None


def test_environment_shows_every_commit_that_took_part(make_sweep):
    sweep = make_sweep({"s": {}})
    runs = plan_runs(sweep)
    for run, commit in zip(runs, ("aaa", "bbb"), strict=True):
        git = {"commit": commit, "modified": commit == "bbb"}
        store(run, environment={"git": git, "packages": {"torch": "2.0", "decord": None}, "device": "cpu"}, **top1(0.5))
    assert collect(sweep, runs).environment == {
        "commit": "aaa / bbb with uncommitted changes",
        "torch": "2.0",
        "device": "cpu",
    }


def test_runs_outside_a_repository_have_no_commit(make_sweep):
    sweep = make_sweep({"s": {}}, seeds=(0,))
    runs = plan_runs(sweep)
    store(runs[0], environment={"git": None, "packages": {}}, **top1(0.5))
    assert collect(sweep, runs).environment == {"commit": "unknown"}


def test_scores_say_which_videos_they_lack(make_sweep):
    sweep = make_sweep({"s": {"model.pattern": "s"}}, seeds=(0, 1))
    runs = plan_runs(sweep)
    whole = {"expected": 100, "found": 100, "missing": 0, "unreadable": 0, "excluded": 0}
    for run, lost, replaced in zip(runs, (3, 5), ({}, {"damaged": 2, "cut off": 1}), strict=True):
        test = whole | {"found": 100 - lost, "missing": lost, "excluded": 1}
        store(run, **top1(0.5), videos={"train": whole, "val": whole, "test": test}, bad_videos=replaced)
    findings = collect(sweep, runs).suites[0].findings
    assert findings[-2:] == (
        "Of the 100 videos of the test split, 3/5 missing, 1 excluded: these figures are without them.",
        "Training put other videos in the place of unreadable ones, at most 3 times a run.",
    )


def test_whole_data_needs_no_sentence(make_sweep):
    sweep = make_sweep({"s": {"model.pattern": "s"}}, seeds=(0,))
    runs = plan_runs(sweep)
    whole = {"expected": 100, "found": 100, "missing": 0, "unreadable": 0, "excluded": 0}
    store(runs[0], **top1(0.5), videos=dict.fromkeys(("train", "val", "test"), whole), bad_videos={})
    assert not [text for text in collect(sweep, runs).suites[0].findings if "videos" in text]


def test_verdicts_are_corrected_for_the_number_of_variants(suite_of):
    # differences .05 .05 .08: mean .06, standard error .01, t = 6, p = .027 (df 2), below .05 alone and above it twice
    scores = {"s": [0.4, 0.5, 0.6], "ts": [0.45, 0.55, 0.68]}
    assert suite_of(scores).findings[1].endswith("(Holm): better ts; worse none; not separated none.")
    two = suite_of({**scores, "h": [0.5, 0.4, 0.6]})
    assert two.rows[1].difference.p == pytest.approx(0.0267, abs=1e-4)
    assert two.findings[1].endswith("(Holm): better none; worse none; not separated ts, h.")


def test_differences_that_are_all_the_same_are_separated(suite_of):
    suite = suite_of({"s": [0.5] * 5, "ts": [0.75] * 5, "h": [0.25] * 5, "t": [0.5] * 5})
    assert suite.findings[1].endswith("(Holm): better ts; worse h; not separated t.")


def test_two_seeds_that_agree_separate_nothing(suite_of):
    suite = suite_of({"s": [0.5, 0.5], "ts": [0.75, 0.75]})
    assert suite.findings[1].endswith("(Holm): better none; worse none; not separated ts.")


def test_a_mean_over_other_seeds_is_not_a_verdict(suite_of):
    suite = suite_of({"s": [0.6, 0.61, 0.6], "ts": [0.5, 0.52, 0.5, 0.99, 0.99]})
    assert suite.findings[0].endswith("60.3 % [58.9, 61.8], but over the 3 seeds that both have it is the lower one.")
    assert "worse ts" in suite.findings[1]
    [warning] = suite.warnings
    assert "ts and s (the other way round over the seeds that both have)" in warning
    assert "In brackets the gap" not in warning
