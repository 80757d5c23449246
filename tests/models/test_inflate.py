"""Image transformers of timm's as video models: the same numbers where they must be the same, the same names always."""

import copy

import pytest
import timm
import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from timesformer_plus.models.inflate import check_inflatable, inflate, make_inflated

# one name of each kind, made small where that keeps the kind
KINDS = {
    "augreg": ("vit_tiny_patch16_224", {"img_size": 48}),
    "clip": ("vit_base_patch16_clip_quickgelu_224", {"img_size": 48, "depth": 2, "embed_dim": 64, "num_heads": 4}),
    "dinov2_registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 42, "depth": 2}),
    "siglip": ("vit_base_patch16_siglip_224", {"img_size": 48, "depth": 2, "embed_dim": 64, "num_heads": 4}),
    "dinov3": ("vit_small_patch16_dinov3", {"img_size": 48, "depth": 2}),
    "eva02": ("eva02_tiny_patch14_224", {"img_size": 42, "depth": 2}),
    # and the corners of the two classes
    "mean": ("vit_base_patch16_gap_224", {"img_size": 48, "depth": 2, "embed_dim": 64, "num_heads": 4}),
    "post_norm": ("vit_base_patch16_rpn_224", {"img_size": 48, "depth": 2, "embed_dim": 64, "num_heads": 4}),
    "perception_encoder": ("vit_pe_core_tiny_patch16_384", {"img_size": 48, "depth": 2}),
    "rope_mixed": ("vit_small_patch16_rope_mixed_224", {"img_size": 48, "depth": 2}),
    "eva_post_norm": ("eva02_enormous_patch14_clip_224", {"img_size": 42, "depth": 2, "embed_dim": 64, "num_heads": 4}),
}
STILL_PATTERNS = ["ts", "st", "t+s", "cs"]
# one softmax over class and patch tokens: every frame brings the class token's vote along
POOLS_PREFIX_WITH_PATCHES = {"perception_encoder"}


def perturb(model: nn.Module) -> nn.Module:
    """Move every parameter off its initial value, so that zeros and ones count too."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return model


def image_of(kind: str) -> nn.Module:
    name, options = KINDS[kind]
    return perturb(timm.create_model(name, **options)).eval()


def pictures(image: nn.Module, batch: int = 2) -> Tensor:
    return torch.randn(batch, image.in_chans, *image.patch_embed.img_size)


def still(x: Tensor, num_frames: int = 4) -> Tensor:
    return x[:, :, None].expand(-1, -1, num_frames, -1, -1)


def assert_same(actual: Tensor, expected: Tensor) -> None:
    assert expected.abs().mean() > 0.05, "numbers too small to compare"
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_space_attention_on_one_frame_is_the_image_model(kind: str) -> None:
    image = image_of(kind)
    model = inflate(image, "s", 1).eval()
    x = pictures(image)
    assert_same(model(x[:, :, None]), image(x))
    assert_same(model.forward_features(x[:, :, None]), image.forward_features(x))


@pytest.mark.parametrize("pattern", STILL_PATTERNS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_still_clip_is_scored_as_its_picture(kind: str, pattern: str) -> None:
    image = image_of(kind)
    model = inflate(image, pattern, 4).eval()
    x = pictures(image)
    tokens, expected = model.forward_features(still(x)), image.forward_features(x)
    P = image.num_prefix_tokens
    assert_same(tokens, torch.cat([expected[:, :P], expected[:, P:].repeat(1, 4, 1)], dim=1))
    assert_same(model(still(x)), image(x))


@pytest.mark.parametrize("pattern", ["s", "cs"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_moving_clip_is_the_mean_of_its_frames(kind: str, pattern: str) -> None:
    """What holds exactly where prefix tokens belong to frames: patch tokens are every frame's own, and prefix tokens
    the mean over the frames in front of the final norm; pooling and head then see all of them.
    """
    image = image_of(kind)
    model = inflate(image, pattern, 4, input_format="NCTHW").eval()
    x = torch.randn(2, 3, 4, *image.patch_embed.img_size)
    (patches, prefix) = _last_tokens(image, x.transpose(1, 2).flatten(0, 1))
    tokens = torch.cat([prefix.unflatten(0, (2, 4)).mean(dim=1), patches.unflatten(0, (2, 4)).flatten(1, 2)], dim=1)
    assert_same(model.forward_features(x), image.norm(tokens))
    if kind in POOLS_PREFIX_WITH_PATCHES:
        P = image.num_prefix_tokens
        tokens = torch.cat([tokens[:, :P].repeat(1, 4, 1), tokens[:, P:]], dim=1)
    assert_same(model(x), image.forward_head(image.norm(tokens)))


def _last_tokens(image: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Patch and prefix tokens in front of the final norm."""
    found = image.forward_intermediates(
        x, indices=1, return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
    )[0]
    return found if isinstance(found, tuple) else (found, found[:, :0])


@pytest.mark.parametrize("pattern", ["ts", "st", "t+s"])
def test_without_prefix_tokens_the_mean_is_that_of_the_pooled_frames(pattern: str) -> None:
    """Nothing is shared between frames then, so mean pooling over a clip is the mean over its frames."""
    image = perturb(timm.create_model("vit_base_patch16_siglip_gap_224", **KINDS["siglip"][1], num_classes=0)).eval()
    model = inflate(image, pattern, 4).eval()
    x = torch.randn(2, 3, 4, 48, 48)
    frames = image.forward_head(image.forward_features(x.transpose(1, 2).flatten(0, 1)), pre_logits=True)
    assert_same(model(x), frames.unflatten(0, (2, 4)).mean(dim=1))


@pytest.mark.parametrize("pattern", ["j", "lg", "twh", "s*1 | j*1"])
@pytest.mark.parametrize("kind", ["clip", "dinov2_registers", "siglip", "dinov3", "eva02"])
def test_the_primary_attention_holds_the_image_weights(kind: str, pattern: str) -> None:
    image = image_of(kind)
    if "w" in pattern or "g" in pattern or kind:
        size = image.patch_embed.patch_size[0] * 4  # an even grid: `l` and `g` cut it in two
        image.set_input_size(img_size=(size, size))
    model = inflate(image, pattern, 4)
    own = model.state_dict()
    for key, tensor in image.state_dict().items():
        assert torch.equal(own[key], tensor), key
    letters = {"j": set(), "lg": {"l"}, "twh": {"t", "w"}, "s*1 | j*1": set()}[pattern]
    new = own.keys() - image.state_dict().keys() - {"time_embed"}
    assert {key.split(".")[3] for key in new} == letters
    assert all(key.split(".")[0::2][:2] == ["blocks", "added"] for key in new)


@pytest.mark.parametrize("kind", ["clip", "dinov2_registers", "post_norm", "dinov3", "eva02", "eva_post_norm"])
def test_an_added_attention_begins_as_a_copy(kind: str) -> None:
    image = image_of(kind)
    model = inflate(image, "ts", 4, init="copy").eval()
    for block, old in zip(model.blocks, image.blocks, strict=True):
        branch = block.added["t"]
        found = branch["attn"].state_dict()
        assert not found.pop("fc.weight").any()
        assert not found.pop("fc.bias").any()
        expected = old.attn.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in found)
        # a norm of updates is no norm of tokens
        norm = torch.ones_like(old.norm1.weight) if "post_norm" in kind else old.norm1.weight
        assert torch.equal(branch["norm"].weight, norm)
        assert branch["attn"].qkv is not block.attn.qkv
    x = pictures(image)
    assert_same(model(still(x)), image(x))


@pytest.mark.parametrize("kind", ["clip", "dinov3"])
def test_zero_draws_the_added_attention_and_random_its_last_layer_too(kind: str) -> None:
    image = image_of(kind)
    zero, random = inflate(image, "ts", 4), inflate(image, "ts", 4, init="random").eval()
    for model in (zero, random):
        for block, old in zip(model.blocks, image.blocks, strict=True):
            qkv = block.added["t"]["attn"].qkv.weight.detach()
            assert qkv.std() == pytest.approx(0.02, rel=0.1)
            assert not torch.equal(qkv, old.attn.qkv.weight)
    assert all(not block.added["t"]["attn"].fc.weight.any() for block in zero.blocks)
    assert all(
        block.added["t"]["attn"].fc.weight.detach().std() == pytest.approx(0.02, rel=0.1) for block in random.blocks
    )
    x = pictures(image)
    assert (random(still(x)) - image(x)).abs().max() > 1e-4


@pytest.mark.parametrize("tubelet_size", [2, 3])
@pytest.mark.parametrize("kind", ["clip", "augreg", "dinov3"])
def test_tubelets(kind: str, tubelet_size: int) -> None:
    image = image_of(kind)
    sizes = {"num_frames": 2 * tubelet_size, "tubelet_size": tubelet_size}
    weight = image.patch_embed.proj.weight
    x = torch.randn(2, 3, 2 * tubelet_size, *image.patch_embed.img_size)

    central = inflate(image, "ts", **sizes, input_format="NCTHW").eval()
    shown = torch.randn(2, 3, *image.patch_embed.img_size)
    x[:, :, tubelet_size // 2 :: tubelet_size] = shown[:, :, None]
    assert_same(central(x), image(shown))

    average = inflate(image, "ts", **sizes, tubelet_init="average", input_format="NCTHW").eval()
    for frame in average.patch_embed.proj.weight.unbind(dim=2):
        torch.testing.assert_close(frame, weight / tubelet_size)
    x = torch.randn(2, 3, tubelet_size, *image.patch_embed.img_size)
    assert_same(average(x.repeat(1, 1, 2, 1, 1)), image(x.mean(dim=2)))

    random = inflate(image, "ts", **sizes, tubelet_init="random")
    assert random.patch_embed.proj.weight.std(dim=2).min() > 0
    assert not torch.equal(random.patch_embed.proj.weight[:, :, tubelet_size // 2], weight)
    assert torch.equal(random.blocks[0].mlp.fc1.weight, image.blocks[0].mlp.fc1.weight)


@pytest.mark.parametrize("tubelet_size", [1, 2])
@pytest.mark.parametrize("in_chans", [1, 4, 6])
@pytest.mark.parametrize("kind", ["clip", "augreg", "eva02"])
def test_channels_are_adapted_as_timm_does(kind: str, in_chans: int, tubelet_size: int) -> None:
    image = image_of(kind)
    model = inflate(image, "ts", 4, tubelet_size=tubelet_size, in_chans=in_chans).eval()
    weight = adapt_input_conv(in_chans, image.patch_embed.proj.weight.detach())
    found = model.patch_embed.proj.weight
    if tubelet_size > 1:
        assert not found[:, :, 0].any()
        found = found[:, :, 1]
    assert torch.equal(found, weight)
    assert model.in_chans == in_chans
    assert image.in_chans == 3
    grey = torch.randn(2, 1, *image.patch_embed.img_size)
    if in_chans in (1, 6):  # timm's rule keeps the scores of a grey picture in these
        x = still(grey.expand(-1, in_chans, -1, -1))
        assert_same(model(x), image(grey.expand(-1, 3, -1, -1)))


def test_a_stem_of_other_channels_is_not_guessed_at() -> None:
    image = timm.create_model("vit_tiny_patch16_224", in_chans=4, depth=1)
    assert inflate(image, "s", 2, in_chans=4).in_chans == 4
    with pytest.raises(ValueError, match="4 channels cannot be adapted to 6"):
        inflate(image, "s", 2, in_chans=6)


@pytest.mark.parametrize("kind", ["augreg", "siglip", "dinov3"])
def test_another_head_pooling_and_size(kind: str) -> None:
    image = image_of(kind)
    patch = image.patch_embed.patch_size[0]
    model = inflate(image, "ts", 2, num_classes=7, global_pool="avg", img_size=4 * patch).eval()
    assert model(torch.randn(2, 3, 2, 4 * patch, 4 * patch)).shape == (2, 7)
    assert model.head.weight.std() > 0
    assert not model.head.bias.any()
    assert torch.equal(model.blocks[0].attn.proj.weight, image.blocks[0].attn.proj.weight)
    bigger = copy.deepcopy(image)
    bigger.set_input_size(img_size=(4 * patch, 4 * patch))
    kept = inflate(image, "ts", 2, img_size=(4 * patch, 4 * patch)).eval()
    x = torch.randn(2, 3, 4 * patch, 4 * patch)
    assert_same(kept(still(x, 2)), bigger(x))


def test_the_image_model_stays_as_it_is() -> None:
    image = image_of("dinov3")
    before, repr_before = copy.deepcopy(image.state_dict()), repr(image)
    model = inflate(image, "ts", 4, tubelet_size=2, num_classes=3, in_chans=1)
    perturb(model)
    assert repr(image) == repr_before
    assert all(torch.equal(tensor, before[key]) for key, tensor in image.state_dict().items())


def test_what_can_be_trained_is_trained() -> None:
    """Gradients reach every image weight and, of a zero `fc`, its weight."""
    model = inflate(image_of("dinov3"), "ts", 4, num_classes=5)
    model(torch.randn(2, 3, 4, 48, 48)).sum().backward()
    still_now = {name for name, p in model.named_parameters() if p.grad is None}
    assert not still_now
    assert all(block.added["t"]["attn"].fc.weight.grad.any() for block in model.blocks)


REFUSED = {
    # attention and MLP in one piece
    "vit_base_patch16_xp_224",
    "vit_large_patch14_xp_224",
    "vit_huge_patch14_xp_224",
    "vit_pwee_patch16_reg1_gap_256",
    "vit_dpwee_patch16_reg1_gap_256",
    # several attentions side by side already
    "vit_small_patch16_18x2_224",
    "vit_base_patch16_18x2_224",
    # the difference of two softmaxes
    "vit_dwee_patch16_reg1_gap_256",
    "vit_dlittle_patch16_reg1_gap_256",
    # two class tokens, each with a head
    "deit_tiny_distilled_patch16_224",
    "deit_small_distilled_patch16_224",
    "deit_base_distilled_patch16_224",
    "deit_base_distilled_patch16_384",
}
MODULES = ("vision_transformer", "eva", "deit")
SHARES = 12
NAMES = [name for module in MODULES for name in timm.list_models(module=module)]


def refusal(name: str) -> str | None:
    """Inflate a name without memory; return why it cannot be, or hold its key table to the rule."""
    try:
        assert key_table(name) > 0
    except ValueError as error:
        return str(error)
    return None


def key_table(name: str) -> int:
    """Hold keys and shapes of image and video model against each other; return how many keys are new."""
    with torch.device("meta"):
        image = timm.create_model(name)
        check_inflatable(image)
        before = {key: tuple(tensor.shape) for key, tensor in image.state_dict().items()}
        primary = [sum(p.numel() for p in block.attn.parameters()) for block in image.blocks if hasattr(block, "attn")]
        model = make_inflated(image, pattern="ts", num_frames=4, tubelet_size=2)
    after = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    stem = before.pop("patch_embed.proj.weight")
    assert after.pop("patch_embed.proj.weight") == (*stem[:2], 2, *stem[2:])
    assert after.pop("time_embed") == (1, 2, model.embed_dim)
    added = {key for key in after if ".added.t." in key}
    assert {key: shape for key, shape in after.items() if key not in added} == before
    dim = model.embed_dim
    for block, size in zip(model.blocks, primary, strict=True):
        fc = dim * dim + dim
        assert sum(p.numel() for p in block.added["t"]["attn"].parameters()) == size + fc
        assert [p.shape for p in block.added["t"]["norm"].parameters()] == [p.shape for p in block.norm1.parameters()]
    return len(added)


# of timm's names every third; all of them take half a minute more
@pytest.mark.parametrize("share", [pytest.param(i, marks=pytest.mark.slow if i % 3 else ()) for i in range(SHARES)])
def test_every_name_closes_its_key_table(share: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every image key is used, every video key explained, or the name is refused, with the reason."""
    # two thirds of the time would go into drawing numbers that the meta device does not keep
    monkeypatch.setattr("timm.layers.weight_init._trunc_normal_", lambda tensor, *_: tensor, raising=False)
    names = NAMES[share::SHARES]
    refused = {name: reason for name in names if (reason := refusal(name)) is not None}
    print(f"{len(names) - len(refused)} of {len(names)} names inflated, {len(refused)} refused")
    for name, reason in refused.items():
        print(f"  {name}: {reason}")
    assert set(refused) == REFUSED & set(names)


def test_the_names_are_all_of_timms() -> None:
    print(f"{len(NAMES) - len(REFUSED & set(NAMES))} of {len(NAMES)} names inflate")
    assert set(NAMES) >= REFUSED
    assert len(NAMES) > 150


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("resnet10t", "a ResNet is neither"),
        ("deit_tiny_distilled_patch16_224", "second class token"),
        ("vit_tiny_r_s16_p8_224", "the stem of this VisionTransformer is a HybridEmbed"),
        ("naflexvit_base_patch16_gap", "sequences of any length"),
        ("swin_tiny_patch4_window7_224", "a SwinTransformer is neither"),
        ("timesformer_test_patch8_32", "is a video model already"),
    ],
)
def test_other_models_are_refused_with_the_reason(name: str, reason: str) -> None:
    with torch.device("meta"):
        image = timm.create_model(name)
    with pytest.raises(ValueError, match=reason) as caught:
        inflate(image)
    assert "inflate takes timm's VisionTransformer" in str(caught.value)
    with pytest.raises(ValueError, match=reason):
        inflate(name)  # before any weights are asked for


def test_bad_choices_say_what_there_is() -> None:
    image = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32)
    with pytest.raises(ValueError, match="init='zeros' must be one of 'zero', 'copy', 'random'"):
        inflate(image, init="zeros")
    with pytest.raises(ValueError, match="tubelet_init='mean' must be one of 'central', 'average', 'random'"):
        inflate(image, tubelet_init="mean")
    with pytest.raises(ValueError, match=r"\['drop_path_rate'\] are arguments of timm.create_model"):
        inflate(image, drop_path_rate=0.1)
    with pytest.raises(ValueError, match="global_pool='map' does not fit"):
        inflate(image, global_pool="map")
    with pytest.raises(ValueError, match="depth"):
        inflate(image, "s*3 j")
