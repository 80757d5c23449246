"""Stems and position embeddings of a checkpoint, brought to the size of the model."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from timm.layers import resample_patch_embed
from torch import Tensor

from .embed import resize_space_embed, resize_time_embed
from .positions import resize_joint_embed
from .space_time import SpaceTime
from .tokens import Grid

__all__ = ["adapt_in_chans", "fit_positions", "fit_stem", "inflate_stem"]

_logger = logging.getLogger(__name__)

STEM = "patch_embed.proj.weight"


def fit_stem(tensors: dict[str, Tensor], model: SpaceTime) -> dict[str, Tensor]:
    """Bring the stem to the model's patches, tubelets and channels.

    Args:
        tensors: By the model's names.
        model: Any that has a ``TubeletEmbed``.

    Returns:
        The same, with another stem where it has to be another.

    Raises:
        ValueError: Channels that nobody knows how to adapt.
    """
    weight, own = tensors.get(STEM), model.patch_embed.proj.weight
    if weight is None or weight.ndim not in (4, 5) or weight.shape == own.shape:
        return tensors
    fitted = weight
    if weight.ndim == 4 and weight.shape[2:] != own.shape[-2:]:
        _logger.info("Resampled the checkpoint's patches from %s to %s pixels", _size(fitted), _size(own))
        fitted = resample_patch_embed(fitted, list(own.shape[-2:]))
    if weight.ndim == 5 and own.ndim == 4 and weight.shape[2] == 1:
        fitted = fitted.squeeze(2)  # a tubelet of one frame is a patch
    if weight.ndim == 4 and own.ndim == 5:
        fitted = inflate_stem(fitted, own.shape[2])
    if fitted.shape[1] != own.shape[1]:
        _logger.info("Adapted the checkpoint's stem from %d to %d channels", fitted.shape[1], own.shape[1])
    return {**tensors, STEM: adapt_in_chans(fitted, own.shape[1])}


def _size(weight: Tensor) -> tuple[int, ...]:
    return tuple(weight.shape[-2:])


def inflate_stem(weight: Tensor, tubelet_size: int) -> Tensor:
    """Turn an image stem into one for tubelets that reads the central frame (ViViT section 3.4, equation 9).

    Args:
        weight: (C, in_chans, H, W).
        tubelet_size: T.

    Returns:
        (C, in_chans, T, H, W).
    """
    inflated = weight.new_zeros(*weight.shape[:2], tubelet_size, *weight.shape[2:])
    inflated[:, :, tubelet_size // 2] = weight
    return inflated


def adapt_in_chans(weight: Tensor, in_chans: int) -> Tensor:
    """Turn a stem of three channels into one of any other number, as timm does for images.

    For one channel the weights of the three are summed; for others they are repeated in turn and scaled so that equal
    channels give what they gave.

    Args:
        weight: (C, 3, H, W) or (C, 3, T, H, W).
        in_chans: The wanted number.

    Returns:
        (C, in_chans, ...).

    Raises:
        ValueError: The stem has other than three channels, and other than the wanted number.
    """
    old = weight.shape[1]
    if old == in_chans:
        return weight
    if old != 3:
        raise ValueError(
            f"the checkpoint's stem reads {old} channels and the model's {in_chans}; only stems of 3 channels are "
            f"adapted to another number, so create the model with in_chans={old}"
        )
    if in_chans == 1:
        return weight.float().sum(dim=1, keepdim=True).to(weight.dtype)
    index = torch.arange(in_chans, device=weight.device) % 3
    return (weight.float()[:, index] * (3 / in_chans)).to(weight.dtype)


def fit_positions(tensors: dict[str, Tensor], model: SpaceTime) -> dict[str, Tensor]:
    """Resample position embeddings: space bicubically on its true grid, prefix rows apart, and time linearly.

    Args:
        tensors: By the model's names, the stem already fitted.
        model: Any that mixes in ``SpaceTime``.

    Returns:
        The same, with the model's token counts where the tables are of its kind.

    Raises:
        ValueError: A table whose height and width nobody knows.
    """
    fitted = dict(tensors)
    grid: Grid = model.grid
    prefix = model.num_prefix_positions
    space, own = fitted.get("pos_embed"), getattr(model, "pos_embed", None)
    if space is not None and isinstance(own, Tensor) and space.ndim == 3 and space.shape[1] > prefix:
        num_tokens = space.shape[1] - prefix
        if getattr(model, "pos_embed_type", "learn") == "joint":
            clip = _source_clip(num_tokens, model)
            if clip != grid:
                _logger.info("Resampled the checkpoint's positions from %s to %s tokens", tuple(clip), tuple(grid))
            fitted["pos_embed"] = resize_joint_embed(space, clip, grid, prefix)
        elif (old := _source_frame(num_tokens, model)) != grid[1:]:
            _logger.info("Resampled the checkpoint's positions from %s to %s tokens", old, tuple(grid[1:]))
            fitted["pos_embed"] = resize_space_embed(space, old, grid[1:], prefix)
    time, own = fitted.get("time_embed"), getattr(model, "time_embed", None)
    if time is not None and own is not None and time.ndim == 3 and time.shape[1] not in (0, grid.t):
        _logger.info("Resampled the checkpoint's time embedding from %d to %d frames", time.shape[1], grid.t)
        fitted["time_embed"] = resize_time_embed(time, grid.t)
    return fitted


def _source_frame(num_tokens: int, model: SpaceTime) -> tuple[int, int]:
    """Height and width in tokens of a table over space: as the pretrained cfg says, else the model's, else square."""
    said = _said_frame(model)
    if said is not None and said[0] * said[1] == num_tokens:
        return said
    _, height, width = model.grid
    if height * width == num_tokens:
        return height, width
    side = math.isqrt(num_tokens)
    if side * side != num_tokens:
        raise ValueError(
            f"the checkpoint has {num_tokens} space positions, and {_said_size(model)} does not say in which height "
            "and width; pass pretrained_cfg_overlay={'input_size': (3, H, W)} with those it was trained at"
        )
    return side, side


def _source_clip(num_tokens: int, model: SpaceTime) -> Grid:
    """Token counts of a joint table: frames of the size that the pretrained cfg says, else the model's."""
    if num_tokens == model.grid.num_tokens:
        return Grid(*model.grid)
    for frame in (_said_frame(model), model.grid[1:]):
        if frame is not None and num_tokens % (frame[0] * frame[1]) == 0:
            return Grid(num_tokens // (frame[0] * frame[1]), *frame)
    raise ValueError(
        f"the checkpoint has {num_tokens} space-time positions, which are no whole number of frames of "
        f"{_said_size(model)}; pass pretrained_cfg_overlay={{'input_size': (3, H, W)}} with those it was trained at"
    )


def _said_frame(model: SpaceTime) -> tuple[int, int] | None:
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    size = cfg.get("input_size")
    patch = model.patch_embed.patch_size
    return None if size is None else (size[-2] // patch[0], size[-1] // patch[1])


def _said_size(model: SpaceTime) -> str:
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    size = cfg.get("input_size")
    return "no pretrained cfg" if size is None else f"its input_size {size[-2]}x{size[-1]}"
