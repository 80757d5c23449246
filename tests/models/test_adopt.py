"""Image models of every kind of option, made video models in place: the same scores, names and values."""

import copy

import pytest
import timm
import torch
from image_models import EVAS, KINDS, SMALL, VITS, image_model, moved, picture, still
from timm.models.eva import Eva
from timm.models.vision_transformer import (
    DiffParallelScalingBlock,
    ParallelScalingBlock,
    ParallelThingsBlock,
    VisionTransformer,
)
from torch import nn

from timesformer_plus import LETTERS, SpaceTimeBlock, VideoTransformer
from timesformer_plus.models.adopt import make_video
from timesformer_plus.models.group_attention import GroupAttention
from timesformer_plus.models.rotary_video_transformer import RotaryVideoTransformer

SAME_SCORES = ["ts", "st", "t+s", "cs", "s ts", "tts", "t+c+s"]


def video(image: nn.Module, **options) -> VideoTransformer | RotaryVideoTransformer:
    return make_video(copy.deepcopy(image), **options)


@pytest.mark.parametrize("kind", KINDS)
def test_one_frame_through_space_attention_is_the_image_model(kind: str) -> None:
    image = image_model(kind)
    x = picture(image)
    model = video(image, pattern="s", num_frames=1)
    wanted = image(x)
    assert wanted.abs().max() > 0.1
    torch.testing.assert_close(model(still(x, 1)), wanted, rtol=1e-5, atol=1e-5)
    features = image.forward_features(x)
    torch.testing.assert_close(model.forward_features(still(x, 1)), features, rtol=1e-5, atol=1e-5)
    ours = model.forward_intermediates(still(x, 1), norm=True, intermediates_only=True)
    theirs = image.forward_intermediates(x, norm=True, intermediates_only=True)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.squeeze(2), b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("time_rope", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_that_stands_still_scores_as_its_picture(kind: str, time_rope: bool) -> None:
    image = image_model(kind)
    x = picture(image)
    wanted = image(x)
    for pattern in ("s", *SAME_SCORES):
        model = video(image, pattern=pattern, num_frames=4, time_rope=time_rope)
        torch.testing.assert_close(model(still(x, 4)), wanted, rtol=1e-5, atol=1e-5, msg=pattern)


@pytest.mark.parametrize("kind", ["augreg", "dinov3", "rope_vit_mixed", "enormous"])
def test_frames_that_differ_are_averaged_by_space_attention(kind: str) -> None:
    image = image_model(kind)
    image.norm = nn.Identity()  # prefix tokens are averaged in front of it
    frames = torch.stack([picture(image, seed) for seed in range(4)], dim=2)
    pooled = torch.stack([image.forward_features(frames[:, :, i]) for i in range(4)]).mean(dim=0)
    features = video(image, pattern="s", num_frames=4).forward_features(frames)
    P = image.num_prefix_tokens
    torch.testing.assert_close(features[:, :P], pooled[:, :P], rtol=1e-5, atol=1e-5)
    patches = features[:, P:].unflatten(1, (4, -1)).mean(dim=1)
    torch.testing.assert_close(patches, pooled[:, P:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_tubelets_read_their_central_frame(kind: str) -> None:
    image = image_model(kind)
    x = picture(image)
    model = video(image, pattern="ts", num_frames=6, tubelet_size=3)
    clip = torch.randn(2, 3, 6, *x.shape[2:])
    clip[:, :, [1, 4]] = still(x, 2)
    torch.testing.assert_close(model(clip), image(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pattern", ["s", "ts", "t+s", "j", "lg", "twh", "t&s", "s | j", "s*1 ts*1", "tts"])
@pytest.mark.parametrize("kind", ["dinov2_giant", "res_post", "dinov3", "sapiens2", "post_norm_rope", "rope_vit_mixed"])
def test_names_and_values_are_kept_and_new_ones_start_as_timm_starts(kind: str, pattern: str) -> None:
    image = image_model(kind)
    for p in image.parameters():
        p.requires_grad_(False)  # what is new learns, frozen model or not
    before = {name: value.clone() for name, value in image.state_dict().items()}
    model = video(image, pattern=pattern, num_frames=2)
    after = model.state_dict()
    for name, value in before.items():
        assert torch.equal(after[name], value), name
    new = set(after) - set(before)
    assert new == {n for n in new if n == "time_embed" or ".added." in n}
    assert ("time_embed" in new) == (pattern != "s")
    steps = [step for plan in model.plan for step in plan.steps]
    attentions = sum(len(step.attentions) for step in steps)
    assert sum(isinstance(m, GroupAttention) for m in model.modules()) == attentions
    assert sum(name.endswith("attn.fc.weight") for name in new) == attentions - len(model.blocks)
    for name in new:
        value = after[name]
        if ".fc." in name or name == "time_embed" or name.endswith("bias"):
            assert not value.any(), name
        elif "norm" in name:
            assert torch.equal(value, torch.ones_like(value)), name
        elif name.endswith("weight"):
            assert 0.015 < value.std() < 0.025, name
    parameters = dict(model.named_parameters())
    assert {name for name, p in parameters.items() if p.requires_grad} == new & set(parameters)
    assert {name for name in new if ".added." in name} == {n for n in parameters if ".added." in n}


def test_the_object_itself_becomes_the_model() -> None:
    image = image_model("augreg").train()
    stem = image.patch_embed.proj.weight
    model = make_video(image, pattern="ts", num_frames=2)
    assert model is image
    assert type(model) is VideoTransformer
    assert all(type(block) is SpaceTimeBlock and block.training for block in model.blocks)
    assert all(m.training for m in model.modules())
    assert model.patch_embed.proj.weight is stem
    assert not any(m.training for m in video(image_model("dinov3"), num_frames=2).modules())
    assert type(make_video(image_model("eva"))) is RotaryVideoTransformer
    assert "'ts'" in repr(model)


@pytest.mark.parametrize("kind", [*VITS, *EVAS])
def test_on_the_meta_device(kind: str) -> None:
    model = make_video(image_model_on_meta(kind), pattern="ts", num_frames=4, tubelet_size=2, time_rope=True)
    assert all(value.is_meta for value in model.state_dict().values())
    real = video(image_model(kind), pattern="ts", num_frames=4, tubelet_size=2)
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in real.state_dict().items()}


def image_model_on_meta(kind: str) -> nn.Module:
    build = Eva if kind in EVAS else VisionTransformer
    return build(**{**SMALL, **{**VITS, **EVAS}[kind], "device": "meta"})


@pytest.mark.parametrize("kind", ["augreg", "gated", "sapiens2", "rope_vit_mixed", "res_post", "eva_norm_inside"])
def test_every_parameter_learns(kind: str) -> None:
    model = moved(video(image_model(kind), pattern="t+s cs", num_frames=2), seed=3).train()
    model(torch.randn(2, 3, 2, 16, 16)).square().sum().backward()
    unused = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # the last norm is not read by models that normalise behind the pooling, as in timm
    assert not unused


@pytest.mark.parametrize("kind", ["augreg", "dinov3"])
def test_drop_path_of_added_attentions(kind: str) -> None:
    model = video(image_model(kind, drop_path_rate=0.5), pattern="ts", num_frames=2)
    rates = [(b.added["t"]["drop_path"], b.drop_path1) for b in model.blocks]
    assert [getattr(a, "drop_prob", 0.0) for a, _ in rates] == [getattr(b, "drop_prob", 0.0) for _, b in rates]
    assert rates[-1][0].drop_prob == 0.5


@pytest.mark.parametrize("kind", ["dynamic", "dinov3", "rope_vit_mixed_dynamic"])
def test_other_sizes_where_the_image_model_takes_them(kind: str) -> None:
    image = image_model(kind)
    sizes = [(24, 16), (32, 8)] + ([(20, 13)] if kind == "dynamic" else [])
    for size in sizes:
        x = torch.randn(2, 3, *size)
        model = video(image, pattern="ts", num_frames=4)
        torch.testing.assert_close(model(still(x, 4)), image(x), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="expected frames of 16x16 pixels"):
        video(image_model("eva02"), num_frames=4)(torch.zeros(1, 3, 4, 24, 16))


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (ParallelThingsBlock, "ParallelThingsBlock cannot be cut .* several attentions side by side"),
        (ParallelScalingBlock, "ParallelScalingBlock cannot be cut .* attention and MLP are one piece"),
        (DiffParallelScalingBlock, "DiffParallelScalingBlock cannot be cut .* attention and MLP are one piece"),
    ],
)
def test_blocks_that_cannot_be_cut_are_refused(block: type, reason: str) -> None:
    image = VisionTransformer(**SMALL, block_fn=block)
    with pytest.raises(ValueError, match=reason):
        make_video(image)
    assert type(image) is VisionTransformer
    assert all(type(b) is block for b in image.blocks)


def test_models_that_cannot_be_made_video_models_are_refused() -> None:
    def refuse(image: nn.Module, message: str, **options) -> None:
        kinds = [type(m) for m in image.modules()]
        with pytest.raises(ValueError, match=message):
            make_video(image, **options)
        assert [type(m) for m in image.modules()] == kinds, "nothing was changed"

    refuse(VisionTransformer(**SMALL, attn_layer="diff"), "attention DiffAttention cannot be cut .* one softmax from")
    refuse(timm.create_model("resnet10t"), "ResNet cannot be made a video model: its tokens or blocks are not those")
    refuse(timm.create_model("deit_tiny_distilled_patch16_224", device="meta"), "with a forward pass of its own")
    refuse(timm.create_model("vit_tiny_r_s16_p8_224", device="meta"), "the stem is a HybridEmbed")
    refuse(VisionTransformer(**SMALL, patch_drop_rate=0.5), "patch_drop_rate=0.5 drops single tokens")
    refuse(Eva(**SMALL, patch_drop_rate=0.5), "patch_drop_rate=0.5 drops single tokens")
    refuse(VisionTransformer(**SMALL), "does not divide depth=2", pattern="ts*3")
    refuse(VisionTransformer(**SMALL), "2 heads cannot be shared out evenly among the 3", pattern="t&s&h")
    refuse(
        VisionTransformer(**SMALL),
        "num_frames=3 is not a positive multiple of tubelet_size=2",
        num_frames=3,
        tubelet_size=2,
    )
    refuse(VisionTransformer(**SMALL), "input_format='CTHW' must be", input_format="CTHW")
    refuse(make_video(VisionTransformer(**SMALL)), "VideoTransformer is a video model already")
    for cls in (VisionTransformer, Eva):
        with pytest.raises(ValueError, match="never lets the class token see a patch"):
            make_video(cls(**{**SMALL, "global_pool": "token"}), pattern="t")
        with pytest.raises(ValueError, match=r"'g' \(sparse global\) cuts the token grid"):
            make_video(cls(**SMALL), pattern="lg", num_frames=3)
    assert set("thwslgjc") == set(LETTERS), "a new letter wants a look at the lists in this file"
