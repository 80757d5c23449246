"""V-JEPA 2 against transformers' classes with random weights; version 2.1's rotation written out by hand."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from published_peers import TOLERANCE, assert_same_classifier, assert_same_outputs, load, perturb
from safetensors.torch import save_file
from timm.layers import apply_rot_embed_cat
from torch import Tensor
from transformers import VJEPA2Config, VJEPA2ForVideoClassification, VJEPA2Model

from timesformer_plus import Grid, VideoTransformer
from timesformer_plus.models.rotary_3d import rotary_3d
from timesformer_plus.models.vjepa2 import PUBLISHED
from timesformer_plus.models.weights import load_weights

CONFIG = {
    "crop_size": 32,
    "patch_size": 8,
    "frames_per_clip": 8,
    "tubelet_size": 2,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,  # 12 channels a head: all are rotated
    "mlp_ratio": 2.0,
    "num_labels": 7,
    "num_pooler_layers": 2,
    "pred_hidden_size": 24,
    "pred_num_hidden_layers": 1,
    "pred_num_attention_heads": 2,
}


def ours_like(config: dict, **options: object) -> VideoTransformer:
    return timm.create_model(
        "vjepa2_large_patch16_256",
        **{
            "img_size": config["crop_size"],
            "patch_size": config["patch_size"],
            "num_frames": config["frames_per_clip"],
            "tubelet_size": config["tubelet_size"],
            "embed_dim": config["hidden_size"],
            "depth": 3,
            "num_heads": config["num_attention_heads"],
            "mlp_ratio": config["mlp_ratio"],
            "attn_pool_depth": config["num_pooler_layers"],
            "num_classes": 7,
            "input_format": "NCTHW",
            **options,
        },
    )


def clip(config: dict, frames: int | None = None) -> Tensor:
    return torch.randn(2, 3, frames or config["frames_per_clip"], config["crop_size"], config["crop_size"])


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, {}),
        ({"num_attention_heads": 3}, {}),  # 16 channels a head: 3 x 4 and a rest of 4
        ({"num_attention_heads": 2}, {}),  # 24: 3 x 8
        ({"hidden_size": 44, "num_attention_heads": 2}, {}),  # 22: 3 x 6 and a rest of 4
        ({"hidden_size": 40, "num_attention_heads": 5}, {}),  # 8: 3 x 2 and a rest of 2
        ({"frames_per_clip": 4}, {}),
        ({"frames_per_clip": 6, "tubelet_size": 3}, {}),
        ({"crop_size": 48}, {}),
        ({"patch_size": 16}, {}),
        ({"num_pooler_layers": 0}, {}),
        ({"num_pooler_layers": 3, "mlp_ratio": 3.0}, {}),  # the pooler's own ratio stays 4
        ({"qkv_bias": False}, {"qkv_bias": False}),
        ({"hidden_act": "gelu_new"}, {"act_layer": "gelu_tanh"}),
        ({"layer_norm_eps": 1e-3}, {"norm_eps": 1e-3}),
    ],
    ids=str,
)
def test_a_classifier_equals_transformers(changes: dict, options: dict) -> None:
    config = {**CONFIG, **changes}
    theirs = perturb(VJEPA2ForVideoClassification(VJEPA2Config(**config)))
    ours = ours_like(config, **options)
    report = load(ours, theirs.state_dict())
    assert report.family == "V-JEPA 2 (transformers)"
    assert {key.split(".")[1] for key in report.ignored} == {"predictor"}
    assert_same_classifier(ours, theirs, clip(config))


@pytest.mark.parametrize("frames", [2, 8, 12])
def test_an_encoder_equals_transformers_at_every_length(frames: int) -> None:
    theirs = perturb(VJEPA2Model(VJEPA2Config(**CONFIG)))
    ours = ours_like(CONFIG, num_classes=0, global_pool="avg", fc_norm=False, dynamic_num_frames=True)
    report = load(ours, theirs.state_dict())
    assert {key.split(".")[0] for key in report.ignored} == {"predictor"}
    x = clip(CONFIG, frames)
    output = theirs(x.transpose(1, 2), skip_predictor=True, output_hidden_states=True)
    assert_same_outputs(ours, x, output.last_hidden_state, ours.forward_features(x), output.hidden_states)
    torch.testing.assert_close(ours(x), output.last_hidden_state.mean(dim=1), **TOLERANCE)


def test_through_timms_door_from_a_file_in_the_published_format(tmp_path) -> None:
    theirs = perturb(VJEPA2ForVideoClassification(VJEPA2Config(**CONFIG)))
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    overlay = {"file": str(tmp_path / "model.safetensors"), "num_classes": 7, "input_size": (3, 32, 32)}
    door = {"pretrained": True, "pretrained_cfg": "fb_ssv2", "pretrained_cfg_overlay": overlay}
    ours = ours_like(CONFIG, **door).eval()
    x = clip(CONFIG)
    torch.testing.assert_close(ours(x), theirs(x.transpose(1, 2)).logits, **TOLERANCE)
    # no table: another size needs nothing resampled, and non-square frames are no harder
    ours.set_input_size(img_size=(24, 40), num_frames=4)
    wide = ours_like({**CONFIG, "crop_size": (24, 40), "frames_per_clip": 4}, **door).eval()
    x = torch.randn(1, 3, 4, 24, 40)
    assert torch.equal(ours(x), wide(x))


def turn(x: Tensor, place: float, first: int, part: int) -> Tensor:
    """One axis of version 2.1 by hand: channels ``first`` to ``first + part`` of a head, pair by pair."""
    y = x.clone()
    for i in range(part // 2):
        angle = place / 10000 ** (2 * i / part)
        a, b = x[first + 2 * i], x[first + 2 * i + 1]
        y[first + 2 * i] = a * math.cos(angle) - b * math.sin(angle)
        y[first + 2 * i + 1] = a * math.sin(angle) + b * math.cos(angle)
    return y


@pytest.mark.parametrize("patch_size", [14, 16])
def test_version_2_1_turns_pairs_and_stretches_height_and_width(patch_size: int) -> None:
    grid, d = Grid(3, 4, 6), 16
    x = torch.randn(grid.num_tokens, d)
    sin, cos = rotary_3d(grid, d, "vjepa2.1", patch_size).chunk(2, dim=-1)
    turned = apply_rot_embed_cat(x, torch.cat([sin, cos], dim=-1))
    trained = {14: 18, 16: 16}[patch_size]
    for n in range(grid.num_tokens):
        t, h, w = n // 24, n // 6 % 4, n % 6
        y = turn(x[n], t, 0, 4)
        y = turn(y, h * (trained - 1) / 3, 4, 4)
        y = turn(y, w * (trained - 1) / 5, 8, 4)
        torch.testing.assert_close(turned[n], y, rtol=1e-5, atol=1e-5)
    assert torch.equal(turned[:, 12:], x[:, 12:]), "the rest of a head is not rotated"
    assert torch.isfinite(rotary_3d(Grid(3, 1, 1), d, "vjepa2.1")).all()


def test_the_two_types_differ_where_they_say() -> None:
    """At 256 px nothing is stretched; with two channels an axis, tiled and repeated are the same."""
    grid = Grid(2, 16, 16)
    assert torch.equal(rotary_3d(grid, 8, "vjepa2"), rotary_3d(grid, 8, "vjepa2.1"))
    assert not torch.allclose(rotary_3d(grid, 12, "vjepa2"), rotary_3d(grid, 12, "vjepa2.1"))
    assert not torch.allclose(rotary_3d(Grid(2, 8, 8), 8, "vjepa2"), rotary_3d(Grid(2, 8, 8), 8, "vjepa2.1"))


def as_original(ours: VideoTransformer, version: str) -> dict[str, Tensor]:
    """Our weights by the names of the original repository's files, whose encoder sits in two wrappers."""
    state = {f"module.backbone.{key}": tensor for key, tensor in ours.state_dict().items()}
    if version == "2":
        state["module.backbone.pos_embed"] = torch.zeros(1, 64, 48)
        return state
    named = {key.replace("backbone.norm.", "backbone.norms_block.3."): tensor for key, tensor in state.items()}
    for i in range(3):
        named |= {f"module.backbone.norms_block.{i}.{kind}": torch.randn(48) for kind in ("weight", "bias")}
    added = torch.randn(1, 1, 48)
    named["module.backbone.patch_embed.proj.bias"] = named["module.backbone.patch_embed.proj.bias"] - added.flatten()
    named |= {"module.backbone.video_mod_embed": added, "module.backbone.img_mod_embed": torch.randn(1, 1, 48)}
    named["module.backbone.patch_embed_img.proj.weight"] = torch.randn(48, 3, 1, 8, 8)
    return named


@pytest.mark.parametrize("version", ["2", "2.1"])
def test_encoders_of_the_original_repository(version: str) -> None:
    options = {"num_classes": 0, "global_pool": "avg", "rope_type": "vjepa2" if version == "2" else "vjepa2.1"}
    source, ours = ours_like(CONFIG, **options), ours_like(CONFIG, **options)
    perturb(source)
    report = load(ours, as_original(source, version))
    assert report.family == "V-JEPA 2 (original repository)"
    assert len(report.ignored) == (1 if version == "2" else 2)
    x = clip(CONFIG)
    torch.testing.assert_close(ours(x), source(x), **TOLERANCE)


@pytest.mark.parametrize("rope_type", ["vjepa2", "vjepa2.1"])
@pytest.mark.parametrize("version", ["2", "2.1", "transformers"])
def test_weights_of_another_rotation_are_refused(version: str, rope_type: str, tmp_path) -> None:
    """Nothing else would tell: the shapes are the same."""
    encoder = {"num_classes": 0, "global_pool": "avg"}
    if version == "transformers":
        state = perturb(VJEPA2Model(VJEPA2Config(**CONFIG))).state_dict()
    else:
        state = as_original(ours_like(CONFIG, **encoder), version)
    path = tmp_path / "vitl.pt"
    torch.save(state if version == "transformers" else {"target_encoder": state, "epoch": 3}, path)
    ours = ours_like(CONFIG, **encoder, rope_type=rope_type)
    wanted = "vjepa2.1" if version == "2.1" else "vjepa2"
    if rope_type == wanted:
        assert load_weights(ours, path).family.startswith("V-JEPA 2")
    else:
        with pytest.raises(ValueError, match=f"are for rope_type='{wanted}', the model has rope_type="):
            load_weights(ours, path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 12}, "at least 6 channels a head, got 4"),
        ({"embed_dim": 42, "num_heads": 6}, "even number .* got 7"),
        ({"rope_type": "vjepa3"}, "must be 'vjepa2', 'vjepa2.1' or None"),
        ({"attn_pool_type": "mean"}, "must be 'latent' or 'attentive'"),
    ],
    ids=str,
)
def test_refused_at_construction(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ours_like(CONFIG, **options)


@pytest.mark.parametrize("fused", [True, False])
def test_the_pooler_is_reset_and_replaced_as_timms(fused: bool) -> None:
    model = ours_like(CONFIG).eval()
    perturb(model)
    x = clip(CONFIG)
    before = model(x)
    model.attn_pool.fused_attn = fused
    torch.testing.assert_close(model(x), before, **TOLERANCE)
    model.reset_classifier(5)
    assert model.attn_pool is not None
    assert model(x).shape == (2, 5)
    model.reset_classifier(5, "avg")
    assert model.attn_pool is None
    features = model.forward_features(x)
    torch.testing.assert_close(model(x), model.head(features.mean(dim=1)), **TOLERANCE)
    again = VideoTransformer(**model.model_args)
    assert again.attn_pool is None
    again.load_state_dict(model.state_dict())


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_tag_says_what_its_weights_need(name: str) -> None:
    checkpoint = PUBLISHED[name]
    with torch.device("meta"):
        model = timm.create_model(name)
    assert model.num_classes == checkpoint.num_classes
    assert model.num_frames == checkpoint.num_frames
    assert tuple(model.patch_embed.img_size) == (checkpoint.img_size, checkpoint.img_size)
    assert model.pretrained_cfg["hf_hub_id"] == checkpoint.hf_hub_id
    assert (model.attn_pool is None) == (checkpoint.num_classes == 0)
    assert not isinstance(model.norm, torch.nn.Identity)
