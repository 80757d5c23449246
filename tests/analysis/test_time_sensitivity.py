"""Time sensitivity of finished runs: real trainings on real files, held against a second, plain computation."""

import contextlib
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest
import timm
import torch
from torch import nn

from timesformer_plus.analysis import time_sensitivity
from timesformer_plus.analysis.time_sensitivity import FILE, ProbeError, drops, main, probe_runs, read_sensitivity
from timesformer_plus.data.manifests import read_csv
from timesformer_plus.data.motion import write_motion
from timesformer_plus.engine.altered_clips import CONDITIONS, altered_order
from timesformer_plus.engine.build import build_model
from timesformer_plus.engine.build_data import build_recipe
from timesformer_plus.engine.checkpoint import save_checkpoint
from timesformer_plus.engine.config import EvaluationConfig, ModelConfig, TrainConfig, dump_config
from timesformer_plus.engine.data_config import DataConfig
from timesformer_plus.engine.evaluate import evaluate_checkpoint
from timesformer_plus.engine.predictions import load_predictions
from timesformer_plus.engine.train import train

PATTERNS = ("s", "ts", "cs")
METRICS = ("loss", "top1", "top5", "mean_class_accuracy", "ece", "pair", "per_class")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_motion(
        "direction", tmp_path_factory.mktemp("direction") / "data", train=16, val=8, test=16, progress=False
    )


def config_of(folder, data, pattern, **splits):
    return TrainConfig(
        output=folder,
        data=DataConfig(root=data, **splits),
        model=ModelConfig(
            name="timesformer_test_patch8_32", pattern=pattern, args={"depth": 1, "embed_dim": 32, "num_heads": 2}
        ),
        evaluation=EvaluationConfig(num_clips=1, batch_size=5),
        epochs=1,
        batch_size=8,
        threads=1,
        trackers=(),
        progress=False,
    )


def write_run(folder, data, pattern):
    """A finished run whose weights are drawn, so large that every answer depends on all there is to see.

    A training of seconds learns nothing about time, and its answers would be the same whatever becomes of the clips.
    """
    config = config_of(folder, data, pattern)
    classes = read_csv(data / "test.csv").classes
    model = build_model(config.model, config.data, len(classes))
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=1.0)
    recipe = build_recipe(model, config.data, config.evaluation)
    file = folder / "test.npz"
    save_checkpoint(folder / "best", model, classes=classes, recipe=recipe)
    with contextlib.redirect_stdout(None):
        evaluate_checkpoint(data / "test.csv", model=folder / "best", threads=1, predictions=file)
        # else all clips would be taken for the same class, that of the greatest mean
        model.head.bias.data -= load_predictions(file).logits.mean(dim=(0, 1))
        save_checkpoint(folder / "best", model, classes=classes, recipe=recipe)
        scores = evaluate_checkpoint(data / "test.csv", model=folder / "best", batch_size=5, threads=1)
    (folder / "config.yaml").write_text(dump_config(config))
    metrics = {name: scores[name] for name in METRICS}
    (folder / "result.json").write_text(json.dumps({"status": "finished", "val": None, "test": metrics}))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Finished runs of three patterns, one that was really trained, and one of these without a test split."""
    root = tmp_path_factory.mktemp("trained")
    for pattern in PATTERNS:
        write_run(root / pattern, data, pattern)
    train(config_of(root / "trained", data, "ts"))
    train(config_of(root / "val-only", data, "ts", test=None))
    return root


@pytest.fixture
def runs(trained, tmp_path):
    """Copies of the finished runs, to be probed."""
    return {folder.name: Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in trained.iterdir()}


@pytest.fixture(scope="module")
def probed(trained, tmp_path_factory):
    """The same runs, probed once; not to be changed."""
    root = Path(shutil.copytree(trained, tmp_path_factory.mktemp("probed") / "runs"))
    folders = {folder.name: folder for folder in root.iterdir()}
    probe_runs(list(folders.values()), threads=1)
    return folders


def correct_by_hand(folder, data, condition):
    """Class -> answers of a run's model, right or not: frames by PyAV, reordered and normalised here."""
    model = timm.create_model(f"local-dir:{folder / 'best'}", pretrained=True).eval()
    recipe = json.loads((folder / "best" / "config.json").read_text())
    mean, std = (torch.tensor(recipe["clips"][key]).view(3, 1, 1, 1) for key in ("mean", "std"))
    answers = {}
    for line in (data / "test.csv").read_text().splitlines()[1:]:
        path, label = line.split(",")[:2]
        with av.open(str(data / path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        clip = torch.stack([torch.from_numpy(frame) for frame in frames]).permute(3, 0, 1, 2).float() / 255
        order = altered_order(condition, len(frames), video=path, view=0)
        with torch.no_grad():
            logits = model(((clip - mean) / std)[None, :, order])
        answers.setdefault(label, []).append(recipe["label_names"][logits.argmax()] == label)
    return answers


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("name", ["ts", "s"])
def test_scores_are_those_of_a_second_computation(probed, data, name, condition):
    metrics = read_sensitivity(probed[name])["conditions"][condition]
    answers = correct_by_hand(probed[name], data, condition)
    assert metrics["per_class"] == {label: sum(right) / len(right) for label, right in answers.items()}
    every = [answer for right in answers.values() for answer in right]
    assert metrics["top1"] == pytest.approx(sum(every) / len(every), abs=1e-12)


def test_the_file(probed):
    for name, folder in probed.items():
        stored = json.loads((folder / FILE).read_text())
        split = "val" if name == "val-only" else "test"
        assert list(stored) == ["format", "split", "digest", "conditions"]
        assert stored["split"] == split
        assert list(stored["conditions"]) == ["as_is", "reversed", "shuffled", "repeated", "half"]
        assert stored["conditions"]["as_is"] == json.loads((folder / "result.json").read_text())[split]
        for metrics in stored["conditions"].values():
            assert {"loss", "top1", "pair", "per_class"} <= metrics.keys()


def test_space_alone_scores_the_same_reversed_and_shuffled(probed):
    """Every accuracy, to the last clip; the sum over the frames is another order of the same numbers."""
    conditions = read_sensitivity(probed["s"])["conditions"]
    for condition in ("reversed", "shuffled"):
        for metric in ("top1", "top5", "pair", "mean_class_accuracy", "per_class"):
            assert conditions[condition][metric] == conditions["as_is"][metric]
        assert conditions[condition]["loss"] == pytest.approx(conditions["as_is"]["loss"], rel=1e-5)
    assert abs(conditions["repeated"]["loss"] - conditions["as_is"]["loss"]) > 1e-5


@pytest.mark.parametrize("name", ["ts", "cs"])
def test_schemes_with_time_score_otherwise(probed, name):
    conditions = read_sensitivity(probed[name])["conditions"]
    for condition in CONDITIONS[1:]:
        assert abs(conditions[condition]["loss"] - conditions["as_is"]["loss"]) > 1e-2
    # else the second computation could not tell the conditions apart either
    assert conditions["reversed"]["per_class"] != conditions["as_is"]["per_class"]


def test_drops_by_hand():
    sensitivity = {
        "conditions": {
            "as_is": {"loss": 0.5, "top1": 0.875, "per_class": {"left": 1.0, "right": 0.75}},
            "reversed": {"loss": 2.0, "top1": 0.25, "per_class": {"left": 0.0, "right": 0.5}},
        }
    }
    assert drops(sensitivity, "reversed") == {"loss": -1.5, "top1": 0.625, "per_class": {"left": 1.0, "right": 0.25}}
    assert drops(sensitivity, "as_is") == {"loss": 0.0, "top1": 0.0, "per_class": {"left": 0.0, "right": 0.0}}


def test_what_is_there_is_not_computed_again(probed, monkeypatch, tmp_path):
    folder = Path(shutil.copytree(probed["ts"], tmp_path / "ts"))
    before = (folder / FILE).stat()
    monkeypatch.setattr(time_sensitivity, "load_checkpoint", lambda _: pytest.fail("loaded again"))
    probe_runs([folder], threads=1)
    after = (folder / FILE).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("change", ["other weights", "torn", "another format", "a condition less"])
def test_what_is_about_something_else_is_computed_again(probed, tmp_path, change):
    """The file of a run that was trained again in the same place, or half a file, is not taken for this one's."""
    folder, other = (Path(shutil.copytree(probed[name], tmp_path / name)) for name in ("ts", "cs"))
    right = (folder / FILE).read_text()
    stored = json.loads(right)
    if change == "other weights":
        shutil.copy(other / FILE, folder / FILE)
    elif change == "torn":
        (folder / FILE).write_text(right[: len(right) // 2])
    elif change == "another format":
        (folder / FILE).write_text(json.dumps({**stored, "format": 0}))
    else:
        del stored["conditions"]["half"]
        (folder / FILE).write_text(json.dumps(stored))
    assert read_sensitivity(folder) is None
    probe_runs([folder], threads=1)
    assert (folder / FILE).read_text() == right


def test_runs_that_are_not_finished_are_passed_over(runs):
    (runs["ts"] / "result.json").unlink()
    probe_runs([runs["ts"], runs["ts"] / "nowhere"], threads=1)
    assert not (runs["ts"] / FILE).exists()
    assert read_sensitivity(runs["ts"]) is None


def test_one_run_that_fails_does_not_lose_the_others(runs):
    """A stored score that the model does not have, and a model that is damaged: said, and nothing is kept."""
    result = json.loads((runs["ts"] / "result.json").read_text())
    result["test"]["top1"] += 1 / 16
    (runs["ts"] / "result.json").write_text(json.dumps(result))
    weights = runs["cs"] / "best" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ProbeError) as caught:
        probe_runs([runs["ts"], runs["cs"], runs["s"]], threads=1)
    assert list(caught.value.failures) == [runs["ts"], runs["cs"]]
    assert "does not score on the test split what result.json says (top1" in caught.value.failures[runs["ts"]]
    assert "model.safetensors has" in caught.value.failures[runs["cs"]]
    assert [name for name in ("ts", "cs", "s") if (runs[name] / FILE).exists()] == ["s"]


def test_several_at_a_time_score_the_same(runs, probed):
    folders = [runs["ts"], runs["cs"], runs["s"], runs["s"] / "nowhere"]
    (runs["cs"] / "best" / "model.safetensors").write_bytes(b"")
    with pytest.raises(ProbeError) as caught:
        probe_runs(folders, threads=1, jobs=2)
    assert list(caught.value.failures) == [runs["cs"]]
    for name in ("ts", "s"):
        ours, theirs = (json.loads((folder[name] / FILE).read_text())["conditions"] for folder in (runs, probed))
        assert ours.keys() == theirs.keys()
        assert all(ours[condition]["per_class"] == theirs[condition]["per_class"] for condition in ours)


def test_threads_are_those_asked_for_and_afterwards_those_of_before(runs, monkeypatch):
    before, used = torch.get_num_threads(), []
    monkeypatch.setattr(time_sensitivity, "probe", lambda _: used.append(torch.get_num_threads()) or 1 / 0)
    with pytest.raises(ProbeError, match="ZeroDivisionError"):
        probe_runs([runs["s"]], threads=before + 1)
    assert used == [before + 1]
    assert torch.get_num_threads() == before


def test_other_videos_than_those_of_the_run_are_refused(runs, data, tmp_path):
    """One test video less: every accuracy is another one, and no drop would mean anything."""
    copy = Path(shutil.copytree(data, tmp_path / "data"))
    lines = (copy / "test.csv").read_text().splitlines(keepends=True)
    (copy / "test.csv").write_text("".join(lines[:-2]))
    config = runs["ts"] / "config.yaml"
    config.write_text(config.read_text().replace(str(data), str(copy)))
    with pytest.raises(ProbeError, match="the videos, the weights or the machine are others"):
        probe_runs([runs["ts"]], threads=1)


def test_the_command(probed, runs, capsys):
    assert main([str(probed["ts"]), str(probed["s"])]) == 0
    lines = capsys.readouterr().out.splitlines()
    pair = json.loads((probed["ts"] / FILE).read_text())["conditions"]["half"]["pair"]
    assert lines[0].startswith(f"{probed['ts']}: test pair: as_is ")
    assert lines[0].endswith(f", half {100 * pair:.1f} %")
    assert len(lines) == 2

    (runs["ts"] / "result.json").unlink()
    assert main([str(runs["ts"]), str(probed["s"])]) == 1
    said = capsys.readouterr()
    assert said.err == f"error: {runs['ts']}: not finished, so it was not scored\n"
    assert said.out.startswith(f"{probed['s']}: ")
    with pytest.raises(SystemExit):
        main([str(runs["ts"]), "--threads", "0"])


@pytest.mark.slow
def test_killed_at_any_point(runs, probed):
    """Killed eight times: every file is whole or not there, and in the end all are those of a probe left alone."""
    folders = [runs[name] for name in PATTERNS]
    command = [sys.executable, "-m", "timesformer_plus.analysis.time_sensitivity", *map(str, folders)]
    start = time.monotonic()
    subprocess.run([*command[:3], str(probed["ts"])], check=True, capture_output=True)
    imports = time.monotonic() - start
    chance = random.Random(0)
    for _ in range(8):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(imports * chance.uniform(0.8, 1.5))
        process.kill()
        process.wait()
        for name in PATTERNS:
            if (runs[name] / FILE).exists():
                assert (runs[name] / FILE).read_bytes() == (probed[name] / FILE).read_bytes()
        if all((runs[name] / FILE).exists() for name in PATTERNS):
            (runs[chance.choice(PATTERNS)] / FILE).unlink()
    subprocess.run(command, check=True, capture_output=True)
    for name in PATTERNS:
        assert (runs[name] / FILE).read_bytes() == (probed[name] / FILE).read_bytes()
