"""timm's contract over every registered name and every kind of interleaving, and what makes the video model exact."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from timm.layers import PatchEmbed
from timm.optim import create_optimizer_v2
from torch import Tensor

import timesformer_plus
from timesformer_plus import Grid, VideoTransformer

FAMILIES = ["timesformer", "videomae", "vivit", "vjepa2"]
NAMES = [name for family in FAMILIES for name in timm.list_models(module=family)]
PATTERNS = ["s", "j", "ts", "st", "t+s", "lg", "twh", "cs", "t&s", "s*2 | j*2"]
# the sizes are overridden by SMALL, so that names of one family differ in the pattern they come with and in nothing
# else: every name with every pattern for TimeSformer, every pattern for one name of each other family
FIRST = ["videomae_test_patch8_32", "vivit_test_patch8_32", "vjepa2_test_patch8_32"]
CASES = [
    *((name, pattern) for name in timm.list_models(module="timesformer") for pattern in PATTERNS),
    # a table over time is refused where frames never meet
    *((name, pattern) for name in FIRST for pattern in PATTERNS if pattern != "s" or name.startswith("vjepa2")),
    *((name, "j") for name in NAMES if name not in FIRST and not name.startswith("timesformer")),
]
SMALL = {
    "depth": 4,
    "embed_dim": 16,
    "num_heads": 2,
    "img_size": 16,
    "patch_size": 4,
    "num_frames": 4,
    "num_classes": 5,
    "tubelet_size": 1,
}


def small(name: str = "timesformer_test_patch8_32", **options: object) -> VideoTransformer:
    return timm.create_model(name, **{**SMALL, **options})


def clip(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 4, 16, 16)


def train_briefly(model: torch.nn.Module) -> None:
    """Move every parameter off its initial value, so that zero-initialised ones count."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.05)


def test_the_registered_names() -> None:
    assert set(NAMES) == {
        "timesformer_test_patch8_32",
        "timesformer_tiny_patch16_224",
        "timesformer_small_patch16_224",
        "timesformer_base_patch16_224",
        "timesformer_base_patch16_448",
        "timesformer_base_patch16_224_f96",
        "timesformer_large_patch16_224",
        "videomae_test_patch8_32",
        "videomae_small_patch16_224",
        "videomae_base_patch16_224",
        "videomae_large_patch16_224",
        "videomae_huge_patch16_224",
        "videomaev2_small_patch16_224",
        "videomaev2_base_patch16_224",
        "videomaev2_large_patch16_224",
        "videomaev2_huge_patch16_224",
        "videomaev2_giant_patch14_224",
        "vivit_test_patch8_32",
        "vivit_base_patch16_224",
        "vjepa2_test_patch8_32",
        "vjepa2_large_patch16_256",
        "vjepa2_huge_patch16_256",
        "vjepa2_giant_patch16_256",
        "vjepa2_giant_patch16_384",
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_name_at_its_full_size_without_memory(name: str) -> None:
    """On the meta device: real layers, real shapes, no numbers."""
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=7)
        cfg = model.pretrained_cfg["input_size"]
        x = torch.empty(2, 3, model.num_frames, *cfg[1:])
        assert tuple(model.patch_embed.img_size) == tuple(cfg[1:])
        assert model(x).shape == (2, 7)
    frames = {"timesformer_base_patch16_448": 16, "timesformer_base_patch16_224_f96": 96}
    family = {"timesformer": 8, "videomae": 16, "videomaev2": 16, "vivit": 32, "vjepa2": 64}[name.split("_")[0]]
    assert model.num_frames == frames.get(name, 8 if "test" in name else family)
    assert model.pattern == ("ts" if name.startswith("timesformer") else "j")
    assert model.pretrained_cfg["tag"] == "untrained"


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("videomae_base_patch16_224", 86.2),  # what the hub says of OpenGVLab/VideoMAEv2-Base
        ("vivit_base_patch16_224", 88.6),  # transformers' class
        ("vjepa2_large_patch16_256", 303.9),
        ("vjepa2_giant_patch16_384", 1012.2),
    ],
)
def test_parameter_counts_of_the_published_encoders(name: str, millions: float) -> None:
    pool = {"global_pool": "avg"} if name.startswith("vjepa2") else {}
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0, **pool)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize(
    ("pattern", "millions"), [("s", 85.9), ("j", 85.9), ("ts", 121.4), ("lg", 121.4), ("twh", 156.8)]
)
def test_parameter_counts_of_the_papers_table_1(pattern: str, millions: float) -> None:
    with torch.device("meta"):
        model = timm.create_model("timesformer_base_patch16_224", pattern=pattern, num_classes=174)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize(("name", "pattern"), CASES)
class TestContract:
    def test_forward_backward_and_checkpointing(self, name: str, pattern: str) -> None:
        # mean pooling: in "st" and "t+s" the class token never reads what the last block's time attention did
        model = small(name, pattern=pattern, global_pool="avg")
        train_briefly(model)
        x = clip()
        grads = []
        for enable in (False, True):
            model.set_grad_checkpointing(enable)
            model.zero_grad()
            y = model(x)
            assert y.shape == (2, 5)
            (y * torch.linspace(-1, 1, 5)).square().sum().backward()
            grads.append({n: p.grad for n, p in model.named_parameters()})
        for key, grad in grads[0].items():
            assert grad is not None, f"{key} got no gradient"
            assert grad.abs().sum() > 0, f"{key} got a zero gradient"
            torch.testing.assert_close(grads[1][key], grad)

    def test_features_head_and_intermediates(self, name: str, pattern: str) -> None:
        model = small(name, pattern=pattern).eval()
        train_briefly(model)
        x = clip()
        features = model.forward_features(x)
        grid = Grid(4, 1, 1) if "|" in pattern else Grid(4, 4, 4)
        P = model.num_prefix_tokens
        assert bool(P) is name.startswith(("timesformer", "vivit"))
        assert features.shape == (2, P + grid.num_tokens, 16)
        torch.testing.assert_close(model.forward_head(features), model(x))
        assert model.forward_head(features, pre_logits=True).shape == (2, 16)

        final, inter = model.forward_intermediates(x)
        torch.testing.assert_close(final, features)
        grids = [Grid(4, 4, 4)] * 2 + [grid] * 2
        assert [tuple(y.shape) for y in inter] == [(2, 16, *g) for g in grids]
        flat = model.forward_intermediates(x, [0, 3], output_fmt="NLC", intermediates_only=True, norm=True)
        torch.testing.assert_close(flat[1], features[:, P:])
        torch.testing.assert_close(
            model.norm(inter[0].flatten(2).transpose(1, 2)), flat[0], msg="NCTHW and NLC hold the same tokens"
        )
        last = model.forward_intermediates(x, 1, return_prefix_tokens=True, norm=True, intermediates_only=True)[0]
        patches, prefix = last if P else (last, features[:, :0])
        torch.testing.assert_close(torch.cat([prefix, patches.flatten(2).transpose(1, 2)], 1), features)
        early = model.forward_intermediates(x, [1], stop_early=True, intermediates_only=True)
        torch.testing.assert_close(early[0], inter[1])
        as_dict = model.forward_intermediates(x, 1, output_dict=True, return_prefix_tokens=True)
        torch.testing.assert_close(as_dict["image_features"], features)
        assert not P or as_dict["image_intermediates_prefix"][0].shape == (2, P, 16)
        torch.testing.assert_close(model.get_intermediate_layers(x, 2, reshape=True)[1], inter[3])

    def test_features_only(self, name: str, pattern: str) -> None:
        model = small(name, pattern=pattern, features_only=True, out_indices=[0, 2])
        outputs = model(clip())
        last = (4, 1, 1) if "|" in pattern else (4, 4, 4)
        assert [tuple(y.shape[1:]) for y in outputs] == [(16, 4, 4, 4), (16, *last)]
        assert model.feature_info.channels() == [16, 16]

    def test_reset_classifier_and_pooling(self, name: str, pattern: str) -> None:
        model = small(name, pattern=pattern).eval()
        model.reset_classifier(3, "avg")
        assert model(clip()).shape == (2, 3)
        model.reset_classifier(0)
        assert model(clip()).shape == (2, 16)
        assert small(name, pattern=pattern, num_classes=0)(clip()).shape == (2, 16)
        unpooled = small(name, pattern=pattern, num_classes=0, global_pool="")
        tokens = 4 if "|" in pattern else 64
        assert unpooled(clip()).shape == (2, unpooled.num_prefix_tokens + tokens, 16)

    def test_parameter_groups_cover_everything_once(self, name: str, pattern: str) -> None:
        model = small(name, pattern=pattern)
        optimizer = create_optimizer_v2(model, "adamw", lr=1.0, weight_decay=0.1, layer_decay=0.5)
        grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
        assert sorted(grouped) == sorted(id(p) for p in model.parameters())
        scale = {id(p): g["lr_scale"] for g in optimizer.param_groups for p in g["params"]}
        decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
        assert scale[id(model.head.weight)] == 1.0
        assert scale[id(model.blocks[0].attn.qkv.weight)] < scale[id(model.blocks[3].attn.qkv.weight)] < 1.0
        stem = [p for p in (model.pos_embed, model.cls_token, model.patch_embed.proj.weight) if p is not None]
        if model.time_embed is not None:
            stem.append(model.time_embed)
            assert "time_embed" in model.no_weight_decay()
            assert decay[id(model.time_embed)] == 0.0
        assert {scale[id(p)] for p in stem} == {min(scale.values())}

    def test_set_input_size(self, name: str, pattern: str) -> None:
        model = small(name, pattern=pattern).eval()
        model.set_input_size(img_size=(24, 16), num_frames=6)
        assert model.grid == Grid(6, 6, 4)
        assert model(torch.randn(1, 3, 6, 24, 16)).shape == (1, 5)
        with pytest.raises(ValueError, match="expected 6 frames, got 4"):
            model(torch.randn(1, 3, 4, 24, 16))

    def test_local_dir_round_trip(self, name: str, pattern: str, tmp_path: Path) -> None:
        model = small(name, pattern=pattern, global_pool="avg", fc_norm=False).eval()
        train_briefly(model)
        model.set_input_size(img_size=(24, 16), num_frames=2)
        timm.models.save_for_hf(
            model, tmp_path, model_config={"label_names": list("abcde")}, model_args=model.model_args
        )
        assert model._model_args["img_size"] == (24, 16)
        saved = json.loads((tmp_path / "config.json").read_text())
        assert saved["model_args"]["pattern"] == model.pattern
        again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
        assert again.pattern == model.pattern
        assert again.grid == Grid(2, 6, 4)
        x = torch.randn(2, 3, 2, 24, 16)
        assert torch.equal(again(x), model(x))

    def test_print_shows_the_interleaving(self, name: str, pattern: str) -> None:
        shown = repr(small(name, pattern=pattern))
        assert f"pattern={pattern!r}" in shown
        wanted = "s s | j j" if "|" in pattern else " ".join([pattern] * 4)
        assert f"blocks: {wanted}" in shown


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning")
@pytest.mark.parametrize("pattern", ["s", "ts", "lg", "t&s", "s*2 | j*2"])
def test_torch_export_with_any_batch(pattern: str) -> None:
    model = small(pattern=pattern).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (clip(),), dynamic_shapes=({0: batch},))
    x = clip(5)
    torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.parametrize(
    "options",
    [
        {"class_token": False, "global_pool": "avg"},
        {"class_token": False, "global_pool": "map"},
        {"reg_tokens": 4},
        {"reg_tokens": 4, "no_embed_class": True},
        {"class_token": False, "reg_tokens": 2, "global_pool": "avg"},
        {"pre_norm": True, "norm_layer": "layernorm"},
        {"init_values": 1e-2, "qk_norm": True},
        {"scale_attn_norm": True, "scale_mlp_norm": True},
        {"qkv_bias": False, "proj_bias": False},
        {"pos_embed": "none"},
        {"global_pool": "avgmax", "fc_norm": True},
        {"global_pool": "max", "final_norm": False},
        {"global_pool": "avg", "pool_include_prefix": True},
        {"drop_rate": 0.1, "pos_drop_rate": 0.1, "proj_drop_rate": 0.1, "attn_drop_rate": 0.1, "drop_path_rate": 0.1},
        {"weight_init": "jax"},
        {"weight_init": "moco"},
        {"weight_init": "skip"},
        {"fix_init": True},
        {"act_layer": "silu", "mlp_ratio": 2.0},
        {"dynamic_img_size": True},
        {"tubelet_size": 2},
        {"in_chans": 1},
        {"patch_size": 8},
        {"input_format": "NTCHW"},
    ],
    ids=str,
)
@pytest.mark.parametrize("pattern", ["s", "ts", "cs", "s*2 | j*2"])
def test_options_of_timm(pattern: str, options: dict) -> None:
    model = small(pattern=pattern, **options)
    x = torch.randn(2, options.get("in_chans", 3), 4, 16, 16)
    y = model(x.transpose(1, 2) if "input_format" in options else x)
    assert y.shape == (2, 5)
    y.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    if model.time_embed is not None:
        assert not model.time_embed.any(), "the time embedding starts at zero under every initialisation"
    for name, p in model.named_parameters():
        assert not (".fc." in name and ".added." in name) or not p.any(), f"{name} starts at zero"


@pytest.mark.parametrize("std", [0.0, 0.5])
def test_initialisation_after_the_meta_device(std: float) -> None:
    with torch.device("meta"):
        model = small(pattern="ts", time_embed_std=std)
    model.to_empty(device="cpu").init_weights(needs_reset=True)
    assert torch.isfinite(model(clip())).all()
    assert model.time_embed.std().item() == pytest.approx(std, rel=0.3)
    built = small(pattern="ts", time_embed_std=std, pos_embed_std=1.0)
    assert built.time_embed.std().item() == pytest.approx(std, rel=0.3)
    assert built.pos_embed.std().item() == pytest.approx(1.0, rel=0.2)
    assert small(pattern="ts", time_embed_std=std).pos_embed.std().item() == pytest.approx(0.02, rel=0.3)
    assert not model.blocks[0].added["t"].attn.fc.weight.any()


# -- what is exact ----------------------------------------------------------------------------------------------------


def features_of_frames(model: VideoTransformer, x: Tensor) -> Tensor:
    """Patch features (B, T, ...) of the last block, before anything is pooled."""
    last = model.forward_intermediates(x, 1, intermediates_only=True)[0]
    return last.transpose(1, 2)


@pytest.mark.parametrize("options", [{}, {"reg_tokens": 4}, {"class_token": False, "global_pool": "avg"}], ids=str)
@pytest.mark.parametrize("pattern", ["c", "cs", "sc", "c+s", "c&s", "c hw", "s*2 | c*2", "cs*2 | cs c"])
def test_a_causal_model_never_looks_ahead(pattern: str, options: dict) -> None:
    if pattern == "c":
        options = {**options, "global_pool": "avg"}
    model = small(pattern=pattern, **options).double().eval()
    train_briefly(model)
    x = clip().double().requires_grad_()
    y = features_of_frames(model, x)
    for i in range(4):
        (grad,) = torch.autograd.grad((y[:, i] * torch.randn_like(y[:, i])).sum(), x, retain_graph=True)
        seen = grad.abs().sum(dim=(0, 1, 3, 4)) > 0
        assert seen.tolist() == [j <= i for j in range(4)], "frame i depends on frames 0..i and on no other"
    other = x.detach().clone()
    other[:, :, 2:] = torch.randn_like(other[:, :, 2:])
    after = features_of_frames(model, other)
    assert torch.equal(after[:, :2], y[:, :2])
    assert not torch.allclose(after[:, 2], y[:, 2])


@pytest.mark.parametrize("pattern", ["s", "hw", "h+w", "h&w", "s*2 | s*2", "w s"])
def test_a_frame_local_model_does_not_know_the_order_of_frames(pattern: str) -> None:
    model = small(pattern=pattern, reg_tokens=2).double().eval()
    train_briefly(model)
    x = clip().double()
    assert model.time_embed is None
    torch.testing.assert_close(model(x.flip(2)), model(x), rtol=1e-12, atol=1e-12)
    frames = [model.set_input_size(num_frames=1) or model.forward_features(x[:, :, [t]]) for t in range(4)]
    model.set_input_size(num_frames=4)
    whole = model.forward_features(x)
    n = (whole.shape[1] - 3) // 4
    for t, frame in enumerate(frames):
        torch.testing.assert_close(whole[:, 3 + t * n : 3 + (t + 1) * n], frame[:, 3:], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pattern", ["ts", "t+s", "t&s", "j", "lg", "twh", "cs", "s*2 | j*2"])
def test_a_model_with_time_tells_a_clip_from_its_reverse(pattern: str) -> None:
    model = small(pattern=pattern).eval()
    train_briefly(model)
    x = clip()
    assert not torch.allclose(model(x.flip(2)), model(x), atol=1e-4)


@pytest.mark.parametrize("pattern", ["s", "cs", "s*2 | j*2"])
def test_prefix_tokens_of_a_frame_see_their_frame_alone(pattern: str) -> None:
    """Nothing travels between frames through a shared class token: block 1's class tokens, frame by frame."""
    model = small(pattern=pattern).double().eval()
    train_briefly(model)
    x = clip().double()
    other = x.clone()
    other[:, :, 1:] = torch.randn_like(other[:, :, 1:])
    tokens = []
    for video in (x, other):
        y, grid = model._embed(video)
        y = model.blocks[1](model.blocks[0](y, grid), grid)
        tokens.append(y[:, : grid.t])
    assert torch.equal(tokens[0][:, 0], tokens[1][:, 0])
    assert not torch.allclose(tokens[0][:, 1], tokens[1][:, 1])


def test_frames_become_their_class_token_or_their_mean() -> None:
    no_class = {"class_token": False, "global_pool": "avg"}
    for options, pattern in [({}, "s | j"), (no_class, "s | j"), ({}, "ts | j"), ({}, "c | j")]:
        model = small(pattern=pattern, depth=2, **options).double().eval()
        train_briefly(model)
        x, grid = model._embed(clip().double())
        x = model.blocks[0](x, grid)
        y, after = model._reduce_frames(x, grid, *model.plan)
        assert after == Grid(4, 1, 1)
        P = model.num_prefix_tokens
        mean = x[:, -64:].reshape(2, 4, 16, 16).mean(2)
        torch.testing.assert_close(y[:, P:], x[:, :4] if P and pattern == "s | j" else mean)
        if P:
            torch.testing.assert_close(y[:, 0], x[:, :4].mean(1) if pattern == "s | j" else x[:, 0])


@pytest.mark.parametrize("pool", ["token", "avg"])
@pytest.mark.parametrize("pattern", ["c*2 | j*2", "c*2 | s*2", "c | c | s s", "s*2 | t*2", "t*2 | s*2"])
def test_no_pattern_is_blind(pattern: str, pool: str) -> None:
    """A class token that only `c` and `t` passed by has seen nothing, and must not stand for its frame."""
    model = small(pattern=pattern, global_pool=pool).eval()
    train_briefly(model)
    assert not torch.allclose(model(clip()), model(clip()), atol=1e-4)


def test_resized_time_embedding_is_linear_and_space_is_timms() -> None:
    model = small(pattern="ts", dynamic_img_size=True, dynamic_num_frames=True).eval()
    with torch.no_grad():
        model.time_embed.copy_(torch.arange(4.0)[None, :, None].expand(1, 4, 16))
    model.set_input_size(num_frames=8)
    wanted = torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0])
    torch.testing.assert_close(model.time_embed[0, :, 0], wanted)
    assert model.time_embed.requires_grad
    larger = torch.randn(1, 3, 4, 24, 32)
    assert model(larger).shape == (1, 5)
    image = timm.models.vision_transformer.VisionTransformer(
        img_size=16, patch_size=4, embed_dim=16, depth=1, num_heads=2
    )
    image.pos_embed.data.copy_(model.pos_embed.data)
    image.set_input_size(img_size=(24, 32))
    model.set_input_size(img_size=(24, 32))
    torch.testing.assert_close(model.pos_embed, image.pos_embed)


def test_dynamic_sizes_equal_a_resized_model() -> None:
    dynamic = small(pattern="ts", dynamic_img_size=True, dynamic_num_frames=True).eval()
    train_briefly(dynamic)
    x = torch.randn(2, 3, 6, 24, 16)
    wanted = dynamic(x)
    dynamic.set_input_size(img_size=(24, 16), num_frames=6)
    torch.testing.assert_close(dynamic(x), wanted)


def test_padding_to_whole_patches() -> None:
    model = small(pattern="ts", dynamic_img_size=True, dynamic_img_pad=True).eval()
    x = torch.randn(1, 3, 4, 15, 13)
    padded = torch.nn.functional.pad(x, (0, 3, 0, 1))
    torch.testing.assert_close(model(x), model(padded))


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "tz"}, "pattern 'tz' is wrong at character 2"),
        ({"pattern": "t s h"}, "describes 3 blocks, which does not divide depth=4"),
        ({"pattern": "s | j"}, "cannot be tiled"),
        ({"pattern": "lg", "num_frames": 3}, "'g' .* does not divide t=3"),
        ({"pattern": "lg", "img_size": 12}, "does not divide h=3, w=3"),
        ({"pattern": "s*2 | lj*2"}, "'l' .* does not divide h=1, w=1"),
        ({"pattern": "t&s", "num_heads": 1}, "1 heads cannot be shared out evenly"),
        ({"pattern": "t"}, "never lets the class token see a patch"),
        ({"num_frames": 5, "tubelet_size": 2}, "num_frames=5 is not a positive multiple of tubelet_size=2"),
        ({"num_frames": 0}, "num_frames=0 is not a positive multiple"),
        ({"tubelet_size": 0}, "must be at least 1 frame"),
        ({"img_size": 18}, "img_size 18x18 is not a multiple of patch_size 4x4"),
        ({"input_format": "BCTHW"}, "must be 'NCTHW', 'NTCHW' or None"),
        ({"patch_drop_rate": 0.5}, "leaves no grid"),
        ({"embed_layer": PatchEmbed}, "embed_layer is fixed"),
        ({"attn_layer": "diff"}, "cannot be cut into groups"),
    ],
    ids=str,
)
def test_refused_at_construction(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_a_typo_in_an_option_is_an_error() -> None:
    with pytest.raises(TypeError, match="patern"):
        small(patern="ts")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (2, 3, 16, 16),
            r"a clip has 5 axes, \(B, C=3, T=4, H=16, W=16\), got \(2, 3, 16, 16\); an image is a clip of",
        ),
        ((2, 4, 3, 16, 16), "frames before channels"),
        ((2, 1, 4, 16, 16), "3 channels, got 1"),
        ((2, 3, 5, 16, 16), r"expected 4 frames, got 5; .*set_input_size\(num_frames=5\)"),
        ((2, 3, 4, 20, 16), "expected frames of 16x16 pixels, got 20x16"),
    ],
    ids=str,
)
def test_clips_of_another_shape_are_refused(shape: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small()(torch.zeros(shape))


def test_layouts_that_look_alike_are_refused_until_said() -> None:
    x = torch.zeros(1, 3, 3, 16, 16)
    with pytest.raises(ValueError, match="say which with input_format"):
        small(num_frames=3)(x)
    assert small(num_frames=3, input_format="NCTHW")(x).shape == (1, 5)
    assert small(num_frames=3, input_format="NTCHW")(x).shape == (1, 5)
    with pytest.raises(ValueError, match="wants frames before channels"):
        small(input_format="NTCHW")(torch.zeros(1, 3, 4, 16, 16))


def test_dynamic_sizes_are_checked_too() -> None:
    model = small(dynamic_img_size=True, dynamic_num_frames=True, tubelet_size=2)
    with pytest.raises(ValueError, match="num_frames=5 is not a positive multiple of tubelet_size=2"):
        model(torch.zeros(1, 3, 5, 16, 16))
    with pytest.raises(ValueError, match="img_size 18x16 is not a multiple"):
        model(torch.zeros(1, 3, 4, 18, 16))
    with pytest.raises(ValueError, match="does not divide t=3"):
        small(pattern="lg", dynamic_num_frames=True, input_format="NCTHW")(torch.zeros(1, 3, 3, 16, 16))


def test_a_refused_resize_leaves_the_model_as_it_was() -> None:
    model = small(pattern="lg").eval()
    x = clip()
    before = model(x)
    for options in ({"num_frames": 3}, {"img_size": 20}, {"img_size": 18}, {"num_frames": 6, "img_size": (12, 16)}):
        with pytest.raises(ValueError, match=r"does not divide|not a multiple"):
            model.set_input_size(**options)
        assert torch.equal(model(x), before)
    with pytest.raises(ValueError, match="with tubelet_size=1 only"):
        small(tubelet_size=2).set_input_size(patch_size=8)


def test_other_entries_of_timm_stay_as_they_are() -> None:
    script = (
        "import timm, json; from timm.models import _registry as r; "
        "before = {n: (id(r._model_entrypoints[n]), r._model_to_module[n]) for n in timm.list_models()}; "
        "import timesformer_plus; "
        "after = {n: (id(r._model_entrypoints[n]), r._model_to_module[n]) for n in timm.list_models()}; "
        "assert all(after[n] == v for n, v in before.items()); "
        "print(json.dumps(sorted(set(after) - set(before))))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == sorted(
        [*NAMES, *timm.list_models(module="from_image"), *timm.list_models(module="baselines")]
    )


def test_public_names() -> None:
    for name in timesformer_plus.__all__:
        assert getattr(timesformer_plus, name) is not None
