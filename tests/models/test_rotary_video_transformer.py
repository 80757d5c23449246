"""Video models on timm's Eva: timm's contract, rotary positions of every kind, sizes, moments, augmentation."""

import copy
import json
import re

import pytest
import torch
from image_models import DINOV3, EVAS, SMALL, image_model, moved, picture, still
from timm.models._features import FeatureGetterNet
from timm.models.eva import Eva
from torch import Tensor, nn

from timesformer_plus.models.adopt import make_video
from timesformer_plus.models.group_attention import GroupAttention
from timesformer_plus.models.rotary_video_transformer import RotaryVideoTransformer

PATTERNS = ["s", "ts", "t+s", "cs", "t&s", "j", "lg", "twh", "s | j", "s ts"]
SOME = ["eva02", "dinov3", "rope_vit_mixed", "sapiens2", "post_norm_rope", "registers_no_class", "pe_class_map"]


def video(kind: str, pattern: str = "ts", num_frames: int = 4, **options) -> RotaryVideoTransformer:
    torch.manual_seed(0)
    model = RotaryVideoTransformer(pattern, num_frames, **{**SMALL, **EVAS[kind], **options})
    return moved(model).eval()


def clip(frames: int = 4, size: tuple[int, int] = (16, 16), seed: int = 0) -> Tensor:
    return torch.randn(2, 3, frames, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", EVAS)
def test_constructed_by_arguments_or_made_from_the_image_model(kind: str) -> None:
    torch.manual_seed(0)
    image = Eva(**SMALL, **EVAS[kind])
    torch.manual_seed(0)
    model = RotaryVideoTransformer("ts", 4, **SMALL, **EVAS[kind])
    before, after = image.state_dict(), model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items()), "timm's initialisation"
    moved(image).eval()
    model.load_state_dict({**after, **image.state_dict()})
    x = picture(image)
    torch.testing.assert_close(model.eval()(still(x, 4)), image(x), rtol=1e-5, atol=1e-5)
    made = make_video(image, pattern="ts", num_frames=4)
    assert list(made.state_dict()) == list(model.state_dict())


def test_attention_pooling_weighs_the_class_token_alike_at_any_length() -> None:
    model = video("pe_class_map", "s", dynamic_num_frames=True)
    x = clip(1)
    for frames in (2, 4, 7):
        torch.testing.assert_close(model(x.expand(-1, -1, frames, -1, -1)), model(x), rtol=1e-5, atol=1e-5)
    model = video("pe_class_map", "s", dynamic_num_frames=True, dynamic_img_size=True)
    with pytest.raises(ValueError, match="it cannot tell; create the model without one of them"):
        model(x)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("kind", SOME)
def test_contract(kind: str, pattern: str) -> None:
    model = video(kind, pattern, time_rope=True)
    x = clip()
    P, (t, h, w) = model.num_prefix_tokens, model.grid
    last = (4, 1, 1) if "|" in pattern else (t, h, w)
    features = model.forward_features(x)
    assert features.shape == (2, P + last[0] * last[1] * last[2], 16)
    logits = model(x)
    assert logits.shape == (2, 5)
    assert torch.equal(model.forward_head(features), logits)
    assert model.forward_head(features, pre_logits=True).shape == (2, 16)
    final, taken = model.forward_intermediates(x, norm=True)
    torch.testing.assert_close(final, features)
    assert [tuple(y.shape) for y in taken] == [(2, 16, 4, 2, 2), (2, 16, *last)]
    torch.testing.assert_close(taken[-1].flatten(2).transpose(1, 2), features[:, P:])
    layers = model.get_intermediate_layers(x, 2, return_prefix_tokens=P > 0)
    assert len(layers) == 2
    only = model.forward_intermediates(x, [0], norm=True, stop_early=True, intermediates_only=True)
    assert torch.equal(only[0], taken[0])
    model.set_grad_checkpointing()
    model.train()
    found = gradients(model, x)
    model.set_grad_checkpointing(False)
    for a, b in zip(found, gradients(model, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    idle = {name for (name, _), g in zip(model.named_parameters(), found, strict=True) if not g.any()}
    # the class token has read the last block's frames when its time attention, beside it, changes the patches
    assert all(name.startswith("blocks.1.added.t.") for name in idle), "every parameter learns"
    assert bool(idle) == (model.global_pool == "token" and pattern == "t+s")


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    torch.manual_seed(0)
    loss = model(x).square().sum()
    parameters = list(model.parameters())
    return list(torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True))


@pytest.mark.parametrize("kind", EVAS)
def test_rebuilt_from_its_arguments(kind: str) -> None:
    model = video(kind, "ts s", 4, tubelet_size=2, time_rope=kind != "eva", time_embed_std=0.1)
    model.reset_classifier(3, "avg" if model.attn_pool is None else None)
    model.set_input_size(img_size=(24, 16), num_frames=6)
    arguments = model.model_args
    if "norm_layer" not in arguments:
        arguments = json.loads(json.dumps(arguments))
    again = RotaryVideoTransformer(**arguments).eval()
    again.load_state_dict(model.state_dict())
    assert (again.grid, again.pattern, again.num_frames) == (model.grid, model.pattern, 6)
    x = clip(6, (24, 16))
    assert torch.equal(again(x), model(x))


@pytest.mark.parametrize("kind", EVAS)
def test_set_input_size_is_timms_for_images_and_keeps_time_apart(kind: str) -> None:
    image = image_model(kind)
    model = make_video(copy.deepcopy(image), pattern="ts", num_frames=4)
    with torch.no_grad():
        model.time_embed.copy_(torch.arange(4.0)[:, None].expand(-1, 16))
    model.set_input_size(img_size=(24, 32), num_frames=8)
    torch.testing.assert_close(model.time_embed[0, :, 0], torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]))
    with torch.no_grad():
        model.time_embed.zero_()
    image.set_input_size(img_size=(24, 32))
    x = picture(image)
    assert x.shape[2:] == (24, 32)
    torch.testing.assert_close(model(still(x, 8)), image(x), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="does not divide"):
        make_video(image_model(kind), pattern="lg", num_frames=4).set_input_size(img_size=24)


def test_clips_of_other_lengths() -> None:
    model = video("dinov3", "ts", dynamic_num_frames=True, time_rope=True)
    assert model(clip(7)).shape == (2, 5)
    with pytest.raises(ValueError, match="expected 4 frames, got 7"):
        video("dinov3")(clip(7))


@pytest.mark.parametrize("kind", SOME)
def test_frames_stay_apart_where_only_space_attends(kind: str) -> None:
    model = video(kind, "s", time_rope=True)
    x = clip()
    torch.testing.assert_close(model(x.flip(2)), model(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(video(kind, "s")(x), model(x), rtol=0, atol=0)
    other = x.clone()
    other[:, :, 3] = clip(seed=1)[:, :, 3]
    a, b = (model.forward_intermediates(y, intermediates_only=True)[-1] for y in (x, other))
    assert torch.equal(a[:, :, :3], b[:, :, :3])
    assert not torch.allclose(a[:, :, 3], b[:, :, 3], atol=1e-3)


@pytest.mark.parametrize("kind", SOME)
def test_causal_time_never_looks_ahead(kind: str) -> None:
    model = video(kind, "cs", time_rope=True)
    x = clip()
    other = x.clone()
    other[:, :, 2:] = clip(seed=1)[:, :, 2:]
    a, b = (model.forward_intermediates(y, intermediates_only=True)[-1] for y in (x, other))
    torch.testing.assert_close(a[:, :, :2], b[:, :, :2], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(a[:, :, 2:], b[:, :, 2:], atol=1e-3)
    earlier = x.clone()
    earlier[:, :, 0] = clip(seed=1)[:, :, 0]
    late = model.forward_intermediates(earlier, intermediates_only=True)[-1][:, :, 3]
    assert not torch.allclose(late, a[:, :, 3], atol=1e-3)


@pytest.mark.parametrize("kind", ["eva02", "rope_vit_mixed", "eva"])
def test_time_rope_tells_moments_apart(kind: str) -> None:
    """Without a time embedding and without it, time attention cannot tell a clip from one played backwards."""
    x = clip()
    for time_rope in (False, True):
        model = video(kind, "ts", time_rope=time_rope)
        with torch.no_grad():
            model.time_embed.zero_()
        same = torch.allclose(model(x), model(x.flip(2)), atol=1e-5)
        assert same is not time_rope
    heads = {**SMALL, "embed_dim": 6}
    with pytest.raises(ValueError, match="pairs of channels, got head_dim=3"):
        RotaryVideoTransformer("ts", 4, time_rope=True, **heads)


@pytest.mark.parametrize(
    "options", [{"rope_shift_coords": 0.5}, {"rope_jitter_coords": 2.0, "rope_rescale_coords": 2.0}]
)
@pytest.mark.parametrize("kind", ["dinov3", "eva02", "rope_vit_mixed", "mrope"])
def test_coordinates_are_augmented_once_a_pass(kind: str, options: dict) -> None:
    image = image_model(kind, **options).train()
    x = picture(image)
    model = make_video(copy.deepcopy(image), pattern="ts", num_frames=4)
    calls = []
    get_embed = model.rope.get_embed
    model.rope.get_embed = lambda *args, **kwargs: calls.append(1) or get_embed(*args, **kwargs)
    torch.manual_seed(1)
    wanted = image(x)
    torch.manual_seed(1)
    ours = model(still(x, 4))
    assert len(calls) == 1, "all blocks, all frames"
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(model(still(x, 4)), ours, atol=1e-4), "drawn anew in the next pass"
    frames = model.forward_intermediates(still(x, 4), intermediates_only=True)[-1]
    torch.testing.assert_close(frames[:, :, 0], frames[:, :, 3], rtol=1e-5, atol=1e-5)
    assert torch.equal(model.eval()(still(x, 4)), model(still(x, 4)))


def test_learned_angles_get_their_gradient_from_every_block_and_frame() -> None:
    model = video("rope_vit_mixed", "s")
    x = clip()
    model(x).square().sum().backward()
    grad = model.rope.freqs.grad.clone()
    assert all(grad[:, block].abs().max() > 0 for block in range(2))
    model.zero_grad()
    model.set_grad_checkpointing()
    model(x).square().sum().backward()
    torch.testing.assert_close(model.rope.freqs.grad, grad, rtol=1e-5, atol=1e-6)
    assert model.rope.freqs.shape[1] == 2


def test_no_angles_of_space_behind_a_bar() -> None:
    x = clip()
    model = video("eva02", "s | j")
    y = model(x)
    model.rope.pos_embed[:] = model.rope.pos_embed.flip(0)
    assert not torch.allclose(model(x), y, atol=1e-4), "the first block turns by them"
    plan = model.plan
    turns = [model._rotaries(model.grid, reduced=block.starts_stage)(i) for i, block in enumerate(plan)]
    assert turns[0].shape == (16, 2 * 8)
    assert turns[1] is None


def test_groups_of_parameters() -> None:
    model = video("rope_vit_mixed", "ts", use_abs_pos_emb=True)
    names = {name for name, _ in model.named_parameters()}
    assert model.no_weight_decay() == {"pos_embed", "cls_token", "reg_token", "rope.freqs", "time_embed"}
    matcher = model.group_matcher()
    stem = {name for name in names if re.match(matcher["stem"], name)}
    assert stem == {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "time_embed"}
    blocks = {name for name in names if re.match(matcher["blocks"][0][0], name)}
    assert names - stem - blocks == {"rope.freqs", "fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}


@pytest.mark.parametrize("kind", ["eva02", "sapiens2", "enormous", "eva_norm_inside"])
def test_init_weights_starts_anew_and_leaves_added_attentions_without_effect(kind: str) -> None:
    for needs_reset in (True, False):
        model = video(kind, "ts", time_embed_std=0.5)
        model.init_weights(needs_reset=needs_reset)
        attentions = [m for m in model.modules() if isinstance(m, GroupAttention) and m.fc is not None]
        assert len(attentions) == 2
        assert not any(m.fc.weight.any() or m.fc.bias.any() for m in attentions)
        assert 0.4 < model.time_embed.std() < 0.6
        assert all(0.015 < block.added["t"]["attn"].proj.weight.std() < 0.025 for block in model.blocks)
        # timm divides by sqrt(2 n) in the n-th block
        assert 0.008 < model.blocks[1].attn.proj.weight.std() < 0.012
    with pytest.raises(ValueError, match="one initialisation"):
        model.init_weights("jax")
    if kind == "eva_norm_inside":
        model.init_weights()
        assert torch.equal(model.blocks[0].gamma_1, torch.full((16,), 0.3))


def test_features_only() -> None:
    getter = FeatureGetterNet(video("dinov3", "ts"), out_indices=[0, 1])
    assert [tuple(y.shape) for y in getter(clip())] == [(2, 16, 4, 2, 2)] * 2
    assert getter.feature_info.channels() == [16, 16]
    pruned = FeatureGetterNet(video("rope_vit_mixed", "ts"), out_indices=[0])
    assert len(pruned.model.blocks) == 1
    assert pruned(clip())[0].shape == (2, 16, 4, 2, 2)


def test_reset_classifier_and_what_users_ask_of_a_model() -> None:
    model = video("dinov3", "ts")
    assert model.has_class_token
    assert model.num_reg_tokens == 4
    model.reset_classifier(0)
    assert model(clip()).shape == (2, 16)
    model.reset_classifier(7, "token")
    assert model(clip()).shape == (2, 7)
    assert model.model_args["global_pool"] == "token"
    assert not video("registers_no_class").has_class_token
    assert video("registers_no_class").num_reg_tokens == 3
    assert RotaryVideoTransformer("ts", 2, **SMALL, **DINOV3, device="meta").head.weight.is_meta
    assert "'ts'" in repr(model)


def test_float64_and_bfloat16() -> None:
    for kind in ("eva02", "dinov3", "rope_vit_mixed"):
        model = video(kind, "ts", time_rope=True)
        wanted = model(clip())
        torch.testing.assert_close(copy.deepcopy(model).double()(clip().double()).float(), wanted, rtol=1e-4, atol=1e-5)
        ours = model.bfloat16()(clip().bfloat16())
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.float(), wanted, rtol=0.2, atol=0.2)
