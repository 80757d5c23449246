"""Naming what a video shows."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_runs import tiny_run

from timesformer_plus.data.decoders import DecodeError
from timesformer_plus.data.manifests import read_csv
from timesformer_plus.engine import predict as predict_module
from timesformer_plus.engine.build_data import build_normalize, build_test_dataset
from timesformer_plus.engine.checkpoint import load_checkpoint
from timesformer_plus.engine.data_config import DataConfig
from timesformer_plus.engine.evaluate import evaluate_checkpoint, predict_views
from timesformer_plus.engine.predict import predict, print_predictions
from timesformer_plus.engine.train import train


def test_prediction_is_what_evaluation_says_about_the_video(finished_run, direction):
    folder, _ = finished_run
    model, classes, recipe = load_checkpoint(folder / "best")
    manifest = read_csv(direction / "test.csv", classes=classes)
    dataset = build_test_dataset(manifest, recipe, DataConfig(root=direction))
    expected = predict_views(model, dataset, build_normalize(recipe), batch_size=2)
    answer = predict(folder / "best", manifest.samples[3].path, topk=8)
    assert [probability for _, probability in answer] == sorted((p for _, p in answer), reverse=True)
    assert dict(answer) == pytest.approx(dict(zip(classes, expected.probabilities[3].tolist(), strict=True)), abs=1e-6)
    assert sum(probability for _, probability in answer) == pytest.approx(1)
    assert predict(folder / "best", manifest.samples[3].path) == answer[:5]


def test_multi_label_classes_have_probabilities_of_their_own(lattice, tmp_path):
    config = tiny_run(tmp_path / "run", lattice, epochs=1, data={"multi_label": True})
    train(config)
    video = next((lattice / "test").glob("*.mp4"))
    answer = dict(predict(config.output / "best", video))
    model, classes, recipe = load_checkpoint(config.output / "best")
    assert set(answer) == set(classes)
    manifest = read_csv(lattice / "test.csv", classes=classes, multi_label=True)
    dataset = build_test_dataset(manifest, recipe, DataConfig(root=lattice))
    normalize = build_normalize(recipe)
    index = [sample.path for sample in manifest.samples].index(video)
    model.eval()
    with torch.no_grad():
        views = torch.stack([model(normalize(dataset[(0, index, view)].video[None]))[0].sigmoid() for view in range(2)])
    assert answer == pytest.approx(dict(zip(classes, views.mean(dim=0).tolist(), strict=True)), abs=1e-6)


def run(monkeypatch, capsys, *words):
    monkeypatch.setattr("sys.argv", ["predict", *map(str, words)])
    predict_module.main()
    return capsys.readouterr().out


def test_command_line_prints_the_most_probable_classes(finished_run, direction, monkeypatch, capsys):
    folder, _ = finished_run
    video = next((direction / "test").glob("*.mp4"))
    text = run(monkeypatch, capsys, video, "--model", folder / "best", "--topk", 3)
    for name, probability in predict(folder / "best", video, topk=3):
        assert f"{name} " in text
        assert f"{100 * probability:.1f} %" in text
    assert text.count(" %") == 3


def test_brackets_in_names_are_printed(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "120")
    names = ["Putting [something] into [something]", "x [/foo] y", "[red]"]
    print_predictions(Path("a [bold] [/b].mp4"), [(name, 0.25) for name in names])
    text = capsys.readouterr().out
    assert all(name in text for name in names)
    assert "a [bold] [/b].mp4" in text


def test_checkpoint_that_cannot_be_read(finished_run, direction, tmp_path, monkeypatch, capsys):
    folder, _ = finished_run
    video = next((direction / "test").glob("*.mp4"))
    lost = tmp_path / "lost"
    shutil.copytree(folder / "best", lost)
    (lost / "model.safetensors").unlink()
    damaged = tmp_path / "damaged"
    shutil.copytree(folder / "best", damaged)
    (damaged / "model.safetensors").write_bytes((folder / "best" / "model.safetensors").read_bytes()[:500])
    for checkpoint in (lost, damaged):
        with pytest.raises(SystemExit) as stop:
            run(monkeypatch, capsys, video, "--model", checkpoint)
        assert stop.value.code == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert str(checkpoint) in error


def test_unreadable_video(finished_run, tmp_path, monkeypatch, capsys):
    folder, _ = finished_run
    text = tmp_path / "letter.mp4"
    text.write_text("dear reader")
    with pytest.raises(DecodeError, match=r"letter\.mp4"):
        predict(folder / "best", text)
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, capsys, text, "--model", folder / "best")
    assert stop.value.code == 1
    assert capsys.readouterr().err.startswith(f"error: {text}: ")


def test_folder_that_is_no_checkpoint(finished_run, tmp_path, direction):
    folder, _ = finished_run
    video = next((direction / "test").glob("*.mp4"))
    with pytest.raises(ValueError, match=r"holds no config\.json; give the best/ or last/ folder"):
        predict(folder, video)
    other = tmp_path / "other"
    shutil.copytree(folder / "best", other)
    config = json.loads((other / "config.json").read_text())
    del config["clips"]
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"was not written by tools/train\.py"):
        predict(other, video)
    (other / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is no JSON \(.*; copy it again"):
        predict(other, video)
    with pytest.raises(ValueError, match="topk=0 is not positive"):
        predict(folder / "best", video, topk=0)


def test_checkpoint_of_another_version(finished_run, direction, tmp_path, monkeypatch, capsys):
    folder, _ = finished_run
    video = next((direction / "test").glob("*.mp4"))
    other = tmp_path / "other"
    shutil.copytree(folder / "best", other)
    config = json.loads((other / "config.json").read_text())
    recipe = config["clips"]

    def error_with(clips):
        (other / "config.json").write_text(json.dumps({**config, "clips": clips}))
        with pytest.raises(SystemExit) as stop:
            run(monkeypatch, capsys, video, "--model", other)
        assert stop.value.code == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    error = error_with({**recipe, "warp": 9, "jitter": 1})
    assert error.startswith(f"error: {other / 'config.json'} was written by another version of timesformer_plus: ")
    assert "are unknown: 'jitter', 'warp';" in error
    del recipe["stride"], recipe["mean"]
    assert "are missing: 'stride', 'mean';" in error_with(recipe)
    assert "are unknown: 'step'; missing: 'stride', 'mean';" in error_with({**recipe, "step": 2})


def test_checkpoint_from_before_an_option_takes_its_default(finished_run, tmp_path):
    folder, _ = finished_run
    older = tmp_path / "older"
    shutil.copytree(folder / "best", older)
    config = json.loads((older / "config.json").read_text())
    del config["clips"]["decode_size"]
    (older / "config.json").write_text(json.dumps(config))
    assert load_checkpoint(older).recipe == load_checkpoint(folder / "best").recipe


def test_number_of_views(finished_run, direction, monkeypatch, capsys):
    folder, _ = finished_run
    video = next((direction / "test").glob("*.mp4"))
    for name in ("num_clips", "num_crops"):
        for number in (0, -1):
            with pytest.raises(ValueError, match=f"{name}={number}: give at least 1, or leave it out"):
                predict(folder / "best", video, **{name: number})
            with pytest.raises(ValueError, match=f"{name}={number}: give at least 1"):
                evaluate_checkpoint(direction / "test.csv", model=folder / "best", **{name: number})
    with pytest.raises(SystemExit):
        run(monkeypatch, capsys, video, "--model", folder / "best", "--num_clips", 0)
    assert capsys.readouterr().err.startswith("error: num_clips=0: ")
    assert load_checkpoint(folder / "best").recipe.num_clips == 2
    recipe = load_checkpoint(folder / "best", num_clips=1, num_crops=3).recipe
    assert (recipe.num_clips, recipe.num_crops) == (1, 3)
    assert load_checkpoint(folder / "best", num_crops=3).recipe.num_clips == 2


def test_video_that_is_not_there(finished_run, tmp_path, monkeypatch, capsys):
    folder, _ = finished_run
    with pytest.raises(SystemExit):
        run(monkeypatch, capsys, tmp_path / "no.mp4", "--model", folder / "best")
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'no.mp4'}: there is no such file; check the path, or the manifest's root\n"
    )


def test_limits_hold_in_prediction(finished_run, direction, monkeypatch, capsys):
    folder, _ = finished_run
    video = next((direction / "test").glob("*.mp4"))
    with pytest.raises(SystemExit):
        run(monkeypatch, capsys, video, "--model", folder / "best", "--limits.max_frames", 3)
    error = capsys.readouterr().err
    assert error.startswith(f"error: {video}: is too large: 8 frames")
    assert error.count("\n") == 1
    assert run(monkeypatch, capsys, video, "--model", folder / "best", "--limits.max_frames", 8)
