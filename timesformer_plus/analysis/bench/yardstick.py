"""The model as it once was: queries, keys and values sorted into groups by copying them, every block run on all tokens.

Kept as the yardstick of what has been gained since, and independent of how the model computes now: it takes the
parameters from a model and nothing else. The attention of commit 81e0adf: ``fold`` copies the projections of all tokens
into rows of groups, prefix tokens are copied into every group and ``unfold`` copies the outputs back.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...models.layers import AxisAttention, SpaceTimeBlock, name_attentions
from ...models.tokens import LETTERS, Grid, fold, num_groups, unfold
from ...models.video_transformer import VideoTransformer


class CopyingModel(nn.Module):
    """A ``VideoTransformer`` with the same weights that computes as ours did at commit 81e0adf.

    Args:
        model: Ours; copied, so that the two may be trained apart.

    Raises:
        ValueError: It has what the benchmark does not measure: stages, rotary or other than learned positions.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if type(model) is not VideoTransformer:
            raise ValueError(f"{type(model).__name__} has no yardstick; measure a plain VideoTransformer")
        others = [plan for plan in model.plan if plan.starts_stage]
        if others or model.pos_embed_type != "learn" or model.rope_type is not None or model.grad_checkpointing:
            raise ValueError(
                f"pattern {model.pattern!r} with pos_embed={model.pos_embed_type!r} and rope_type={model.rope_type!r} "
                "has no yardstick; measure a pattern without '|' and with learned positions"
            )
        self.model = copy.deepcopy(model)
        self.per_frame_prefix = model.plan[0].per_frame_prefix

    def forward(self, x: Tensor) -> Tensor:
        """Classify clips (B, C, T, H, W); logits (B, classes)."""
        model = cast(Any, self.model)
        x, grid = model.patch_embed(x)
        x = model.norm_pre(self._pos_embed(x, grid))
        for block in model.blocks:
            x = self._block(block, x, grid)
        if self.per_frame_prefix and model.num_prefix_tokens:
            cut = x.shape[1] - grid.num_tokens
            x = torch.cat([x[:, :cut].unflatten(1, (grid.t, -1)).mean(dim=1), x[:, cut:]], dim=1)
        logits: Tensor = model.forward_head(model.norm(x))
        return logits

    def _pos_embed(self, x: Tensor, grid: Grid) -> Tensor:
        model = cast(Any, self.model)
        x, pos, n = x.unflatten(1, (grid.t, -1)), model.pos_embed, model.num_prefix_positions
        if pos is not None:
            x = x + pos[:, None, n:]
        if model.time_embed is not None:
            x = x + model.time_embed[:, :, None]
        x = x.flatten(1, 2)
        tokens = [token for token in (model.cls_token, model.reg_token) if token is not None]
        if tokens:
            prefix = torch.cat(tokens, dim=1)
            if n and pos is not None:
                prefix = prefix + pos[:, :n]
            sets = grid.t if self.per_frame_prefix else 1
            x = torch.cat([prefix.repeat(1, sets, 1).expand(x.shape[0], -1, -1), x], dim=1)
        return cast(Tensor, model.pos_drop(x))

    def _block(self, block: SpaceTimeBlock, x: Tensor, grid: Grid) -> Tensor:
        names = iter(name for name, _ in name_attentions(block.steps)[0])
        for step in block.steps:
            updates = [self._update(block, next(names), x, grid) for _ in step.attentions]
            x = x + sum(updates[1:], updates[0])
        return x + cast(Tensor, block.drop_path2(block.ls2(block.mlp(block.norm2(x)))))

    def _update(self, block: SpaceTimeBlock, name: str | None, x: Tensor, grid: Grid) -> Tensor:
        if name is None:
            y = attend_by_copies(block.attn, block.norm1(x), grid, self.per_frame_prefix)
            return cast(Tensor, block.drop_path1(block.ls1(y)))
        branch = cast(nn.ModuleDict, block.added[name])
        y = attend_by_copies(cast(AxisAttention, branch["attn"]), branch["norm"](x), grid, self.per_frame_prefix)
        return cast(Tensor, branch["drop_path"](y))


def attend_by_copies(attn: AxisAttention, x: Tensor, grid: Grid, per_frame_prefix: bool = False) -> Tensor:
    """Attend with the parameters of an attention of ours, every group a row that has been copied together.

    Args:
        attn: The attention, with one projection for queries, keys and values.
        x: Prefix tokens, then patch tokens, (B, P + T*H*W, C); with per-frame prefix (B, T*P + T*H*W, C).
        grid: Counts of the patch tokens.
        per_frame_prefix: Whether there is a set of prefix tokens a frame.

    Returns:
        The update to be added to ``x``, same shape.
    """
    num_prefix = x.shape[1] - grid.num_tokens
    moves_prefix = any(LETTERS[letter].prefix for letter in attn.letters)
    seen = x if moves_prefix else x[:, num_prefix:]
    assert attn.qkv is not None
    qkv: Tensor = attn.qkv(seen).unflatten(-1, (3, attn.num_heads, attn.head_dim))
    if not isinstance(attn.q_norm, nn.Identity):
        q, k, v = qkv.unbind(2)
        qkv = torch.stack([attn.q_norm(q).type_as(v), attn.k_norm(k).type_as(v), v], dim=2)
    share = attn.num_heads // len(attn.letters)
    heads = [
        _attend(attn, qkv[:, :, :, i * share : (i + 1) * share], grid, letter, per_frame_prefix)
        for i, letter in enumerate(attn.letters)
    ]
    y: Tensor = attn.proj_drop(attn.proj(attn.norm(torch.cat(heads, dim=-1))))
    if attn.fc is not None:
        y = attn.fc(y)
    return y if moves_prefix else F.pad(y, (0, 0, num_prefix, 0))


def _attend(attn: AxisAttention, qkv: Tensor, grid: Grid, letter: str, per_frame_prefix: bool) -> Tensor:
    B, N, _, heads, d = qkv.shape
    row = LETTERS[letter]
    num_prefix = N - grid.num_tokens
    joins = row.prefix and num_prefix > 0
    groups = num_groups(grid, letter)
    frames = grid.t if per_frame_prefix else 1
    copies = num_prefix // frames  # prefix tokens in a group
    rows = fold(qkv[:, num_prefix:].flatten(2), grid, letter).unflatten(-1, (3, heads, d))
    if joins:
        prefix = qkv[:, :num_prefix].unflatten(1, (frames, -1)).unsqueeze(2)
        prefix = prefix.expand(-1, -1, groups // frames, *prefix.shape[3:]).flatten(0, 2)
        rows = torch.cat([prefix, rows], dim=1)
    q, k, v = rows.permute(2, 0, 3, 1, 4).unbind(0)  # each (B*G, heads, L, d)
    dropout = attn.attn_drop.p if attn.training else 0.0
    y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=row.causal).transpose(1, 2).flatten(2)
    if not joins:
        y = unfold(y, grid, letter)
        return F.pad(y, (0, 0, num_prefix, 0)) if num_prefix else y
    prefix, y = y[:, :copies], unfold(y[:, copies:], grid, letter)
    prefix = prefix.reshape(B, frames, groups // frames, copies, heads * d).mean(dim=2).flatten(1, 2)
    return torch.cat([prefix, y], dim=1)
