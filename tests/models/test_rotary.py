"""Rotary positions in groups: against the slow twin and timm's own attention, and what they may not change."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import attention, reach
from timm.layers import AttentionRope, LayerNorm, RotaryEmbeddingCat
from timm.models.eva import EvaAttention
from torch import Tensor, nn

from timesformer_plus import LETTERS, AxisAttention, Grid, SpaceTimeBlock
from timesformer_plus.models.adopted_blocks import AxisAttentionRope, AxisEvaAttention
from timesformer_plus.models.group_attention import GroupAttention
from timesformer_plus.models.rotary import only_letters_of_time, rotary_1d, rotate

C, HEADS, D = 8, 2, 4


def randomise(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(std=0.5)
    return module


def any_angles(*shape: int) -> Tensor:
    """Angles of a kind that no formula makes, so that a token that gets its neighbour's shows."""
    angle = torch.rand(*shape, D // 2, dtype=torch.float64) * 6
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def laid_out(rope: Tensor, half: bool) -> Tensor:
    """Sines and cosines of D/2 angles for channels in pairs."""
    sine, cosine = rope.chunk(2, dim=-1)
    spread = (lambda a: torch.cat([a, a], dim=-1)) if half else (lambda a: a.repeat_interleave(2, dim=-1))
    return torch.cat([spread(sine), spread(cosine)], dim=-1)


def grouped(attn: nn.Module, cls: type, letters: str, **options: bool) -> GroupAttention:
    attn.__class__ = cls
    attn.set_groups(tuple(letters), **options)
    return attn


def plain(letters: str, half: bool, **options: bool) -> GroupAttention:
    return AxisAttention(C, letters, HEADS, qkv_bias=True, qk_norm=True, rotate_half=half, **options)


def eva(letters: str, half: bool, **options: bool) -> GroupAttention:
    attn = EvaAttention(C, HEADS, rotate_half=half, norm_layer=LayerNorm, num_prefix_tokens=0)
    return grouped(attn, AxisEvaAttention, letters, **options)


def eva_in_parts(letters: str, half: bool, **options: bool) -> GroupAttention:
    attn = EvaAttention(C, HEADS, qkv_fused=False, rotate_half=half, scale_norm=False, num_prefix_tokens=0, gated=True)
    return grouped(attn, AxisEvaAttention, letters, **options)


def rope_with_few_keys(letters: str, half: bool, **options: bool) -> GroupAttention:
    attn = AttentionRope(
        C, HEADS, qkv_fused=False, num_kv_heads=1, rotate_half=half, qk_norm=True, norm_layer=LayerNorm
    )
    return grouped(attn, AxisAttentionRope, letters, **options)


def wide_rope(letters: str, half: bool, **options: bool) -> GroupAttention:
    attn = AttentionRope(6, HEADS, attn_head_dim=D, rotate_half=half, gated=True)
    return grouped(attn, AxisAttentionRope, letters, **options)


KINDS = [plain, eva, eva_in_parts, rope_with_few_keys, wide_rope]


def compare_with_twin(layer: GroupAttention, grid: Grid, prefix: int, rope: Tensor | None, when: Tensor | None) -> None:
    layer = randomise(layer).double()
    x = torch.randn(2, prefix + grid.num_tokens, layer.proj.out_features, dtype=torch.float64, requires_grad=True)
    inputs = [x, *layer.parameters()]
    direction = torch.randn_like(x)
    for fused in (True, False):
        layer.fused_attn = fused
        results = []
        for y in (layer(x, grid, rope=rope, time_rope=when), attention(layer, x, grid, rope, when)):
            assert y.shape == x.shape
            grads = torch.autograd.grad((y * direction).sum(), inputs, allow_unused=True, materialize_grads=True)
            results.append([y, *grads])
        for ours, twins in zip(*results, strict=True):
            torch.testing.assert_close(ours, twins, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("letters", [*LETTERS, "ts", "cs", "jw"])
@settings(max_examples=3)
@given(
    prefix=st.sampled_from([0, 1, 3]),
    half=st.booleans(),
    by_head=st.booleans(),
    in_space=st.booleans(),
    in_time=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_equals_its_slow_twin(
    kind, letters: str, prefix: int, half: bool, by_head: bool, in_space: bool, in_time: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    grid = Grid(2, 2, 2)
    places = (HEADS, grid.num_tokens) if by_head else (grid.num_tokens,)
    rope = laid_out(any_angles(*places), half) if in_space else None
    when = laid_out(any_angles(grid.num_tokens), half) if in_time else None
    compare_with_twin(kind(letters, half, zero_fc=True), grid, prefix, rope, when)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("letters", ["s", "h", "c", "cw"])
def test_equals_its_slow_twin_with_prefix_tokens_a_frame(kind, letters: str) -> None:
    grid = Grid(2, 2, 3)
    rope, when = (laid_out(any_angles(grid.num_tokens), True) for _ in range(2))
    compare_with_twin(kind(letters, True, per_frame_prefix=True), grid, 2 * grid.t, rope, when)


def test_equals_its_slow_twin_without_a_bias_of_keys() -> None:
    grid = Grid(2, 2, 2)
    layer = AxisAttention(C, "s", HEADS, qkv_bias=True, k_bias=False)
    assert {"q_bias", "v_bias"} < set(dict(layer.named_parameters()))
    assert layer.qkv.bias is None
    assert not layer.q_bias.any()
    assert not layer.v_bias.any()
    compare_with_twin(layer, grid, 1, None, None)
    without = AxisAttention(C, "s", HEADS, qkv_bias=False, k_bias=False)
    assert without.q_bias is None
    assert without.v_bias is None


@pytest.mark.parametrize("prefix", [0, 1, 3])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("by_head", [False, True])
@pytest.mark.parametrize("cls", [AttentionRope, EvaAttention])
def test_joint_attention_is_timms_own(cls: type, by_head: bool, half: bool, prefix: int) -> None:
    options = {"rotate_half": half, "num_prefix_tokens": prefix, "norm_layer": LayerNorm, "scale_norm": True}
    image = randomise(cls(C, HEADS, **options)).double()
    grid = Grid(1, 2, 3)
    x = torch.randn(2, prefix + 6, C, dtype=torch.float64)
    rope = laid_out(any_angles(HEADS, 6) if by_head else any_angles(6), half)
    wanted = image(x, rope=rope)
    ours = grouped(image, {AttentionRope: AxisAttentionRope, EvaAttention: AxisEvaAttention}[cls], "j")
    torch.testing.assert_close(ours(x, grid, rope=rope), wanted, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(ours(x, grid), wanted, atol=1e-3), "angles matter"


@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("letter", LETTERS)
def test_receptive_fields_are_exact_with_rope(letter: str, prefix: int) -> None:
    grid = Grid(2, 4, 4) if letter in "lg" else Grid(3, 2, 2)
    block = randomise(SpaceTimeBlock(C, HEADS, letter)).double()
    rope, when = any_angles(grid.num_tokens), any_angles(grid.num_tokens)
    n = prefix + grid.num_tokens
    x = torch.randn(1, n, C, dtype=torch.float64, requires_grad=True)
    y = block(x, grid, laid_out(rope, False), laid_out(when, False))
    rows = [torch.autograd.grad((y[0, i] * torch.randn(C)).sum(), x, retain_graph=True)[0][0] for i in range(n)]
    assert torch.equal(torch.stack(rows).abs().sum(-1) > 0, reach(letter, grid, prefix))


def shifted(rope: Tensor, by: float, half: bool) -> Tensor:
    """Angles along time ``by`` moments later: moment 1 tells the angle of a moment."""
    rate = torch.tensor([10000 ** (-2 * i / D) for i in range(D // 2)], dtype=rope.dtype) * by
    sine, cosine = rope.chunk(2, dim=-1)
    ds, dc = laid_out(torch.cat([rate.sin(), rate.cos()]), half).chunk(2)
    return torch.cat([sine * dc + cosine * ds, cosine * dc - sine * ds], dim=-1)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(("letters", "prefix"), [("t", 2), ("c", 2), ("j", 0), ("l", 0), ("g", 0), ("tc", 1)])
def test_angles_of_time_are_relative_and_matter(letters: str, prefix: int, half: bool) -> None:
    grid = Grid(4, 2, 2)
    layer = randomise(AxisAttention(C, letters, HEADS, rotate_half=half)).double()
    x = torch.randn(2, prefix + grid.num_tokens, C, dtype=torch.float64)
    rope = rotary_1d(grid, D, half).double()
    y = layer(x, grid, time_rope=rope)
    torch.testing.assert_close(layer(x, grid, time_rope=shifted(rope, 5, half)), y, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(layer(x, grid), y, atol=1e-3)
    slower = shifted(rope, 5, half)[: grid.h * grid.w].repeat(grid.t, 1)
    assert not torch.allclose(layer(x, grid, time_rope=slower), y, atol=1e-3), "moments are told apart"


@pytest.mark.parametrize("letters", ["s", "h", "w", "sh"])
def test_angles_of_time_are_nothing_to_letters_within_frames(letters: str) -> None:
    grid = Grid(3, 2, 2)
    layer = randomise(AxisAttention(C, letters, HEADS))
    x = torch.randn(2, 1 + grid.num_tokens, C)
    assert torch.equal(layer(x, grid, time_rope=rotary_1d(grid, D, half=False)), layer(x, grid))


def test_angles_of_time_reach_only_the_heads_of_their_letter() -> None:
    grid = Grid(2, 1, 2)
    rope = rotary_1d(grid, D, half=False)
    for letters, moved in (("st", [False, True]), ("ts", [True, False])):
        by_head = only_letters_of_time(rope, tuple(letters), 4)
        assert by_head.shape == (4, grid.num_tokens, 2 * D)
        x = torch.randn(1, 1 + grid.num_tokens, 4, D)
        same = [torch.equal(a, b) for a, b in zip(rotate(x, by_head, False, 1).unbind(2), x.unbind(2), strict=True)]
        assert same == [not moved[0]] * 2 + [not moved[1]] * 2
    assert only_letters_of_time(rope, ("s",), 4) is None
    assert only_letters_of_time(rope, ("j",), 4) is rope


def test_angles_of_time_by_hand() -> None:
    rope = rotary_1d(Grid(3, 1, 2), 4, half=False)
    assert rope.shape == (6, 8)
    wanted = [math.sin(2), math.sin(2), math.sin(0.02), math.sin(0.02), math.cos(2), math.cos(2)]
    torch.testing.assert_close(rope[5, :6], torch.tensor(wanted))
    assert torch.equal(rope[4], rope[5])
    torch.testing.assert_close(rotary_1d(Grid(3, 1, 2), 4, half=True)[5, :2], torch.tensor(wanted)[[0, 2]])


def test_angles_of_space_cancel_over_time() -> None:
    grid = Grid(3, 2, 2)
    layer = randomise(AxisAttention(C, "t", HEADS)).double()
    embed = RotaryEmbeddingCat(D, in_pixels=False, feat_shape=[2, 2]).get_embed().double()
    x = torch.randn(1, 1 + grid.num_tokens, C, dtype=torch.float64)
    torch.testing.assert_close(layer(x, grid, rope=embed.repeat(3, 1)), layer(x, grid), rtol=1e-6, atol=1e-6)


def test_bfloat16_keeps_its_type() -> None:
    grid = Grid(2, 2, 2)
    layer = randomise(AxisAttention(C, "s", HEADS))
    x, rope = torch.randn(1, 9, C), rotary_1d(grid, D, half=False)
    wanted = layer(x, grid, rope=rope)
    ours = layer.bfloat16()(x.bfloat16(), grid, rope=rope)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), wanted, rtol=0.1, atol=0.1)


def test_refusals() -> None:
    grid = Grid(2, 2, 2)
    layer = AxisAttention(C, "s", HEADS)
    with pytest.raises(ValueError, match=r"rope must be \(N, 2\*d\) = \(8, 8\) or .* \(2, 8, 8\).* got \(4, 8\)"):
        layer(torch.zeros(1, 9, C), grid, rope=torch.zeros(4, 8))
    with pytest.raises(ValueError, match="pairs of channels, got head_dim=3"):
        rotary_1d(grid, 3, half=False)
