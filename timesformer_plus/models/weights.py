"""Weights from elsewhere: image models inflated by name, other projects' checkpoints renamed by a key table."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from timm.models.vision_transformer import checkpoint_filter_fn as filter_image_checkpoint
from torch import Tensor

from .embed import resize_space_embed, resize_time_embed

if TYPE_CHECKING:
    from .video_transformer import VideoTransformer

__all__ = ["HF_TIMESFORMER", "filter_checkpoint", "rename_keys"]

HF_TIMESFORMER: tuple[tuple[str, str], ...] = (
    (r"^timesformer\.embeddings\.cls_token$", "cls_token"),
    (r"^timesformer\.embeddings\.position_embeddings$", "pos_embed"),
    (r"^timesformer\.embeddings\.time_embeddings$", "time_embed"),
    (r"^timesformer\.embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^timesformer\.encoder\.layer\.(\d+)\.temporal_layernorm\.", r"blocks.\1.added.t.norm."),
    (r"^timesformer\.encoder\.layer\.(\d+)\.temporal_attention\.attention\.", r"blocks.\1.added.t.attn."),
    (r"^timesformer\.encoder\.layer\.(\d+)\.temporal_attention\.output\.dense\.", r"blocks.\1.added.t.attn.proj."),
    (r"^timesformer\.encoder\.layer\.(\d+)\.temporal_dense\.", r"blocks.\1.added.t.attn.fc."),
    (r"^timesformer\.encoder\.layer\.(\d+)\.layernorm_before\.", r"blocks.\1.norm1."),
    (r"^timesformer\.encoder\.layer\.(\d+)\.attention\.attention\.", r"blocks.\1.attn."),
    (r"^timesformer\.encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.attn.proj."),
    (r"^timesformer\.encoder\.layer\.(\d+)\.layernorm_after\.", r"blocks.\1.norm2."),
    (r"^timesformer\.encoder\.layer\.(\d+)\.intermediate\.dense\.", r"blocks.\1.mlp.fc1."),
    (r"^timesformer\.encoder\.layer\.(\d+)\.output\.dense\.", r"blocks.\1.mlp.fc2."),
    (r"^timesformer\.layernorm\.", "norm."),
    (r"^classifier\.", "head."),
)
"""``transformers``' TimesformerForVideoClassification -> ours, patterns ``ts``, ``s`` and ``j``."""


def rename_keys(state_dict: Mapping[str, Tensor], table: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    """Rename the keys of a checkpoint.

    Args:
        state_dict: Tensors by their foreign names.
        table: Regular expressions and replacements; the first that matches a key renames it.

    Returns:
        The same tensors by our names.

    Raises:
        ValueError: A key that no row of the table knows.
    """
    renamed: dict[str, Tensor] = {}
    unknown = []
    for key, value in state_dict.items():
        for pattern, replacement in table:
            new, found = re.subn(pattern, replacement, key)
            if found:
                renamed[new] = value
                break
        else:
            unknown.append(key)
    if unknown:
        raise ValueError(
            f"the key table knows nothing of {unknown[:8]} ({len(unknown)} keys); is this another project's file?"
        )
    return renamed


def filter_checkpoint(state_dict: Mapping[str, Tensor], model: VideoTransformer) -> dict[str, Tensor]:
    """Fit an image or video checkpoint to a video model, for timm's strict loading.

    An image checkpoint (a timm ``vit_*``, by name) inflates: its attention becomes the primary one of every block, its
    stem reads the central frame of a tubelet, and what an image model cannot have (added attentions, the time
    embedding) keeps its initial values, which have no effect unless ``time_embed_std`` was given. A checkpoint of ours
    keeps its names. Position embeddings are resampled to the model's grid, space and time apart.

    Args:
        state_dict: The file's tensors.
        model: The model that they are meant for.

    Returns:
        A state dict whose keys a strict load compares with the model's.

    Raises:
        ValueError: A position embedding whose height and width nobody knows.
    """
    own = model.state_dict()
    is_video = any(key == "time_embed" or ".added." in key for key in state_dict)
    stem = state_dict.get("patch_embed.proj.weight")
    if stem is not None and stem.ndim == 5:
        is_video = True
    if is_video:
        fitted = dict(state_dict)
        space = fitted.get("pos_embed")
        if space is not None and model.pos_embed is not None:
            prefix = 0 if model.no_embed_class else model.num_prefix_tokens
            old = _source_grid(space.shape[1] - prefix, stem, model)
            if old != tuple(model.patch_embed.grid_size):
                fitted["pos_embed"] = resize_space_embed(space, old, model.patch_embed.grid_size, prefix)
        if "time_embed" in fitted and model.time_embed is not None:
            fitted["time_embed"] = resize_time_embed(fitted["time_embed"], model.grid.t)
        return fitted

    tubelet_size = model.patch_embed.tubelet_size
    held: Tensor | None = None
    if tubelet_size > 1:
        # timm's filter expects a 4-D stem in the model, so the stem goes round it
        state_dict = dict(state_dict)
        held = state_dict.pop("patch_embed.proj.weight")
    fitted = dict(filter_image_checkpoint(dict(state_dict), model))
    if held is not None:
        fitted["patch_embed.proj.weight"] = _inflate_stem(held, tubelet_size)
    for key, value in own.items():
        if key == "time_embed" or ".added." in key:
            fitted.setdefault(key, value)
    return fitted


def _source_grid(num_tokens: int, stem: Tensor | None, model: VideoTransformer) -> tuple[int, int]:
    """Height and width in tokens of a checkpoint's position embedding: as its configuration says, else square."""
    height, width = model.pretrained_cfg["input_size"][-2:]
    patch = model.patch_embed.patch_size if stem is None else stem.shape[-2:]
    grid = (height // patch[0], width // patch[1])
    if grid[0] * grid[1] == num_tokens:
        return grid
    side = math.isqrt(num_tokens)
    if side * side != num_tokens:
        raise ValueError(
            f"the checkpoint has {num_tokens} space positions, and its input_size {height}x{width} does not say in "
            "which height and width; pass pretrained_cfg_overlay={'input_size': (3, H, W)} with those it was trained at"
        )
    return side, side


def _inflate_stem(weight: Tensor, tubelet_size: int) -> Tensor:
    """Turn an image stem into one for tubelets that reads the central frame (ViViT section 3.4, equation 9)."""
    inflated = torch.zeros(*weight.shape[:2], tubelet_size, *weight.shape[2:], dtype=weight.dtype, device=weight.device)
    inflated[:, :, tubelet_size // 2] = weight
    return inflated
