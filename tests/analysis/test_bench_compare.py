"""The rule by which a row of the benchmark counts as slower, and what its files have to hold."""

import json
from copy import deepcopy
from pathlib import Path

import pytest

from timesformer_plus.analysis.bench.cli import main
from timesformer_plus.analysis.bench.compare import compare_runs, judge
from timesformer_plus.analysis.bench.files import choose_path
from timesformer_plus.analysis.bench.rows import check_row, is_reached, make_row


def ratio(*values, name="tiny 8x224 ts forward: speed over transformers", **options):
    return make_row("model", name, values, **options)


def run_of(*rows, **changes):
    run = {
        "format": 1,
        "date": "2026-01-02T03:04:05+00:00",
        "device": "cpu",
        "machine": {"device": "Some(R) Core(TM) CPU @ 2.00GHz (2 cores)", "memory_gb": 8.0},
        "versions": {"torch": "2.6", "timesformer-plus": "0.1"},
        "threads": 2,
        "settings": {"quick": False, "rounds": 11, "sizes": ["tiny"]},
        "tables": ["model"],
        "finished": ["model"],
        "rows": [deepcopy(row) for row in rows],
    }
    return {**run, **changes}


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ((1.50, 1.51, 1.52), (1.30, 1.31, 1.32), "worse"),
        ((1.30, 1.31, 1.32), (1.50, 1.51, 1.52), "better"),
        ((1.50, 1.51, 1.52), (1.46, 1.47, 1.48), "as before"),  # apart, but by less than 5 %
        ((1.20, 1.50, 1.80), (1.00, 1.30, 1.60), "as before"),  # by more, but within the noise
        ((1.50, 1.50, 1.50), (1.50, 1.50, 1.50), "as before"),
    ],
)
def test_worse_is_what_left_the_quartiles_by_more_than_5_percent(old, new, verdict):
    assert judge(ratio(*old), ratio(*new)) == verdict
    upside_down = {"worse": "better", "better": "worse", "as before": "as before"}[verdict]
    assert judge(ratio(*old, better="lower"), ratio(*new, better="lower")) == upside_down


@pytest.mark.parametrize(("unit", "change", "verdict"), [("percent", 0.9, "as before"), ("percent", 1.1, "worse")])
def test_a_small_percentage_has_to_change_by_a_point(unit, change, verdict):
    old, new = ratio(2.0, unit=unit, better="lower"), ratio(2.0 + change, unit=unit, better="lower")
    assert judge(old, new) == verdict


def test_seconds_count_on_one_machine_only():
    old = run_of(ratio(1.5), ratio(1.0, name="ours", unit="seconds", better="lower"))
    new = run_of(ratio(1.5), ratio(2.0, name="ours", unit="seconds", better="lower"))
    assert [change.new["name"] for change in compare_runs(old, new).worse] == ["ours"]
    for changes in ({"threads": 4}, {"versions": {"torch": "2.7"}}, {"machine": {"device": "another"}}):
        comparison = compare_runs(old, {**new, **changes})
        assert not comparison.worse
        assert len(comparison.changes) == 1
        assert comparison.unlike
    assert not compare_runs(old, {**old, "versions": {"torch": "2.6", "timesformer-plus": "0.2"}}).unlike


def test_rows_that_vanish_are_named_and_are_a_failure_where_they_were_asked_for():
    old = run_of(ratio(1.5), ratio(1.2, name="gone"))
    comparison = compare_runs(old, run_of(ratio(1.5)))
    assert comparison.vanished == ("model: gone",)
    assert not comparison.is_fine
    for changes in ({"tables": ["memory"]}, {"settings": {"quick": True, "rounds": 5, "sizes": ["tiny"]}}):
        comparison = compare_runs(old, run_of(ratio(1.5), **changes))
        assert comparison.left_out == ("model: gone",)
        assert comparison.is_fine


def written(tmp_path, **runs):
    for name, run in runs.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(run))
    return [str(tmp_path / f"{name}.json") for name in runs]


def test_the_tool_exits_with_1_and_names_what_slowed(tmp_path, capsys):
    slower = run_of(ratio(1.30, 1.31, 1.32), ratio(2.0, name="unharmed"))
    files = written(tmp_path, old=run_of(ratio(1.50, 1.51, 1.52), ratio(2.0, name="unharmed")), new=slower)
    assert main(["compare", *files]) == 1
    printed = capsys.readouterr().out
    assert "worse  model: tiny 8x224 ts forward: speed over transformers: 1.51" in printed
    assert "unharmed" not in printed
    assert main(["compare", files[1], files[0]]) == 0
    assert "0 worse beyond noise, 1 better" in capsys.readouterr().out


def test_files_of_something_else_are_refused(tmp_path, capsys):
    old, other, of_old = written(
        tmp_path, old=run_of(ratio(1.5)), other={"rows": []}, of_old=run_of(ratio(1.5), format=0)
    )
    nothing_in_common = written(tmp_path, new=run_of(ratio(1.5, name="another"), tables=["memory"]))[0]
    for new, reason in (
        (other, "lacking"),
        (of_old, "format 0"),
        (str(tmp_path / "missing.json"), "no JSON file of a benchmark"),
        (nothing_in_common, "no row in common"),
    ):
        assert main(["compare", old, new]) == 2
        assert reason in capsys.readouterr().out


def test_a_row_sums_up_its_rounds():
    row = ratio(1.0, 2.0, 3.0, 4.0, 5.0, target=3.5, note="why", detail={"ours_s": 1.0})
    assert (row["q1"], row["median"], row["q3"]) == (2.0, 3.0, 4.0)
    assert is_reached(row) is False
    assert is_reached({**row, "better": "lower"}) is True
    assert is_reached({**row, "target": None}) is None
    assert check_row(json.loads(json.dumps(row))) == row
    with pytest.raises(ValueError, match="one finite number or more"):
        ratio()
    with pytest.raises(ValueError, match="one finite number or more"):
        ratio(float("nan"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"unit": "hours"}, "unit 'hours' has to be one of"),
        ({"better": "more"}, "better 'more' one of"),
        ({"median": 9.0}, "outside its quartiles"),
        ({"values": []}, "other than finite numbers"),
        ({"extra": 1}, r"has \['extra'\] too many"),
    ],
)
def test_what_is_no_row_is_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        check_row({**ratio(1.0, 2.0), **changes})


def test_no_file_is_overwritten(tmp_path):
    run = run_of()
    first = choose_path(tmp_path, run)
    assert first == tmp_path / "2026-01-02-cpu-some-core.json"
    first.touch()
    assert choose_path(tmp_path, run) == tmp_path / "2026-01-02-cpu-some-core-2.json"
    with pytest.raises(ValueError, match="is a file"):
        choose_path(first, run)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["speed"], "table 'speed' is unknown; there are model"),
        (["model", "--sizes", "huge"], "size 'huge' is unknown; there are test, tiny"),
        (["--rounds", "0"], "rounds=0 is not positive"),
        (["--threads", "-1"], "threads=-1 is not positive"),
    ],
)
def test_the_command_line_refuses_what_it_cannot_do(words, reason, tmp_path, capsys):
    assert main([*words, "--output", str(tmp_path / "none")]) == 2
    assert reason in capsys.readouterr().out
    assert not Path(tmp_path / "none").exists()


def test_a_gpu_that_is_not_there_is_not_waited_for(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["--device", "cuda"]) == 2
    assert "torch finds no GPU here; leave --device out" in capsys.readouterr().out


def test_a_mistyped_option_gets_the_nearest(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--round", "3"])
    assert exit_.value.code == 2
    assert "did you mean rounds?" in capsys.readouterr().err
