"""A video model out of one of timm's image models, whose parameters it keeps under their names."""

from __future__ import annotations

from typing import Any, Literal

from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from .adopted_blocks import make_space_time
from .pattern import parse_pattern
from .rotary_video_transformer import RotaryVideoTransformer
from .space_time import SpaceTime
from .video_transformer import VideoTransformer

__all__ = ["make_video"]

_MODELS: dict[type[nn.Module], type[SpaceTime]] = {VisionTransformer: VideoTransformer, Eva: RotaryVideoTransformer}


def make_video(
    image: nn.Module,
    *,
    pattern: str = "ts",
    num_frames: int = 8,
    tubelet_size: int = 1,
    input_format: Literal["NCTHW", "NTCHW"] | None = None,
    dynamic_num_frames: bool = False,
    time_embed_std: float = 0.0,
    time_rope: bool = False,
) -> VideoTransformer | RotaryVideoTransformer:
    """Turn an image model into a video model, in place.

    Parameters keep their names and values; the stem reads the central frame of every tubelet. Added attentions and the
    time embedding are new and change nothing yet: with ``time_embed_std=0``, patterns such as ``s``, ``ts``, ``st``,
    ``t+s`` and ``cs`` score a clip of identical frames as the image model scores the frame. Works on the meta device.

    Args:
        image: timm's ``VisionTransformer`` or ``Eva``. It becomes the video model: pass a deep copy to keep it.
        pattern: The interleaving, or the name of a scheme (see ``parse_pattern``).
        num_frames: Frames of a clip.
        tubelet_size: Frames of a token; divides ``num_frames``.
        input_format: ``"NCTHW"`` or ``"NTCHW"``; ``None`` means NCTHW and refuses a clip that could be either.
        dynamic_num_frames: Take clips of other lengths too, the time embedding resampled linearly.
        time_embed_std: Standard deviation of the first time embedding.
        time_rope: Turn queries and keys by their moment, in every letter that lets frames meet.

    Returns:
        ``image`` itself, now of another class. Its ``model_args`` are those given here on top of what timm recorded of
        the image model, which rebuild it only together with that model.

    Raises:
        ValueError: A model that cannot be made a video model, with the reason, or a pattern that does not fit depth,
            grid, heads or pooling, or sizes that do not divide.
    """
    if type(image) not in _MODELS:
        raise ValueError(_why_not(image))
    model: Any = image
    drop = model.patch_drop
    if (getattr(drop, "prob", 0.0) or 0.0) > 0:
        raise ValueError(
            f"patch_drop_rate={drop.prob} drops single tokens, which leaves no grid to attend over; create the image "
            "model without it and use drop_path_rate, pos_drop_rate or attn_drop_rate instead"
        )
    parsed = parse_pattern(pattern)
    options: dict[str, Any] = {
        "num_frames": num_frames,
        "tubelet_size": tubelet_size,
        "input_format": input_format,
        "dynamic_num_frames": dynamic_num_frames,
    }
    make_space_time(model, parsed.plan(len(model.blocks)), **options)
    model.__class__ = _MODELS[type(image)]
    model._set_pattern(parsed, time_embed_std, time_rope=time_rope)
    own = {"pattern": model.pattern, "time_embed_std": time_embed_std, "time_rope": time_rope, **options}
    model._model_args = {**getattr(model, "_model_args", {}), **{k: v for k, v in own.items() if v is not None}}
    video: VideoTransformer | RotaryVideoTransformer = model
    return video


def _why_not(image: nn.Module) -> str:
    name = type(image).__name__
    if isinstance(image, SpaceTime):
        return f"{name} is a video model already; pass the image model that it was made from"
    for cls in _MODELS:
        if isinstance(image, cls):
            return (
                f"{name} is a {cls.__name__} with a forward pass of its own, which a video model would not follow; "
                f"models whose class is {' or '.join(known.__name__ for known in _MODELS)} itself can be inflated"
            )
    return (
        f"{name} cannot be made a video model: its tokens or blocks are not those of timm's "
        f"{' or '.join(known.__name__ for known in _MODELS)}"
    )
