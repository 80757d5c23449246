"""Attention within the groups of a letter, mixed in front of any of timm's attention classes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .kernels import attend
from .rotary import only_letters_of_time, rotate
from .rows import gather_rows, scatter_rows
from .tokens import LETTERS, Grid, axis_lengths, check_grid, fold, groups_around_tokens, num_groups, unfold

if TYPE_CHECKING:  # the class behind the mixin: timm's Attention, EvaAttention or AttentionRope
    from timm.layers import AttentionRope as TimmAttention
else:
    TimmAttention = object

__all__ = ["GroupAttention"]


class GroupAttention(TimmAttention):  # type: ignore[misc]  # timm is untyped
    """What turns an attention of timm's into one in which only the tokens of a group see each other.

    Projections, norms, gate, dropout and their names are those of the class behind it: one projection for queries, keys
    and values or one each, with a bias each or none for keys, fewer heads of keys and values than of queries.
    """

    letters: tuple[str, ...]
    per_frame_prefix: bool
    moves_prefix: bool
    num_heads: int
    head_dim: int
    scale: float
    fused_attn: bool
    qkv: nn.Linear | None
    fc: nn.Linear | None
    q_norm: nn.Module
    k_norm: nn.Module
    norm: nn.Module
    attn_drop: nn.Dropout
    proj: nn.Linear
    proj_drop: nn.Module

    def set_groups(self, letters: tuple[str, ...], *, per_frame_prefix: bool = False, zero_fc: bool = False) -> None:
        """Say which tokens form a group; the last step of construction.

        Args:
            letters: Keys of ``LETTERS``, among which the heads are shared out evenly.
            per_frame_prefix: Whether the prefix tokens of the input are T times P, one set a frame, rather than P.
            zero_fc: End in one more Linear, ``fc``, zero at first.

        Raises:
            ValueError: An unknown letter, a number of heads that does not fit, or per-frame prefix tokens under a
                letter whose groups hold several frames.
        """
        check_letters(letters, self.num_heads, per_frame_prefix)
        self.letters = letters
        self.per_frame_prefix = per_frame_prefix
        self.moves_prefix = any(LETTERS[letter].prefix for letter in letters)
        out = self.proj.out_features
        like = self.proj.weight
        self.fc = nn.Linear(out, out, device=like.device, dtype=like.dtype) if zero_fc else None
        self.reset_fc()

    def fuse(self) -> GroupAttention:
        """Fold ``fc`` into the projection in front of it, one product instead of two, for inference.

        Exact but for rounding: with y = proj(x) and z = fc(y), z = (F P) x + (F p + f), computed in float64. ``fc`` is
        gone afterwards, and with it the names that a checkpoint of this layer has. Without ``fc`` nothing changes.

        Returns:
            The layer itself, as timm's ``reparameterize_model`` wants.
        """
        if self.fc is not None:
            with torch.no_grad():
                outer, inner = self.fc.weight.double(), self.proj.weight.double()
                bias = self.fc.bias.double()
                before = self.proj.bias
                bias = bias if before is None else bias + outer @ before.double()
                self.proj.weight.copy_(outer @ inner)
                self.proj.bias = nn.Parameter(bias.to(self.fc.bias.dtype))
            self.fc = None
        return self

    def reset_fc(self) -> None:
        """Make ``fc`` zero, so that the attention changes nothing until it is trained."""
        if self.fc is not None:
            nn.init.zeros_(self.fc.weight)
            nn.init.zeros_(self.fc.bias)

    def forward(
        self,
        x: Tensor,
        grid: Grid,
        rope: Tensor | None = None,
        time_rope: Tensor | None = None,
        prefix_only: bool = False,
    ) -> Tensor:
        """Attend.

        Args:
            x: Prefix tokens, then patch tokens, (B, P + T*H*W, C); with per-frame prefix (B, T*P + T*H*W, C).
            grid: Counts of the patch tokens; everything in front of them is prefix.
            rope: What to turn queries and keys of patch tokens by, sines in front of cosines, (T*H*W, 2*d), or
                (heads, T*H*W, 2*d) for angles that differ by head; in pairs of channels as ``rotate_half`` says.
            time_rope: Angles along time, (T*H*W, 2*d), added for the letters that let frames meet.
            prefix_only: Return the update of the prefix tokens alone, for a caller who reads no other; of one letter,
                whose groups prefix tokens join.

        Returns:
            The update to be added to ``x``, same shape; with ``prefix_only`` (B, P, C).

        Raises:
            ValueError: ``x`` is shorter than the grid, the grid cannot be cut as a letter asks, or angles of another
                shape.
        """
        num_prefix = x.shape[1] - grid.num_tokens
        if num_prefix < 0:
            raise ValueError(f"x has {x.shape[1]} tokens, fewer than the {grid.num_tokens} patch tokens of {grid}")
        seen = x if self.moves_prefix else x[:, num_prefix:]
        parts = self._queries_keys_values(seen, grid, rope, time_rope)
        if prefix_only:
            y, seen = self._attend_from_prefix(parts, grid, num_prefix), x[:, :num_prefix]
        elif len(self.letters) == 1:
            y = self._attend(parts, grid, self.letters[0])
        else:
            share = self.num_heads // len(self.letters)
            heads = [slice(i * share, (i + 1) * share) for i in range(len(self.letters))]
            y = torch.cat(
                [
                    self._attend(tuple(part[..., own, :] for part in parts), grid, letter)
                    for own, letter in zip(heads, self.letters, strict=True)
                ],
                dim=-1,
            )
        y = self.norm(y)
        gate = getattr(self, "gate", None)  # older timm has none
        if gate is not None:
            y = y * gate(seen).sigmoid()
        y = self.proj_drop(self.proj(y))
        if self.fc is not None:
            y = self.fc(y)
        return y if self.moves_prefix else F.pad(y, (0, 0, num_prefix, 0))

    def _queries_keys_values(
        self, x: Tensor, grid: Grid, rope: Tensor | None, time_rope: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Project (B, N, C), normalise and turn.

        Returns:
            One tensor (B, N, 3, heads, d) as the one projection lays them out, or queries, keys and values apart, each
            (B, N, heads, d).
        """
        parts: tuple[Tensor, ...]
        if self.qkv is not None:
            bias = self._separate_bias()
            if self._wants_parts(x.shape[1] - grid.num_tokens) and _is_plain(self.qkv):
                parts = self._project_apart(x, self.qkv.weight, self.qkv.bias if bias is None else bias)
            else:
                qkv: Tensor = self.qkv(x) if bias is None else F.linear(x, self.qkv.weight, bias)
                qkv = qkv.unflatten(-1, (3, self.num_heads, self.head_dim))
                if rope is None and time_rope is None and isinstance(self.q_norm, nn.Identity):
                    return (qkv,)
                parts = qkv.unbind(2)
        else:
            parts = tuple(p(x).unflatten(-1, (-1, self.head_dim)) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k, v = parts
        q, k = self.q_norm(q), self.k_norm(k)
        if k.shape[2] < self.num_heads:  # every head of keys and values serves several heads of queries
            k, v = (y.repeat_interleave(self.num_heads // y.shape[2], dim=2) for y in (k, v))
        if time_rope is not None:
            time_rope = only_letters_of_time(time_rope, self.letters, self.num_heads)
        # a token's angles depend on its place alone, so it is turned before it is sorted into a group
        for angles in (rope, time_rope):
            if angles is not None:
                half = bool(getattr(self, "rotate_half", False))
                q, k = (rotate(y, angles, half, x.shape[1] - grid.num_tokens) for y in (q, k))
        return q.type_as(v), k.type_as(v), v

    def _wants_parts(self, num_prefix: int) -> bool:
        """Whether rows are views only of queries, keys and values that lie apart; rows with prefix tokens never are."""
        letter, around = self.letters[0], groups_around_tokens(self.letters[0])
        gathers = around is None or (LETTERS[letter].prefix and num_prefix > 0)
        return len(self.letters) == 1 and self.fused_attn and not gathers and bool(around and around[1])

    def _project_apart(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, ...]:
        """Three products instead of one: places then lie as far apart as heads of a token do, and merge with them."""
        weights = weight.unflatten(0, (3, -1)).unbind(0)
        biases = (None,) * 3 if bias is None else bias.unflatten(0, (3, -1)).unbind(0)
        return tuple(
            F.linear(x, w, b).unflatten(-1, (self.num_heads, self.head_dim))
            for w, b in zip(weights, biases, strict=True)
        )

    def _separate_bias(self) -> Tensor | None:
        """Bias of the one projection where keys have none and that of queries and values are parameters apart."""
        q_bias: Tensor | None = getattr(self, "q_bias", None)
        return None if q_bias is None else torch.cat([q_bias, torch.zeros_like(q_bias), self.v_bias])

    def _attend(self, parts: tuple[Tensor, ...], grid: Grid, letter: str) -> Tensor:
        """Attend with the heads of one letter: parts as ``_queries_keys_values`` gives them to (B, N, heads*d)."""
        row, around = LETTERS[letter], groups_around_tokens(letter)
        num_prefix = parts[0].shape[1] - grid.num_tokens
        if row.prefix and num_groups(grid, letter) == 1:  # prefix and patch tokens are one row as they lie
            q, k, v = _apart(parts)
            return self._softmax(q, k, v, row.causal).transpose(1, 2).flatten(2)
        if row.prefix and num_prefix:
            frames = grid.t if self.per_frame_prefix else 1
            q, k, v = _apart(tuple(gather_rows(part, grid, letter, frames) for part in parts))
            y = self._softmax(q, k, v, row.causal).transpose(1, 2)
            return scatter_rows(y, grid, letter, num_prefix, frames).flatten(2)
        patches = tuple(part[:, num_prefix:] for part in parts) if num_prefix else parts
        if self.fused_attn and around is not None:
            lengths = axis_lengths(grid, letter)
            outer, inner = [math.prod([lengths[axis] for axis in axes]) for axes in around]
            B, heads, d = parts[0].shape[0], *parts[0].shape[-2:]
            shape = (B * outer, grid.num_tokens // (outer * inner), inner * heads, d)
            apart = patches[0].unbind(2) if len(patches) == 1 else patches
            q, k, v = [part.reshape(shape).transpose(1, 2) for part in apart]
            y = self._softmax(q, k, v, row.causal)
            y = y.transpose(1, 2).reshape(B, grid.num_tokens, heads * d)
        else:
            check_grid(grid, letter)
            rows = tuple(fold(part.flatten(2), grid, letter).unflatten(-1, part.shape[2:]) for part in patches)
            q, k, v = _apart(rows)
            y = unfold(self._softmax(q, k, v, row.causal).transpose(1, 2).flatten(2), grid, letter)
        return F.pad(y, (0, 0, num_prefix, 0)) if num_prefix else y

    def _attend_from_prefix(self, parts: tuple[Tensor, ...], grid: Grid, num_prefix: int) -> Tensor:
        """``_attend`` with the prefix tokens' queries alone, to (B, P, heads*d)."""
        letter = self.letters[0]
        groups, frames = num_groups(grid, letter), grid.t if self.per_frame_prefix else 1
        q, k, v = parts[0].unbind(2) if len(parts) == 1 else parts
        q = q[:, :num_prefix].unflatten(1, (frames, 1, -1)).expand(-1, -1, groups // frames, -1, -1, -1).flatten(0, 2)
        if groups > 1:
            k, v = [gather_rows(part, grid, letter, frames) for part in (k, v)]
        y = self._softmax(*_apart((q, k, v)), LETTERS[letter].causal).transpose(1, 2).flatten(2)
        mean: Tensor = y.unflatten(0, (-1, frames, groups // frames)).mean(dim=2)
        return mean.flatten(1, 2)

    def _softmax(self, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        """Softmax attention over (B*G, heads, L, d), or a view with groups among the batch and the heads."""
        y: Tensor
        if self.fused_attn:
            dropout = self.attn_drop.p if self.training else 0.0
            return attend(q, k, v, causal=causal, dropout_p=dropout)
        attn = (q * self.scale) @ k.transpose(-2, -1)
        if causal:
            attn = attn + torch.full_like(attn[0, 0], float("-inf")).triu(1)
        y = self.attn_drop(attn.softmax(dim=-1)) @ v
        return y

    def extra_repr(self) -> str:
        names = " & ".join(LETTERS[letter].name for letter in self.letters)
        prefix = ", per_frame_prefix=True" if self.per_frame_prefix else ""
        return f"{'&'.join(self.letters)!r} ({names}), num_heads={self.num_heads}{prefix}"


def _apart(rows: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (B*G, L, 3, heads, d), or three of (B*G, L, heads, d), to queries, keys, values (B*G, heads, L, d)."""
    q, k, v = rows[0].unbind(2) if len(rows) == 1 else rows
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def _is_plain(module: nn.Module) -> bool:
    """Whether a call of the module is a product with its weight and no more: no adapter, no hook, no other forward."""
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    # accelerate's offloading puts a forward of its own on the instance
    return type(module) is nn.Linear and not hooks and "forward" not in vars(module)


def check_letters(letters: tuple[str, ...], num_heads: int, per_frame_prefix: bool) -> None:
    """Refuse letters that an attention cannot serve.

    Args:
        letters: Keys of ``LETTERS``.
        num_heads: Heads to be shared out among them.
        per_frame_prefix: Whether each frame has prefix tokens of its own.

    Raises:
        ValueError: As said.
    """
    unknown = [letter for letter in letters if letter not in LETTERS]
    if unknown or not letters:
        raise ValueError(f"letters {letters} must be one or more of {' '.join(LETTERS)}")
    if num_heads % len(letters):
        raise ValueError(
            f"{num_heads} heads cannot be shared out evenly among the {len(letters)} letters of "
            f"{'&'.join(letters)!r}; choose num_heads as a multiple of {len(letters)}"
        )
    shared = [letter for letter in letters if not LETTERS[letter].per_frame]
    if per_frame_prefix and shared:
        raise ValueError(f"prefix tokens cannot belong to one frame under {shared}, whose groups hold several frames")
