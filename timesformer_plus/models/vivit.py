"""ViViT: the names under which timm knows it, and the weights that were published for it.

Model 1, joint attention over all tokens. Models 2 and 4 of the paper are patterns of the same names
(``pattern="s*8 | j*4"``, ``"t&s"``).
"""

from __future__ import annotations

from typing import Any

from timm.models import generate_default_cfgs, register_model

from .registry import Published, clip_cfg, create_video_model, published_cfg
from .video_transformer import VideoTransformer

__all__: list[str] = []  # register_model adds every entry point

PUBLISHED: dict[str, Published] = {
    "vivit_base_patch16_224.google_k400": Published(
        hf_hub_id="google/vivit-b-16x2-kinetics400",
        dataset="kinetics400",
        num_classes=400,
        num_frames=32,
        stride=2,
        short_side=256,
        num_clips=4,
        average="logits",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        license="mit",
        top1=79.9,
        source="github.com/google-research/scenic, projects/vivit, model zoo, ViViT-B/16x2",
        note=(
            "The released code scales pixels to -1..1, as mean and std do here; transformers' processor subtracts 0.5 "
            "and halves once more, unless it is told not to."
        ),
    ),
}

# the star makes `untrained` what an architecture alone means, as for TimeSformer
default_cfgs = generate_default_cfgs(
    {
        **{name: published_cfg(checkpoint) for name, checkpoint in PUBLISHED.items()},
        "vivit_test_patch8_32.untrained": clip_cfg(input_size=(3, 32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        "vivit_base_patch16_224.untrained*": clip_cfg(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    }
)

_COMMON: dict[str, Any] = {
    "pattern": "j",
    "num_frames": 32,
    "tubelet_size": 2,
    "pos_embed": "joint",
    "act_layer": "gelu_tanh",  # flax's
}


@register_model
def vivit_test_patch8_32(pretrained: bool = False, **kwargs: Any) -> VideoTransformer:
    """A very small model for tests: 8 frames of 32 px."""
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 4, "num_heads": 2, "num_frames": 8}
    return create_video_model(VideoTransformer, "vivit_test_patch8_32", pretrained, {**_COMMON, **size}, kwargs)


@register_model
def vivit_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> VideoTransformer:
    """ViViT-B/16x2 on 32 frames of 224 px (arXiv 2103.15691, section 3.3, model 1)."""
    size = {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12}
    return create_video_model(VideoTransformer, "vivit_base_patch16_224", pretrained, {**_COMMON, **size}, kwargs)
