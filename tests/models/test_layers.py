"""Every letter against its slow twin, forward and backward, and the exact receptive field of every block."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import attention, groups, places, reach
from timm.layers import LayerNorm
from torch import Tensor

from timesformer_plus import LETTERS, AxisAttention, Grid, SpaceTimeBlock

PER_FRAME = [letter for letter, row in LETTERS.items() if row.per_frame]


def randomise(module: torch.nn.Module) -> torch.nn.Module:
    """Give every parameter, zero-initialised ones too, values that a mistake would show in."""
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(std=0.5)
    return module


def legal_grid(letters: str, t: int, h: int, w: int) -> Grid:
    sides = [max(LETTERS[a].divides[i] for a in letters) for i in range(3)]
    return Grid(*(n * d for n, d in zip((t, h, w), sides, strict=True)))


def compare_with_twin(layer: AxisAttention, x: Tensor, grid: Grid) -> None:
    x.requires_grad_()
    inputs = [x, *layer.parameters()]
    direction = torch.randn_like(x)
    results = []
    for y in (layer(x, grid), attention(layer, x, grid)):
        assert y.shape == x.shape
        results.append(
            [y, *torch.autograd.grad((y * direction).sum(), inputs, allow_unused=True, materialize_grads=True)]
        )
    for ours, twins in zip(*results, strict=True):
        torch.testing.assert_close(ours, twins, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("letters", [*LETTERS, "ts", "hw", "cs", "lg", "tj", "twh", "tc"])
@settings(max_examples=12)
@given(
    t=st.integers(1, 3),
    h=st.integers(1, 3),
    w=st.integers(1, 2),
    prefix=st.sampled_from([0, 1, 2, 5]),
    heads=st.integers(1, 2),
    fused=st.booleans(),
    norms=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_equals_its_slow_twin(
    letters: str, t: int, h: int, w: int, prefix: int, heads: int, fused: bool, norms: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    grid = legal_grid(letters, min(t, 2) if letters in ("g", "lg") else t, min(h, 2), w)
    heads *= len(letters)
    layer = AxisAttention(
        2 * heads, letters, heads, zero_fc=True, qkv_bias=True, qk_norm=norms, scale_norm=norms, norm_layer=LayerNorm
    )
    layer = randomise(layer).double()
    layer.fused_attn = fused
    compare_with_twin(layer, torch.randn(2, prefix + grid.num_tokens, 2 * heads, dtype=torch.float64), grid)


@pytest.mark.parametrize("letters", [*PER_FRAME, "hw", "cs", "cw"])
@settings(max_examples=12)
@given(t=st.integers(1, 3), h=st.integers(1, 3), w=st.integers(1, 3), prefix=st.integers(0, 3), fused=st.booleans())
def test_equals_its_slow_twin_with_prefix_tokens_a_frame(
    letters: str, t: int, h: int, w: int, prefix: int, fused: bool
) -> None:
    grid = Grid(t, h, w)
    layer = randomise(AxisAttention(8, letters, 2, per_frame_prefix=True, zero_fc=True)).double()
    layer.fused_attn = fused
    compare_with_twin(layer, torch.randn(2, t * prefix + grid.num_tokens, 8, dtype=torch.float64), grid)


def jacobian_pattern(layers: list[SpaceTimeBlock], grid: Grid, num_prefix: int) -> Tensor:
    """Which outputs (rows) depend on which inputs (columns): a non-zero derivative in any channel."""
    n = num_prefix + grid.num_tokens
    x = torch.randn(1, n, 4, dtype=torch.float64, requires_grad=True)
    y = x
    for layer in layers:
        y = layer(y, grid)
    rows = [torch.autograd.grad((y[0, i] * torch.randn(4)).sum(), x, retain_graph=True)[0][0] for i in range(n)]
    return torch.stack(rows).abs().sum(-1) > 0


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("letter", LETTERS)
def test_receptive_field_after_one_block_and_after_two(letter: str, prefix: int) -> None:
    grid = Grid(4, 4, 4) if letter in "lg" else Grid(3, 3, 2)
    blocks = [randomise(SpaceTimeBlock(4, 2, letter)).double() for _ in range(2)]
    once = reach(letter, grid, prefix)
    assert torch.equal(jacobian_pattern(blocks[:1], grid, prefix), once)
    twice = (once.long() @ once.long()) > 0
    assert torch.equal(jacobian_pattern(blocks, grid, prefix), twice)
    if prefix == 0:
        assert not once.all() or letter == "j"
    if letter in "thwsl" and prefix == 0:
        assert torch.equal(once, twice), "a group never grows without prefix tokens"


@pytest.mark.parametrize("prefix", [1, 5])
@pytest.mark.parametrize("letter", PER_FRAME)
def test_receptive_field_with_prefix_tokens_a_frame(letter: str, prefix: int) -> None:
    grid = Grid(3, 2, 3)
    blocks = [randomise(SpaceTimeBlock(4, 2, letter, per_frame_prefix=True)).double() for _ in range(2)]
    once = reach(letter, grid, 3 * prefix, per_frame=True)
    assert torch.equal(jacobian_pattern(blocks[:1], grid, 3 * prefix), once)
    assert torch.equal(jacobian_pattern(blocks, grid, 3 * prefix), (once.long() @ once.long()) > 0)


@pytest.mark.parametrize("pair", ["ts", "lg", "twh", "t+s", "hw"])
def test_receptive_field_of_a_mixed_block(pair: str) -> None:
    """Steps in turn multiply their reach, parallel ones add it."""
    grid = Grid(2, 4, 4) if pair == "lg" else Grid(3, 2, 2)
    block = randomise(SpaceTimeBlock(4, 2, pair)).double()
    fields = [reach(letter, grid, 1) for letter in pair if letter != "+"]
    wanted = fields[0].long()
    for field in fields[1:]:
        wanted = wanted + field.long() if "+" in pair else field.long() @ wanted
    assert torch.equal(jacobian_pattern([block], grid, 1), wanted > 0)


def test_prefix_tokens_that_stay_out_are_left_bitwise_alone() -> None:
    grid = Grid(3, 2, 2)
    for letters in ("t", "c", "tc"):
        layer = randomise(AxisAttention(8, letters, 2, zero_fc=True))
        update = layer(torch.randn(2, 2 + grid.num_tokens, 8), grid)
        assert torch.equal(update[:, :2], torch.zeros(2, 2, 8))


def test_a_fresh_block_is_the_block_of_its_primary_attention() -> None:
    grid = Grid(3, 2, 2)
    x = torch.randn(2, 1 + grid.num_tokens, 8)
    for text, primary in [("ts", "s"), ("st", "s"), ("t+s", "s"), ("jt", "j"), ("twh", "h"), ("lg", "g"), ("ttt", "t")]:
        at = Grid(2, 2, 2) if text == "lg" else grid
        tokens = x[:, : 1 + at.num_tokens]
        block, plain = SpaceTimeBlock(8, 2, text), SpaceTimeBlock(8, 2, primary)
        missing = plain.load_state_dict({k: v for k, v in block.state_dict().items() if not k.startswith("added.")})
        assert not missing.missing_keys
        torch.testing.assert_close(block(tokens, at), plain(tokens, at))


def test_names_of_added_attentions() -> None:
    assert list(SpaceTimeBlock(8, 2, "ttst&s").added) == ["t", "t_2", "ts"]
    assert list(SpaceTimeBlock(8, 2, "s").added) == []


def test_attention_dropout_acts_on_both_paths_and_only_in_training() -> None:
    grid = Grid(2, 2, 2)
    x = torch.randn(1, 9, 8)
    for fused in (True, False):
        layer = AxisAttention(8, "s", 2, attn_drop=0.5)
        layer.fused_attn = fused
        assert not torch.equal(layer(x, grid), layer(x, grid))
        layer.eval()
        assert torch.equal(layer(x, grid), layer(x, grid))


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("letters", [*LETTERS, "ts"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_single_and_half_precision_stay_near_the_twin_in_double(dtype: torch.dtype, letters: str, prefix: int) -> None:
    """Forward and backward, by the size of the largest number of each tensor."""
    grid = Grid(2, 2, 4)
    layer = AxisAttention(32, letters, 2, zero_fc=True, qkv_bias=True)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    layer = layer.to(dtype)
    twin = copy.deepcopy(layer).double()
    x = torch.randn(2, prefix + grid.num_tokens, 32).to(dtype).requires_grad_()
    direction = torch.randn_like(x)
    exact = x.detach().double().requires_grad_()
    y, wanted = layer(x, grid), attention(twin, exact, grid)
    (y * direction).sum().backward()
    (wanted * direction.double()).sum().backward()
    pairs = [(y, wanted), (x.grad, exact.grad)]
    pairs += [(a.grad, b.grad) for a, b in zip(layer.parameters(), twin.parameters(), strict=True)]
    for ours, theirs in pairs:
        assert ours.dtype == dtype
        error, size = (ours.double() - theirs).abs().max(), theirs.abs().max()
        assert error <= (1e-5 if dtype == torch.float32 else 0.05) * size + 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"letters": "x"}, "must be one or more of t c h w s j l g"),
        ({"letters": ""}, "must be one or more of"),
        ({"num_heads": 3}, "not a multiple of num_heads=3"),
        ({"letters": "tsh", "num_heads": 4}, "cannot be shared out evenly among the 3 letters of 't&s&h'"),
        ({"letters": "j", "per_frame_prefix": True}, "cannot belong to one frame under \\['j'\\]"),
    ],
)
def test_refusals(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AxisAttention(8, **{"num_heads": 2, **options})


def test_more_refusals() -> None:
    with pytest.raises(ValueError, match="fewer than the 8 patch tokens"):
        AxisAttention(8, "s", 2)(torch.zeros(1, 7, 8), Grid(2, 2, 2))
    with pytest.raises(ValueError, match="attn_layer='diff' cannot be cut"):
        SpaceTimeBlock(8, 2, "ts", attn_layer="diff")
    with pytest.raises(TypeError, match="gated"):
        AxisAttention(8, "s", 2, gated=True)  # type: ignore[call-arg]


def test_print_names_the_layers() -> None:
    text = repr(SpaceTimeBlock(8, 2, "ts"))
    assert "'ts'" in text
    assert "'t' (time), num_heads=2" in text
    assert "'s' (space), num_heads=2" in text


def test_the_reference_itself_on_groups_known_by_hand() -> None:
    assert groups("s", (2, 1, 2)) == [[0, 1], [2, 3]]
    assert groups("t", (2, 1, 2)) == [[0, 2], [1, 3]]
    assert groups("l", (1, 2, 4)) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert groups("g", (2, 2, 4))[0] == [0, 2]
    assert len(places((2, 3, 4))) == 24
