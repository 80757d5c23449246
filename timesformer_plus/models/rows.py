"""Rows of tokens that share a softmax, with the prefix tokens that join every row, gathered in one pass.

Where no prefix token joins, most letters need no copy at all (see ``tokens.groups_around_tokens``). Where one does, a
row is a copy of it followed by the row's patch tokens, and no view of the token layout is that. ``gather_rows`` writes
it in one pass and ``scatter_rows`` puts results back in one pass; the backward pass of each is the other, so that no
slice, concatenation or padding leaves a tensor of zeros behind.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .tokens import LETTERS, Grid, axis_lengths, check_grid, num_groups

__all__ = ["add_to_patches", "gather_rows", "scatter_rows"]


def add_to_patches(x: Tensor, update: Tensor) -> Tensor:
    """Add an update to the last tokens, and leave those in front as they are.

    Args:
        x: (B, P + N, C).
        update: (B, N, C).

    Returns:
        Like ``x``.
    """
    if x.shape[1] == update.shape[1]:
        return x + update
    if torch.compiler.is_compiling():  # a compiler writes this in one pass, and traces no `out=` of a slice
        num_prefix = x.shape[1] - update.shape[1]
        return torch.cat([x[:, :num_prefix], x[:, num_prefix:] + update], dim=1)
    y: Tensor = _AddToPatches.apply(x, update)
    return y


def gather_rows(x: Tensor, grid: Grid, letter: str, frames: int = 1) -> Tensor:
    """Collect what shares a softmax into rows, a copy of the prefix tokens in front of each.

    Args:
        x: Of every token, (B, P + T*H*W, ...): prefix tokens, then patch tokens.
        grid: Counts of the patch tokens.
        letter: A key of ``LETTERS`` whose prefix tokens join every group.
        frames: Sets of prefix tokens: one for all groups, or T, one for the groups of each frame, P = T*p.

    Returns:
        (B*G, p + L, ...), where G groups hold p = P / ``frames`` prefix and L patch tokens each.

    Raises:
        ValueError: The grid cannot be cut as the letter asks.
    """
    check_grid(grid, letter)
    rows: Tensor = _Gather.apply(x, grid, letter, frames, 1.0)
    return rows


def scatter_rows(rows: Tensor, grid: Grid, letter: str, num_prefix: int, frames: int = 1) -> Tensor:
    """Put rows back where ``gather_rows`` took them from; the copies of a prefix token are averaged.

    Args:
        rows: (B*G, p + L, ...).
        grid: Counts of the patch tokens.
        letter: A key of ``LETTERS``.
        num_prefix: P, prefix tokens of all sets together.
        frames: Sets of prefix tokens, as above.

    Returns:
        (B, P + T*H*W, ...).

    Raises:
        ValueError: The grid cannot be cut as the letter asks.
    """
    check_grid(grid, letter)
    groups = num_groups(grid, letter)
    x: Tensor = _Scatter.apply(rows, grid, letter, num_prefix, frames, frames / groups)
    return x


class _Gather(torch.autograd.Function):
    """Rows out of tokens, the copies of prefix tokens times ``weight``; backward, copies are weighted and summed."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, grid: Grid, letter: str, frames: int, weight: float) -> Tensor:
        groups, num_prefix = num_groups(grid, letter), x.shape[1] - grid.num_tokens
        copies, rest = num_prefix // frames, x.shape[2:]
        rows = x.new_empty(x.shape[0], groups, copies + grid.num_tokens // groups, *rest)
        sizes, order = _axes(grid, letter)
        patches = x[:, num_prefix:].unflatten(1, sizes)
        _patches_of(rows, grid, letter, copies).copy_(_permute(patches, order))
        prefix = x[:, :num_prefix].unflatten(1, (frames, copies)).unsqueeze(2)
        _prefix_of(rows, frames, copies).copy_(prefix if weight == 1 else prefix * weight)
        return rows.flatten(0, 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        x, ctx.grid, ctx.letter, ctx.frames, ctx.weight = inputs
        ctx.num_prefix = x.shape[1] - ctx.grid.num_tokens

    @staticmethod
    def backward(ctx: Any, rows: Tensor) -> tuple[Tensor | None, ...]:
        x = _Scatter.apply(rows, ctx.grid, ctx.letter, ctx.num_prefix, ctx.frames, ctx.weight)
        return x, None, None, None, None


class _Scatter(torch.autograd.Function):
    """Tokens out of rows, the copies of prefix tokens summed and weighted; backward, they get weighted copies."""

    generate_vmap_rule = True

    @staticmethod
    def forward(rows: Tensor, grid: Grid, letter: str, num_prefix: int, frames: int, weight: float) -> Tensor:
        groups, copies = num_groups(grid, letter), num_prefix // frames
        rows = rows.unflatten(0, (-1, groups))
        x = rows.new_empty(rows.shape[0], num_prefix + grid.num_tokens, *rows.shape[3:])
        sizes, order = _axes(grid, letter)
        patches = x[:, num_prefix:].unflatten(1, sizes)
        _permute(patches, order).copy_(_patches_of(rows, grid, letter, copies))
        prefix = _prefix_of(rows, frames, copies).sum(dim=2)
        x[:, :num_prefix].unflatten(1, (frames, copies)).copy_(prefix if weight == 1 else prefix * weight)
        return x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        _, ctx.grid, ctx.letter, _, ctx.frames, ctx.weight = inputs

    @staticmethod
    def backward(ctx: Any, x: Tensor) -> tuple[Tensor | None, ...]:
        return _Gather.apply(x, ctx.grid, ctx.letter, ctx.frames, ctx.weight), None, None, None, None, None


class _AddToPatches(torch.autograd.Function):
    """A sum in one pass, and none backward: padding the update would write it twice and read it once more."""

    @staticmethod
    def forward(x: Tensor, update: Tensor) -> Tensor:
        num_prefix = x.shape[1] - update.shape[1]
        y = torch.empty_like(x, dtype=torch.promote_types(x.dtype, update.dtype))
        y[:, :num_prefix].copy_(x[:, :num_prefix])
        torch.add(x[:, num_prefix:], update, out=y[:, num_prefix:])
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG004
        ctx.num_prefix = inputs[0].shape[1] - inputs[1].shape[1]
        ctx.dtypes = tuple(x.dtype for x in inputs)

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Tensor, int]:
        size = info.batch_size
        x, update = [
            y.expand(size, *y.shape) if dim is None else y.movedim(dim, 0) for y, dim in zip(inputs, dims, strict=True)
        ]
        return add_to_patches(x.flatten(0, 1), update.flatten(0, 1)).unflatten(0, (size, -1)), 0

    @staticmethod
    def backward(ctx: Any, y: Tensor) -> tuple[Tensor, Tensor]:
        return y.to(ctx.dtypes[0]), y[:, ctx.num_prefix :].to(ctx.dtypes[1])


def _axes(grid: Grid, letter: str) -> tuple[list[int], list[int]]:
    """Lengths of the written-out token axis, and the dimensions that put its group axes in front of the others."""
    row, lengths = LETTERS[letter], axis_lengths(grid, letter)
    axes = row.axes.split()
    return [lengths[a] for a in axes], [1 + axes.index(a) for a in (row.groups + " " + row.tokens).split()]


def _permute(x: Tensor, order: list[int]) -> Tensor:
    return x.permute(0, *order, *range(1 + len(order), x.ndim))


def _patches_of(rows: Tensor, grid: Grid, letter: str, copies: int) -> Tensor:
    """Patch tokens of (B, G, p + L, ...) as a view with the axes of ``_axes``."""
    row, lengths = LETTERS[letter], axis_lengths(grid, letter)
    patches: Tensor = rows[:, :, copies:].unflatten(2, [lengths[a] for a in row.tokens.split()])
    groups = [lengths[a] for a in row.groups.split()]
    return patches.unflatten(1, groups) if groups else patches.squeeze(1)


def _prefix_of(rows: Tensor, frames: int, copies: int) -> Tensor:
    """Prefix tokens of (B, G, p + L, ...) as a view (B, frames, G / frames, p, ...)."""
    prefix: Tensor = rows.unflatten(1, (frames, -1))[:, :, :, :copies]
    return prefix
