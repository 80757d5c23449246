"""Naming what a video shows."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_checkpoints import tiny_checkpoint

from timesformer_plus.data.decoders import DecodeError
from timesformer_plus.data.manifests import read_csv
from timesformer_plus.engine import predict as predict_module
from timesformer_plus.engine.build_data import build_normalize, build_test_dataset
from timesformer_plus.engine.checkpoint import load_checkpoint
from timesformer_plus.engine.config import EvaluationConfig
from timesformer_plus.engine.data_config import DataConfig
from timesformer_plus.engine.evaluate import evaluate_checkpoint
from timesformer_plus.engine.predict import predict, print_predictions
from timesformer_plus.engine.views import predict_views


def test_prediction_is_what_evaluation_says_about_the_video(checkpoint, direction):
    model, classes, recipe = load_checkpoint(checkpoint)
    manifest = read_csv(direction / "test.csv", classes=classes)
    dataset = build_test_dataset(manifest, recipe, DataConfig(root=direction))
    said = predict_views(model, dataset, build_normalize(recipe), protocol=recipe.protocol, batch_size=2)
    expected = said.probabilities()
    answer = predict(checkpoint, manifest.samples[3].path, topk=8)
    assert [probability for _, probability in answer] == sorted((p for _, p in answer), reverse=True)
    assert dict(answer) == pytest.approx(dict(zip(classes, expected[3].tolist(), strict=True)), abs=1e-6)
    assert sum(probability for _, probability in answer) == pytest.approx(1)
    assert predict(checkpoint, manifest.samples[3].path) == answer[:5]


def test_multi_label_classes_have_probabilities_of_their_own(lattice, tmp_path):
    folder = tiny_checkpoint(tmp_path / "best", lattice, multi_label=True)
    video = next((lattice / "test").glob("*.mp4"))
    answer = dict(predict(folder, video))
    model, classes, recipe = load_checkpoint(folder)
    assert set(answer) == set(classes)
    manifest = read_csv(lattice / "test.csv", classes=classes, multi_label=True)
    dataset = build_test_dataset(manifest, recipe, DataConfig(root=lattice))
    normalize = build_normalize(recipe)
    index = [sample.path for sample in manifest.samples].index(video)
    model.eval()
    with torch.no_grad():
        views = torch.stack([model(normalize(dataset[(0, index, view)].video[None]))[0].sigmoid() for view in range(2)])
    assert answer == pytest.approx(dict(zip(classes, views.mean(dim=0).tolist(), strict=True)), abs=1e-6)


def test_answer_follows_the_protocol_of_the_checkpoint(direction, tmp_path):
    evaluation = EvaluationConfig(protocol="paper_timesformer")
    folder = tiny_checkpoint(tmp_path / "best", direction, scale=2.0, evaluation=evaluation, short_side=64)
    model, classes, recipe = load_checkpoint(folder)
    assert recipe.protocol.name == "paper_timesformer"
    manifest = read_csv(direction / "test.csv", classes=classes)
    dataset = build_test_dataset(manifest, recipe, DataConfig(root=direction))
    model.eval()
    with torch.no_grad():
        clips = torch.stack([dataset[(0, 2, view)].video for view in range(3)])
        logits = model(build_normalize(recipe)(clips)).double()
    video = manifest.samples[2].path
    of_logits, of_probabilities = logits.mean(dim=0).softmax(dim=0), logits.softmax(dim=1).mean(dim=0)
    assert (of_logits - of_probabilities).abs().max() > 1e-4  # the views say different things
    for expected, options in (
        (of_logits, {}),
        (of_logits, {"protocol": "paper_timesformer"}),
        (of_logits, {"batch_size": 2}),
        (of_probabilities, {"average": "probabilities"}),
    ):
        answer = dict(predict(folder, video, topk=8, **options))
        assert answer == pytest.approx(dict(zip(classes, expected.tolist(), strict=True)), abs=1e-5)
    with pytest.raises(ValueError, match="protocol 'swin' is unknown"):
        predict(folder, video, protocol="swin")


def run(monkeypatch, capsys, *words):
    monkeypatch.setattr("sys.argv", ["predict", *map(str, words)])
    predict_module.main()
    return capsys.readouterr().out


def test_command_line_prints_the_most_probable_classes(checkpoint, direction, monkeypatch, capsys):
    video = next((direction / "test").glob("*.mp4"))
    text = run(monkeypatch, capsys, video, "--model", checkpoint, "--topk", 3)
    for name, probability in predict(checkpoint, video, topk=3):
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


def test_checkpoint_that_cannot_be_read(checkpoint, direction, tmp_path, monkeypatch, capsys):
    video = next((direction / "test").glob("*.mp4"))
    lost = tmp_path / "lost"
    shutil.copytree(checkpoint, lost)
    (lost / "model.safetensors").unlink()
    damaged = tmp_path / "damaged"
    shutil.copytree(checkpoint, damaged)
    (damaged / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes()[:500])
    for checkpoint in (lost, damaged):
        with pytest.raises(SystemExit) as stop:
            run(monkeypatch, capsys, video, "--model", checkpoint)
        assert stop.value.code == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert str(checkpoint) in error


def test_unreadable_video(checkpoint, tmp_path, monkeypatch, capsys):
    text = tmp_path / "letter.mp4"
    text.write_text("dear reader")
    with pytest.raises(DecodeError, match=r"letter\.mp4"):
        predict(checkpoint, text)
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, capsys, text, "--model", checkpoint)
    assert stop.value.code == 1
    assert capsys.readouterr().err.startswith(f"error: {text}: ")


def test_folder_that_is_no_checkpoint(checkpoint, tmp_path, direction):
    video = next((direction / "test").glob("*.mp4"))
    with pytest.raises(ValueError, match=r"holds no config\.json; give the best/ or last/ folder"):
        predict(direction, video)
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    config = json.loads((other / "config.json").read_text())
    del config["clips"]
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"delete its manifest\.json if it was changed on purpose"):
        predict(other, video)
    (other / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"was not written by tools/train\.py"):
        predict(other, video)
    (other / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is no JSON \(.*; copy it again"):
        predict(other, video)
    with pytest.raises(ValueError, match="topk=0 is not positive"):
        predict(checkpoint, video, topk=0)


def test_checkpoint_of_another_version(checkpoint, direction, tmp_path, monkeypatch, capsys):
    video = next((direction / "test").glob("*.mp4"))
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    (other / "manifest.json").unlink()  # which would tell that it was changed
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


def test_checkpoint_from_before_an_option_takes_its_default(checkpoint, tmp_path):
    older = tmp_path / "older"
    shutil.copytree(checkpoint, older)
    config = json.loads((older / "config.json").read_text())
    for key in ("decode_size", "average", "protocol_name", "channel_order"):
        del config["clips"][key]
    (older / "config.json").write_text(json.dumps(config))
    (older / "manifest.json").unlink()  # nor had they one
    assert load_checkpoint(older).recipe == load_checkpoint(checkpoint).recipe


def test_number_of_views(checkpoint, direction, monkeypatch, capsys):
    video = next((direction / "test").glob("*.mp4"))
    for name in ("num_clips", "num_crops"):
        for number in (0, -1):
            with pytest.raises(ValueError, match=f"{name}={number}: give at least 1, or leave it out"):
                predict(checkpoint, video, **{name: number})
            with pytest.raises(ValueError, match=f"{name}={number}: give at least 1"):
                evaluate_checkpoint(direction / "test.csv", model=checkpoint, **{name: number})
    with pytest.raises(SystemExit):
        run(monkeypatch, capsys, video, "--model", checkpoint, "--num_clips", 0)
    assert capsys.readouterr().err.startswith("error: num_clips=0: ")


def test_video_that_is_not_there(checkpoint, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, capsys, tmp_path / "no.mp4", "--model", checkpoint)
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'no.mp4'}: there is no such file; check the path, or the manifest's root\n"
    )


def test_limits_hold_in_prediction(checkpoint, direction, monkeypatch, capsys):
    video = next((direction / "test").glob("*.mp4"))
    with pytest.raises(SystemExit):
        run(monkeypatch, capsys, video, "--model", checkpoint, "--limits.max_frames", 3)
    error = capsys.readouterr().err
    assert error.startswith(f"error: {video}: is too large: 8 frames")
    assert error.count("\n") == 1
    assert run(monkeypatch, capsys, video, "--model", checkpoint, "--limits.max_frames", 8)
