"""Options that do not exist: one line, with the name that was meant."""

import pytest
from jsonargparse import ArgumentError

from timesformer_plus.engine.config import TrainConfig
from timesformer_plus.engine.option_names import OptionParser, explain_unknown, nearest_options


@pytest.fixture
def parser():
    made = OptionParser(prog="train", allow_abbrev=False)
    made.add_argument("--config", action="config")
    made.add_class_arguments(TrainConfig, as_group=False)
    return made


def answer(parser, capsys, *words):
    """What a wrong command prints: one line."""
    with pytest.raises(SystemExit) as stop:
        parser.instantiate(parser.parse_args(["--output", "out", "--data.root", "videos", *words]))
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    return line


NEAR = {
    "optim.learning_rate": "optim.lr",
    "optim.lrr": "optim.lr",
    "optm.lr": "optim.lr",
    "lr": "optim.lr",
    "wd": "optim.weight_decay",
    "bs": "batch_size",
    "epoch": "epochs",
    "num_epochs": "epochs",
    "workers": "data.num_workers",
    "data.workers": "data.num_workers",
    "data.strid": "data.stride",
    "data.batch_size": "batch_size",
    "data.limits.max_side": "data.limits.max_seconds",
    "model.nam": "model.name",
    "model.num_frames": "data.num_frames",
    "ema_decay": "ema.decay",
    "clip_gard": "clip_grad",
    "data.augment.scale": "augment.scale",
    "foo.bar.baz": None,
    "model.depth": None,
    "ema.foo": None,
}


@pytest.mark.parametrize(("given", "meant"), NEAR.items())
def test_the_nearest_name(parser, given, meant):
    near = nearest_options(given, parser.option_names())
    assert (near[0] if near else None) == meant


def test_all_that_are_equally_near(parser):
    options = parser.option_names()
    near = nearest_options("schedule.warmup", options)
    assert set(near) == {"schedule.warmup_epochs", "schedule.warmup_lr", "ema.warmup"}
    assert nearest_options("data.batch_size", options) == ("batch_size", "evaluation.batch_size")


def test_every_option_with_two_letters_exchanged_is_recognised(parser):
    options = parser.option_names()
    assert len(options) > 60
    missed = []
    for option in options:
        section, dot, last = option.rpartition(".")
        if len(last) < 5:
            continue
        typo = section + dot + last[:2] + last[3] + last[2] + last[4:]
        if typo not in options and option not in nearest_options(typo, options):
            missed.append((typo, nearest_options(typo, options)))
    assert not missed


@pytest.mark.parametrize("form", ["{option} 3", "{option}=3"])
def test_unknown_on_the_command_line(parser, capsys, form):
    words = form.format(option="--optim.learning_rate").split()
    assert "optim.learning_rate is not an option; did you mean optim.lr?" in answer(parser, capsys, *words)


def test_several_at_once(parser, capsys):
    line = answer(parser, capsys, "--lr", "3", "--epoch=4")
    assert "lr is not an option; did you mean optim.lr?" in line
    assert "epoch is not an option; did you mean epochs?" in line


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("epoch: 3", "epoch is not an option; did you mean epochs?"),
        ("optim: {learning_rate: 1}", "optim.learning_rate is not an option; did you mean optim.lr?"),
        ("optm: {lr: 1}", "optm.lr is not an option; did you mean optim.lr?"),
        ("data: {limits: {max_side: 3}}", "data.limits.max_side is not an option; did you mean"),
        ("model: {depth: 3}", "what model takes besides its options goes in model.args.depth"),
        ("ema: {foo: 3}", "ema.foo is not an option; ema has decay, warmup"),
        ("bogus_thing: 1", "bogus_thing is not an option"),
        ("model: 3", "model: 3 is no mapping of options, such as {name: …}"),
        ("epochs: 3\nmodel:", "model: null is no mapping of options; leave model out"),
        ("data: {limits: 3}", "data.limits: 3 is no mapping"),
        ("optim: {lr: null}", "optim.lr: null is no float; leave it out"),
        ("optim: {lr: fast}", "optim.lr: fast is no float"),
        ("precision: fp8", "precision: fp8 is no choice among 'fp64', 'fp32', 'bf16', 'fp16'"),
        ("augment: {scale: 3}", "augment.scale: 3 is none of "),
        ("optim: {lr: 1}\nepochs: 3\noptim: {lr: 2}", "'optim' is given twice, in lines 1 and 3"),
        ("model:\n  args:\n    depth: 3\n    depth: 4", "'depth' is given twice, in lines 3 and 4"),
        ("trackers: [{a: 1, a: 2}]", "'a' is given twice"),
        ("- a", "Unexpected config: - a"),
        ("a: b: c", "mapping values are not allowed here"),
    ],
)
def test_wrong_in_a_file(parser, capsys, tmp_path, text, told):
    file = tmp_path / "a.yaml"
    file.write_text(text + "\n")
    assert told in answer(parser, capsys, "--config", str(file))


def test_what_is_right_is_taken(parser, tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text(
        "optim: {lr: 1e-4}\ndata: {test: null, root: x}\nmodel: {args: {depth: 3, name: null}}\nclip_grad:\n"
    )
    options = parser.parse_args(["--output", "o", "--config", str(file), "--model.args.embed_dim", "8"])
    config = parser.instantiate(options)
    assert config.optim.lr == 1e-4  # YAML 1.1 makes the string "1e-4" of it
    assert config.data.test is None
    assert config.clip_grad is None
    assert config.model.args == {"depth": 3, "name": None, "embed_dim": 8}


def test_one_key_of_a_mapping_in_a_mapping(parser, tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("model: {args: {depth: 3, overlay: {file: a, classes: 5, mean: [0.5]}}}\n")
    base = ["--output", "o", "--data.root", "v", "--config", str(file)]
    words = [
        "--model.args.overlay.file",
        "b",
        "--epochs",
        "3",
        "--model.args.overlay.eps=1e-4",
        "--model.args.depth",
        "4",
    ]
    options = parser.parse_args([*base, *words, "--model.args.new.deep.down", "[1]"])
    overlay = {"file": "b", "classes": 5, "mean": [0.5], "eps": 1e-4}
    assert options.model.args == {"depth": 4, "overlay": overlay, "new": {"deep": {"down": [1]}}}
    assert options.epochs == 3
    # nothing of it stays behind in the parser
    assert parser.parse_args(["--output", "o", "--data.root", "v"]).model.args == {}


def test_one_key_of_what_is_no_mapping(parser, capsys):
    told = "model.args.depth is 3, which has no 'x'"
    assert told in answer(parser, capsys, "--model.args.depth", "3", "--model.args.depth.x", "4")
    assert "--model.args: expected one argument" in answer(parser, capsys, "--model.args.a.b")


def test_callers_that_catch_errors_get_the_same_line(parser):
    parser.exit_on_error = False
    with pytest.raises(ArgumentError, match=r"optim.lrr is not an option; did you mean optim.lr\?"):
        parser.parse_object({"output": "o", "optim": {"lrr": 3}})


def test_the_configuration_can_be_printed(parser, capsys):
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(["--output", "o", "--data.root", "v", "--optim.lr", "0.5", "--print_config"])
    assert stop.value.code == 0
    assert "lr: 0.5" in capsys.readouterr().out


def test_sections_without_near_names_are_listed():
    assert explain_unknown("a.zzz", ["a.one", "a.two", "b.three"]) == "a.zzz is not an option; a has one, two"
    assert explain_unknown("zzz", ["a.one"]) == "zzz is not an option"
