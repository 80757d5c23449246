"""V-JEPA 2: the names under which timm knows it, and the weights that were published for it."""

from __future__ import annotations

from typing import Any, Literal

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import generate_default_cfgs, register_model

from .registry import Published, clip_cfg, create_video_model, published_cfg
from .video_transformer import VideoTransformer

__all__: list[str] = []  # register_model adds every entry point

_PROBES = "github.com/facebookresearch/vjepa2, README, evaluation attentive probes"
_DIVING = "The published accuracy is of a probe that reads four blocks; this one reads the last."
_NORMALISED: dict[str, Any] = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}


def _encoder(name: str, license: str, img_size: int = 256) -> Published:
    """An encoder on the hub; its features are the mean of the tokens behind the final norm."""
    return Published(
        hf_hub_id=f"facebook/vjepa2-{name}",
        num_classes=0,
        num_frames=64,
        stride=2,
        img_size=img_size,
        short_side=img_size * 8 // 7,
        license=license,
        note="An encoder without a head.",
        model_args={"global_pool": "avg", "fc_norm": False},
        **_NORMALISED,
    )


def _probe(
    name: str,
    dataset: Literal["something_v2", "diving48"],
    num_frames: int,
    top1: float | None = None,
    img_size: int = 256,
) -> Published:
    """A frozen encoder with the attentive pooler and classifier that were trained on it."""
    ssv2 = dataset == "something_v2"
    return Published(
        hf_hub_id=f"facebook/vjepa2-{name}",
        dataset=dataset,
        num_classes=174 if ssv2 else 48,
        num_frames=num_frames,
        stride=4 if ssv2 and num_frames == 16 else 2,
        img_size=img_size,
        short_side=img_size * 8 // 7,
        num_clips=2 if ssv2 else 4,
        license="mit",
        top1=top1,
        source=_PROBES if top1 else "",
        note="" if ssv2 else _DIVING,
        model_args={"num_frames": num_frames},
        **_NORMALISED,
    )


PUBLISHED: dict[str, Published] = {
    "vjepa2_large_patch16_256.fb": _encoder("vitl-fpc64-256", "mit"),
    "vjepa2_large_patch16_256.fb_ssv2": _probe("vitl-fpc16-256-ssv2", "something_v2", 16, 73.7),
    "vjepa2_large_patch16_256.fb_diving48": _probe("vitl-fpc32-256-diving48", "diving48", 32),
    "vjepa2_huge_patch16_256.fb": _encoder("vith-fpc64-256", "mit"),
    "vjepa2_giant_patch16_256.fb": _encoder("vitg-fpc64-256", "apache-2.0"),
    "vjepa2_giant_patch16_384.fb": _encoder("vitg-fpc64-384", "apache-2.0", 384),
    "vjepa2_giant_patch16_384.fb_ssv2": _probe("vitg-fpc64-384-ssv2", "something_v2", 64, 77.3, 384),
    "vjepa2_giant_patch16_384.fb_diving48": _probe("vitg-fpc32-384-diving48", "diving48", 32, None, 384),
}
"""What the hub has, in transformers' format. Encoders of the original files (``dl.fbaipublicfiles.com/vjepa2``) load
through ``pretrained_cfg_overlay=dict(file=...)``, those of version 2.1 with ``rope_type="vjepa2.1"`` besides."""


def _untrained(img_size: int) -> dict[str, Any]:
    return clip_cfg(input_size=(3, img_size, img_size), mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD)


# the star makes `untrained` what an architecture alone means, as for TimeSformer
default_cfgs = generate_default_cfgs(
    {
        **{name: published_cfg(checkpoint) for name, checkpoint in PUBLISHED.items()},
        "vjepa2_test_patch8_32.untrained": _untrained(32),
        "vjepa2_large_patch16_256.untrained*": _untrained(256),
        "vjepa2_huge_patch16_256.untrained*": _untrained(256),
        "vjepa2_giant_patch16_256.untrained*": _untrained(256),
        "vjepa2_giant_patch16_384.untrained*": _untrained(384),
    }
)

_COMMON: dict[str, Any] = {
    "pattern": "j",
    "num_frames": 64,
    "tubelet_size": 2,
    "class_token": False,
    "pos_embed": "none",
    "rope_type": "vjepa2",
    "global_pool": "map",
    "attn_pool_type": "attentive",
    "fc_norm": False,
}
_GIANT = {"patch_size": 16, "embed_dim": 1408, "depth": 40, "num_heads": 22, "mlp_ratio": 48 / 11}


def _create(name: str, pretrained: bool, size: dict[str, Any], given: dict[str, Any]) -> VideoTransformer:
    return create_video_model(VideoTransformer, name, pretrained, {**_COMMON, **size}, given)


@register_model
def vjepa2_test_patch8_32(pretrained: bool = False, **kwargs: Any) -> VideoTransformer:
    """A very small model for tests: 8 frames of 32 px."""
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 4, "num_heads": 2, "num_frames": 8}
    return _create("vjepa2_test_patch8_32", pretrained, size, kwargs)


@register_model
def vjepa2_large_patch16_256(pretrained: bool = False, **kwargs: Any) -> VideoTransformer:
    """V-JEPA 2 ViT-L/16 on 64 frames of 256 px (arXiv 2506.09985)."""
    size = {"img_size": 256, "patch_size": 16, "embed_dim": 1024, "depth": 24, "num_heads": 16}
    return _create("vjepa2_large_patch16_256", pretrained, size, kwargs)


@register_model
def vjepa2_huge_patch16_256(pretrained: bool = False, **kwargs: Any) -> VideoTransformer:
    """V-JEPA 2 ViT-H/16 on 64 frames of 256 px (arXiv 2506.09985)."""
    size = {"img_size": 256, "patch_size": 16, "embed_dim": 1280, "depth": 32, "num_heads": 16}
    return _create("vjepa2_huge_patch16_256", pretrained, size, kwargs)


@register_model
def vjepa2_giant_patch16_256(pretrained: bool = False, **kwargs: Any) -> VideoTransformer:
    """V-JEPA 2 ViT-g/16 on 64 frames of 256 px (arXiv 2506.09985)."""
    return _create("vjepa2_giant_patch16_256", pretrained, {"img_size": 256, **_GIANT}, kwargs)


@register_model
def vjepa2_giant_patch16_384(pretrained: bool = False, **kwargs: Any) -> VideoTransformer:
    """V-JEPA 2 ViT-g/16 on 64 frames of 384 px (arXiv 2506.09985)."""
    return _create("vjepa2_giant_patch16_384", pretrained, {"img_size": 384, **_GIANT}, kwargs)
