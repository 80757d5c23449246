"""The token grid of a clip, and the table that says which of its tokens share a softmax.

Legend: B batch, T H W token grid, P prefix tokens, C channels, G groups a sample, L tokens a group.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from einops import rearrange
from torch import Tensor

__all__ = [
    "LETTERS",
    "Grid",
    "Letter",
    "axis_lengths",
    "check_grid",
    "fold",
    "groups_around_tokens",
    "num_groups",
    "unfold",
]


class Grid(NamedTuple):
    """Token counts of a clip along time, height and width; tokens lie time-major, width fastest."""

    t: int
    h: int
    w: int

    @property
    def num_tokens(self) -> int:
        """Patch tokens of one clip, T*H*W."""
        return self.t * self.h * self.w


@dataclass(frozen=True)
class Letter:
    """One row of the table: how a letter of the pattern cuts the grid into groups that share a softmax.

    The three axis expressions are einops axes. ``axes`` is the flattened token axis written out, with the sides that
    are cut split in two; ``groups`` are the axes that tell groups apart and ``tokens`` those that run inside one.

    Args:
        name: What the layer is called in print and in reports.
        axes: The token axis, time-major, width fastest.
        groups: Axes whose values name a group; empty for a single group.
        tokens: Axes that run inside a group, in the order of the rows of ``fold``.
        sizes: Fixed lengths of axes that ``axes`` splits off.
        divides: What each of T, H and W must be a multiple of.
        prefix: Whether prefix tokens join every group (their copies' updates are averaged) or stay out, unchanged.
        causal: Whether a token sees only tokens of its group that are not later than itself.
        per_frame: Whether every group lies inside one frame (and groups come frame by frame) or leaves prefix tokens
            out without looking at later frames, so that a prefix token may belong to a frame.
        uses_time: Whether tokens of several frames can meet, so that a time embedding means something.
    """

    name: str
    axes: str
    groups: str
    tokens: str
    sizes: tuple[tuple[str, int], ...] = ()
    divides: tuple[int, int, int] = (1, 1, 1)
    prefix: bool = True
    causal: bool = False
    per_frame: bool = False
    uses_time: bool = True


LETTERS: dict[str, Letter] = {
    "t": Letter("time", "t h w", "h w", "t", prefix=False),
    "c": Letter("causal time", "t h w", "h w", "t", prefix=False, causal=True, per_frame=True),
    "h": Letter("height", "t h w", "t w", "h", per_frame=True, uses_time=False),
    "w": Letter("width", "t h w", "t h", "w", per_frame=True, uses_time=False),
    "s": Letter("space", "t h w", "t", "h w", per_frame=True, uses_time=False),
    "j": Letter("joint", "t h w", "", "t h w"),
    # TimeSformer section 3 and figure 2, "local-global": first the T x H/2 x W/2 neighbours, then every second token
    "l": Letter("local", "t y h x w", "y x", "t h w", sizes=(("y", 2), ("x", 2)), divides=(1, 2, 2)),
    "g": Letter(
        "sparse global",
        "t z h y w x",
        "z y x",
        "t h w",
        sizes=(("z", 2), ("y", 2), ("x", 2)),
        divides=(2, 2, 2),
    ),
}
"""The vocabulary: letter -> which tokens share a softmax. Everything else in the package reads it from here."""


def check_grid(grid: Grid, letter: str) -> None:
    """Refuse a grid that a letter cannot cut.

    Args:
        grid: Token counts.
        letter: A key of ``LETTERS``.

    Raises:
        ValueError: The letter is not in the table, or a side of the grid is not a multiple of what the letter needs.
    """
    if letter not in LETTERS:
        raise ValueError(f"letter {letter!r} is not one of {' '.join(LETTERS)}")
    row = LETTERS[letter]
    odd = [f"{side}={n}" for side, n, d in zip("thw", grid, row.divides, strict=True) if n % d]
    if odd:
        raise ValueError(
            f"{letter!r} ({row.name}) cuts the token grid t, h, w into steps of {row.divides}, which does not divide "
            f"{', '.join(odd)} of {grid}; choose num_frames / tubelet_size and img_size / patch_size accordingly, "
            "or another letter"
        )


def num_groups(grid: Grid, letter: str) -> int:
    """Count the groups of a sample.

    Args:
        grid: Token counts.
        letter: A key of ``LETTERS``.

    Returns:
        G, so that every group holds T*H*W / G patch tokens.
    """
    lengths = axis_lengths(grid, letter)
    return math.prod([lengths[axis] for axis in LETTERS[letter].groups.split()])


def fold(x: Tensor, grid: Grid, letter: str) -> Tensor:
    """Collect the tokens that attend to each other into rows.

    On a 2x1x2 grid with ``letter="t"``, tokens ``a0 b0 a1 b1`` become ``[a0 a1] [b0 b1]``: a row per place, running
    through time.

    Args:
        x: Patch tokens only, (B, T*H*W, C).
        grid: Token counts; their product is the token axis of ``x``.
        letter: A key of ``LETTERS``.

    Returns:
        (B*G, L, C). ``unfold`` undoes it exactly.

    Raises:
        ValueError: The grid cannot be cut as the letter asks (``g`` on an odd side), or is not that of ``x``.
    """
    check_grid(grid, letter)
    if x.shape[1] != grid.num_tokens:
        raise ValueError(f"x has {x.shape[1]} patch tokens, {grid} has {grid.num_tokens}; cut prefix tokens off first")
    row = LETTERS[letter]
    return rearrange(x, f"b ({row.axes}) c -> (b {row.groups}) ({row.tokens}) c", **axis_lengths(grid, letter))


def unfold(x: Tensor, grid: Grid, letter: str) -> Tensor:
    """Put the rows of ``fold`` back where they came from.

    Args:
        x: (B*G, L, C).
        grid: Token counts.
        letter: A key of ``LETTERS``.

    Returns:
        (B, T*H*W, C).

    Raises:
        ValueError: The grid cannot be cut as the letter asks.
    """
    check_grid(grid, letter)
    row = LETTERS[letter]
    return rearrange(x, f"(b {row.groups}) ({row.tokens}) c -> b ({row.axes}) c", **axis_lengths(grid, letter))


def axis_lengths(grid: Grid, letter: str) -> dict[str, int]:
    """Lengths of the axes that a letter writes the token axis out in.

    Args:
        grid: Token counts.
        letter: A key of ``LETTERS``.

    Returns:
        Axis of ``LETTERS[letter].axes`` -> its length.
    """
    row = LETTERS[letter]
    sides = {side: n // d for side, n, d in zip("thw", grid, row.divides, strict=True)}
    return {**sides, **dict(row.sizes)}


def groups_around_tokens(letter: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Which group axes lie outside and which inside of the axes that run within a group.

    Where the latter lie side by side, rows need no copy: outer group axes merge with the batch, inner ones with the
    heads, and what remains is a view of the token layout. Time has only inner ones (every place), space only an outer
    one (every frame), height one of each.

    Args:
        letter: A key of ``LETTERS``.

    Returns:
        (outer, inner), or ``None`` where the letter cuts sides in two and its tokens do not lie side by side.
    """
    row = LETTERS[letter]
    axes, tokens = row.axes.split(), row.tokens.split()
    first = axes.index(tokens[0])
    if axes[first : first + len(tokens)] != tokens:
        return None
    return tuple(axes[:first]), tuple(axes[first + len(tokens) :])
