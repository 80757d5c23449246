"""Which tokens of a clip reach a token, block after block: exact, from the table of letters and the pattern alone.

Nothing is measured and no model is built. A token "sees" another where some choice of weights lets what is in that one
change it; residuals let every token see itself. Which groups share a softmax is read from ``models.tokens``, what runs
in which order from ``models.pattern``; the tests hold the result against the gradients of real models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..models.pattern import BlockPlan, Pattern, parse_pattern
from ..models.tokens import LETTERS, Grid, fold, num_groups

__all__ = ["Reach", "follow_token", "receptive_field"]

Seen = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


@dataclass(frozen=True)
class Reach:
    """What every token has seen of the first block's input by the end of a step.

    Attributes:
        block: Index of the block.
        step: The step's text, for example ``"t"`` or ``"t+s"``.
        grid: Grid of the patch tokens behind the step; (T, 1, 1) behind a ``|``.
        prefix_sets: How many sets of prefix tokens there are: T where they belong to frames, else 1.
        of_patches: (tokens of ``grid``, T*H*W), whether a token has seen a patch token of the input.
        of_prefix: (tokens of ``grid``, sets of the input * P), whether it has seen a prefix token of the input.
        prefix_of_patches: (sets * P, T*H*W), the same of the prefix tokens.
        prefix_of_prefix: (sets * P, sets of the input * P).
    """

    block: int
    step: str
    grid: Grid
    prefix_sets: int
    of_patches: Seen
    of_prefix: Seen
    prefix_of_patches: Seen
    prefix_of_prefix: Seen


def receptive_field(
    pattern: str | Pattern,
    depth: int,
    grid: Grid,
    *,
    prefix_tokens: int = 1,
    class_token: bool = True,
    every_step: bool = False,
) -> tuple[Reach, ...]:
    """Follow what every token has seen through the blocks of a model.

    Args:
        pattern: The interleaving, or the name of a scheme.
        depth: Blocks of the model.
        grid: Token counts of a clip.
        prefix_tokens: P, class and register tokens.
        class_token: Whether the first of them is a class token, which stands for its frame behind a ``|``.
        every_step: Tell of every step of a block, not of its last alone.

    Returns:
        A reach a block, or a step.

    Raises:
        ValueError: A pattern that does not fit the depth or the grid, or a negative number of prefix tokens.
    """
    if prefix_tokens < 0:
        raise ValueError(f"{prefix_tokens=} must not be negative")
    parsed = parse_pattern(pattern) if isinstance(pattern, str) else pattern
    plans = parsed.plan(depth)
    sets = grid.t if plans[0].per_frame_prefix else 1
    num_inputs = sets * prefix_tokens + grid.num_tokens
    seen: Seen = np.eye(num_inputs, dtype=bool)  # (tokens, tokens of the input), prefix tokens in front in both
    cut = sets * prefix_tokens
    reaches, before = [], plans[0]
    for block, plan in enumerate(plans):
        if plan.starts_stage:
            takes_class = class_token and prefix_tokens > 0 and before.class_token_holds_frame
            seen = _reduce_frames(seen, grid, prefix_tokens, before, plan, takes_class=takes_class)
            grid = Grid(grid.t, 1, 1)
        sets = grid.t if plan.per_frame_prefix else 1
        here = sets * prefix_tokens
        for place, step in enumerate(plan.steps):
            seen = np.logical_or.reduce([seen, *(_attend(seen, grid, letter, sets) for letter in step.letters)])
            if every_step or place == len(plan.steps) - 1:
                quarters = seen[here:, cut:], seen[here:, :cut], seen[:here, cut:], seen[:here, :cut]
                reaches.append(Reach(block, str(step), grid, sets, *quarters))
        before = plan
    return tuple(reaches)


def _attend(seen: Seen, grid: Grid, letter: str, sets: int) -> Seen:
    """What attention under a letter brings every token: all that the tokens of its group have seen."""
    row, groups = LETTERS[letter], num_groups(grid, letter)
    num_prefix = len(seen) - grid.num_tokens
    places = torch.arange(grid.num_tokens, dtype=torch.float64).reshape(1, -1, 1)
    members = fold(places, grid, letter)[..., 0].long().numpy() + num_prefix  # (G, L), rows of `seen`
    copies = 0
    if row.prefix and num_prefix:
        copies = num_prefix // sets
        prefix = np.arange(num_prefix).reshape(sets, copies).repeat(groups // sets, axis=0)  # groups lie frame by frame
        members = np.concatenate([prefix, members], axis=1)
    rows = seen[members]  # (G, L, tokens of the input)
    brought = np.logical_or.accumulate(rows, axis=1) if row.causal else rows.any(axis=1, keepdims=True)
    brought = np.broadcast_to(brought, rows.shape)
    update: Seen = np.zeros_like(seen)
    update[members[:, copies:]] = brought[:, copies:]
    for place in range(copies):  # a prefix token is in several groups; its copies' updates are averaged
        np.logical_or.at(update, members[:, place], brought[:, place])
    return update


def _reduce_frames(
    seen: Seen, grid: Grid, prefix_tokens: int, before: BlockPlan, after: BlockPlan, *, takes_class: bool
) -> Seen:
    """Make every frame one token: its class token, or the mean of its patch tokens."""
    cut, inputs = len(seen) - grid.num_tokens, seen.shape[1]
    prefix, patches = seen[:cut], seen[cut:].reshape(grid.t, grid.h * grid.w, inputs)
    by_frame = prefix.reshape(-1, prefix_tokens, inputs) if prefix_tokens else prefix.reshape(grid.t, 0, inputs)
    frames = by_frame[:, 0] if takes_class else np.logical_or.reduce(patches, axis=1)
    if before.per_frame_prefix and not after.per_frame_prefix:
        prefix = np.logical_or.reduce(by_frame, axis=0)
    reduced: Seen = np.concatenate([prefix, frames])
    return reduced


def follow_token(reaches: Sequence[Reach], place: tuple[int, int, int]) -> tuple[tuple[Seen, Seen], ...]:
    """Follow one patch token through the blocks.

    Args:
        reaches: From ``receptive_field``.
        place: Its t, h, w; behind a ``|`` the token of its frame is followed.

    Returns:
        A pair a reach: which patch tokens (T*H*W,) and which prefix tokens (sets * P,) of the input it has seen.
    """
    t, h, w = place
    fields = []
    for reach in reaches:
        row = (t * reach.grid.h + min(h, reach.grid.h - 1)) * reach.grid.w + min(w, reach.grid.w - 1)
        fields.append((reach.of_patches[row], reach.of_prefix[row]))
    return tuple(fields)
