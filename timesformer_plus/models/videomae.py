"""VideoMAE and VideoMAE v2: the names under which timm knows them, and the weights that were published for them."""

from __future__ import annotations

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import generate_default_cfgs, register_model

from .registry import Published, clip_cfg, create_video_model, published_cfg
from .video_transformer import VideoTransformer

__all__: list[str] = []  # register_model adds every entry point

_ZOO = "github.com/MCG-NJU/VideoMAE, model zoo at the time of the upload"
_NO_HEAD: dict[str, Any] = {"global_pool": "avg", "fc_norm": False, "norm_eps": 1e-12}
# what transformers computes with; the original code has 1e-6 everywhere, as timm has
_EPS = {"norm_eps": 1e-12, "fc_norm_eps": 1e-5}
_NORMALISED: dict[str, Any] = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD, "num_frames": 16}


def _nanjing(name: str, top1: float) -> Published:
    """A fine-tuned model of the authors on the hub, in transformers' format."""
    ssv2 = name.endswith("ssv2")
    return Published(
        hf_hub_id=f"MCG-NJU/videomae-{name}",
        dataset="something_v2" if ssv2 else "kinetics400",
        num_classes=174 if ssv2 else 400,
        sampling="segments" if ssv2 else "stride",
        stride=1 if ssv2 else 4,
        num_clips=2 if ssv2 else 5,
        license="cc-by-nc-4.0",
        top1=top1,
        source=_ZOO,
        model_args=_EPS,
        **_NORMALISED,
    )


def _pretrained(
    repository: str, stride: int = 4, note: str = "", model_args: dict[str, Any] | None = None
) -> Published:
    """A pre-trained encoder without a head."""
    return Published(
        hf_hub_id=repository,
        num_classes=0,
        stride=stride,
        license="cc-by-nc-4.0",
        note=note,
        model_args=model_args or {},
        **_NORMALISED,
    )


def _distilled(size: str, top1: float) -> Published:
    """A student of version 2, as a file of the original repository."""
    return Published(
        hf_hub_id="OpenGVLab/VideoMAE2",
        hf_hub_filename=f"distill/vit_{size}_k710_dl_from_giant.pth",
        num_classes=710,
        stride=4,
        num_clips=5,
        top1=top1,
        source="github.com/OpenGVLab/VideoMAEv2, docs/MODEL_ZOO.md, K710 top-1",
        note="The 710 classes are those of Kinetics-400, 600 and 700 joined, in the order of that repository.",
        **_NORMALISED,
    )


_FEATURES = "Pre-trained on UnlabeledHybrid, without a head; the mean of the tokens goes through fc_norm."
PUBLISHED: dict[str, Published] = {
    "videomae_small_patch16_224.mcg_k400": _nanjing("small-finetuned-kinetics", 79.0),
    "videomae_small_patch16_224.mcg_ssv2": _nanjing("small-finetuned-ssv2", 66.8),
    "videomae_base_patch16_224.mcg_k400": _nanjing("base-finetuned-kinetics", 80.9),
    "videomae_base_patch16_224.mcg_k400_short": _nanjing("base-short-finetuned-kinetics", 79.4),
    "videomae_base_patch16_224.mcg_ssv2": _nanjing("base-finetuned-ssv2", 70.6),
    "videomae_base_patch16_224.mcg_ssv2_short": _nanjing("base-short-finetuned-ssv2", 69.6),
    "videomae_base_patch16_224.mcg_pretrain_k400": _pretrained("MCG-NJU/videomae-base", model_args=_NO_HEAD),
    "videomae_base_patch16_224.mcg_pretrain_ssv2": _pretrained("MCG-NJU/videomae-base-ssv2", 2, model_args=_NO_HEAD),
    "videomae_large_patch16_224.mcg_k400": _nanjing("large-finetuned-kinetics", 84.7),
    "videomae_large_patch16_224.mcg_pretrain_k400": _pretrained("MCG-NJU/videomae-large", model_args=_NO_HEAD),
    "videomae_huge_patch16_224.mcg_k400": _nanjing("huge-finetuned-kinetics", 86.6),
    "videomaev2_small_patch16_224.opengvlab_k710": _distilled("s", 77.6),
    "videomaev2_base_patch16_224.opengvlab_k710": _distilled("b", 81.5),
    "videomaev2_base_patch16_224.opengvlab_pretrain": _pretrained("OpenGVLab/VideoMAEv2-Base", note=_FEATURES),
    "videomaev2_large_patch16_224.opengvlab_pretrain": _pretrained("OpenGVLab/VideoMAEv2-Large", note=_FEATURES),
    "videomaev2_huge_patch16_224.opengvlab_pretrain": _pretrained("OpenGVLab/VideoMAEv2-Huge", note=_FEATURES),
    "videomaev2_giant_patch14_224.opengvlab_pretrain": _pretrained("OpenGVLab/VideoMAEv2-giant", note=_FEATURES),
}
"""What the hub has. The fine-tuned giants of version 2 are given out on request only: pass
``pretrained_cfg_overlay=dict(file=..., num_classes=...)``."""


def _untrained(**kwargs: Any) -> dict[str, Any]:
    return clip_cfg(mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD, **kwargs)


# the star makes `untrained` what an architecture alone means, as for TimeSformer
default_cfgs = generate_default_cfgs(
    {
        **{name: published_cfg(checkpoint) for name, checkpoint in PUBLISHED.items()},
        "videomae_test_patch8_32.untrained": _untrained(input_size=(3, 32, 32)),
        **{f"{name}.untrained*": _untrained() for name in dict.fromkeys(name.split(".")[0] for name in PUBLISHED)},
    }
)

_COMMON: dict[str, Any] = {
    "pattern": "j",
    "num_frames": 16,
    "tubelet_size": 2,
    "class_token": False,
    "global_pool": "avg",
    "pos_embed": "sincos",
    "k_bias": False,
}
_SMALL = {"patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6}
_BASE = {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12}
_LARGE = {"patch_size": 16, "embed_dim": 1024, "depth": 24, "num_heads": 16}
_HUGE = {"patch_size": 16, "embed_dim": 1280, "depth": 32, "num_heads": 16}
_GIANT = {"patch_size": 14, "embed_dim": 1408, "depth": 40, "num_heads": 16, "mlp_ratio": 48 / 11}


def _create(name: str, pretrained: bool, size: dict[str, Any], given: dict[str, Any]) -> VideoTransformer:
    return create_video_model(VideoTransformer, name, pretrained, {**_COMMON, **size}, given)


@register_model
def videomae_test_patch8_32(pretrained: bool = False, **kwargs: Any) -> VideoTransformer:
    """A very small model for tests: 8 frames of 32 px."""
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 4, "num_heads": 2, "num_frames": 8}
    return _create("videomae_test_patch8_32", pretrained, size, kwargs)


@register_model
def videomae_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> VideoTransformer:
    """VideoMAE-S/16 on 16 frames of 224 px (arXiv 2203.12602; its repository has the size)."""
    return _create("videomae_small_patch16_224", pretrained, _SMALL, kwargs)


@register_model
def videomae_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> VideoTransformer:
    """VideoMAE-B/16 on 16 frames of 224 px (arXiv 2203.12602)."""
    return _create("videomae_base_patch16_224", pretrained, _BASE, kwargs)


@register_model
def videomae_large_patch16_224(pretrained: bool = False, **kwargs: Any) -> VideoTransformer:
    """VideoMAE-L/16 on 16 frames of 224 px (arXiv 2203.12602)."""
    return _create("videomae_large_patch16_224", pretrained, _LARGE, kwargs)


@register_model
def videomae_huge_patch16_224(pretrained: bool = False, **kwargs: Any) -> VideoTransformer:
    """VideoMAE-H/16 on 16 frames of 224 px (arXiv 2203.12602)."""
    return _create("videomae_huge_patch16_224", pretrained, _HUGE, kwargs)


@register_model
def videomaev2_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> VideoTransformer:
    """VideoMAE v2-S/16 on 16 frames of 224 px, distilled from the giant one (arXiv 2303.16727)."""
    return _create("videomaev2_small_patch16_224", pretrained, _SMALL, kwargs)


@register_model
def videomaev2_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> VideoTransformer:
    """VideoMAE v2-B/16 on 16 frames of 224 px (arXiv 2303.16727)."""
    return _create("videomaev2_base_patch16_224", pretrained, _BASE, kwargs)


@register_model
def videomaev2_large_patch16_224(pretrained: bool = False, **kwargs: Any) -> VideoTransformer:
    """VideoMAE v2-L/16 on 16 frames of 224 px (arXiv 2303.16727)."""
    return _create("videomaev2_large_patch16_224", pretrained, _LARGE, kwargs)


@register_model
def videomaev2_huge_patch16_224(pretrained: bool = False, **kwargs: Any) -> VideoTransformer:
    """VideoMAE v2-H/16 on 16 frames of 224 px (arXiv 2303.16727)."""
    return _create("videomaev2_huge_patch16_224", pretrained, _HUGE, kwargs)


@register_model
def videomaev2_giant_patch14_224(pretrained: bool = False, **kwargs: Any) -> VideoTransformer:
    """VideoMAE v2-g/14 on 16 frames of 224 px (arXiv 2303.16727)."""
    return _create("videomaev2_giant_patch14_224", pretrained, _GIANT, kwargs)
