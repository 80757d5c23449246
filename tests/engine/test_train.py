"""Training from video files to a finished run folder, in this process."""

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors import SafetensorError
from tiny_runs import TINY, tiny_run
from torchvision.transforms.v2 import InterpolationMode

from timesformer_plus.engine.bad_videos import BadVideosError
from timesformer_plus.engine.build_data import build_normalize, build_test_dataset
from timesformer_plus.engine.build_splits import build_splits
from timesformer_plus.engine.checkpoint import load_checkpoint
from timesformer_plus.engine.config import OptimConfig, dump_config, parse_train_config
from timesformer_plus.engine.data_config import DataConfig
from timesformer_plus.engine.evaluation import evaluate
from timesformer_plus.engine.train import main, train
from timesformer_plus.engine.trainer import NonFiniteError

RESCORE = Path(__file__).parents[2] / "tools" / "rescore.py"


def events(folder, kind):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def test_run_folder_holds_what_it_promises(finished_run):
    folder, result = finished_run
    assert {path.name for path in folder.iterdir()} == {
        ".lock", "best", "config.yaml", "environment.json", "last", "metrics.jsonl", "predictions", "result.json",
        "status.json",
    }  # fmt: skip
    assert json.loads((folder / "result.json").read_text()) == result
    assert result["status"] == "finished"
    assert result["steps"] == 4
    model = timm.create_model(f"local-dir:{folder / 'best'}", pretrained=True)
    assert result["params"] == sum(p.numel() for p in model.parameters())
    for split in ("val", "test"):
        assert set(result[split]) == {"loss", "top1", "top5", "pair", "mean_class_accuracy", "ece", "per_class"}
        assert (folder / "predictions" / f"{split}.npz").is_file()
        assert result["unreadable"][split] == {}
    assert result["protocol"]["name"] == "2x1 probabilities"
    assert json.loads((folder / "status.json").read_text()) == {"status": "finished", "step": 4}
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__.split("+")[0]
    assert (environment["world_size"], environment["seed"], environment["threads"]) == (1, 0, 1)
    assert set(environment["data"]) == {"train", "val", "test"}


def test_metrics_have_a_line_for_every_update_and_epoch(finished_run):
    folder, result = finished_run
    steps, epochs = events(folder, "step"), events(folder, "epoch")
    assert [(line["epoch"], line["step"]) for line in steps] == [(0, 1), (0, 2), (1, 3), (1, 4)]
    assert [line["lr"] for line in steps] == pytest.approx(
        [2e-3 * (1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]
    )
    assert [line["loss"] for line in epochs] == pytest.approx(
        [(steps[2 * i]["loss"] + steps[2 * i + 1]["loss"]) / 2 for i in range(2)]
    )
    assert all(line["clips_per_second"] > 0 for line in epochs)
    assert epochs[result["best_epoch"]]["val"] == result["val"]


def test_written_configuration_repeats_the_run(finished_run, tmp_path):
    folder, result = finished_run
    config = parse_train_config(["--config", str(folder / "config.yaml"), "--output", str(tmp_path / "again")])
    # what was left open is settled
    assert (config.data.num_frames, config.data.img_size) == (8, (32, 32))
    assert config.data.max_bad == 10
    again = train(config)
    assert again["val"] == result["val"]
    assert again["test"] == result["test"]
    losses = [[line["loss"] for line in events(run, "step")] for run in (folder, tmp_path / "again")]
    assert losses[0] == losses[1]


def test_best_is_a_local_dir_model_with_names_and_preprocessing(finished_run, direction):
    folder, result = finished_run
    config = json.loads((folder / "best" / "config.json").read_text())
    assert config["label_names"] == (direction / "classes.txt").read_text().split()
    model = timm.create_model(f"local-dir:{folder / 'best'}", pretrained=True)
    assert tuple(model.pretrained_cfg["input_size"]) == (3, 32, 32)
    assert model.pretrained_cfg["interpolation"] == InterpolationMode.BILINEAR.value
    assert model.pretrained_cfg["crop_pct"] == 1.0
    # all of the arguments are written, so that every timm builds the same model, and another head fits on it
    assert config["model_args"] == config["model_args"] | {
        "pattern": "ts",
        "depth": 1,
        "embed_dim": 32,
        "num_frames": 8,
    }
    exchanged = timm.create_model(f"local-dir:{folder / 'best'}", pretrained=True, num_classes=3)
    assert exchanged.head.weight.shape == (3, 32)
    assert torch.equal(exchanged.patch_embed.proj.weight, model.patch_embed.proj.weight)
    assert list(model.pretrained_cfg["label_names"]) == config["label_names"]
    checkpoint = load_checkpoint(folder / "best")
    assert checkpoint.recipe.num_clips == 2
    assert (folder / "best" / "model.safetensors").stat().st_mode & 0o777 == 0o644
    # the loaded model scores as the one in memory did
    data = DataConfig(root=direction)
    splits = build_splits(data)
    normalize = build_normalize(checkpoint.recipe)
    for split, manifest in (("val", splits.val), ("test", splits.test)):
        dataset = build_test_dataset(manifest, checkpoint.recipe, data)
        scored = evaluate(model, dataset, normalize, protocol=checkpoint.recipe.protocol, batch_size=3)
        assert scored.metrics == {key: pytest.approx(value, abs=1e-6) for key, value in result[split].items()}
        assert scored.short_videos == 0


def test_score_is_the_mean_over_the_views_of_the_real_model(finished_run, direction):
    folder, result = finished_run
    model, _, recipe = load_checkpoint(folder / "best")
    data = DataConfig(root=direction)
    dataset, normalize = build_test_dataset(build_splits(data).test, recipe, data), build_normalize(recipe)
    model.eval()
    loss, correct = 0.0, {}
    with torch.no_grad():
        for index, sample in enumerate(dataset.manifest.samples):
            views = [model(normalize(dataset[(0, index, view)].video[None])).softmax(dim=-1)[0] for view in range(2)]
            mean = (views[0] + views[1]) / 2
            loss -= math.log(mean[sample.label]) / len(dataset)
            correct.setdefault(sample.pair, []).append(mean.argmax().item() == sample.label)
    assert result["test"]["loss"] == pytest.approx(loss, abs=1e-5)
    assert result["test"]["top1"] == sum(map(sum, correct.values())) / len(dataset)
    assert result["test"]["pair"] == sum(map(all, correct.values())) / len(correct)


def test_training_learns(direction, tmp_path):
    data = {"cache_mb": 10, "cache_dir": tmp_path / "decoded"}
    config = tiny_run(tmp_path / "run", direction, epochs=30, data=data, optim=OptimConfig(lr=5e-3))
    train(replace(config, evaluation=replace(config.evaluation, every=0)))
    losses = [line["loss"] for line in events(config.output, "epoch")]
    assert losses[-1] < 0.75 * losses[0]
    # every: 0 scores the last epoch only, so that is the best one
    assert [line["val"] is None for line in events(config.output, "epoch")] == [True] * 29 + [False]


def test_multi_label_run(lattice, tmp_path):
    config = tiny_run(tmp_path / "run", lattice, epochs=1, data={"multi_label": True})
    result = train(config)
    names = ("time", "height", "width")
    assert load_checkpoint(config.output / "best").recipe.multi_label
    for split in ("val", "test"):
        metrics = result[split]
        classes = json.loads((config.output / "best" / "config.json").read_text())["label_names"]
        assert len(classes) == len(names)
        assert set(metrics) == {"loss", "accuracy", "pair", "mean_average_precision", "average_precision"} | {
            f"{m}/{c}" for m in ("accuracy", "pair") for c in classes
        }
        assert metrics["accuracy"] == pytest.approx(sum(metrics[f"accuracy/{c}"] for c in classes) / 3)


def test_accumulation_changes_nothing_but_memory(direction, tmp_path):
    config = tiny_run(tmp_path / "one", direction, precision="fp64", clip_grad=0.5, epochs=1)
    train(config)
    train(replace(config, output=tmp_path / "four", accumulate=4))
    one, four = events(tmp_path / "one", "step"), events(tmp_path / "four", "step")
    for key in ("loss", "grad_norm"):
        assert [line[key] for line in four] == pytest.approx([line[key] for line in one], rel=1e-12, abs=1e-12)


def test_another_seed_is_another_run(finished_run, direction, tmp_path):
    folder, _ = finished_run
    train(tiny_run(tmp_path / "run", direction, seed=1))
    assert events(folder, "step")[0]["loss"] != events(tmp_path / "run", "step")[0]["loss"]


def test_finished_run_is_not_replaced_unasked(finished_run, direction, tmp_path):
    folder, _ = finished_run
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    before = (copy / "result.json").read_text()
    with pytest.raises(ValueError, match=r"holds a finished run; choose another output, or .*overwrite=true"):
        train(tiny_run(copy, direction))
    assert (copy / "result.json").read_text() == before
    train(tiny_run(copy, direction, seed=3, overwrite=True, epochs=1))
    assert json.loads((copy / "result.json").read_text())["steps"] == 2
    assert len(events(copy, "step")) == 2


def test_folder_of_something_else_is_left_alone(direction, tmp_path):
    photos = tmp_path / "run" / "best"
    photos.mkdir(parents=True)
    (photos / "holiday.jpg").touch()
    with pytest.raises(ValueError, match=r"best is not a checkpoint and will not be replaced"):
        train(tiny_run(tmp_path / "run", direction, epochs=1))
    assert (photos / "holiday.jpg").exists()


def test_non_finite_loss_stops_before_the_weights_and_names_the_clips(direction, tmp_path):
    config = tiny_run(tmp_path / "run", direction, optim=OptimConfig(lr=1e30))
    with pytest.raises(NonFiniteError, match=r"update 2: the loss is (nan|inf).*: process 0: train/\d+.mp4, ") as stop:
        train(config)
    assert str(stop.value).count(".mp4") == 8
    assert not (config.output / "last").exists()


def test_wrong_world_size(direction, tmp_path):
    with pytest.raises(
        ValueError, match=r"world_size is 2, but 1 process runs; start with `torchrun --nproc_per_node 2"
    ):
        train(tiny_run(tmp_path / "run", direction, world_size=2))
    assert not (tmp_path / "run").exists()


def test_unreadable_video_is_named(direction, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(direction, data)
    damaged = sorted((data / "train").glob("*.mp4"))[5]
    damaged.write_bytes(damaged.read_bytes()[:200])
    with pytest.raises(BadVideosError, match=rf"^1 videos of this epoch.*data\.max_bad=0.*{damaged.name}"):
        train(tiny_run(tmp_path / "run", data, data={"max_bad": 0}))
    assert not (tmp_path / "run" / "last").exists()
    assert damaged.name in (tmp_path / "run" / "bad_videos.csv").read_text()
    # nothing stands in for a video that is scored: it is wrong, and named
    (name,) = {path.name for path in [sorted((data / "val").glob("*.mp4"))[2]]}
    (data / "val" / name).write_bytes((data / "val" / name).read_bytes()[:201])
    result = train(tiny_run(tmp_path / "other", data, progress=True))
    told = capsys.readouterr().out.splitlines()
    assert told.count(f"val: 1 videos cannot be read and count as wrong: val/{name}") == 2
    assert [line["unreadable"] for line in events(tmp_path / "other", "epoch")] == [1, 1]
    assert list(result["unreadable"]["val"]) == [f"val/{name}"]
    assert result["unreadable"]["test"] == {}
    assert result["val"]["top1"] <= 7 / 8


def fails(capsys, config, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config))
    with pytest.raises(SystemExit) as stop:
        main(["--config", str(file)])
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize("option", ["optim.name", "model.pattern"])
def test_a_mistake_does_not_cost_the_run_that_was_to_be_replaced(direction, tmp_path, capsys, option):
    folder = tmp_path / "run"
    train(tiny_run(folder, direction, epochs=1))
    kept = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit):
        main(["--config", str(folder / "config.yaml"), "--overwrite", "true", f"--{option}", "nonesuch"])
    assert "nonesuch" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == kept


def test_command_line_reports_errors_in_one_line(direction, tmp_path, capsys):
    empty = fails(capsys, tiny_run(tmp_path / "run", tmp_path), tmp_path)
    assert empty.startswith(f"error: {tmp_path / 'train.csv'}: there is no such manifest")
    label = tmp_path / "data"
    shutil.copytree(direction, label)
    (label / "val.csv").write_text((label / "val.csv").read_text() + "test/0.mp4,sideways,\n")
    assert "'sideways' is not one of the 8 classes" in fails(capsys, tiny_run(tmp_path / "run", label), tmp_path)
    unknown = tiny_run(tmp_path / "run", direction, model=replace(TINY, args={"dept": 2}))
    assert "'dept'" in fails(capsys, unknown, tmp_path)
    assert "fewer than batch_size=17" in fails(capsys, tiny_run(tmp_path / "run", direction, batch_size=17), tmp_path)
    assert not (tmp_path / "run").exists()


SPLITS = {"train": 16, "val": 8, "test": 8}


def test_epoch_lines_where_there_is_no_terminal(direction, tmp_path, capsys):
    train(tiny_run(tmp_path / "run", direction, epochs=1, progress=True))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [f"{name}: {n} expected, {n} found, 0 missing" for name, n in SPLITS.items()]
    assert lines[3] == "weights: timesformer_test_patch8_32 from scratch, seed 0"
    assert lines[4] == "pixels: mean 0.45 0.45 0.45, std 0.225 0.225 0.225, channel order rgb"
    assert lines[5].startswith("auto: ")
    assert lines[6] == "reading: by the training process itself"
    assert lines[7] == "1 process, 8 clips an update = 1 x 1 micro-batches x 8"
    assert lines[8].startswith("epoch   1  loss ")
    assert "data wait" in lines[8]
    assert "val pair" in lines[8]
    assert lines[9].startswith("done in")
    assert len(lines) == 10


def test_disk_full_while_the_weights_are_written(direction, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("timesformer_plus.engine.checkpoint.save_file", full)
    error = fails(capsys, tiny_run(tmp_path / "run", direction), tmp_path)
    assert str(tmp_path / "run" / "last") in error
    assert "No space left on device" in error
    assert [path.name for path in (tmp_path / "run").iterdir() if "last" in path.name] == []
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["status"] == "failed"
    assert "No space left on device" in status["reason"]


def test_reason_is_not_lost_on_a_disk_too_full_for_the_status(direction, tmp_path, monkeypatch, capsys):
    def full(_, status, **__):
        if status == "failed":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("timesformer_plus.engine.run_folder.RunFolder.say_status", full)
    error = fails(capsys, tiny_run(tmp_path / "run", direction, optim=OptimConfig(lr=1e30)), tmp_path)
    assert error.startswith("error: update 2: the loss is ")


def test_saved_model_is_begun_with_its_weights_and_its_pattern(finished_run, direction, tmp_path):
    folder, _ = finished_run
    name = f"local-dir:{folder / 'best'}"
    with pytest.raises(ValueError, match=r"is a saved model; set model\.pretrained=true"):
        replace(TINY, name=name, args={})
    model = replace(TINY, name=name, args={}, pretrained=True)
    config = tiny_run(tmp_path / "run", direction, model=model, epochs=1, optim=OptimConfig(lr=1e-12, weight_decay=0))
    train(config)
    ours, theirs = (timm.create_model(f"local-dir:{run / 'best'}", pretrained=True) for run in (config.output, folder))
    assert ours.pattern == theirs.pattern
    assert torch.allclose(ours.blocks[0].attn.qkv.weight, theirs.blocks[0].attn.qkv.weight, atol=1e-9)
    missing = replace(config, output=tmp_path / "other", model=replace(model, name="local-dir:/nowhere"))
    with pytest.raises(ValueError, match=r"^model.name='local-dir:/nowhere': .*/nowhere"):
        train(missing)


def test_output_that_cannot_be_made(direction, tmp_path, capsys):
    (tmp_path / "file").touch()
    error = fails(capsys, tiny_run(tmp_path / "file" / "run", direction), tmp_path)
    assert error.startswith("error: ")
    assert str(tmp_path / "file" / "run") in error


def test_kept_predictions_are_those_of_the_scores(direction, tmp_path, monkeypatch):
    # the first epoch stays the best one: its predictions must not give way to those of the second
    monkeypatch.setattr("timesformer_plus.engine.run_state.better", lambda _, old: old is None)
    config = tiny_run(tmp_path / "run", direction)
    assert train(config)["best_epoch"] == 0
    files = config.output / "predictions"
    assert {file.name for file in files.iterdir()} == {"val.npz", "test.npz"}
    for split in ("val", "test"):
        words = [str(files / f"{split}.npz"), "--result", str(config.output / "result.json"), "--split", split]
        done = subprocess.run([sys.executable, str(RESCORE), *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
