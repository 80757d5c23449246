"""The blocks of a video model in turn, and how tokens are laid out from one to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.models import checkpoint
from torch import Tensor, nn

from .embed import TubeletEmbed
from .intermediates import Intermediates
from .pattern import BlockPlan
from .rotary import rotary_1d
from .rows import gather_rows, scatter_rows
from .tokens import Grid

__all__ = ["BlockLoop"]


class BlockLoop(Intermediates):
    """``_run_blocks`` for blocks that take ``block(x, grid, rope, time_rope, prefix_only)``, with a plan for each."""

    patch_embed: TubeletEmbed
    plan: tuple[BlockPlan, ...]
    frames_meet: bool
    time_rope: bool = False
    # whether blocks that let nothing out of a frame get every frame as a sample, (B*T, P + H*W, C)
    frames_apart: bool = True
    grad_checkpointing: bool
    cls_token: nn.Parameter | None

    def _run_blocks(
        self,
        x: Tensor,
        grid: Grid,
        take: list[int] | None = None,
        stop: int | None = None,
        prefix_only: bool = False,
    ) -> tuple[Tensor, list[tuple[Tensor, Grid]]]:
        """Run the blocks; return the last tokens and, behind each block in ``take``, tokens and grid.

        With ``prefix_only`` the last tokens are the prefix tokens alone, for which less has to be computed.
        """
        taken = []
        before = self.plan[0]
        turns, time_rope = self._rotaries(grid, reduced=False), self._time_rotary(grid)
        apart = False  # whether x is (B*T, P + H*W, C), every frame a sample
        for i, (block, plan) in enumerate(zip(self.blocks[:stop], self.plan, strict=False)):
            rope = turns(i)
            if apart and (plan.starts_stage or not self._runs_frames_apart(block, plan, grid, rope)):
                x, apart = self._join_frames(x, grid), False
            if plan.starts_stage:
                x, grid = self._reduce_frames(x, grid, before, plan)
                turns = self._rotaries(grid, reduced=True)
                time_rope, rope = self._time_rotary(grid), turns(i)
            if not apart and self._runs_frames_apart(block, plan, grid, rope):
                x, apart = gather_rows(x, grid, "s", grid.t), True
            at, angles = grid, (rope, time_rope)
            if apart:  # such a block has no letter of time
                at, angles = grid._replace(t=1), (None if rope is None else rope[..., : grid.h * grid.w, :], None)
            how = (prefix_only and i == len(self.blocks) - 1,)
            x = checkpoint(block, x, at, *angles, *how) if self.grad_checkpointing else block(x, at, *angles, *how)
            before = plan
            if take is not None and i in take:
                whole = self._join_frames(x, grid) if apart else x
                taken.append((self._share_prefix(whole, grid, plan), grid))
        if prefix_only:
            sets = grid.t if before.per_frame_prefix else 1
            return x.reshape(-1, sets, self.num_prefix_tokens, x.shape[-1]).mean(dim=1), taken
        if apart:
            x = self._join_frames(x, grid)
        return self._share_prefix(x, grid, before), taken

    def _runs_frames_apart(self, block: Any, plan: BlockPlan, grid: Grid, rope: Tensor | None) -> bool:
        """Whether a block may take every frame as a sample of its own, whose tokens then lie side by side.

        Not under stochastic depth, which leaves out a sample, and not where angles differ between frames.
        """
        may = self.frames_apart and plan.within_frames and grid.t > 1 and not block.drops_paths
        return may and (rope is None or not self.frames_meet)

    def _join_frames(self, x: Tensor, grid: Grid) -> Tensor:
        return scatter_rows(x, grid, "s", (x.shape[1] - grid.h * grid.w) * grid.t, grid.t)

    def _rotaries(self, grid: Grid, *, reduced: bool) -> Callable[[int], Tensor | None]:  # noqa: ARG002
        """Rotary positions of one forward pass: index of a block -> what it turns queries and keys by.

        Called once a pass and once behind every ``|``, since all blocks may share what is computed or drawn;
        ``reduced`` says that every frame is one token, which has no height and width. The angles of a block are
        (T*H*W, 2*d) or (heads, T*H*W, 2*d).
        """
        return lambda _: None

    def _time_rotary(self, grid: Grid) -> Tensor | None:
        """Rotary positions along time, (T*H*W, 2*d), for the letters that let frames meet."""
        if not self.time_rope:
            return None
        attn = self.blocks[0].attn
        half = bool(getattr(attn, "rotate_half", False))
        return rotary_1d(grid, attn.head_dim, half, device=self.patch_embed.proj.weight.device)

    def _share_prefix(self, x: Tensor, grid: Grid, plan: BlockPlan) -> Tensor:
        """Average prefix tokens that belong to frames over the frames."""
        if not plan.per_frame_prefix or not self.num_prefix_tokens:
            return x
        cut = grid.t * self.num_prefix_tokens
        prefix = x[:, :cut].unflatten(1, (grid.t, -1)).mean(dim=1)
        return torch.cat([prefix, x[:, cut:]], dim=1)

    def _reduce_frames(self, x: Tensor, grid: Grid, before: BlockPlan, after: BlockPlan) -> tuple[Tensor, Grid]:
        """Make every frame one token: its own class token if that has seen the frame, else its patch tokens' mean."""
        cut = x.shape[1] - grid.num_tokens
        if before.class_token_holds_frame and self.cls_token is not None:
            frames = x[:, :cut].unflatten(1, (grid.t, -1))[:, :, 0]
        else:
            frames = x[:, cut:].unflatten(1, (grid.t, -1)).mean(dim=2)
        if before.per_frame_prefix and not after.per_frame_prefix:
            x = self._share_prefix(x, grid, before)
        prefix = x[:, : x.shape[1] - grid.num_tokens]
        return torch.cat([prefix, frames], dim=1), Grid(grid.t, 1, 1)
