"""Which token sees which, held against the gradients of real models."""

import numpy as np
import pytest
import torch

from timesformer_plus.analysis.receptive_field import follow_token, receptive_field
from timesformer_plus.models.tokens import LETTERS, Grid
from timesformer_plus.models.video_transformer import VideoTransformer

MIXTURES = [
    *("ts", "st", "cs", "sc", "twh", "lg", "t+s", "h+w", "t&s", "c&s", "t s", "s c", "lt+w j"),
    *("s | j", "sc | j", "h | t", "t | s", "cs | c", "c | s", "s h | t&s", "hc | c s"),
]


def build(pattern, depth, grid, *, class_token, registers):
    torch.manual_seed(0)
    model = VideoTransformer(
        pattern=pattern,
        num_frames=grid.t,
        img_size=(4 * grid.h, 4 * grid.w),
        patch_size=4,
        embed_dim=16,
        depth=depth,
        num_heads=4,
        num_classes=0,
        class_token=class_token,
        reg_tokens=registers,
        global_pool="avg",
        dtype=torch.float64,
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # fc and time embedding are zero at first
            parameter.normal_(std=0.3)
    return model


def seen_by_gradient(model):
    """Of every block: (tokens behind it, tokens of the input), where a gradient flows."""
    outputs = []
    hooks = [block.register_forward_hook(lambda *args: outputs.append(args[2])) for block in model.blocks]
    with torch.no_grad():
        tokens, grid = model._embed(torch.randn(1, 3, model.num_frames, *model.patch_embed.img_size).double())
    tokens.requires_grad_()
    model.frames_apart = False  # what the hooks see are clips, also behind blocks that frames may run through alone
    model._run_blocks(tokens, grid)
    for hook in hooks:
        hook.remove()
    seen = []
    for output in outputs:
        weights = torch.randn(output.shape[-1], dtype=output.dtype)  # a plain sum has no gradient through a norm
        rows = [
            torch.autograd.grad(output[0, i] @ weights, tokens, retain_graph=True)[0][0].abs().amax(-1) > 0
            for i in range(output.shape[1])
        ]
        seen.append(torch.stack(rows).numpy())
    return seen


def check(pattern, depth, *, class_token, registers):
    grid = Grid(4, 2, 4)
    model = build(pattern, depth, grid, class_token=class_token, registers=registers)
    reaches = receptive_field(pattern, depth, grid, prefix_tokens=model.num_prefix_tokens, class_token=class_token)
    wanted = seen_by_gradient(model)
    assert len(reaches) == len(wanted) == depth
    for reach, by_gradient in zip(reaches, wanted, strict=True):
        ours = np.block([[reach.prefix_of_prefix, reach.prefix_of_patches], [reach.of_prefix, reach.of_patches]])
        assert np.array_equal(ours, by_gradient)
        assert len(reach.of_patches) == reach.grid.num_tokens


def depth_of(pattern):
    blocks = pattern.replace("|", "").split()
    return len(blocks) if "|" in pattern else 2 * len(blocks)


@pytest.mark.parametrize("letter", LETTERS)
@pytest.mark.parametrize("prefix", [0, 2])
def test_every_letter_reaches_where_gradients_do(letter, prefix):
    check(letter, 2, class_token=prefix > 0, registers=max(prefix - 1, 0))


@pytest.mark.parametrize("pattern", MIXTURES)
def test_mixtures_reach_where_gradients_do(pattern):
    check(pattern, depth_of(pattern), class_token=True, registers=1)


@pytest.mark.parametrize("pattern", [pattern for pattern in MIXTURES if "|" in pattern])
@pytest.mark.parametrize("registers", [0, 1])
def test_frames_become_tokens_without_a_class_token_too(pattern, registers):
    check(pattern, depth_of(pattern), class_token=False, registers=registers)


def test_steps_of_a_block_are_told_apart():
    """What `ts` has seen after its `t` is what `t s` has seen after its first block."""
    grid = Grid(4, 2, 4)
    steps = receptive_field("ts", 1, grid, every_step=True)
    blocks = receptive_field("t s", 2, grid)
    assert [(reach.block, reach.step) for reach in steps] == [(0, "t"), (0, "s")]
    for step, block in zip(steps, blocks, strict=True):
        assert np.array_equal(step.of_patches, block.of_patches)
        assert np.array_equal(step.prefix_of_patches, block.prefix_of_patches)


def test_a_small_table_by_hand():
    """Two frames of one row of two places: a b | c d; after `s` each frame sees itself, after `t` all four."""
    first, second = receptive_field("s t", 2, Grid(2, 1, 2), prefix_tokens=0)
    frame = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert first.of_patches.astype(int).tolist() == frame
    assert second.of_patches.all()


def test_a_followed_token_becomes_its_frames_token():
    grid = Grid(3, 2, 2)
    (first, _), (second, prefix) = follow_token(receptive_field("s | c", 2, grid, prefix_tokens=1), (1, 1, 0))
    assert first.nonzero()[0].tolist() == [4, 5, 6, 7]
    assert second.nonzero()[0].tolist() == list(range(8))
    assert prefix.tolist() == [True, True, False]  # a class token a frame, and the later frame's is not seen


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="does not divide depth=3"):
        receptive_field("t s", 3, Grid(2, 2, 2))
    with pytest.raises(ValueError, match=r"'g' .* cuts the token grid"):
        receptive_field("g", 1, Grid(3, 2, 2))
    with pytest.raises(ValueError, match="must not be negative"):
        receptive_field("s", 1, Grid(2, 2, 2), prefix_tokens=-1)
