"""results.json and results.csv: everything there, what a clock measured apart from what a seed decides."""

import csv
import io
import json

import pytest
from report_fakes import fail, finish, write_cost, write_predictions

from timesformer_plus.analysis.findings import collect
from timesformer_plus.analysis.json_files import read_json, write_json
from timesformer_plus.analysis.report import write_report
from timesformer_plus.analysis.results_read import read_sweep
from timesformer_plus.analysis.sweep import plan_runs
from timesformer_plus.analysis.tables import to_csv, to_json, without_measured


def leave_runs(sweep, seconds):
    """Finish all runs but one; clocks say what is given."""
    runs = plan_runs(sweep)
    for run in runs:
        if (run.variant, run.seed) == ("ts", 1):
            fail(run, "exit status 3")
            continue
        finish(run, 2 / 3)
        write_predictions(run.folder, [0, 1, 2] * 4, [0, 1, 1] * 4)
        write_json(run.folder / "result.json", {**run.result(), "train_seconds": seconds + run.seed})
        write_cost(run, 0.5, latency_ms=seconds, peak_memory_mb=20 * seconds, clips_per_second=seconds)
    return runs


def test_sweeps_are_equal_but_for_clocks_machines_and_commands(make_sweep, tmp_path):
    contents = []
    for name, seconds in (("one", 1.5), ("two", 2.5)):
        sweep = make_sweep({"s": {}, "ts": {"model.pattern": "ts"}}, output=tmp_path / name)
        runs = leave_runs(sweep, seconds)
        write_json(runs[0].folder / "environment.json", {"git": {"commit": name}, "device": name})
        write_report(sweep, runs, command=f"ablate --output {name}")
        contents.append(read_json(sweep.output / "results.json"))
    one, two = contents
    assert one != two
    assert json.dumps(without_measured(one)) == json.dumps(without_measured(two))
    rows = without_measured(one)["suites"]["task"]["rows"]
    # nothing but the measured parts is gone
    assert rows[0]["scores"] == {"0": 2 / 3, "1": 2 / 3}
    assert rows[0]["elsewhere"]["units"] == 12
    assert {"difference", "holm_p", "improvement", "matched", "params", "gflops"} <= rows[1].keys()
    measured = one["suites"]["task"]["rows"][0]["measured"]
    assert measured == {
        "clips_per_second": 1.5,
        "latency_ms": 1.5,
        "peak_memory_mb": 30.0,
        "train_seconds": 2.0,
        "seconds": {"0": 1.5, "1": 2.5},
    }
    [missing] = one["suites"]["task"]["missing"]
    assert (missing["state"], missing["seed"]) == ("failed", 1)
    assert missing["why"].endswith("see task/ts/seed=1.log") or str(tmp_path) not in missing["why"]


def test_table_has_a_line_a_run(make_sweep):
    sweep = make_sweep({"s": {}, "ts": {"model.pattern": "ts"}})
    report = collect(sweep, leave_runs(sweep, 1.5))
    lines = list(csv.DictReader(io.StringIO(to_csv(report))))
    assert [(line["suite"], line["variant"], line["seed"], line["state"]) for line in lines] == [
        ("task", "s", "0", "finished"),
        ("task", "s", "1", "finished"),
        ("task", "ts", "0", "finished"),
        ("task", "ts", "1", "failed"),
    ]
    assert [line["train_seconds"] for line in lines] == ["1.5", "2.5", "1.5", ""]
    assert float(lines[1]["value"]) == pytest.approx(2 / 3)
    assert lines[2]["pattern"] == "ts"
    assert (lines[0]["metric"], lines[0]["split"], lines[0]["params"], lines[0]["gflops"]) == (
        "top1",
        "test",
        "1000",
        "0.5",
    )
    assert (lines[0]["latency_ms"], lines[0]["peak_memory_mb"]) == ("1.5", "30.0")
    assert lines[3]["value"] == ""
    assert lines[3]["reason"].startswith("failed, exit status 3")


def test_files_are_written_and_read_again(make_sweep):
    sweep = make_sweep({"s": {}, "ts": {"model.pattern": "ts"}})
    report = write_report(sweep, leave_runs(sweep, 1.5), command="ablate")
    assert read_json(sweep.output / "results.json") == json.loads(json.dumps(to_json(report)))
    assert (sweep.output / "results.csv").read_text() == to_csv(report)
    again = read_sweep(sweep.output)
    assert [row.scores for row in again.suites[0].rows] == [{0: 2 / 3, 1: 2 / 3}, {0: 2 / 3}]
    assert (again.finished, again.total, again.suites[0].rows[0].gflops) == (3, 4, 0.5)
