"""Drawings of interleavings: what one token has seen of the clip after each attention, as inline SVG.

The frames of the clip stand in a row, each cut into its patches. Colours are the page's style sheet's, so that a
drawing follows light and dark and needs no script.
"""

from __future__ import annotations

from html import escape

import numpy as np

from ..models.tokens import Grid
from .page_data import Geometry
from .receptive_field import Reach, follow_token, receptive_field

GREATEST = Grid(16, 16, 16)  # what is larger is drawn on a clip of this size at most, and says so
FRAME, GAP = 40.0, 7.0

Cells = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


def draw_interleaving(geometry: Geometry) -> str:
    """Draw the receptive field of one patch token, attention after attention.

    Args:
        geometry: The model's.

    Returns:
        HTML: a line an attention, in the order in which they run; those that bring nothing new are left out.
    """
    grid = _drawn_grid(geometry.grid)
    reaches = receptive_field(
        geometry.pattern,
        geometry.depth,
        grid,
        prefix_tokens=geometry.prefix_tokens,
        class_token=geometry.class_token,
        every_step=True,
    )
    place = (grid.t // 2, grid.h // 2, grid.w // 2)
    before: Cells = np.zeros(grid.num_tokens, dtype=bool)
    before[(place[0] * grid.h + place[1]) * grid.w + place[2]] = True
    lines, shown = [], -1
    for index, ((field, _), reach) in enumerate(zip(follow_token(reaches, place), reaches, strict=True)):
        if index and np.array_equal(field, before):
            continue
        frames = _frames(grid, place, field, before, reach)
        lines.append(_line(frames, field, reach, geometry))
        before, shown = field, index
    if shown < len(reaches) - 1:
        lines.append(f'<p class="reach">Nothing new from there to the end of block {geometry.depth}.</p>')
    if grid != geometry.grid:
        real, drawn = (" × ".join(map(str, g)) for g in (geometry.grid, grid))
        lines.append(f'<p class="reach">Drawn on {drawn} tokens, the model has {real}.</p>')
    return "".join(lines)


def _line(frames: str, field: Cells, reach: Reach, geometry: Geometry) -> str:
    seen, total = int(field.sum()), len(field)
    what = "token of the frame" if len(reach.of_patches) < total else "token"
    spoken = f"after {reach.step} in block {reach.block + 1} the {what} has seen {seen} of {total} patches"
    text = f"<b>{escape(reach.step)}</b> block {reach.block + 1}: {_share(seen, total)}"
    if geometry.class_token and geometry.prefix_tokens:
        of_class = int(reach.prefix_of_patches[0].sum())
        text += f", class token{' of a frame' if reach.prefix_sets > 1 else ''} {_share(of_class, total)}"
    return f'<div class="field">{frames.replace("LABEL", escape(spoken))}<p class="reach">{text}</p></div>'


def _share(seen: int, total: int) -> str:
    return "everything" if seen == total else f"{seen} of {total}"


def _frames(grid: Grid, place: tuple[int, int, int], field: Cells, before: Cells, reach: Reach) -> str:
    whole_frame = len(reach.of_patches) < grid.num_tokens  # behind a `|`
    side = FRAME / max(grid.h, grid.w)
    width, height = grid.w * side, grid.h * side
    now, old = (cells.reshape(grid) for cells in (field, before))
    parts = []
    for t in range(grid.t):
        x0 = 2 + t * (width + GAP)
        parts.append(f'<rect class="clip" x="{x0:.1f}" y="2" width="{width:.1f}" height="{height:.1f}"/>')
        for name, cells in (("old", now[t] & old[t]), ("new", now[t] & ~old[t])):
            if cells.any():
                parts.append(f'<path class="{name}" d="{_path(cells, x0, side)}"/>')
    lines = "".join(
        f"M{2 + t * (width + GAP) + i * side:.1f} 2v{height:.1f}" for t in range(grid.t) for i in range(1, grid.w)
    ) + "".join(
        f"M{2 + t * (width + GAP):.1f} {2 + i * side:.1f}h{width:.1f}" for t in range(grid.t) for i in range(1, grid.h)
    )
    parts.append(f'<path class="mesh" d="{lines}"/>')
    t, h, w = place
    x, y = 2 + t * (width + GAP) + (0 if whole_frame else w * side), 2 + (0 if whole_frame else h * side)
    wide, high = (width, height) if whole_frame else (side, side)
    parts.append(f'<rect class="self" x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{high:.1f}"/>')
    box = f"0 0 {4 + grid.t * (width + GAP) - GAP:.1f} {4 + height:.1f}"
    return f'<svg viewBox="{box}" role="img" aria-label="LABEL">{"".join(parts)}</svg>'


def _path(cells: Cells, x0: float, side: float) -> str:
    """Runs of cells along a row as one path."""
    d = ""
    for row, line in enumerate(cells):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], line, [False]]).astype(np.int8)))
        for start, stop in edges.reshape(-1, 2):
            length = (stop - start) * side
            d += f"M{x0 + start * side:.1f} {2 + row * side:.1f}h{length:.1f}v{side:.1f}h-{length:.1f}z"
    return d


def _drawn_grid(grid: Grid) -> Grid:
    """The grid, or one that letters cut in the same way: a side beyond the greatest stays even or odd."""
    sides = [n if n <= most else most - (most - n) % 2 for n, most in zip(grid, GREATEST, strict=True)]
    return Grid(*sides)
