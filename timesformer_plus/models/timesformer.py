"""TimeSformer: the names under which timm knows it, and the weights that were published for it."""

from __future__ import annotations

from typing import Any

from timm.models import generate_default_cfgs, register_model

from .registry import clip_cfg, create_video_model
from .video_transformer import VideoTransformer

__all__: list[str] = []  # register_model adds every entry point


default_cfgs = generate_default_cfgs(
    {
        "timesformer_test_patch8_32.untrained": clip_cfg(input_size=(3, 32, 32)),
        "timesformer_tiny_patch16_224.untrained": clip_cfg(),
        "timesformer_small_patch16_224.untrained": clip_cfg(),
        "timesformer_base_patch16_224.untrained": clip_cfg(),
        "timesformer_base_patch16_448.untrained": clip_cfg(input_size=(3, 448, 448)),
        "timesformer_base_patch16_224_f96.untrained": clip_cfg(),
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
