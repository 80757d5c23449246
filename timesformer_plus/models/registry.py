"""How a video model of any family is made from what timm's ``create_model`` was given."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from timm.models import build_model_with_cfg, get_pretrained_cfg, is_model, model_entrypoint
from torch import nn

from .weights import filter_checkpoint

__all__ = ["Published", "clip_cfg", "create_video_model", "published", "published_cfg"]

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


@dataclass(frozen=True)
class Published:
    """One published checkpoint: where it is, the clips that it was trained on, what it scored.

    The family's module keeps it in ``PUBLISHED`` under ``"architecture.tag"``, the name of timm's that loads it.

    Attributes:
        hf_hub_id: Repository on the Hugging Face hub; ``None`` for a file that only its authors' page offers.
        hf_hub_filename: File in it; ``None`` for the hub's usual name.
        dataset: Whose labels the head gives, by the name that ``data`` uses; ``None`` without a head.
        num_classes: Their number, 0 without a head.
        num_frames: Frames of a clip.
        stride: Source frames from one frame of a clip to the next.
        img_size: Side of a frame in pixels.
        short_side: Pixels that the short side is scaled to before the crop.
        num_clips: Clips of a video whose scores are averaged in ``top1``.
        num_crops: Crops of each.
        mean: Of the normalisation, in RGB order.
        std: Likewise.
        channel_order: Of the pixels that the weights expect: ``"rgb"`` or ``"bgr"``.
        license: Of the weights.
        top1: Published accuracy in percent; ``None`` where none is published.
        source: Where ``top1`` stands: a paper's table, a model card.
        note: What else a user has to know, in a sentence.
        model_args: Arguments of the registered name that these weights need.
    """

    hf_hub_id: str | None = None
    hf_hub_filename: str | None = None
    dataset: Literal["kinetics400", "kinetics600", "something_v2", "howto100m", "diving48"] | None = None
    num_classes: int = 400
    num_frames: int = 8
    stride: int = 32
    img_size: int = 224
    short_side: int = 224
    num_clips: int = 1
    num_crops: int = 3
    mean: tuple[float, float, float] = (0.45, 0.45, 0.45)
    std: tuple[float, float, float] = (0.225, 0.225, 0.225)
    channel_order: Literal["rgb", "bgr"] = "rgb"
    license: str = "apache-2.0"
    top1: float | None = None
    source: str = ""
    note: str = ""
    model_args: Mapping[str, Any] = field(default_factory=dict)


def published_cfg(checkpoint: Published, **kwargs: Any) -> dict[str, Any]:
    """Write timm's pretrained cfg of a published checkpoint.

    Args:
        checkpoint: What was published.
        **kwargs: Fields of the cfg that go before what ``checkpoint`` says.
    """
    said = {
        "hf_hub_id": checkpoint.hf_hub_id,
        "hf_hub_filename": checkpoint.hf_hub_filename,
        "num_classes": checkpoint.num_classes,
        "input_size": (3, checkpoint.img_size, checkpoint.img_size),
        "mean": checkpoint.mean,
        "std": checkpoint.std,
        "license": checkpoint.license,
    }
    return clip_cfg(**{**said, **kwargs})


def published(name: str) -> Published | None:
    """Look up what was published under a name of timm's.

    Args:
        name: ``"architecture.tag"``, or an architecture alone for its default tag.

    Returns:
        ``None`` if no weights were published under that name.
    """
    architecture, _, tag = name.partition(".")
    if not is_model(architecture):
        return None
    if not tag:
        cfg = get_pretrained_cfg(architecture, allow_unregistered=True)
        tag = (cfg.tag if cfg is not None else None) or ""
    family = sys.modules[model_entrypoint(architecture).__module__]
    found: Mapping[str, Published] = getattr(family, "PUBLISHED", {})
    return found.get(f"{architecture}.{tag}")


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
