"""Attention maps against what the layers compute, and rollout against products written out by hand."""

import pytest
import timm
import torch

import timesformer_plus  # noqa: F401  registers the models
from timesformer_plus import AxisAttention, Grid
from timesformer_plus.analysis.attention_maps import attention_maps, rollout
from timesformer_plus.models.rotary_video_transformer import RotaryVideoTransformer

T, H, W = 4, 2, 2
PLACES = [(t, h, w) for t in range(T) for h in range(H) for w in range(W)]
# Who shares a softmax with whom, in words of one place and the other: the table of design, written down anew.
TOGETHER = {
    "t": lambda q, k: q[1:] == k[1:],
    "c": lambda q, k: q[1:] == k[1:] and k[0] <= q[0],
    "h": lambda q, k: (q[0], q[2]) == (k[0], k[2]),
    "w": lambda q, k: q[:2] == k[:2],
    "s": lambda q, k: q[0] == k[0],
    "j": lambda q, k: True,  # noqa: ARG005
    "l": lambda q, k: (2 * q[1] // H, 2 * q[2] // W) == (2 * k[1] // H, 2 * k[2] // W),
    "g": lambda q, k: all((a - b) % 2 == 0 for a, b in zip(q, k, strict=True)),
}


def build(pattern, *, depth=2, **options):
    """A model of 4 frames of 16 px, patches of 8: 4 x 2 x 2 tokens; weights large enough for uneven attention."""
    options = {"num_frames": T, "img_size": 16, "depth": depth, "num_classes": 3, "embed_dim": 32, **options}
    model = timm.create_model("timesformer_test_patch8_32", pattern=pattern, **options)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture
def clips():
    return torch.randn(2, 3, T, 16, 16)


@pytest.mark.parametrize("letter", "tchwsjlg")
@pytest.mark.parametrize("registers", [0, 2])
def test_a_map_shows_exactly_who_meets_whom(clips, letter, registers):
    model = build(letter, reg_tokens=registers, global_pool="avg")
    maps = attention_maps(model, clips)
    assert [(m.block, m.letters, m.grid) for m in maps] == [
        (0, (letter,), Grid(T, H, W)),
        (1, (letter,), Grid(T, H, W)),
    ]
    meets = torch.tensor([[TOGETHER[letter](q, k) for k in PLACES] for q in PLACES])
    for attention in maps:
        places = attention.between_places().reshape(2, 2, len(PLACES), len(PLACES))
        assert (places[:, :, meets] > 0).all()
        assert (places[:, :, ~meets] == 0).all()
        rows = attention.weights.sum(dim=-1)
        torch.testing.assert_close(rows[:, :, attention.num_prefix :], torch.ones(2, 2, len(PLACES)))
        leaves_prefix_out = letter in "tc"
        expected = torch.full_like(rows[:, :, : attention.num_prefix], 0.0 if leaves_prefix_out else 1.0)
        torch.testing.assert_close(rows[:, :, : attention.num_prefix], expected)


@pytest.mark.parametrize("pattern", ["t", "c", "h", "w", "s", "j", "l", "g", "t&s", "h&w", "ts", "j+s", "twh"])
@pytest.mark.parametrize("prefix", [{}, {"reg_tokens": 3}, {"class_token": False}])
def test_a_map_times_the_values_is_what_the_layer_computes(clips, pattern, prefix):
    model = build(pattern, global_pool="avg", **prefix)
    seen = []
    hooks = [
        module.register_forward_hook(lambda module, args, update: seen.append((module, *args, update)))
        for module in model.modules()
        if isinstance(module, AxisAttention)
    ]
    maps = attention_maps(model, clips)
    for hook in hooks:
        hook.remove()
    assert len(maps) == len(seen)
    for attention, (module, x, grid, update) in zip(maps, seen, strict=True):
        values = module.qkv(x)[..., 64:].unflatten(-1, (2, 16)).transpose(1, 2)
        seen_by = attention.weights.shape[-1] - x.shape[1]  # prefix tokens that the block keeps from the attention
        weights = attention.weights[:, :, seen_by:, seen_by:]
        expected = module.proj((weights @ values).transpose(1, 2).flatten(2))
        if module.fc is not None:
            expected = module.fc(expected)
        prefix_moves = any(letter not in "tc" for letter in module.letters)
        cut = 0 if prefix_moves else x.shape[1] - grid.num_tokens
        torch.testing.assert_close(update[:, cut:], expected[:, cut:], atol=1e-5, rtol=1e-4)


def test_a_fused_model_has_the_maps_that_it_had(clips):
    model = build("ts", depth=2)
    before = [attention.weights for attention in attention_maps(model, clips)]
    after = [attention.weights for attention in attention_maps(model.fuse(), clips)]
    assert model.fused
    torch.testing.assert_close(after, before)


def test_a_map_by_naive_softmax(clips):
    # no help from the model but its queries and keys: a loop over places, one softmax a query
    model = build("h", depth=1, class_token=False, global_pool="avg")
    captured = []
    hook = model.blocks[0].attn.register_forward_pre_hook(lambda _, args: captured.append(args[0]))
    weights = attention_maps(model, clips)[0].between_places()
    hook.remove()
    q, k, _ = model.blocks[0].attn.qkv(captured[0]).unflatten(-1, (3, 2, 16)).unbind(2)
    for b, head in [(0, 0), (1, 1)]:
        for i, query in enumerate(PLACES):
            others = [j for j, key in enumerate(PLACES) if TOGETHER["h"](query, key)]
            scores = torch.stack([q[b, i, head] @ k[b, j, head] / 4 for j in others])
            for weight, j in zip(scores.softmax(dim=0), others, strict=True):
                torch.testing.assert_close(weights[(b, head, *query, *PLACES[j])], weight)


def test_blocks_are_chosen_and_the_model_left_alone(clips):
    model = build("ts", depth=4)
    model.train()
    model.blocks[0].attn.eval()
    assert model.blocks[1].attn.fused_attn
    maps = attention_maps(model, clips, blocks=[-1, 1])
    assert [(m.block, m.letters) for m in maps] == [(1, ("t",)), (1, ("s",)), (3, ("t",)), (3, ("s",))]
    assert not maps[0].weights.requires_grad
    assert model.training
    assert not model.blocks[0].attn.training
    assert all(m.fused_attn and not m._forward_pre_hooks for m in model.modules() if isinstance(m, AxisAttention))
    with pytest.raises(ValueError, match=r"blocks=\[4\]: the model has blocks 0 to 3"):
        attention_maps(model, clips, blocks=[4])


def test_rollout_of_joint_attention_is_the_product_by_hand(clips):
    model = build("j", depth=3)
    product = torch.eye(17)
    for attention in attention_maps(model, clips):
        product = (attention.weights.mean(dim=1) + torch.eye(17)) / 2 @ product
    heat = product[:, 0, 1:]
    expected = (heat / heat.sum(dim=-1, keepdim=True)).reshape(2, T, H, W)
    torch.testing.assert_close(rollout(model, clips), expected)
    # one place as the query: its row
    row = product[:, 1 + (3 * H + 1) * W + 0, 1:]
    expected = (row / row.sum(dim=-1, keepdim=True)).reshape(2, T, H, W)
    torch.testing.assert_close(rollout(model, clips, query=(3, 1, 0)), expected)


def test_rollout_of_steps_in_turn_and_in_parallel(clips):
    eye = torch.eye(16)
    options = {"depth": 1, "class_token": False, "global_pool": "avg"}
    for pattern, mix in [
        ("ts", lambda t, s: (s + eye) / 2 @ ((t + eye) / 2)),
        ("st", lambda s, t: (t + eye) / 2 @ ((s + eye) / 2)),
        ("t+s", lambda t, s: (t + s + eye) / 3),
    ]:
        model = build(pattern, **options)
        product = mix(*(attention.weights.mean(dim=1) for attention in attention_maps(model, clips)))
        torch.testing.assert_close(rollout(model, clips), product.mean(dim=1).reshape(2, T, H, W))


def test_rollout_keeps_to_what_a_pattern_can_move(clips):
    by_time = rollout(build("t", global_pool="avg"), clips, query=(2, 1, 0))
    assert (by_time[:, :, 1, 0] > 0).all()
    assert by_time[:, :, 1, 0].sum() == pytest.approx(2)  # a clip each
    by_cause = rollout(build("c", global_pool="avg"), clips, query=(2, 1, 0))
    assert (by_cause[:, 3] == 0).all()
    assert (by_cause[:, :3, 1, 0] > 0).all()
    by_space = rollout(build("s"), clips, query=(2, 1, 0))
    assert (by_space[:, [0, 1, 3]] == 0).all()
    assert (by_space[:, 2] > 0).all()
    # the class tokens of the frames are averaged: every frame has its say
    assert (rollout(build("s"), clips) > 0).all()


@pytest.mark.parametrize("pattern", ["s", "ts", "lg", "twh", "t&s", "t s", "s | j", "s | c", "h | j", "c | j"])
@pytest.mark.parametrize("options", [{}, {"reg_tokens": 2}, {"class_token": False}])
def test_rollout_is_a_distribution_over_the_clip(clips, pattern, options):
    heat = rollout(build(pattern, **{"global_pool": "avg", **options}), clips)
    assert heat.shape == (2, T, H, W)
    assert (heat >= 0).all()
    torch.testing.assert_close(heat.sum(dim=(1, 2, 3)), torch.ones(2))


def test_rollout_through_a_bar_by_hand(clips):
    # without a class token a frame becomes the mean of its patches
    model = build("s | j", class_token=False, global_pool="avg")
    space, joint = (attention.weights.mean(dim=1) for attention in attention_maps(model, clips))
    frames = ((space + torch.eye(16)) / 2).unflatten(1, (T, H * W)).mean(dim=2)
    expected = ((joint + torch.eye(T)) / 2 @ frames).mean(dim=1).reshape(2, T, H, W)
    torch.testing.assert_close(rollout(model, clips), expected)


def test_rollout_through_a_bar_follows_the_class_tokens_of_the_frames(clips):
    model = build("s | j")
    space, joint = (attention.weights.mean(dim=1) for attention in attention_maps(model, clips))
    assert space.shape[-1] == T + 16
    before = (space + torch.eye(T + 16)) / 2
    after = torch.cat([before[:, :T].mean(dim=1, keepdim=True), before[:, :T]], dim=1)  # shared class token, frames
    heat = ((joint + torch.eye(1 + T)) / 2 @ after)[:, 0, T:]
    expected = (heat / heat.sum(dim=-1, keepdim=True)).reshape(2, T, H, W)
    torch.testing.assert_close(rollout(model, clips), expected)


def test_rollout_refuses_what_it_cannot_read(clips):
    with pytest.raises(ValueError, match=r"is no place \(t, h, w\)"):
        rollout(build("j"), clips, query=(4, 0, 0))
    with pytest.raises(ValueError, match="global_pool='max' reads is no fixed mean"):
        rollout(build("j", global_pool="max"), clips)


def test_rollout_refuses_a_read_out_that_saw_nothing(clips):
    model = build("t", global_pool="avg")
    model.global_pool = "token"  # which attention over time leaves out
    with pytest.raises(ValueError, match="lets nothing of the clip reach what is read"):
        rollout(model, clips)


def test_maps_and_rollout_of_a_model_with_rotary_positions(clips):
    torch.manual_seed(0)
    model = RotaryVideoTransformer(
        "ts", T, img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=3, num_reg_tokens=1,
        use_rot_pos_emb=True, time_rope=True,
    )  # fmt: skip
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    seen = []
    hook = model.blocks[0].attn.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    time, space = attention_maps(model.eval(), clips)[:2]
    hook.remove()
    assert [time.letters, space.letters] == [("t",), ("s",)]
    rope = model.rope.get_embed().repeat(T, 1)
    q, k, _ = model.blocks[0].attn._queries_keys_values(seen[0], model.grid, rope, None)
    frame = [0, 1, *(2 + i for i, place in enumerate(PLACES) if place[0] == 2)]
    for i in frame[2:]:
        scores = torch.stack([(q[1, i, 0] * k[1, j, 0]).sum() / 8**0.5 for j in frame])
        torch.testing.assert_close(space.weights[1, 0, i, frame], scores.softmax(dim=0))
    heat = rollout(model, clips, query=(0, 0, 0))
    torch.testing.assert_close(heat.sum(dim=(1, 2, 3)), torch.ones(2))
