"""Every recipe in configs/: its header says what it must, and its command is one that works."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
import timm
import torch

from timesformer_plus.data.motion import write_motion
from timesformer_plus.engine.batches import GlobalBatches
from timesformer_plus.engine.build import build_model, build_optimizer, build_scheduler
from timesformer_plus.engine.build_data import build_mixer, build_recipe
from timesformer_plus.engine.checkpoint import save_checkpoint
from timesformer_plus.engine.config import EvaluationConfig, ModelConfig, parse_train_config
from timesformer_plus.engine.train import train

ROOT = Path(__file__).parents[1]
# a sweep is read by tools/ablate.py, a launcher's configuration by accelerate
RECIPES = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "configs").rglob("*.yaml")
    if path.relative_to(ROOT / "configs").parts[0] not in ("ablations", "accelerate")
)
PAPER = [name for name in RECIPES if Path(name).name.startswith("timesformer_")]
CLASSES = {"kinetics": 400, "something_v2": 174, "ucf101": 101, "hmdb51": 51}


def header(name):
    lines = (ROOT / name).read_text().splitlines()
    end = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return lines[:end]


def command(name):
    """Words of the training command in the header."""
    text = "\n".join(line.removeprefix("#") for line in header(name)).replace("\\\n", " ")
    found = [line for line in text.splitlines() if line.startswith("   ") and f"--config {name}" in line]
    assert found, f"{name}: the header has no indented command with --config {name}"
    return shlex.split(found[-1])


def processes(words):
    """How many processes a command starts."""
    count = 1
    for option in ("--nproc_per_node", "--nnodes", "--num_processes"):
        if option in words:
            count *= int(words[words.index(option) + 1])
    return count


def config_of(name, *more):
    words = command(name)
    return parse_train_config([*words[words.index("tools/train.py") + 1 :], *more])


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_there_is_a_recipe_for_everybody():
    assert {Path(name).stem for name in RECIPES if "kinetics400" in name} >= {
        "timesformer_base",
        "timesformer_hr",
        "timesformer_l",
        "vit_small_finetune",
        "vit_base_finetune",
    }
    assert {Path(name).stem for name in RECIPES if "ssv2" in name} >= {
        "timesformer_base",
        "timesformer_hr",
        "timesformer_l",
    }
    assert {"configs/ucf101.yaml", "configs/hmdb51.yaml", "configs/own_videos.yaml"} <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_the_header_says_command_cost_result_and_source(name):
    text = header(name)
    for part in ("Cost:", "Result:", "Source:"):
        (line,) = [line for line in text if line.startswith(f"# {part} ")]
        assert len(line.split()) > 3, f"{name}: {line}"
    # what was not measured says so; what was is a number
    for part in ("Cost:", "Result:"):
        start = next(i for i, line in enumerate(text) if line.startswith(f"# {part} "))
        entry = text[start]
        for line in text[start + 1 :]:
            if not line.startswith("#   "):
                break
            entry += line.removeprefix("#  ")
        assert re.search(r"\d", entry) or "not measured" in entry.lower(), f"{name}: {entry}"


@pytest.mark.parametrize("name", RECIPES)
def test_files_named_in_the_header_exist(name):
    text = "\n".join(header(name))
    for path in re.findall(r"(?:configs|tools|tests)/[\w/]+\.(?:yaml|py)", text):
        assert (ROOT / path).is_file(), path
    for path in re.findall(r"(?<![\w/])\w+\.yaml", text):
        assert (ROOT / name).with_name(path).is_file(), path


def further_options(name):
    """Options that the text of a header offers on top of its command: a list of words for every run of them."""
    text = " ".join(line.removeprefix("#").strip() for line in header(name) if not line.startswith("#   python"))
    value = r"(?:'[^']*'|[\w./:-]*[\w/])"
    return [shlex.split(run) for run in re.findall(rf"(?:--model\.[\w.]+ {value} ?)+", text)]


@pytest.mark.parametrize("name", RECIPES)
def test_weights_get_pixels_as_they_know_them(name):
    models = [config_of(name, *words).model for words in ([], *further_options(name))]
    models = [model for model in models if model.pretrained and ":" not in model.name]
    if name == "configs/own_videos.yaml":
        assert [model.name for model in models] == ["timesformer_from_image", "timesformer_base_patch16_224.fb_k400"]
    for model in models:
        overlay = model.args.get("pretrained_cfg_overlay")
        if overlay == {"file": "PATH"}:  # a copy of what is named beside it
            overlay = None
        source = Path(overlay["file"]).stem if overlay else model.args.get("image_model", model.name)
        assert "." in source, "an architecture alone does not say which weights"
        weights = timm.get_pretrained_cfg(source)
        assert weights is not None, source
        assert weights.hf_hub_id, source
        if name in PAPER and overlay:  # whose normalization is its authors' own, whatever the weights had
            assert overlay["num_classes"] == weights.num_classes
            assert (tuple(overlay["mean"]), tuple(overlay["std"])) == ((0.45,) * 3, (0.225,) * 3)
        else:
            assert overlay is None  # mean and std come with the name
            with torch.device("meta"):
                network = build_model(dataclasses.replace(model, pretrained=False), config_of(name).data, 8)
            recipe = build_recipe(network, config_of(name).data, EvaluationConfig())
            assert (recipe.mean, recipe.std) == (weights.mean, weights.std)


@pytest.mark.parametrize("name", RECIPES)
def test_the_command_is_accepted_and_its_batch_divides(name):
    config = config_of(name)
    world_size = processes(command(name))
    assert config.world_size in ((None, 1) if world_size == 1 else (world_size,))
    mixes = build_mixer(config.augment, num_classes=10) is not None
    batches = GlobalBatches(
        100_000,
        batch_size=config.batch_size,
        epochs=config.epochs,
        seed=0,
        world_size=world_size,
        accumulate=config.accumulate,
        repeats=config.augment.repeats,
        pairs=mixes,
    )
    assert batches.micro_size * world_size * config.accumulate == config.batch_size


@pytest.mark.parametrize("name", RECIPES)
def test_other_worlds_that_the_header_names_divide_too(name):
    text = "\n".join(header(name))
    for world_size in map(int, re.findall(r"--world_size (\d+)", text)):
        sentence = next(part for part in re.split(r"\.\s", text) if f"--world_size {world_size}" in part)
        given = re.search(r"--accumulate (\d+)", sentence)
        config = config_of(name)
        accumulate = int(given[1]) if given else config.accumulate
        assert config.batch_size % (world_size * accumulate) == 0


@pytest.mark.parametrize("name", RECIPES)
def test_the_model_can_be_made_and_trained_by_its_optimizer(name):
    config = config_of(name)
    model = dataclasses.replace(config.model, pretrained=False)
    with torch.device("meta"):
        network = build_model(model, config.data, num_classes=CLASSES.get(config.data.format, 8))
    recipe = build_recipe(network, config.data, config.evaluation)
    assert recipe.protocol.name == (config.evaluation.protocol or recipe.protocol.name)
    overlay = model.args.get("pretrained_cfg_overlay", {})
    if "mean" in overlay:
        assert recipe.mean == tuple(overlay["mean"])
    # what the weights are called is what the model is
    width = {"small": 384, "base": 768}
    for size in width:
        if f"vit_{size}" in str(overlay.get("file", model.args.get("image_model", ""))):
            assert network.embed_dim == width[size]
    optimizer = build_optimizer(network, config.optim)
    scheduler = build_scheduler(optimizer, config.schedule, epochs=config.epochs, steps_per_epoch=10)
    peak = 0.0
    for step in range(10 * config.epochs):
        scheduler.step_update(step)
        peak = max(peak, *(group["lr"] for group in optimizer.param_groups))
    assert peak == pytest.approx(config.optim.lr, rel=0.1)  # a cosine is lower where its warm-up ends


def entry(name, part):
    """What a header says under ``part``, in one line."""
    text = "\n".join(header(name))
    return " ".join(re.search(rf"^# {part}: .*(?:\n#   .*)*", text, flags=re.MULTILINE)[0].replace("\n#", " ").split())


# the released script for a data set, with the defaults of the program that it calls (github.com/MCG-NJU/VideoMAE)
VIDEOMAE = {
    "epochs": 75,
    "videos an update": 384,
    "data.num_frames": 16,
    "data.stride": 4,
    "augment.scale": (0.08, 1.0),
    "augment.ratio": (0.75, 4 / 3),
    "augment.hflip": 0.5,
    "augment.color_jitter": 0.0,  # the program has an option for it that nothing reads
    "augment.rand_augment": "m7-n4-mstd0.5-inc1",
    "augment.erasing": 0.25,
    "augment.erasing_mode": "pixel",
    "augment.mixup": 0.8,
    "augment.cutmix": 1.0,
    "augment.mix_prob": 1.0,
    "augment.mix_switch": 0.5,
    "augment.repeats": 2,
    "model.args.drop_path_rate": 0.1,
    "model.args.drop_rate": 0.0,
    "optim.name": "adamw",
    "optim.weight_decay": 0.05,
    "optim.layer_decay": 0.75,
    "optim.lr": 5e-4,  # this and the next for 256 videos an update
    "schedule.min_lr": 1e-6,
    "schedule.name": "cosine",
    "schedule.warmup_epochs": 5,
    "evaluation.protocol": "videomae",
    "ema.decay": None,
    "clip_grad": None,
    "label_smoothing": 0.1,
    "precision": "fp16",
}
SOURCES = {
    "configs/kinetics400/vit_base_finetune.yaml": VIDEOMAE,
    "configs/kinetics400/vit_small_finetune.yaml": VIDEOMAE | {"epochs": 150},
    "configs/ucf101.yaml": VIDEOMAE
    | {
        "epochs": 100,
        "videos an update": 128,
        "model.args.drop_path_rate": 0.2,
        "model.args.drop_rate": 0.5,
        "optim.layer_decay": 0.7,
        "schedule.min_lr": 1e-5,
    },
}
IN_WORDS = {None: "not bounded", "augment.repeats": "2 times", "data.stride": "1 in 4", "evaluation.protocol": "5 x 3"}


@pytest.mark.parametrize("name", SOURCES)
def test_settings_are_those_of_the_source_or_named_with_what_it_has(name):
    config = config_of(name)
    own = {f"{part}.{key}": value for part in ("data", "augment", "optim", "schedule", "evaluation", "ema")
           for key, value in dataclasses.asdict(getattr(config, part)).items()}  # fmt: skip
    own |= {key: value for key, value in dataclasses.asdict(config).items() if not isinstance(value, dict)}
    own |= {f"model.args.{key}": config.model.args.get(key, 0.0) for key in ("drop_path_rate", "drop_rate")}
    own["videos an update"] = videos = config.batch_size // config.augment.repeats
    if config.data.sampling == "segments":
        own["data.stride"] = "none"
    said = entry(name, "Source")
    for option, value in SOURCES[name].items():
        if option in ("optim.lr", "schedule.min_lr"):
            assert own[option] == pytest.approx(value * videos / 256), option
        elif own[option] != pytest.approx(value) if isinstance(value, float) else own[option] != value:
            assert f"({IN_WORDS.get(option, IN_WORDS.get(value, value))})" in said, option


def test_hmdb51_is_trained_as_ucf101_but_for_the_epochs():
    ucf, hmdb = config_of("configs/ucf101.yaml"), config_of("configs/hmdb51.yaml")
    assert dataclasses.replace(hmdb, epochs=ucf.epochs, data=ucf.data, output=ucf.output) == ucf
    assert (
        dataclasses.replace(
            hmdb.data, **{key: getattr(ucf.data, key) for key in ("root", "format", "train", "val", "videos")}
        )
        == ucf.data
    )
    assert f"{hmdb.epochs} epochs" in entry("configs/hmdb51.yaml", "Source")


@pytest.mark.parametrize("name", ["configs/ucf101.yaml", "configs/hmdb51.yaml"])
def test_the_command_that_starts_from_a_run_loads_it_and_keeps_the_dropout(name, tmp_path, monkeypatch):
    recipe = config_of(name)
    words, published = (words for words in further_options(name) if "PATH" not in words)
    config = config_of(name, *words)
    assert config_of(name, *published).model.args == config.model.args
    kept = recipe.model.args.keys() - {"image_model"}
    assert {key: config.model.args[key] for key in kept} == {key: recipe.model.args[key] for key in kept}
    # the run: a small model of the same pattern, with other classes, and pixels of its own
    monkeypatch.chdir(tmp_path)
    overlay = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    small = ModelConfig(
        name="timesformer_test_patch8_32",
        pattern=config.model.pattern,
        args={"pretrained_cfg_overlay": overlay},
    )
    data = dataclasses.replace(config.data, img_size=32)
    run = build_model(small, data, num_classes=3)
    made = build_recipe(run, data, config.evaluation)
    save_checkpoint(Path("runs/RUN/best"), run, classes=("a", "b", "c"), recipe=made)
    network = build_model(config.model, data, num_classes=5)
    trained = run.state_dict()
    for key, value in network.state_dict().items():
        if not key.startswith("head."):
            torch.testing.assert_close(value, trained[key], rtol=0, atol=0)
    assert network.head.out_features == 5
    assert network.head_drop.p == 0.5
    again = build_recipe(network, data, config.evaluation)
    assert (again.mean, again.std) == (overlay["mean"], overlay["std"])


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_settings(name):
    config = config_of(name)
    with torch.device("meta"):
        network = build_model(dataclasses.replace(config.model, pretrained=False), config.data, num_classes=400)
    recipe = build_recipe(network, config.data, config.evaluation)
    frames, side = {"base": (8, 224), "hr": (16, 448), "l": (96, 224)}[Path(name).stem.split("_")[1]]
    if name == "configs/ssv2/timesformer_l.yaml":
        frames = 64
    assert (recipe.num_frames, recipe.img_size) == (frames, (side, side))
    assert (recipe.num_clips, recipe.num_crops, recipe.average) == (1, 3, "logits")
    assert (recipe.mean, recipe.std) == ((0.45,) * 3, (0.225,) * 3)
    if "kinetics400" in name:
        assert (recipe.sampling, recipe.stride) == ("stride", {8: 32, 16: 16, 96: 4}[frames])
        assert config.augment.hflip == 0.5
    else:
        assert recipe.sampling == "segments"
        assert config.augment.hflip == 0  # left and right are classes
    assert (config.epochs, config.batch_size, config.precision) == (15, 64, "fp32")
    assert config.augment.short_side == ((448, 512) if side == 448 else (256, 320))
    optimizer = build_optimizer(network, config.optim)
    names = {parameter: name for name, parameter in network.named_parameters()}
    decayed = set()
    for group in optimizer.param_groups:
        assert group["nesterov"]
        assert group["momentum"] == 0.9
        assert group["weight_decay"] in (0, 1e-4)
        decayed |= {names[parameter] for parameter in group["params"] if group["weight_decay"]}
    # norms and biases are decayed, other than the engine has it by default
    assert set(names.values()) - decayed == {"cls_token", "pos_embed", "time_embed"}
    scheduler = build_scheduler(optimizer, config.schedule, epochs=15, steps_per_epoch=100)
    rates = []
    for step in range(1500):
        scheduler.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    # timm lowers the rate one update before the milestone
    assert rates[:1099] == [5e-3] * 1099
    assert rates[1099:1399] == pytest.approx([5e-4] * 300)
    assert rates[1399:] == pytest.approx([5e-5] * 101)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_motion(
        "direction", tmp_path_factory.mktemp("direction") / "data", train=16, val=8, test=8, progress=False
    )


# of those that differ in their data alone, one
SMALL = [name for name in RECIPES if name not in PAPER or name.endswith("base.yaml")]
SMALL = [name for name in SMALL if "lattice" not in name and "drift" not in name and "vit_base" not in name]


@pytest.mark.parametrize("name", SMALL)
def test_two_updates_of_a_small_model_with_everything_else_as_it_is(name, videos, tmp_path):
    config = config_of(name, "--output", str(tmp_path / "run"))
    kept = {"drop_path_rate", "drop_rate", "global_pool", "class_token", "fc_norm"}
    args = {key: value for key, value in config.model.args.items() if key in kept}
    if "image_model" in config.model.args:
        model = {"name": "timesformer_from_image", "args": {"image_model": "test_vit", **args}}
    else:
        sizes = {"depth": 1, "embed_dim": 32, "num_heads": 2}
        model = {"name": "timesformer_test_patch8_32", "args": {**sizes, **args}}
    small = dataclasses.replace(
        config,
        data=dataclasses.replace(
            config.data,
            root=videos,
            train="train.csv",
            val="val.csv",
            test=None if config.data.test is None else "test.csv",
            format="csv",
            videos=None,
            num_frames=8,
            stride=1,
            img_size=32,
            decode_size=None,
            num_workers=0,
            cache_dir=None,
            cache_mb=0,
        ),
        model=ModelConfig(pattern=config.model.pattern, **model),
        augment=dataclasses.replace(config.augment, short_side=config.augment.short_side and (36, 40)),
        schedule=dataclasses.replace(
            config.schedule,
            warmup_epochs=0.5 if config.schedule.warmup_epochs else 0,
            milestones=(1,) if config.schedule.milestones else (),
        ),
        evaluation=dataclasses.replace(config.evaluation, short_side=None, batch_size=None),
        epochs=1,
        batch_size=8 * config.augment.repeats,
        world_size=None,
        threads=1,
        progress=False,
        trackers=(),
        precision="fp32",  # accelerate refuses another one in the same process
    )
    result = train(small)
    assert result["status"] == "finished"
    assert result["steps"] == 2
    assert result["protocol"]["name"] == (config.evaluation.protocol or result["protocol"]["name"])
