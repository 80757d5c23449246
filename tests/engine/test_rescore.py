"""The independent script agrees with every score, and says so where one is wrong."""

import contextlib
import io
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from timesformer_plus.engine.build_data import ClipRecipe
from timesformer_plus.engine.evaluation import summarise
from timesformer_plus.engine.predictions import Predictions, save_predictions

SCRIPT = Path(__file__).parents[2] / "tools" / "rescore.py"


@pytest.fixture(scope="module")
def rescore():
    """The script, without a new process each time."""
    namespace = {"__name__": "rescore", "__doc__": ""}
    exec(compile(SCRIPT.read_text(), str(SCRIPT), "exec"), namespace)

    def run(*words):
        """Its exit code and what it prints."""
        printed, before = io.StringIO(), sys.argv
        sys.argv = ["rescore.py", *map(str, words)]
        try:
            with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as stop:
                namespace["main"]()
        finally:
            sys.argv = before
        return stop.value.code, printed.getvalue()

    return run


def make(
    seed, *, num_videos, num_classes, views=(2, 3), average="probabilities", multi_label=False, unread=0.2, scale=3
):
    generator = torch.Generator().manual_seed(seed)
    clips, crops = views
    logits = scale * torch.randn(num_videos, clips * crops, num_classes, generator=generator)
    logits = logits.round() if seed % 2 else logits  # with ties
    read = torch.rand(num_videos, clips * crops, generator=generator) >= unread / (clips * crops)
    read[0] = True
    logits[~read] = math.nan
    classes = torch.randint(num_classes, (num_videos,), generator=generator)
    several = torch.randint(2, (num_videos, num_classes), generator=generator)
    recipe = ClipRecipe(8, 1, "stride", (32, 32), (0.5,) * 3, (0.5,) * 3, multi_label, clips, crops, average=average)
    return Predictions(
        ids=tuple(f"{i:03}.mp4" for i in range(num_videos)),
        logits=logits,
        read=read,
        targets=several if multi_label else classes,
        pairs=tuple(str(i // 2) if seed % 3 else "" for i in range(num_videos)),
        short=torch.zeros(num_videos, dtype=torch.bool),
        reasons=tuple("" if whole else "is cut off" for whole in read.all(dim=1).tolist()),
        classes=tuple(f"class: {k}" for k in range(num_classes)),
        protocol=recipe.protocol,
    )


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    num_videos=st.sampled_from([1, 2, 17, 60]),
    num_classes=st.sampled_from([2, 3, 6, 11]),
    views=st.sampled_from([(1, 1), (2, 3), (5, 1)]),
    average=st.sampled_from(["probabilities", "logits"]),
    multi_label=st.booleans(),
    unread=st.sampled_from([0.0, 0.5]),
    scale=st.sampled_from([0, 1, 30, 1000]),
)
def test_it_agrees_with_every_score(rescore, tmp_path_factory, **how):
    folder = tmp_path_factory.mktemp("rescore", numbered=True)
    said = make(**how)
    save_predictions(folder / "test.npz", said)
    metrics = summarise(said).metrics
    (folder / "result.json").write_text(json.dumps({"val": None, "test": metrics, "videos": {}}))
    code, printed = rescore(folder / "test.npz", "--result", folder / "result.json")
    assert code == 0, printed
    count = sum(len(value) if isinstance(value, dict) else 1 for value in metrics.values())
    assert printed.endswith(f"all {count} scores agree\n")
    assert printed.count("could not be read") == len(said.unreadable)


@pytest.mark.parametrize("multi_label", [False, True])
def test_every_wrong_score_is_found(rescore, tmp_path, multi_label):
    said = make(1, num_videos=40, num_classes=7, multi_label=multi_label)
    save_predictions(tmp_path / "test.npz", said)
    metrics = summarise(said).metrics
    flat = [(name, key) for name, value in metrics.items() for key in (value if isinstance(value, dict) else [None])]
    for name, key in flat:
        wrong = json.loads(json.dumps(metrics))
        where, what = (wrong, name) if key is None else (wrong[name], key)
        where[what] += 1e-6
        (tmp_path / "result.json").write_text(json.dumps(wrong))
        code, printed = rescore(tmp_path / "test.npz", "--result", tmp_path / "result.json")
        assert code == 1
        assert printed.count("BUT REPORTED") == 1
        assert f"1 of {len(flat)} scores differ" in printed
        del where[what]
        (tmp_path / "result.json").write_text(json.dumps(wrong))
        assert rescore(tmp_path / "test.npz", "--result", tmp_path / "result.json")[0] != 0  # one is not reported


def whole_result(said):
    """What tools/evaluate.py writes about predictions."""
    evaluation = summarise(said)
    return {
        **evaluation.metrics,
        "status": "some unreadable" if evaluation.unreadable else "complete",
        "protocol": said.protocol.as_dict(),
        "videos": {"expected": 99, "found": len(said.ids), "missing": 9, "short": evaluation.short_videos},
        "unreadable": evaluation.unreadable,
        "confusion": evaluation.confusion,
    }


@pytest.mark.parametrize("multi_label", [False, True])
def test_what_is_no_score_is_held_against_the_file_too(rescore, tmp_path, multi_label):
    said = make(1, num_videos=40, num_classes=7, multi_label=multi_label)
    save_predictions(tmp_path / "test.npz", said)
    right = whole_result(said)
    assert len(right["unreadable"]) > 1
    name = next(iter(right["unreadable"]))
    wrong = {
        "status": "complete",
        "protocol": right["protocol"] | {"num_frames": 9},
        "videos": right["videos"] | {"found": 39},
        "unreadable": {key: value for key, value in right["unreadable"].items() if key != name},
        "confusion": {"class: 0": {"class: 0": 40}},
    }
    of_training = {key: wrong[key] for key in ("protocol", "videos", "unreadable")}
    for key, value in wrong.items():
        (tmp_path / "result.json").write_text(json.dumps(right | {key: value}))
        code, printed = rescore(tmp_path / "test.npz", "--result", tmp_path / "result.json")
        assert (code, printed.count("BUT REPORTED")) == (1, 1), key
        assert printed.startswith("accuracy") == multi_label
    run = {"status": "finished", "test": summarise(said).metrics, "protocol": right["protocol"]}
    run |= {"unreadable": {"test": right["unreadable"]}, "videos": {"test": right["videos"]}}
    (tmp_path / "result.json").write_text(json.dumps(run))
    assert rescore(tmp_path / "test.npz", "--result", tmp_path / "result.json")[0] == 0
    for key, value in of_training.items():
        (tmp_path / "result.json").write_text(json.dumps(run | {key: value if key == "protocol" else {"test": value}}))
        assert rescore(tmp_path / "test.npz", "--result", tmp_path / "result.json")[0] == 1, key


def test_scores_without_a_result_and_a_result_of_the_command_line(rescore, tmp_path):
    said = make(2, num_videos=5, num_classes=3)
    save_predictions(tmp_path / "five.npz", said)
    code, printed = rescore(tmp_path / "five.npz")
    assert code == 0
    assert f"top1 {summarise(said).metrics['top1']:.12g}\n" in printed
    assert "agree" not in printed
    (tmp_path / "result.json").write_text(json.dumps(whole_result(said)))
    assert rescore(tmp_path / "five.npz", "--result", tmp_path / "result.json")[0] == 0
    (tmp_path / "result.json").write_text(json.dumps({"val": summarise(said).metrics}))
    assert rescore(tmp_path / "five.npz", "--result", tmp_path / "result.json", "--split", "val")[0] == 0
    code, _ = rescore(tmp_path / "five.npz", "--result", tmp_path / "result.json")
    assert "has no scores of 'five'; name the split with --split" in code


def test_a_file_of_something_else(rescore, tmp_path):
    (tmp_path / "x.npz").write_text("dear reader")
    code, _ = rescore(tmp_path / "x.npz")
    assert code.startswith(f"error: {tmp_path / 'x.npz'} is no file of predictions")


def test_it_stands_alone(tmp_path):
    """It runs where nothing of this package, nor torch, can be imported."""
    said = make(4, num_videos=9, num_classes=4)
    save_predictions(tmp_path / "test.npz", said)
    block = "import sys; sys.modules.update(dict.fromkeys(['torch', 'timesformer_plus', 'sklearn', 'scipy']));"
    words = [str(SCRIPT), str(tmp_path / "test.npz")]
    run = f"import runpy; sys.argv = {words!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", block + run], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert f"top1 {summarise(said).metrics['top1']:.12g}\n" in done.stdout
