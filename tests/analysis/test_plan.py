"""What a sweep would cost: counted by hand, timed on nothing, and nothing spent."""

import io
import json
import re
from dataclasses import replace

import pytest
import yaml
from rich.console import Console

from timesformer_plus.analysis import plan as planning
from timesformer_plus.analysis.ablation import run_ablation
from timesformer_plus.analysis.matching import Match
from timesformer_plus.analysis.options import parse_options
from timesformer_plus.analysis.plan import Pace, duration, measure_pace
from timesformer_plus.analysis.sweep import Suite, Sweep, plan_runs


@pytest.fixture
def make(tmp_path):
    """A sweep over 20 training, 6 validation and 3 test videos, which are empty files: nobody reads them."""
    root = tmp_path / "data"
    root.mkdir()
    for split, count in (("train", 20), ("val", 6), ("test", 3)):
        names = [f"{split}{i}.mp4" for i in range(count)]
        for name in names:
            (root / name).touch()
        lines = [f"{name},{'up' if i % 2 else 'down'}" for i, name in enumerate(names)]
        (root / f"{split}.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    (root / "classes.txt").write_text("down\nup\n")

    def make_(suite=None, **options):
        recipe = {
            "data": {"root": str(root), "num_frames": 2, "img_size": 16},
            "model": {"name": "timesformer_test_patch8_32", "args": {"depth": 1, "embed_dim": 16}},
            "epochs": 5,
            "batch_size": 8,
            "evaluation": {"every": 2, "num_clips": 2},
        }
        base = tmp_path / "base.yaml"
        base.write_text(yaml.safe_dump(recipe))
        axes = {"model.pattern": ["s", "ts"]}
        made = Suite(**{"base": base, "reference": "pattern=s", "axes": axes, **(suite or {})})
        return Sweep(
            suites={"task": made}, **{"output": tmp_path / "out", "seeds": (0, 1, 2), "dry_run": True, **options}
        )

    return make_


@pytest.fixture
def paced(monkeypatch):
    """Every update takes 2 s, every view 0.5 s."""
    monkeypatch.setattr(planning, "measure_pace", lambda *_, **__: Pace(update=2.0, view=0.5))


def dry_run(sweep):
    text = io.StringIO()
    before = {path: path.stat().st_mtime_ns for path in sweep.output.parent.rglob("*")}
    assert run_ablation(sweep, console=Console(file=text, width=120)) == 0
    assert before == {path: path.stat().st_mtime_ns for path in sweep.output.parent.rglob("*")}
    return text.getvalue()


def rows(text):
    """Words of the rows of the tables, by variant."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    return {words[0]: words[1:] for words in lines if len(words) == 8 and words[0] != "variant"}


@pytest.mark.usefixtures("paced")
def test_names_every_run_and_what_it_would_take(make):
    text = dry_run(make(jobs=2))
    found = rows(text)
    assert list(found) == ["pattern=s", "pattern=ts"]
    # 20 videos make 2 batches of 8 in each of 5 epochs; val is scored after epochs 2, 4 and 5 and test once, with two
    # clips a video: (3 * 6 + 3) * 2 = 42 views. 10 * 2 s + 42 * 0.5 s = 41 s
    assert all(words[:2] == ["0 1 2", "-"] and words[4] == "10" and words[-1] == "41 s" for words in found.values())
    assert "6 runs to do, 0 finished; 2 at a time" in text
    assert "estimated time: 2.0 min (4.1 min of work)" in text
    assert "Left out are reading videos" in text


@pytest.mark.usefixtures("paced")
def test_parameters_are_those_of_the_model(make):
    params = [float(words[2].split()[0]) for words in rows(dry_run(make())).values()]
    # as worked out in test_matching: what time attention adds in a block of 16 channels, and two times of 16 channels
    assert params[1] - params[0] == pytest.approx((2 * 16 + 5 * (16 * 16 + 16) + 2 * 16) / 1e6, abs=2e-5)


@pytest.mark.usefixtures("paced")
def test_finished_runs_do_not_count(make):
    sweep = make(jobs=3)
    for run in plan_runs(sweep):
        if run.variant == "pattern=s" or run.seed == 1:
            run.folder.mkdir(parents=True)
            run.write_inputs()
            (run.folder / "result.json").write_text(json.dumps({"status": "finished"}))
    text = dry_run(sweep)
    assert [words[:2] for words in rows(text).values()] == [["-", "0 1 2"], ["0 2", "1"]]
    assert "2 runs to do, 4 finished" in text
    # however many at a time: the longest run takes what it takes
    assert "estimated time: 41 s (82 s of work)" in text
    assert "make the sweep refuse to start" in dry_run(make({"overrides": {"epochs": 6}}))
    assert "run again" in dry_run(make({"overrides": {"epochs": 6}}, on_change="rerun"))


@pytest.mark.usefixtures("paced")
def test_failed_runs_wait_for_being_asked_for(make):
    sweep = make()
    run = plan_runs(sweep)[0]
    run.folder.mkdir(parents=True)
    run.write_inputs()
    (run.folder / "sweep.json").write_text(json.dumps({"status": "failed"}))
    text = dry_run(sweep)
    assert rows(text)["pattern=s"][:2] == ["1 2", "-"]
    assert "failed, and left as they are without --rerun_failed true: task/pattern=s/seed=0" in text
    text = dry_run(make(rerun_failed=True))
    assert rows(text)["pattern=s"][:2] == ["0 1 2", "-"]
    assert "left as they are" not in text


@pytest.mark.usefixtures("paced")
def test_budgets_are_shown(make):
    text = dry_run(make({"match": Match("params", to="pattern=ts", tolerance=0.05)}))
    assert re.search(r"task: pattern=s: params \S+ \([+-]\d\.\d\d%\) with mlp_ratio \d", text)


@pytest.mark.usefixtures("paced")
def test_without_the_data_times_are_unknown(make):
    text = dry_run(make({"overrides": {"data.test": "none.csv"}}))
    assert all(words[4] == words[-1] == "?" for words in rows(text).values())
    assert "no none.csv" in text
    assert "estimated time" not in text


def test_what_cannot_be_trained_is_named(make):
    with pytest.raises(ValueError, match=r"task/pattern=s cannot be trained: .*batch_size"):
        dry_run(make({"overrides": {"batch_size": 21}}))


@pytest.mark.parametrize(
    "options",
    [{}, {"accumulate": 2, "clip_grad": 1.0, "grad_checkpointing": True, "only": ["head"]}, {"precision": "bf16"}],
)
def test_pace_is_measured_on_real_updates(make, options):
    (run, *_) = plan_runs(make({"overrides": options}))
    pace = measure_pace(parse_options({**run.options, "output": "."}), 2, threads=1)
    # forward and backward of 8 clips cost more than forward of one
    assert pace.update > pace.view > 0


def test_great_batches_are_timed_in_part(make, monkeypatch):
    (run, *_) = plan_runs(make())
    config = replace(parse_options({**run.options, "output": "."}), batch_size=64, accumulate=2)
    seconds = iter([3.0, 0.25] * 4 + [1.6] * 4)
    monkeypatch.setattr(planning, "_seconds", lambda *_: next(seconds))
    # 2 micro-batches of 32 clips, of which 16 took 3 s; one step of the optimizer
    assert measure_pace(config, 2, threads=1) == Pace(update=2 * 2 * 3.0 + 0.25, view=0.1)


def test_durations_are_for_people():
    assert [duration(s) for s in (0.004, 0.04, 1, 119, 150, 5400, 7200, 172800)] == [
        "4.0 ms",
        "40 ms",
        "1.0 s",
        "119 s",
        "2.5 min",
        "90 min",
        "2.0 h",
        "2.0 days",
    ]
