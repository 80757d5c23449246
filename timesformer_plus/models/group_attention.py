"""Attention within the groups of a letter, mixed in front of any of timm's attention classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .rotary import only_letters_of_time, rotate
from .tokens import LETTERS, Grid, fold, num_groups, unfold

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

    def reset_fc(self) -> None:
        """Make ``fc`` zero, so that the attention changes nothing until it is trained."""
        if self.fc is not None:
            nn.init.zeros_(self.fc.weight)
            nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor, grid: Grid, rope: Tensor | None = None, time_rope: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            x: Prefix tokens, then patch tokens, (B, P + T*H*W, C); with per-frame prefix (B, T*P + T*H*W, C).
            grid: Counts of the patch tokens; everything in front of them is prefix.
            rope: What to turn queries and keys of patch tokens by, sines in front of cosines, (T*H*W, 2*d), or
                (heads, T*H*W, 2*d) for angles that differ by head; in pairs of channels as ``rotate_half`` says.
            time_rope: Angles along time, (T*H*W, 2*d), added for the letters that let frames meet.

        Returns:
            The update to be added to ``x``, same shape.

        Raises:
            ValueError: ``x`` is shorter than the grid, the grid cannot be cut as a letter asks, or angles of another
                shape.
        """
        num_prefix = x.shape[1] - grid.num_tokens
        if num_prefix < 0:
            raise ValueError(f"x has {x.shape[1]} tokens, fewer than the {grid.num_tokens} patch tokens of {grid}")
        seen = x if self.moves_prefix else x[:, num_prefix:]
        qkv = self._queries_keys_values(seen, grid, rope, time_rope)
        share = self.num_heads // len(self.letters)
        y = torch.cat(
            [
                self._attend(qkv[:, :, :, i * share : (i + 1) * share], grid, letter)
                for i, letter in enumerate(self.letters)
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

    def _queries_keys_values(self, x: Tensor, grid: Grid, rope: Tensor | None, time_rope: Tensor | None) -> Tensor:
        """Project, normalise and turn: (B, N, C) to (B, N, 3, heads, d), so that the heads of a letter are a slice."""
        if self.qkv is not None:
            bias = self._separate_bias()
            qkv: Tensor = self.qkv(x) if bias is None else F.linear(x, self.qkv.weight, bias)
            qkv = qkv.unflatten(-1, (3, self.num_heads, self.head_dim))
            if rope is None and time_rope is None and isinstance(self.q_norm, nn.Identity):
                return qkv
            q, k, v = qkv.unbind(2)
        else:
            q, k, v = (p(x).unflatten(-1, (-1, self.head_dim)) for p in (self.q_proj, self.k_proj, self.v_proj))
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
        return torch.stack([q.type_as(v), k.type_as(v), v], dim=2)

    def _separate_bias(self) -> Tensor | None:
        """Bias of the one projection where keys have none and that of queries and values are parameters apart."""
        q_bias: Tensor | None = getattr(self, "q_bias", None)
        return None if q_bias is None else torch.cat([q_bias, torch.zeros_like(q_bias), self.v_bias])

    def _attend(self, qkv: Tensor, grid: Grid, letter: str) -> Tensor:
        """Attend with the heads of one letter: (B, N, 3, heads, d) to (B, N, heads*d)."""
        B, N, _, heads, d = qkv.shape
        row = LETTERS[letter]
        num_prefix = N - grid.num_tokens
        joins = row.prefix and num_prefix > 0
        groups = num_groups(grid, letter)
        rows = fold(qkv[:, num_prefix:].flatten(2), grid, letter).unflatten(-1, (3, heads, d))
        copies = num_prefix // grid.t if self.per_frame_prefix else num_prefix  # prefix tokens in a group
        if joins:
            rows = torch.cat([self._spread(qkv[:, :num_prefix], grid, groups), rows], dim=1)
        q, k, v = rows.permute(2, 0, 3, 1, 4).unbind(0)  # each (B*G, heads, L, d)
        y = self._softmax(q, k, v, row.causal).transpose(1, 2).flatten(2)
        if not joins:
            y = unfold(y, grid, letter)
            return F.pad(y, (0, 0, num_prefix, 0)) if num_prefix else y
        prefix, y = y[:, :copies], unfold(y[:, copies:], grid, letter)
        frames = grid.t if self.per_frame_prefix else 1
        prefix = prefix.reshape(B, frames, groups // frames, copies, heads * d).mean(dim=2).flatten(1, 2)
        return torch.cat([prefix, y], dim=1)

    def _spread(self, prefix: Tensor, grid: Grid, groups: int) -> Tensor:
        """Give every group a copy of the prefix tokens, (B, frames*P, ...) to (B*G, P, ...), frame by frame."""
        frames = grid.t if self.per_frame_prefix else 1
        prefix = prefix.unflatten(1, (frames, -1)).unsqueeze(2)
        return prefix.expand(-1, -1, groups // frames, *prefix.shape[3:]).flatten(0, 2)

    def _softmax(self, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        """Softmax attention over (B*G, heads, L, d)."""
        y: Tensor
        if self.fused_attn:
            dropout = self.attn_drop.p if self.training else 0.0
            return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=causal)
        attn = (q * self.scale) @ k.transpose(-2, -1)
        if causal:
            attn = attn + torch.full_like(attn[0, 0], float("-inf")).triu(1)
        y = self.attn_drop(attn.softmax(dim=-1)) @ v
        return y

    def extra_repr(self) -> str:
        names = " & ".join(LETTERS[letter].name for letter in self.letters)
        prefix = ", per_frame_prefix=True" if self.per_frame_prefix else ""
        return f"{'&'.join(self.letters)!r} ({names}), num_heads={self.num_heads}{prefix}"


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
