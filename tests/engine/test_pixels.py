"""What a run's pixels become, and whether its first weights expect that."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import PretrainedCfg, save_for_hf
from timm.models._registry import _model_pretrained_cfgs
from tiny_runs import TINY, tiny_run

from timesformer_plus.data.transforms import Normalize
from timesformer_plus.engine.build import build_model
from timesformer_plus.engine.build_data import build_normalize, build_recipe
from timesformer_plus.engine.checkpoint import load_checkpoint
from timesformer_plus.engine.config import EvaluationConfig, ModelConfig
from timesformer_plus.engine.data_config import DataConfig
from timesformer_plus.engine.pixels import channel_order_of, describe_pixels
from timesformer_plus.engine.train import train
from timesformer_plus.models import timesformer
from timesformer_plus.models.registry import Published, published_cfg

ARCHITECTURE = "timesformer_test_patch8_32"
NAME = f"{ARCHITECTURE}.tiny_ssv2"
MEAN, STD = (0.1, 0.4, 0.7), (0.2, 0.3, 0.5)
SAID = "mean 0.1 0.4 0.7, std 0.2 0.3 0.5, channel order bgr"


@pytest.fixture
def name(monkeypatch):
    """A published name whose weights take blue first."""
    checkpoint = Published(
        num_classes=174, img_size=32, mean=MEAN, std=STD, channel_order="bgr", dataset="something_v2"
    )
    monkeypatch.setitem(timesformer.PUBLISHED, NAME, checkpoint)
    cfg = PretrainedCfg(**{**published_cfg(checkpoint), "tag": "tiny_ssv2", "architecture": ARCHITECTURE})
    monkeypatch.setitem(_model_pretrained_cfgs, NAME, cfg)
    return NAME


@pytest.fixture
def weights(tmp_path):
    """A file with weights for that name."""
    torch.manual_seed(1)
    save_file(timm.create_model(ARCHITECTURE, num_classes=174).state_dict(), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def settle(model, **data):
    """Recipe and line of a run that begins with such a model."""
    options = DataConfig(root=Path(), **data)
    network = build_model(model, options, 5)
    recipe = build_recipe(network, options, EvaluationConfig())
    config = replace(tiny_run("run", "."), model=model, data=options)
    return recipe, describe_pixels(config, network.pretrained_cfg, recipe.channel_order)


def begin(name, file, **overlay):
    return ModelConfig(name=name, pretrained=True, args={"pretrained_cfg_overlay": {"file": str(file), **overlay}})


def test_pixels_are_those_of_the_published_weights(name, weights):
    recipe, line = settle(begin(name, weights))
    assert (recipe.mean, recipe.std, recipe.channel_order) == (MEAN, STD, "bgr")
    assert line == f"pixels: {SAID}"
    normalize = build_normalize(recipe)
    video = torch.randint(0, 256, (3, 8, 32, 32), dtype=torch.uint8)
    assert torch.equal(normalize(video), Normalize(MEAN, STD)(video).flip(0))
    # from scratch nothing has been learned, but the name's clips stay what they are: a preview shows the same
    assert settle(ModelConfig(name=name))[0] == recipe


def test_what_is_stated_otherwise_is_used_and_said(name, weights):
    recipe, line = settle(begin(name, weights, mean=(0.5, 0.5, 0.5)), channel_order="rgb")
    assert (recipe.mean, recipe.std, recipe.channel_order) == ((0.5, 0.5, 0.5), STD, "rgb")
    assert line == (
        "pixels: mean 0.5 0.5 0.5, std 0.2 0.3 0.5, channel order rgb, as stated here; the weights of "
        f"{name} were trained with mean 0.1 0.4 0.7, channel order bgr"
    )
    assert settle(begin(name, weights), channel_order="bgr")[1] == f"pixels: {SAID}"


def test_a_file_of_which_nobody_knows(weights):
    usual = "pixels: mean 0.45 0.45 0.45, std 0.225 0.225 0.225, channel order rgb"
    assert settle(ModelConfig(name=ARCHITECTURE))[1] == usual
    model = begin(ARCHITECTURE, weights, num_classes=174)
    line = settle(model)[1]
    assert line.startswith(f"{usual}; nobody says what the weights in {weights} were trained with: ")
    assert "pretrained_cfg_overlay (mean, std) and data.channel_order" in line
    stated = begin(ARCHITECTURE, weights, num_classes=174, mean=(0.5,) * 3, std=(0.5,) * 3)
    recipe, line = settle(stated, channel_order="bgr")
    assert recipe.channel_order == "bgr"
    assert line == f"pixels: mean 0.5 0.5 0.5, std 0.5 0.5 0.5, channel order bgr, as stated for {weights}"


def test_inflated_weights_bring_the_numbers_of_the_image_model(tmp_path):
    image = timm.create_model("test_vit2.r160_in1k")
    save_file(image.state_dict(), tmp_path / "image.safetensors")
    overlay = {"file": str(tmp_path / "image.safetensors")}
    args = {"image_model": "test_vit2.r160_in1k", "pretrained_cfg_overlay": overlay}
    model = ModelConfig(name="timesformer_from_image", pretrained=True, args=args)
    recipe, line = settle(model, num_frames=4)
    own = image.pretrained_cfg
    assert (recipe.mean, recipe.std, recipe.channel_order) == (own["mean"], own["std"], "rgb")
    assert recipe.img_size == (160, 160)
    assert line == "pixels: mean 0.5 0.5 0.5, std 0.5 0.5 0.5, channel order rgb"
    args["pretrained_cfg_overlay"] = {**overlay, "mean": (0.1, 0.2, 0.3)}
    recipe, line = settle(model, num_frames=4)
    assert recipe.mean == (0.1, 0.2, 0.3)
    assert line.endswith("as stated here; the weights of test_vit2.r160_in1k were trained with mean 0.5 0.5 0.5")


def test_a_run_and_what_goes_on_from_it_keep_the_order(name, weights, direction, tmp_path, capsys):
    """Fine-tuned, the model is a checkpoint; another run begins with that: both see blue first."""
    first = tiny_run(tmp_path / "first", direction, epochs=1, model=begin(name, weights), progress=True)
    result = train(first)
    assert result["protocol"]["channel_order"] == "bgr"
    assert f"pixels: {SAID}" in capsys.readouterr().out
    folder = tmp_path / "first" / "best"
    assert load_checkpoint(folder).recipe.channel_order == "bgr"
    again = ModelConfig(name=f"local-dir:{folder}", pretrained=True)
    recipe, line = settle(again)
    assert (recipe.mean, recipe.std, recipe.channel_order) == (MEAN, STD, "bgr")
    assert line == f"pixels: {SAID}"
    assert settle(again, channel_order="rgb")[1].endswith(f"the weights of local-dir:{folder} were trained with "
                                                          "channel order bgr")  # fmt: skip


def test_the_order_is_read_from_folders_that_others_wrote(name, weights, tmp_path):
    # timm's own writer keeps the tag of the weights
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(weights)})
    save_for_hf(model, str(tmp_path / "timm"), safe_serialization=True)
    loaded = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True)
    assert channel_order_of(loaded.pretrained_cfg) == "bgr"
    # an older checkpoint of ours had no choice
    config = json.loads((tmp_path / "timm" / "config.json").read_text())
    (tmp_path / "timm" / "config.json").write_text(json.dumps({**config, "clips": {"num_frames": 8}}))
    assert channel_order_of(loaded.pretrained_cfg) == "rgb"
    assert channel_order_of(timm.create_model(**{"model_name": TINY.name, **TINY.args}).pretrained_cfg) == "rgb"
    assert channel_order_of({}) == "rgb"
