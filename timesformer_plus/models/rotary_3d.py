"""V-JEPA 2's rotary positions in three axes: what to rotate queries and keys by."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .tokens import Grid

__all__ = ["RopeType", "rotary_3d"]

RopeType = Literal["vjepa2", "vjepa2.1"]
"""``"vjepa2"``: an axis' frequencies are tiled over its channels, and h and w count tokens. ``"vjepa2.1"``: each
frequency turns the two channels of its pair, and h and w run over the 16 tokens of the sizes it was trained at first.
"""


def rotary_3d(
    grid: Grid, head_dim: int, rope_type: RopeType, patch_size: int = 16, device: torch.device | str | None = None
) -> Tensor:
    """Compute sines and cosines for every patch token.

    The d channels of a head are three equal parts for t, h and w, each of the largest even size with which all three
    fit; the rest is not rotated. An axis of n channels has n/2 frequencies 10000^(-2i/n), and neighbouring channels
    2i and 2i+1 are a pair. V-JEPA 2 (arXiv 2506.09985, and its released code) lays the frequencies out twice, one row
    behind the other, so that the two channels of a pair turn by different angles: no rotation, but what the weights
    were trained with. Version 2.1 of the code repeats each frequency in place, a true rotation, and stretches h and w
    to 0..15 (0..17 for patches of 14 pixels), whatever the size of the frame.

    Args:
        grid: Token counts.
        head_dim: Channels d of a head, even and at least 6.
        rope_type: Which of the two.
        patch_size: Side of a patch in pixels, which says what h and w are stretched to in 2.1.
        device: Where to compute.

    Returns:
        (T*H*W, 2*d), sines in front of cosines, float32; for channels in pairs (timm's ``apply_rot_embed_cat``
        without ``half``).

    Raises:
        ValueError: A head too small or odd, or an unknown type.
    """
    if rope_type not in ("vjepa2", "vjepa2.1"):
        raise ValueError(f"{rope_type=} must be 'vjepa2', 'vjepa2.1' or None")
    if head_dim < 6 or head_dim % 2:
        raise ValueError(
            f"rotary positions in 3 axes need an even number of at least 6 channels a head, got {head_dim}; choose "
            "another num_heads or embed_dim"
        )
    part = 2 * (head_dim // 3 // 2)
    rate = 1.0 / 10000 ** (torch.arange(part // 2, device=device, dtype=torch.float32) / (part / 2.0))
    angles = []
    for axis, length in enumerate(grid):
        place = torch.arange(length, device=device, dtype=torch.float32)
        if rope_type == "vjepa2.1" and axis > 0:
            trained = 252 // patch_size if patch_size == 14 else 256 // patch_size
            place = place * (trained - 1) / max(length - 1, 1)
        angle = place[:, None] * rate
        angle = angle.repeat(1, 2) if rope_type == "vjepa2" else angle.repeat_interleave(2, dim=1)
        shape = [1, 1, 1, part]
        shape[axis] = length
        angles.append(angle.view(shape).expand(*grid, part))
    still = torch.zeros(*grid, head_dim - 3 * part, device=device)
    angle = torch.cat([*angles, still], dim=-1).flatten(0, 2)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
