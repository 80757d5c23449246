"""Attention over any row of the table of letters, and the block that runs several of them before one MLP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from timm.layers import Attention, DropPath, LayerNorm, LayerScale, Mlp
from timm.models import checkpoint
from torch import Tensor, nn

from .group_attention import GroupAttention, check_letters
from .pattern import Step, format_block, parse_block
from .recomputing import OUTPUTS, outputs_computed_again
from .rows import add_to_patches
from .tokens import LETTERS, Grid

__all__ = ["AxisAttention", "SpaceTimeBlock", "name_attentions"]


class AxisAttention(GroupAttention, Attention):  # type: ignore[misc]  # timm is untyped
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
        k_bias: Whether that of keys is among them; if not, the others are parameters apart, ``q_bias`` and ``v_bias``,
            as in timm's ``EvaAttention``.
        rotate_half: Which channels rotary positions pair: i with i + d/2, or neighbours.
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
        k_bias: bool = True,
        rotate_half: bool = False,
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
        if dim % num_heads:
            raise ValueError(f"{dim=} is not a multiple of {num_heads=}; choose num_heads among the divisors of dim")
        check_letters(letters, num_heads, per_frame_prefix)
        super().__init__(
            dim,
            num_heads=num_heads,
            qkv_bias=qkv_bias and k_bias,
            qk_norm=qk_norm,
            scale_norm=scale_norm,
            proj_bias=proj_bias,
            attn_drop=attn_drop,
            proj_drop=proj_drop,
            norm_layer=norm_layer,
            device=device,
            dtype=dtype,
        )
        self.rotate_half = rotate_half
        self.q_bias = self.v_bias = None
        if qkv_bias and not k_bias:
            self.q_bias = nn.Parameter(torch.zeros(dim, device=device, dtype=dtype))
            self.v_bias = nn.Parameter(torch.zeros(dim, device=device, dtype=dtype))
        self.set_groups(letters, per_frame_prefix=per_frame_prefix, zero_fc=zero_fc)

    def reset_parameters(self) -> None:
        """Zero ``fc`` and the separate bias. timm's initialisation visits children first and this module last."""
        self.reset_fc()
        for bias in (self.q_bias, self.v_bias):
            if bias is not None:
                nn.init.zeros_(bias)

    init_weights = reset_parameters


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
        k_bias: Whether that of keys is among them (see ``AxisAttention``).
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
        k_bias: bool = True,
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
                k_bias=k_bias,
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

        names, primary = name_attentions(self.steps)
        self._names = tuple(name for name, _ in names)
        self.added = nn.ModuleDict()
        for name, letters in names:
            if name is not None:
                self.added[name] = nn.ModuleDict(
                    {"norm": norm_layer(dim, **dd), "attn": attention(letters, zero_fc=True), "drop_path": drop()}
                )
        self.norm1 = norm_layer(dim, **dd)
        self.attn = attention(primary, zero_fc=False)
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

    # parts whose activations are computed again in the backward pass: "attention", "mlp", "norm", "act" or letters
    recomputed: frozenset[str] = frozenset()

    def forward(
        self,
        x: Tensor,
        grid: Grid,
        rope: Tensor | None = None,
        time_rope: Tensor | None = None,
        prefix_only: bool = False,
    ) -> Tensor:
        """Run the block's steps in turn, then its MLP.

        Args:
            x: (B, P + T*H*W, C); with per-frame prefix (B, T*P + T*H*W, C).
            grid: Counts of the patch tokens.
            rope: Rotary positions of the patch tokens (see ``GroupAttention``).
            time_rope: Those along time.
            prefix_only: Compute no more than the prefix tokens need, of a block for which ``ends_in_prefix``.

        Returns:
            Same shape as ``x``; with ``prefix_only`` the prefix tokens, (B, P, C).

        Raises:
            ValueError: The grid cannot be cut as a letter asks.
        """
        names = iter(self._names)
        for step in self.steps[:-1] if prefix_only else self.steps:
            updates = [self._update(next(names), x, grid, rope, time_rope) for _ in step.attentions]
            for update in updates:
                x = add_to_patches(x, update)
        if prefix_only:
            update = self._update(next(names), x, grid, rope, time_rope, prefix_only=True)
            x = x[:, : x.shape[1] - grid.num_tokens] + update
        return x + self._run(("mlp",), self._mlp_update, x)

    def _run(self, names: tuple[str, ...], update: Callable[..., Tensor], *inputs: Any) -> Tensor:
        """Run a part of the block, whose activations are computed again instead of kept if one of its names says so."""
        y: Tensor
        if not self.recomputed.isdisjoint(names):
            y = checkpoint(update, *inputs)
        elif self.recomputed.isdisjoint(OUTPUTS) or torch.compiler.is_compiling():
            y = update(*inputs)
        else:
            with outputs_computed_again(self._layers_computed_again()):
                y = update(*inputs)
        return y

    # whether norm1 and norm2 have their outputs read, and kept, by Linear layers alone
    _normalises_tokens = True

    def _layers_computed_again(self) -> list[nn.Module]:
        norms: list[nn.Module] = []
        if "norm" in self.recomputed:
            norms = [cast(nn.ModuleDict, branch)["norm"] for branch in self.added.values()]
            norms += [self.norm1, self.norm2] if self._normalises_tokens else []
        act = getattr(self.mlp, "act", None) if "act" in self.recomputed else None
        return [*norms, act] if isinstance(act, nn.Module) else norms

    @property
    def ends_in_prefix(self) -> bool:
        """Whether the last step is one attention over one letter's groups, which prefix tokens join."""
        letters = self.steps[-1].letters
        return len(letters) == 1 and LETTERS[letters[0]].prefix

    def _attention(self, name: str | None) -> GroupAttention:
        return self.attn if name is None else cast(GroupAttention, cast(nn.ModuleDict, self.added[name])["attn"])

    def _update(
        self,
        name: str | None,
        x: Tensor,
        grid: Grid,
        rope: Tensor | None,
        time_rope: Tensor | None,
        prefix_only: bool = False,
    ) -> Tensor:
        """Update of all tokens, or of patch tokens alone where prefix tokens are left out, or of these alone."""
        attn = self._attention(name)
        if not attn.moves_prefix:
            x = x[:, x.shape[1] - grid.num_tokens :]
        of_part = ("attention", *attn.letters)
        how = {"rope": rope, "time_rope": time_rope, "prefix_only": prefix_only}
        if name is None:
            return self._run(of_part, self._primary_update, x, grid, how)
        return self._run(of_part, self._added_update, name, x, grid, how)

    def _added_update(self, name: str, x: Tensor, grid: Grid, how: dict[str, Any]) -> Tensor:
        branch = cast(nn.ModuleDict, self.added[name])
        update: Tensor = branch["drop_path"](branch["attn"](branch["norm"](x), grid, **how))
        return update

    def _primary_update(self, x: Tensor, grid: Grid, how: dict[str, Any]) -> Tensor:
        update: Tensor = self.drop_path1(self.ls1(self.attn(self.norm1(x), grid, **how)))
        return update

    def _mlp_update(self, x: Tensor) -> Tensor:
        update: Tensor = self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return update

    @property
    def drops_paths(self) -> bool:
        """Whether stochastic depth leaves out whole updates of a sample, which is then a row of ``x``."""
        layers = [self.drop_path1, self.drop_path2, *(cast(nn.ModuleDict, b)["drop_path"] for b in self.added.values())]
        return self.training and any(bool(getattr(layer, "drop_prob", 0.0)) for layer in layers)

    def extra_repr(self) -> str:
        return repr(format_block(self.steps))


def name_attentions(steps: tuple[Step, ...]) -> tuple[list[tuple[str | None, tuple[str, ...]]], tuple[str, ...]]:
    """Name the attentions of a block; the primary one is its last ``s`` or ``j`` if it has one, else its last.

    Args:
        steps: The block's steps.

    Returns:
        Name and letters of every attention in order, the name ``None`` for the primary one; the letters of that one.
    """
    wanted = [letters for step in steps for letters in step.attentions]
    space = [i for i, letters in enumerate(wanted) if letters in (("s",), ("j",))]
    primary = space[-1] if space else len(wanted) - 1
    named: list[tuple[str | None, tuple[str, ...]]] = []
    for i, letters in enumerate(wanted):
        name = "".join(letters)
        repeats = sum(done is not None and done.split("_")[0] == name for done, _ in named)
        name = f"{name}_{repeats + 1}" if repeats else name
        named.append((None if i == primary else name, letters))
    return named, wanted[primary]
