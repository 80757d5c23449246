"""Attention over any row of the table of letters, and the block that runs several of them before one MLP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.layers import Attention, DropPath, LayerNorm, LayerScale, Mlp
from torch import Tensor, nn

from .pattern import Step, format_block, parse_block
from .tokens import LETTERS, Grid, fold, num_groups, unfold

__all__ = ["AxisAttention", "SpaceTimeBlock"]


class AxisAttention(Attention):  # type: ignore[misc]  # timm is untyped
    """timm's ``Attention`` in which only the tokens of a group see each other.

    Which tokens form a group is a row of ``LETTERS``; the heads are shared out evenly among several letters if more
    than one is given (ViViT's factorised dot-product attention, arXiv 2103.15691 section 3.3.4). Prefix tokens join
    every group, with the outputs of their copies averaged, or stay out, as the row says; one that stays out of every
    head leaves with an update of exactly zero.

    Args:
        dim: Channels C.
        letters: Keys of ``LETTERS``: a string such as ``"t"``, or ``"ts"`` for heads shared by two letters.
        num_heads: Heads in all; a multiple of the number of letters, and a divisor of ``dim``.
        per_frame_prefix: Whether the prefix tokens of the input are T times P, one set a frame, rather than P.
        zero_fc: End in one more Linear, ``fc``, zero at first, so that the layer changes nothing until trained (as in
            TimeSformer's released time attention).
        qkv_bias: Bias of the query, key and value projections.
        qk_norm: Normalise queries and keys per head.
        scale_norm: Normalise the heads' outputs before the projection.
        proj_bias: Bias of the output projection.
        attn_drop: Dropout of attention weights, a probability.
        proj_drop: Dropout after the projection, a probability.
        norm_layer: Norm of ``qk_norm`` and ``scale_norm``.
        device: Where to create parameters.
        dtype: Their type.

    Raises:
        ValueError: An unknown letter, a number of heads that does not fit, or per-frame prefix tokens under a letter
            whose groups hold several frames.
    """

    def __init__(
        self,
        dim: int,
        letters: str | tuple[str, ...] = "j",
        num_heads: int = 8,
        *,
        per_frame_prefix: bool = False,
        zero_fc: bool = False,
        qkv_bias: bool = False,
        qk_norm: bool = False,
        scale_norm: bool = False,
        proj_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        norm_layer: Callable[..., nn.Module] = LayerNorm,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        letters = tuple(letters)
        unknown = [letter for letter in letters if letter not in LETTERS]
        if unknown or not letters:
            raise ValueError(f"letters {letters} must be one or more of {' '.join(LETTERS)}")
        if dim % num_heads:
            raise ValueError(f"{dim=} is not a multiple of {num_heads=}; choose num_heads among the divisors of dim")
        if num_heads % len(letters):
            raise ValueError(
                f"{num_heads} heads cannot be shared out evenly among the {len(letters)} letters of "
                f"{'&'.join(letters)!r}; choose num_heads as a multiple of {len(letters)}"
            )
        shared = [letter for letter in letters if not LETTERS[letter].per_frame]
        if per_frame_prefix and shared:
            raise ValueError(
                f"prefix tokens cannot belong to one frame under {shared}, whose groups hold several frames"
            )
        super().__init__(
            dim,
            num_heads=num_heads,
            qkv_bias=qkv_bias,
            qk_norm=qk_norm,
            scale_norm=scale_norm,
            proj_bias=proj_bias,
            attn_drop=attn_drop,
            proj_drop=proj_drop,
            norm_layer=norm_layer,
            device=device,
            dtype=dtype,
        )
        self.letters = letters
        self.per_frame_prefix = per_frame_prefix
        self.moves_prefix = any(LETTERS[letter].prefix for letter in letters)
        self.fc = nn.Linear(dim, dim, device=device, dtype=dtype) if zero_fc else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Zero ``fc``. timm's initialisation visits children first and this module last."""
        if self.fc is not None:
            nn.init.zeros_(self.fc.weight)
            nn.init.zeros_(self.fc.bias)

    init_weights = reset_parameters

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Attend.

        Args:
            x: Prefix tokens, then patch tokens, (B, P + T*H*W, C); with per-frame prefix (B, T*P + T*H*W, C).
            grid: Counts of the patch tokens; everything in front of them is prefix.

        Returns:
            The update to be added to ``x``, same shape.

        Raises:
            ValueError: ``x`` is shorter than the grid, or the grid cannot be cut as a letter asks.
        """
        num_prefix = x.shape[1] - grid.num_tokens
        if num_prefix < 0:
            raise ValueError(f"x has {x.shape[1]} tokens, fewer than the {grid.num_tokens} patch tokens of {grid}")
        seen = x if self.moves_prefix else x[:, num_prefix:]
        # (B, N, 3, heads, d), so that the heads of each letter are a slice
        qkv = self.qkv(seen).unflatten(-1, (3, self.num_heads, self.head_dim))
        share = self.num_heads // len(self.letters)
        x = torch.cat(
            [
                self._attend(qkv[:, :, :, i * share : (i + 1) * share], grid, letter)
                for i, letter in enumerate(self.letters)
            ],
            dim=-1,
        )
        x = self.proj_drop(self.proj(self.norm(x)))
        if self.fc is not None:
            x = self.fc(x)
        return x if self.moves_prefix else F.pad(x, (0, 0, num_prefix, 0))

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
        y = self._softmax(self.q_norm(q), self.k_norm(k), v, row.causal).transpose(1, 2).flatten(2)
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


class SpaceTimeBlock(nn.Module):
    """timm's pre-norm ``Block`` with the attentions of one block of a pattern in place of its one.

    The block's primary attention, its last ``s`` or ``j`` if it has one and else its last, carries timm's names
    (``norm1``, ``attn``, ``ls1``), so that image weights land on it. Every other one lives in ``added`` under its
    letters, with a norm of its own and a zero-initialised ``fc`` at its end: a fresh block computes what timm's block
    with the primary attention alone computes.

    Args:
        dim: Channels C.
        num_heads: Heads of every attention.
        steps: The block's text, for example ``"ts"``, or its parsed steps.
        per_frame_prefix: Whether each frame has prefix tokens of its own (see ``AxisAttention``).
        mlp_ratio: Width of the MLP over ``dim``.
        qkv_bias: Bias of the query, key and value projections.
        qk_norm: Normalise queries and keys per head.
        scale_attn_norm: Normalise the heads' outputs before the projection.
        scale_mlp_norm: Normalise inside the MLP.
        proj_bias: Bias of the projections.
        proj_drop: Dropout after the projections, a probability.
        attn_drop: Dropout of attention weights, a probability.
        init_values: First value of LayerScale; none if ``None``. Added attentions have their ``fc`` instead.
        drop_path: Stochastic depth of every residual, a probability.
        act_layer: Activation of the MLP.
        norm_layer: Norm.
        mlp_layer: MLP.
        attn_layer: timm's argument; only its plain attention can be cut into groups.
        depth: Index of the block, taken for timm's sake.
        device: Where to create parameters.
        dtype: Their type.

    Raises:
        ValueError: Not one block, or options that an attention refuses.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        steps: str | tuple[Step, ...] = "ts",
        per_frame_prefix: bool = False,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        qk_norm: bool = False,
        scale_attn_norm: bool = False,
        scale_mlp_norm: bool = False,
        proj_bias: bool = True,
        proj_drop: float = 0.0,
        attn_drop: float = 0.0,
        init_values: float | None = None,
        drop_path: float = 0.0,
        act_layer: type[nn.Module] = nn.GELU,
        norm_layer: Callable[..., nn.Module] = LayerNorm,
        mlp_layer: Callable[..., nn.Module] = Mlp,
        attn_layer: str | type[nn.Module] = Attention,
        depth: int = 0,  # noqa: ARG002  # timm passes it to every block
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if attn_layer not in ("", "attn", Attention):
            raise ValueError(f"attn_layer={attn_layer!r} cannot be cut into groups; leave it at timm's plain attention")
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.steps = parse_block(steps) if isinstance(steps, str) else steps

        def attention(letters: tuple[str, ...], *, zero_fc: bool) -> AxisAttention:
            return AxisAttention(
                dim,
                letters,
                num_heads,
                per_frame_prefix=per_frame_prefix,
                zero_fc=zero_fc,
                qkv_bias=qkv_bias,
                qk_norm=qk_norm,
                scale_norm=scale_attn_norm,
                proj_bias=proj_bias,
                attn_drop=attn_drop,
                proj_drop=proj_drop,
                norm_layer=norm_layer,
                **dd,
            )

        def drop() -> nn.Module:
            return DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

        wanted = [letters for step in self.steps for letters in step.attentions]
        space = [i for i, letters in enumerate(wanted) if letters in (("s",), ("j",))]
        primary = space[-1] if space else len(wanted) - 1

        self.added = nn.ModuleDict()
        self._names: list[str | None] = []  # of every attention in order; None is the primary one
        for i, letters in enumerate(wanted):
            if i == primary:
                self._names.append(None)
                continue
            name = "".join(letters)
            repeats = sum(done is not None and done.split("_")[0] == name for done in self._names)
            name = f"{name}_{repeats + 1}" if repeats else name
            self.added[name] = nn.ModuleDict(
                {"norm": norm_layer(dim, **dd), "attn": attention(letters, zero_fc=True), "drop_path": drop()}
            )
            self._names.append(name)
        self.norm1 = norm_layer(dim, **dd)
        self.attn = attention(wanted[primary], zero_fc=False)
        self.ls1 = LayerScale(dim, init_values=init_values, **dd) if init_values else nn.Identity()
        self.drop_path1 = drop()

        self.norm2 = norm_layer(dim, **dd)
        self.mlp = mlp_layer(
            in_features=dim,
            hidden_features=int(dim * mlp_ratio),
            act_layer=act_layer,
            norm_layer=norm_layer if scale_mlp_norm else None,
            bias=proj_bias,
            drop=proj_drop,
            **dd,
        )
        self.ls2 = LayerScale(dim, init_values=init_values, **dd) if init_values else nn.Identity()
        self.drop_path2 = drop()

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Run the block's steps in turn, then its MLP.

        Args:
            x: (B, P + T*H*W, C); with per-frame prefix (B, T*P + T*H*W, C).
            grid: Counts of the patch tokens.

        Returns:
            Same shape as ``x``.

        Raises:
            ValueError: The grid cannot be cut as a letter asks.
        """
        names = iter(self._names)
        for step in self.steps:
            updates = [self._update(next(names), x, grid) for _ in step.attentions]
            x = x + sum(updates[1:], updates[0])
        x = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return x

    def _update(self, name: str | None, x: Tensor, grid: Grid) -> Tensor:
        update: Tensor
        if name is None:
            update = self.drop_path1(self.ls1(self.attn(self.norm1(x), grid)))
        else:
            branch = cast(nn.ModuleDict, self.added[name])
            update = branch["drop_path"](branch["attn"](branch["norm"](x), grid))
        return update

    def extra_repr(self) -> str:
        return repr(format_block(self.steps))
