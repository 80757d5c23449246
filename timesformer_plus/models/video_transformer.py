"""timm's VisionTransformer with space-time blocks."""

from __future__ import annotations

from typing import Any, Literal

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from .embed import TubeletEmbed
from .layers import SpaceTimeBlock
from .pattern import format_pattern, parse_pattern
from .space_time import SpaceTime
from .tokens import LETTERS

__all__ = ["VideoTransformer"]


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
        **kwargs: Every option of timm's ``VisionTransformer`` except ``embed_layer`` and ``block_fn``.

    Raises:
        ValueError: A pattern that does not fit depth, grid, heads or pooling, or sizes that do not divide.
    """

    def __init__(
        self,
        pattern: str = "ts",
        num_frames: int = 8,
        tubelet_size: int = 1,
        input_format: Literal["NCTHW", "NTCHW"] | None = None,
        dynamic_num_frames: bool = False,
        time_embed_std: float = 0.0,
        pos_embed_std: float | None = None,
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
            return SpaceTimeBlock(
                steps=plan[depth].steps, per_frame_prefix=plan[depth].per_frame_prefix, depth=depth, **options
            )

        super().__init__(embed_layer=embed_layer, block_fn=block_fn, **kwargs)
        self.pattern = format_pattern(parsed)
        self.plan = plan
        self._check_plan(self.grid)
        if (
            self.global_pool in ("token", "prr")
            and self.has_class_token
            and not any(LETTERS[letter].prefix for letter in parsed.letters)
        ):
            raise ValueError(
                f"pattern {self.pattern!r} never lets the class token see a patch, and global_pool="
                f"{self.global_pool!r} reads only that; pass global_pool='avg' or add a letter such as 's'"
            )
        dd = {"device": kwargs.get("device"), "dtype": kwargs.get("dtype")}
        self.time_embed = nn.Parameter(torch.zeros(1, self.grid.t, self.embed_dim, **dd)) if parsed.uses_time else None
        self.time_embed_std, self.pos_embed_std = time_embed_std, pos_embed_std
        self._init_positions()
        # older timm records no arguments at construction; `local-dir:` models are rebuilt from these
        stds = {"time_embed_std": time_embed_std, "pos_embed_std": pos_embed_std}
        given = {"pattern": self.pattern, **stds, **embed_options, **kwargs}
        self._model_args = {k: v for k, v in given.items() if k not in ("device", "dtype") and v is not None}
