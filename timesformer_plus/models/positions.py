"""Positions of patch tokens in one table over T*H*W: learned as in ViViT, or fixed waves as in VideoMAE."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from .embed import resize_space_embed, resize_time_embed
from .tokens import Grid

__all__ = ["PosEmbed", "WavePositions", "resize_joint_embed", "wave_table"]

PosEmbed = Literal["learn", "joint", "sincos", "none", ""]
"""``pos_embed`` of a video model.

``"learn"``: a table over H*W, with a time embedding beside it (TimeSformer). ``"joint"``: one learned table over T*H*W
(ViViT, arXiv 2103.15691 section 3.2). ``"sincos"``: fixed waves over the T*H*W tokens in their order (VideoMAE's
released models, arXiv 2203.12602). ``"none"`` or ``""``: no table over space.
"""


def wave_table(num_tokens: int, dim: int) -> Tensor:
    """Compute fixed position embeddings: sine and cosine of the token's number, interleaved.

    Channels 2i and 2i+1 hold the sine and the cosine of ``n / 10000^(2i/dim)`` for token n (Vaswani et al. 2017,
    section 3.5). VideoMAE numbers the tokens of a clip in one go, time-major, so that the table knows nothing of rows.

    Args:
        num_tokens: T*H*W.
        dim: Channels C.

    Returns:
        (1, T*H*W, C), float32, computed in float64: at the last tokens float32 would be off by 1e-4.
    """
    channel = torch.arange(dim, dtype=torch.float64, device="cpu")
    rate = 10000.0 ** (2 * (channel // 2) / dim)
    angle = torch.arange(num_tokens, dtype=torch.float64, device="cpu")[:, None] / rate
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos()).float()[None]


class WavePositions(nn.Module):
    """The fixed table of ``wave_table``, kept outside the state dict and computed anew for every other grid.

    Args:
        grid: Token counts that the table is kept for.
        dim: Channels C.
        device: Where to keep it.
        dtype: Its type.
    """

    table: Tensor

    def __init__(
        self,
        grid: Grid,
        dim: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.grid, self.dim = grid, dim
        empty = torch.empty(1, grid.num_tokens, dim, device=device, dtype=dtype)
        self.register_buffer("table", empty, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Compute the table again; timm's initialisation calls it after ``to_empty``."""
        with torch.no_grad():
            self.table.copy_(wave_table(self.grid.num_tokens, self.dim))

    # the names under which timm and transformers look for it
    init_weights = init_non_persistent_buffers = reset_parameters

    def set_grid(self, grid: Grid) -> None:
        """Keep the table of another grid.

        Args:
            grid: Token counts.
        """
        if grid != self.grid:
            self.grid, self.table = grid, self.forward(grid)

    def forward(self, grid: Grid) -> Tensor:
        """Look up the positions of a clip.

        Args:
            grid: Its token counts.

        Returns:
            (1, T*H*W, C).
        """
        return self.table if grid == self.grid else wave_table(grid.num_tokens, self.dim).to(self.table)

    def extra_repr(self) -> str:
        return f"grid={tuple(self.grid)}, dim={self.dim}"


def resize_joint_embed(embed: Tensor, old: Grid, new: Grid, num_prefix_tokens: int) -> Tensor:
    """Resample a joint table to another grid: bicubic on each frame's height and width, linear in time.

    Args:
        embed: (1, P + T*H*W, C), time-major.
        old: Its token counts.
        new: The wanted ones.
        num_prefix_tokens: P, entries in front that belong to prefix tokens and stay as they are.

    Returns:
        (1, P + T'*H'*W', C).

    Raises:
        ValueError: A table of another length.
    """
    if embed.shape[1] != num_prefix_tokens + old.num_tokens:
        raise ValueError(
            f"a joint position table over {tuple(old)} tokens with {num_prefix_tokens} prefix tokens has "
            f"{num_prefix_tokens + old.num_tokens} entries, this one has {embed.shape[1]}"
        )
    if old == new:
        return embed
    prefix, patches = embed[:, :num_prefix_tokens], embed[:, num_prefix_tokens:]
    frames = patches.unflatten(1, (old.t, old.h * old.w))
    if old[1:] != new[1:]:
        # frames as channels: the resampling of space takes one table at a time
        space = resize_space_embed(frames.transpose(1, 2).flatten(2), old[1:], new[1:], 0)
        frames = space.unflatten(2, (old.t, -1)).transpose(1, 2)
    frames = resize_time_embed(frames.flatten(2), new.t).unflatten(2, (new.h * new.w, -1))
    return torch.cat([prefix, frames.flatten(1, 2)], dim=1)
