"""timm's VisionTransformer with space-time blocks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from timm.layers import LayerNorm, get_act_layer, get_norm_layer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from .attentive_pool import AttentivePool
from .embed import TubeletEmbed
from .layers import SpaceTimeBlock
from .pattern import Pattern, format_pattern, parse_pattern
from .positions import PosEmbed, WavePositions, resize_joint_embed
from .rotary_3d import RopeType, rotary_3d
from .space_time import SpaceTime
from .tokens import Grid

__all__ = ["VideoTransformer"]

_logger = logging.getLogger(__name__)


class VideoTransformer(SpaceTime, VisionTransformer):  # type: ignore[misc]  # timm's classes are Any to mypy
    """timm's ``VisionTransformer`` on clips, with any interleaving of attention over space and time.

    Prefix tokens (class, registers), ``pre_norm``, LayerScale, ``qk_norm``, pooling, the head and their parameter
    names are timm's. What video changes is the embedding, the position, the block loop and the sizes.

    Args:
        pattern: The interleaving, or the name of a scheme (see ``parse_pattern``).
        num_frames: Frames of a clip.
        tubelet_size: Frames of a token; divides ``num_frames``.
        input_format: ``"NCTHW"`` or ``"NTCHW"``; ``None`` means NCTHW and refuses a clip that could be either.
        dynamic_num_frames: Take clips of other lengths too, the time embedding resampled linearly.
        time_embed_std: Standard deviation of the first time embedding; 0 changes nothing about an inflated image model.
        pos_embed_std: Standard deviation of the first space position embedding; timm's initialisation if ``None``.
            Small models trained from scratch learn motion in far fewer updates when both are about as large as the
            patch tokens or larger (1 to 2): places and moments then differ from the first step.
        pos_embed: ``"learn"``, ``"joint"``, ``"sincos"`` or ``"none"``, see ``PosEmbed``. A table over T*H*W takes the
            place of the time embedding, and is refused with a pattern of ``s``, ``h`` and ``w`` alone, whose frames do
            not know when they are.
        rope_type: Rotary positions in 3 axes, ``"vjepa2"`` or ``"vjepa2.1"`` (see ``RopeType``), in every attention;
            they too take the place of the time embedding. Prefix tokens are not rotated, and with a pattern of ``s``,
            ``h`` and ``w`` alone every frame is the first.
        k_bias: Whether keys have a bias. Without it the attentions have ``q_bias`` and ``v_bias`` (BEiT, VideoMAE).
        attn_pool_type: What ``global_pool="map"`` pools by: timm's ``AttentionPoolLatent`` or V-JEPA 2's
            ``AttentivePool``.
        attn_pool_depth: Blocks of self-attention in ``AttentivePool``.
        norm_eps: Epsilon of every norm; that of ``norm_layer`` if ``None``.
        fc_norm_eps: Epsilon of ``fc_norm`` alone; ``norm_eps`` if ``None``.
        **kwargs: Every option of timm's ``VisionTransformer`` except ``embed_layer`` and ``block_fn``.

    Raises:
        ValueError: A pattern that does not fit depth, grid, heads, positions or pooling, or sizes that do not divide.
    """

    # of models that were not built by this constructor
    pos_embed_type: PosEmbed = "learn"
    rope_type: RopeType | None = None
    wave_embed: WavePositions

    def __init__(
        self,
        pattern: str = "ts",
        num_frames: int = 8,
        tubelet_size: int = 1,
        input_format: Literal["NCTHW", "NTCHW"] | None = None,
        dynamic_num_frames: bool = False,
        time_embed_std: float = 0.0,
        pos_embed_std: float | None = None,
        pos_embed: PosEmbed = "learn",
        rope_type: RopeType | None = None,
        k_bias: bool = True,
        attn_pool_type: Literal["latent", "attentive"] = "latent",
        attn_pool_depth: int = 3,
        norm_eps: float | None = None,
        fc_norm_eps: float | None = None,
        **kwargs: Any,
    ) -> None:
        for name in ("embed_layer", "block_fn"):
            if name in kwargs:
                raise ValueError(f"{name} is fixed by the video model; subclass VideoTransformer to change it")
        if kwargs.get("patch_drop_rate", 0.0) > 0:
            raise ValueError(
                "patch_drop_rate drops single tokens, which leaves no grid to attend over; use drop_path_rate, "
                "pos_drop_rate or attn_drop_rate instead"
            )
        parsed = parse_pattern(pattern)
        plan = parsed.plan(kwargs.get("depth", 12))
        _check_pos_embed(pos_embed, parsed)
        if attn_pool_type not in ("latent", "attentive"):
            raise ValueError(f"{attn_pool_type=} must be 'latent' or 'attentive'")
        embed_options: dict[str, Any] = {
            "num_frames": num_frames,
            "tubelet_size": tubelet_size,
            "input_format": input_format,
            "dynamic_num_frames": dynamic_num_frames,
        }
        if tubelet_size < 1:
            raise ValueError(f"{tubelet_size=} must be at least 1 frame")

        def embed_layer(**options: Any) -> TubeletEmbed:
            options.pop("output_fmt", None)  # tokens come with their grid, so the flat layout serves dynamic sizes too
            return TubeletEmbed(**embed_options, **options)

        def block_fn(*, depth: int, **options: Any) -> SpaceTimeBlock:
            steps, per_frame = plan[depth].steps, plan[depth].per_frame_prefix
            return SpaceTimeBlock(steps=steps, per_frame_prefix=per_frame, k_bias=k_bias, depth=depth, **options)

        table = "learn" if pos_embed == "learn" else "none"  # timm makes tables over space
        super().__init__(embed_layer=embed_layer, block_fn=block_fn, pos_embed=table, **kwargs)
        dd = {"device": kwargs.get("device"), "dtype": kwargs.get("dtype")}
        self.pos_embed_type, self.rope_type = pos_embed, rope_type
        if pos_embed == "joint":
            entries = self.num_prefix_positions + self.grid.num_tokens
            self.pos_embed = nn.Parameter(torch.empty(1, entries, self.embed_dim, **dd))
            nn.init.trunc_normal_(self.pos_embed, std=0.02)  # as timm does
        elif pos_embed == "sincos":
            self.wave_embed = WavePositions(self.grid, self.embed_dim, **dd)
        knows_time = pos_embed in ("joint", "sincos") or rope_type is not None
        self._set_pattern(parsed, time_embed_std, pos_embed_std, time_embed=not knows_time)
        if rope_type is not None:
            rotary_3d(Grid(1, 1, 1), self.embed_dim // self.blocks[0].attn.num_heads, rope_type)  # refuses what it must
        if self.global_pool == "map" and attn_pool_type == "attentive":
            self.attn_pool = AttentivePool(
                self.embed_dim,
                self.blocks[0].attn.num_heads,
                depth=attn_pool_depth,
                norm_layer=get_norm_layer(kwargs.get("norm_layer")) or LayerNorm,
                act_layer=get_act_layer(kwargs.get("act_layer")) or nn.GELU,
                device=kwargs.get("device"),
                dtype=kwargs.get("dtype"),
            )
        self._set_norm_eps(norm_eps, fc_norm_eps)
        # older timm records no arguments at construction; `local-dir:` models are rebuilt from these
        own = {
            "time_embed_std": time_embed_std,
            "pos_embed_std": pos_embed_std,
            "pos_embed": pos_embed,
            "rope_type": rope_type,
            "k_bias": k_bias,
            "attn_pool_type": attn_pool_type,
            "attn_pool_depth": attn_pool_depth,
            "norm_eps": norm_eps,
            "fc_norm_eps": fc_norm_eps,
        }
        given = {"pattern": self.pattern, **own, **embed_options, **kwargs}
        self._model_args = {k: v for k, v in given.items() if k not in ("device", "dtype") and v is not None}

    def set_input_size(
        self,
        img_size: int | tuple[int, int] | None = None,
        patch_size: int | tuple[int, int] | None = None,
        num_frames: int | None = None,
    ) -> None:
        """Change the size of a clip; learned positions are resampled, space and time apart, fixed ones computed anew.

        Args:
            img_size: Height and width in pixels; unchanged if ``None``.
            patch_size: Height and width of a patch in pixels; unchanged if ``None``.
            num_frames: Frames of a clip; unchanged if ``None``.

        Raises:
            ValueError: Sizes that do not divide, or a grid that a letter of the pattern cannot cut.
        """
        before, table = self.grid, self.pos_embed
        if self.pos_embed_type == "joint":
            self.pos_embed = None  # timm would resample T*H*W as if it were a plane
        try:
            super().set_input_size(img_size=img_size, patch_size=patch_size, num_frames=num_frames)
        finally:
            if self.pos_embed_type == "joint":
                self.pos_embed = table
        if self.pos_embed_type == "joint" and table is not None and self.grid != before:
            resized = self._joint_table(table.detach(), before, self.grid)
            self.pos_embed = nn.Parameter(resized, requires_grad=table.requires_grad)
            _logger.info("Resampled the joint position table from %s to %s tokens", tuple(before), tuple(self.grid))
        elif self.pos_embed_type == "sincos":
            self.wave_embed.set_grid(self.grid)

    def _joint_table(self, table: Tensor, old: Grid, new: Grid) -> Tensor:
        return resize_joint_embed(table, old, new, self.num_prefix_positions)

    def _pos_embed(self, x: Tensor, grid: Grid) -> Tensor:
        if self.pos_embed_type == "sincos":
            return super()._pos_embed(x + self.wave_embed(grid), grid)  # which finds nothing left to add
        if self.pos_embed_type != "joint" or self.pos_embed is None:
            return super()._pos_embed(x, grid)
        pos, n = self._joint_table(self.pos_embed, self.grid, grid), self.num_prefix_positions
        return self._put_prefix(x + pos[:, n:], grid, pos[:, :n])

    def _rotaries(self, grid: Grid, *, reduced: bool) -> Callable[[int], Tensor | None]:
        if self.rope_type is None:
            return super()._rotaries(grid, reduced=reduced)
        attn, stem = self.blocks[0].attn, self.patch_embed
        # a prefix token is not turned, and 2's tiling is no rotation: either would tell a frame its moment
        T = grid.t if self.frames_meet else 1
        turned = grid._replace(t=T)
        rope = rotary_3d(turned, attn.head_dim, self.rope_type, stem.patch_size[0], device=stem.proj.weight.device)
        rope = rope.repeat(grid.t // T, 1)
        return lambda _: rope

    def _set_norm_eps(self, norm_eps: float | None, fc_norm_eps: float | None) -> None:
        if norm_eps is not None:
            norms: list[Any] = [module for module in self.modules() if hasattr(module, "eps")]
            for norm in norms:
                norm.eps = norm_eps
        last: Any = self.fc_norm
        if fc_norm_eps is not None and hasattr(last, "eps"):
            last.eps = fc_norm_eps


def _check_pos_embed(pos_embed: str, parsed: Pattern) -> None:
    if pos_embed not in get_args(PosEmbed):
        raise ValueError(f"{pos_embed=} must be one of {', '.join(map(repr, get_args(PosEmbed)[:-1]))}")
    if pos_embed in ("joint", "sincos") and not parsed.uses_time:
        raise ValueError(
            f"{pos_embed=} tells frames apart by their moment, and pattern {format_pattern(parsed)!r} runs an image "
            "model on every frame, which must not know it; pass pos_embed='learn', or add a letter that uses time"
        )
