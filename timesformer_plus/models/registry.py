"""How a video model of any family is made from what timm's ``create_model`` was given."""

from __future__ import annotations

from typing import Any, TypeVar

from timm.models import build_model_with_cfg
from torch import nn

from .weights import filter_checkpoint

__all__ = ["clip_cfg", "create_video_model"]

Model = TypeVar("Model", bound=nn.Module)


def clip_cfg(**kwargs: Any) -> dict[str, Any]:
    """Fill in a pretrained cfg of timm's for a model of 400 classes on frames of 224 px."""
    return {
        "num_classes": 400,
        "input_size": (3, 224, 224),
        "pool_size": None,
        "crop_pct": 1.0,
        "interpolation": "bilinear",  # what data.transforms does
        "fixed_input_size": True,
        # the normalisation that TimeSformer's recipe uses for every channel
        "mean": (0.45, 0.45, 0.45),
        "std": (0.225, 0.225, 0.225),
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "license": "apache-2.0",
        **kwargs,
    }


def create_video_model(
    cls: type[Model], variant: str, pretrained: bool, defaults: dict[str, Any], given: dict[str, Any]
) -> Model:
    """Build a model through timm's own door.

    Args:
        cls: Its class.
        variant: The registered name.
        pretrained: Whether to load the weights that its pretrained cfg names.
        defaults: Arguments of the registered name.
        given: What the caller passed, which goes first.
    """
    model: Model = build_model_with_cfg(
        cls,
        variant,
        pretrained,
        pretrained_filter_fn=filter_checkpoint,
        feature_cfg={"out_indices": given.pop("out_indices", 3), "feature_cls": "getter"},
        **{**defaults, **given},
    )
    return model
