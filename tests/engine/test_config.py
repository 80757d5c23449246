"""Options: read, checked, written and read again."""

from pathlib import Path

import pytest

from timesformer_plus.engine.config import (
    EvaluationConfig,
    ModelConfig,
    OptimConfig,
    ScheduleConfig,
    TrainConfig,
    dump_config,
    parse_train_config,
    train_parser,
)
from timesformer_plus.engine.data_config import DataConfig

BASE = ["--output", "out", "--data.root", "videos"]


def refused(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        parse_train_config([*BASE, *words])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_dotted_words_win_over_the_file(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("""
output: from_file
data: {root: videos, num_frames: 4}
optim: {lr: 1e-4}
model: {pattern: "s*3 j", args: {depth: 4, global_pool: avg}}
""")
    config = parse_train_config(["--config", str(file), "--optim.weight_decay", "0", "--model.args.depth", "2"])
    assert config.output == Path("from_file")
    assert config.optim.lr == 1e-4  # a plain YAML 1.1 reader makes the string "1e-4" of it
    assert config.optim.weight_decay == 0
    assert config.model.args == {"depth": 2, "global_pool": "avg"}
    assert config.model.pattern == "s*3 j"
    assert config.data.num_frames == 4


def test_defaults_of_the_parser_are_those_of_the_dataclasses():
    expected = TrainConfig(output=Path("out"), data=DataConfig(root=Path("videos")))
    assert parse_train_config(BASE) == expected


@pytest.mark.parametrize(
    ("name", "meant"), [("model.nam", "model.name"), ("modell.name", "model.name"), ("epoch", "epochs")]
)
def test_unknown_option(capsys, name, meant):
    # --epoch is a prefix of --epochs: abbreviations are not taken either
    error = refused(capsys, f"--{name}", "3")
    assert error.startswith(f"error: {name} is not an option; did you mean ")
    assert meant in error


@pytest.mark.parametrize(
    ("line", "name", "meant"),
    [
        ("epoch: 3", "epoch", "epochs"),
        ("model: {nam: x}", "model.nam", "model.name"),
        ("data: {root: x, strid: 2}", "data.strid", "data.stride"),
    ],
)
def test_unknown_key_in_a_file(capsys, tmp_path, line, name, meant):
    file = tmp_path / "a.yaml"
    file.write_text(line + "\n")
    error = refused(capsys, "--config", str(file))
    assert error.startswith(f"error: {name} is not an option; did you mean {meant}?")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--epochs", "many"], "epochs"),
        (["--epochs", "0"], "epochs=0 is not positive"),
        (["--precision", "fp8"], "precision"),
        (["--optim.lr", "-1"], "optim.lr=-1.0 is not positive"),
        (["--label_smoothing", "0.1", "--data.multi_label", "true"], "one label a video"),
        (["--schedule.warmup_epochs", "10"], "leaves nothing of epochs=10"),
        (["--schedule.name", "multistep"], "multistep needs some"),
        (["--model.args.num_frames", "8"], "set by data.num_frames"),
        (["--model.args.pattern", "ts"], "set by model.pattern"),
        (["--augment.scale", "[0.5, 2]"], "augment.scale"),
        (["--augment.flip_pairs", "[[a, b]]"], "augment.hflip is 0"),
        (["--data.cache_mb", "5"], "give the folder that decoded videos"),
        (["--data.cache_dir", "here"], "give the folder that decoded videos"),
        (["--augment.scale", "[0.5, 1]", "--augment.multi_scale", "[1, 0.8]"], "two ways to crop"),
        (["--data.sampling", "seconds"], "seconds needs a positive target_fps"),
        (["--data.max_missing", "1"], "data.max_missing=1"),
    ],
)
def test_bad_value(capsys, words, reason):
    assert reason in refused(capsys, *words)


def test_required_options(capsys):
    with pytest.raises(SystemExit):
        parse_train_config(["--data.root", "videos"])
    assert "output" in capsys.readouterr().err


def test_written_configuration_reads_back_equal(tmp_path):
    config = TrainConfig(
        output=tmp_path / "no",
        data=DataConfig(root=Path("on"), img_size=(32, 64), test=None, multi_label=True),
        model=ModelConfig(name="m", pattern="s*2 | j*2", args={"depth": 4, "drop": 1e-5, "act": None, "norm": "rms"}),
        optim=OptimConfig(lr=1e-5, args={"betas": [0.9, 0.95], "foreach": False}),
        schedule=ScheduleConfig(name="multistep", milestones=(3, 5), warmup_epochs=0.5),
        evaluation=EvaluationConfig(num_crops=3),
        clip_grad=1.0,
        world_size=2,
    )
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config))
    assert parse_train_config(["--config", str(file)]) == config


def test_help_explains_every_option():
    text = train_parser().format_help()
    options = [line.split()[0] for line in text.splitlines() if line.startswith("  --")]
    assert len(options) > 50
    # an option without an explanation shows only "(type: …)" after its name
    blocks = text.split("\n  --")[1:]
    for block in blocks:
        explanation = " ".join(block.split("\n\n")[0].split()).partition(" (type:")[0].partition(" (required")[0]
        assert len(explanation.split()) > 3, block
