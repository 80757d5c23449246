"""timm's Eva, the home of its transformers with rotary positions, with space-time blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from timm.models.eva import Eva
from torch import Tensor

from .adopted_blocks import make_space_time
from .group_attention import GroupAttention
from .pattern import parse_pattern
from .space_time import SpaceTime
from .tokens import Grid

__all__ = ["RotaryVideoTransformer"]


class RotaryVideoTransformer(SpaceTime, Eva):  # type: ignore[misc]  # timm's classes are Any to mypy
    """timm's ``Eva`` on clips (EVA-02, DINOv3, Perception Encoder, ...), with any interleaving of attention.

    Rotary positions act on the height and width of each token inside whatever group it attends: over time alone they
    cancel, since all tokens of a group are at one place. Absolute positions are added where the image model has them,
    and the time embedding as in ``VideoTransformer``. Blocks, attentions and their parameter names are timm's.

    Args:
        pattern: The interleaving, or the name of a scheme (see ``parse_pattern``).
        num_frames: Frames of a clip.
        tubelet_size: Frames of a token; divides ``num_frames``.
        input_format: ``"NCTHW"`` or ``"NTCHW"``; ``None`` means NCTHW and refuses a clip that could be either.
        dynamic_num_frames: Take clips of other lengths too, the time embedding resampled linearly.
        time_embed_std: Standard deviation of the first time embedding; 0 changes nothing about an inflated image model.
        pos_embed_std: Standard deviation of the first space position embedding; timm's initialisation if ``None``.
        time_rope: Turn queries and keys by their moment too, in every letter that lets frames meet.
        **kwargs: Every option of timm's ``Eva``.

    Raises:
        ValueError: A pattern that does not fit depth, grid, heads or pooling, or sizes that do not divide.
    """

    rope: Any
    rope_mixed: bool
    dynamic_img_size: bool

    def __init__(
        self,
        pattern: str = "ts",
        num_frames: int = 8,
        tubelet_size: int = 1,
        input_format: Literal["NCTHW", "NTCHW"] | None = None,
        dynamic_num_frames: bool = False,
        time_embed_std: float = 0.0,
        pos_embed_std: float | None = None,
        time_rope: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        options: dict[str, Any] = {
            "num_frames": num_frames,
            "tubelet_size": tubelet_size,
            "input_format": input_format,
            "dynamic_num_frames": dynamic_num_frames,
        }
        parsed = parse_pattern(pattern)
        make_space_time(self, parsed.plan(len(self.blocks)), **options)
        self._set_pattern(parsed, time_embed_std, pos_embed_std, time_rope=time_rope)
        own = {"time_embed_std": time_embed_std, "pos_embed_std": pos_embed_std, "time_rope": time_rope}
        given = {"pattern": self.pattern, **own, **options, **kwargs}
        self._model_args = {k: v for k, v in given.items() if k not in ("device", "dtype") and v is not None}

    @property
    def has_class_token(self) -> bool:
        """Whether there is a class token, as timm's ``VisionTransformer`` says it."""
        return self.cls_token is not None

    @property
    def num_reg_tokens(self) -> int:
        """Register tokens, as timm's ``VisionTransformer`` says it."""
        return self.num_prefix_tokens - self.has_class_token

    @property
    def model_args(self) -> dict[str, Any]:
        """Arguments that build this model again, as it is now; what ``save_for_hf(model_args=...)`` wants."""
        args = super().model_args
        args["use_fc_norm"] = args.pop("fc_norm")  # timm's Eva has another name for it
        return args

    def init_weights(self, mode: str = "", needs_reset: bool = True) -> None:
        """Initialise as timm does; positions as ``time_embed_std`` and ``pos_embed_std`` say.

        Args:
            mode: Must be ``""``: timm's Eva has one initialisation.
            needs_reset: Whether modules still have to reset their parameters (after ``to_empty``).

        Raises:
            ValueError: Another mode.
        """
        if mode:
            raise ValueError(f"{mode=} must be '': timm's Eva has one initialisation")
        Eva.init_weights(self, needs_reset=needs_reset)
        for module in self.modules():
            if isinstance(module, GroupAttention):  # none yet when timm's constructor calls this
                module.reset_fc()
        if hasattr(self, "pos_embed_std"):
            self._init_positions()

    def pool(self, x: Tensor, pool_type: str | None = None) -> Tensor:
        """Pool tokens as timm does, with prefix tokens as heavy as they are beside a single frame.

        timm's Eva lets its attention pooling read prefix tokens too. All frames of a clip share one set of them, which
        is repeated here for every frame: else more frames would make the class token count less.

        Args:
            x: (B, P + T*H*W, C), or (B, P + T, C) behind a ``|``.
            pool_type: As in timm.

        Returns:
            (B, C); tokens as they are without pooling.

        Raises:
            ValueError: Nobody knows the number of frames, since both sizes and lengths of clips may vary.
        """
        P = self.num_prefix_tokens
        if self.attn_pool is not None and P:
            x = torch.cat([x[:, :P].repeat(1, self._num_frames_of(x.shape[1] - P), 1), x[:, P:]], dim=1)
        pooled: Tensor = super().pool(x, pool_type)
        return pooled

    def _num_frames_of(self, num_tokens: int) -> int:
        """Frames of tokens that so many patch tokens come from."""
        if any(block.starts_stage for block in self.plan):
            return num_tokens
        if not self.patch_embed.dynamic_num_frames:
            return self.grid.t
        if self.dynamic_img_size:
            raise ValueError(
                "global_pool='map' has to know how many frames its tokens come from, and with dynamic_num_frames and "
                "dynamic_img_size together it cannot tell; create the model without one of them, or pool by 'avg'"
            )
        return num_tokens // (self.grid.h * self.grid.w)

    def _rotaries(self, grid: Grid, *, reduced: bool) -> Callable[[int], Tensor | None]:
        if self.rope is None or reduced:
            return lambda _: None
        # one call a pass: in training DINOv3 draws its shifts and scales anew in every one
        fixed = not self.dynamic_img_size and hasattr(self.rope, "feat_shape")
        rope: Tensor = self.rope.get_embed() if fixed else self.rope.get_embed(shape=(grid.h, grid.w))
        if self.rope_mixed:  # angles of every block, (depth, heads, H*W, 2*d)
            return lambda index: _every_frame(rope[index], grid)
        rope = _every_frame(rope, grid)
        return lambda _: rope


def _every_frame(rope: Tensor, grid: Grid) -> Tensor:
    """(..., H*W, 2*d) to (..., T*H*W, 2*d)."""
    return rope.unsqueeze(-3).expand(*rope.shape[:-2], grid.t, *rope.shape[-2:]).flatten(-3, -2)
