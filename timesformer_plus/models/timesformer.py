"""TimeSformer: the names under which timm knows it, and the weights that were published for it."""

from __future__ import annotations

from typing import Any

from timm.models import generate_default_cfgs, register_model

from .registry import Published, clip_cfg, create_video_model, published_cfg
from .video_transformer import VideoTransformer

__all__: list[str] = []  # register_model adds every entry point

_OFFICIAL = "github.com/facebookresearch/TimeSformer, model zoo"
_MEANT_BGR = (
    "The released loader of Something-Something reads frames with OpenCV and never flips the channels, so the weights "
    "expect blue first: an inference from that code, not a published statement."
)


def _facebook(repository: str, top1: float, note: str = "", **clip: Any) -> Published:
    """A release of the authors, in transformers' format on the hub; normalised as the released code does."""
    labels = repository.rsplit("-", 1)[1]
    dataset, num_classes = {
        "k400": ("kinetics400", 400),
        "k600": ("kinetics600", 600),
        "ssv2": ("something_v2", 174),
    }[labels]
    ssv2 = {"channel_order": "bgr", "sampling": "segments", "stride": 1} if labels == "ssv2" else {}
    return Published(
        hf_hub_id=repository,
        dataset=dataset,  # type: ignore[arg-type]
        num_classes=num_classes,
        license="cc-by-nc-4.0",
        top1=top1,
        source=_OFFICIAL,
        note=" ".join(filter(None, [_MEANT_BGR if ssv2 else "", note])),
        average="logits",
        **{**clip, **ssv2},
    )


def _mmaction2(attention: str, digest: str, top1: float, pattern: str) -> Published:
    """A re-run of mmaction2's, from its authors' server; three crops, whose probabilities they average."""
    run = f"timesformer_{attention}_8xb8-8x32x1-15e_kinetics400-rgb"
    return Published(
        url=f"https://download.openmmlab.com/mmaction/v1.0/recognition/timesformer/{run}/{run}_20220815-{digest}.pth",
        sha256=digest,
        dataset="kinetics400",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        top1=top1,
        source="github.com/open-mmlab/mmaction2, configs/recognition/timesformer",
        model_args={"pattern": pattern},
    )


_HR: dict[str, Any] = {"num_frames": 16, "stride": 16, "img_size": 448, "short_side": 448}
_LONG: dict[str, Any] = {"num_frames": 96, "stride": 4}
_UPLOAD = "The repository belongs to the contributor of transformers' port, not to the authors."
PUBLISHED: dict[str, Published] = {
    "timesformer_base_patch16_224.fb_k400": _facebook("facebook/timesformer-base-finetuned-k400", 77.9),
    "timesformer_base_patch16_224.fb_k600": _facebook("facebook/timesformer-base-finetuned-k600", 79.1),
    "timesformer_base_patch16_224.fb_ssv2": _facebook("facebook/timesformer-base-finetuned-ssv2", 59.1),
    "timesformer_base_patch16_448.fb_k400": _facebook("facebook/timesformer-hr-finetuned-k400", 79.6, **_HR),
    "timesformer_base_patch16_448.fb_k600": _facebook("facebook/timesformer-hr-finetuned-k600", 81.8, **_HR),
    "timesformer_base_patch16_448.fb_ssv2": _facebook("facebook/timesformer-hr-finetuned-ssv2", 61.8, **_HR),
    "timesformer_base_patch16_224_f96.fb_k400": _facebook(
        "fcakyon/timesformer-large-finetuned-k400", 80.6, _UPLOAD, **_LONG
    ),
    "timesformer_base_patch16_224_f96.fb_k600": _facebook(
        "fcakyon/timesformer-large-finetuned-k600", 82.2, _UPLOAD, **_LONG
    ),
    "timesformer_base_patch16_224_f96.fb_ssv2": _facebook(
        "fcakyon/timesformer-large-finetuned-ssv2",
        62.0,
        f"{_UPLOAD} The released model takes 64 frames.",
        num_frames=64,
        model_args={"num_frames": 64},
    ),
    "timesformer_base_patch16_224.mm_k400": _mmaction2("divST", "a4d0d01f", 77.69, "ts"),
    "timesformer_base_patch16_224.mm_joint_k400": _mmaction2("jointST", "8022d1c0", 76.95, "j"),
    "timesformer_base_patch16_224.mm_space_k400": _mmaction2("spaceOnly", "78f05367", 76.93, "s"),
}
"""What the hub has of the official release, and mmaction2's re-runs of it.

HowTo100M's four models (8, 32, 64 and 96 frames, 32 frames apart; 56.8 to 62.6 % top-1) and the original ``.pyth``
files lie on a file-sharing site without lasting addresses: fetch one by hand and pass
``pretrained_cfg_overlay=dict(file=..., num_classes=...)``.
"""


# behind those with weights, and with a star, so that `untrained` is what an architecture alone means: a model that is
# trained from nothing is not under the licence of theirs
default_cfgs = generate_default_cfgs(
    {
        **{name: published_cfg(checkpoint) for name, checkpoint in PUBLISHED.items()},
        "timesformer_test_patch8_32.untrained": clip_cfg(input_size=(3, 32, 32)),
        "timesformer_tiny_patch16_224.untrained": clip_cfg(),
        "timesformer_small_patch16_224.untrained": clip_cfg(),
        "timesformer_base_patch16_224.untrained*": clip_cfg(),
        "timesformer_base_patch16_448.untrained*": clip_cfg(input_size=(3, 448, 448)),
        "timesformer_base_patch16_224_f96.untrained*": clip_cfg(),
        "timesformer_large_patch16_224.untrained": clip_cfg(),
    }
)


@register_model
def timesformer_test_patch8_32(pretrained: bool = False, **kwargs: Any) -> VideoTransformer:
    """A very small model for tests and two-core experiments: 8 frames of 32 px."""
    defaults = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 4, "num_heads": 2}
    return create_video_model(VideoTransformer, "timesformer_test_patch8_32", pretrained, defaults, kwargs)


@register_model
def timesformer_tiny_patch16_224(pretrained: bool = False, **kwargs: Any) -> VideoTransformer:
    """ViT-Ti/16 on 8 frames of 224 px."""
    defaults = {"patch_size": 16, "embed_dim": 192, "depth": 12, "num_heads": 3}
    return create_video_model(VideoTransformer, "timesformer_tiny_patch16_224", pretrained, defaults, kwargs)


@register_model
def timesformer_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> VideoTransformer:
    """ViT-S/16 on 8 frames of 224 px."""
    defaults = {"patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6}
    return create_video_model(VideoTransformer, "timesformer_small_patch16_224", pretrained, defaults, kwargs)


@register_model
def timesformer_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> VideoTransformer:
    """ViT-B/16 on 8 frames of 224 px: TimeSformer (arXiv 2102.05095, section 4)."""
    defaults = {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12}
    return create_video_model(VideoTransformer, "timesformer_base_patch16_224", pretrained, defaults, kwargs)


@register_model
def timesformer_base_patch16_448(pretrained: bool = False, **kwargs: Any) -> VideoTransformer:
    """ViT-B/16 on 16 frames of 448 px: TimeSformer-HR (arXiv 2102.05095, section 4.5)."""
    defaults = {"img_size": 448, "patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12, "num_frames": 16}
    return create_video_model(VideoTransformer, "timesformer_base_patch16_448", pretrained, defaults, kwargs)


@register_model
def timesformer_base_patch16_224_f96(pretrained: bool = False, **kwargs: Any) -> VideoTransformer:
    """ViT-B/16 on 96 frames of 224 px: TimeSformer-L (arXiv 2102.05095, section 4.5)."""
    defaults = {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12, "num_frames": 96}
    return create_video_model(VideoTransformer, "timesformer_base_patch16_224_f96", pretrained, defaults, kwargs)


@register_model
def timesformer_large_patch16_224(pretrained: bool = False, **kwargs: Any) -> VideoTransformer:
    """ViT-L/16 on 8 frames of 224 px."""
    defaults = {"patch_size": 16, "embed_dim": 1024, "depth": 24, "num_heads": 16}
    return create_video_model(VideoTransformer, "timesformer_large_patch16_224", pretrained, defaults, kwargs)
