"""From decoded frames to what a model eats: crop, resize, flip and normalise whole clips with torchvision.

Every random choice is drawn once for a clip and holds for all its frames. Randomness comes from torch's global CPU
generator, as everywhere in torchvision; ``VideoDataset`` seeds it for each clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional


class ClipTransform(Protocol):
    """What ``VideoDataset`` asks of a transform."""

    def __call__(self, frames: Tensor, *, crop: int = 0, num_crops: int = 1) -> Tensor:
        """Turn decoded frames into a model's input.

        Args:
            frames: uint8, (T, H, W, C).
            crop: Which of the spatial crops is wanted; training transforms crop at random instead.
            num_crops: How many crops a video is tested with.

        Returns:
            float32, (C, T, H', W'), normalised.
        """
        ...


class TrainTransform:
    """Random crop, optional horizontal flip, normalisation.

    Args:
        img_size: Side of the result, or (height, width), in pixels.
        mean: Per channel, subtracted after scaling to 0..1.
        std: Per channel, divided by.
        scale: Smallest and largest share of the frame's area to crop; the crop is resized to ``img_size``. ``None``
            keeps the scale: the frame is resized until it just covers ``img_size``, and cropped at a random place, so
            frames that have that size already pass unchanged.
        ratio: Smallest and largest width / height of the crop, for ``scale``.
        hflip: Probability of mirroring the clip. Off by default: a mirrored "left" is a "right".
    """

    def __init__(
        self,
        img_size: int | tuple[int, int],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        scale: tuple[float, float] | None = (0.5, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        hflip: float = 0.0,
    ) -> None:
        self.size = _size(img_size)
        if scale is not None and not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"scale={scale}: needs 0 < smallest <= largest <= 1, or None to keep the scale")
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"ratio={ratio}: needs 0 < smallest <= largest")
        if not 0 <= hflip <= 1:
            raise ValueError(f"hflip={hflip}: a probability lies in 0..1")
        self.scale = scale
        self.crop: v2.Transform = (
            v2.RandomCrop(self.size) if scale is None else v2.RandomResizedCrop(self.size, scale, ratio, antialias=True)
        )
        self.flip = v2.RandomHorizontalFlip(hflip)
        self.normalize = v2.Normalize(mean=list(mean), std=list(std))

    def __call__(self, frames: Tensor, *, crop: int = 0, num_crops: int = 1) -> Tensor:  # noqa: ARG002
        """See ``ClipTransform``; the crop is random, so ``crop`` and ``num_crops`` are not looked at."""
        clip = _channels_first(frames)
        if self.scale is None:
            clip = _cover(clip, self.size)
        return _finish(self.flip(self.crop(clip)), self.normalize)


class EvalTransform:
    """Resize until the frame just covers ``img_size``, then crop: the centre, or several places along the longer side.

    Args:
        img_size: Side of the result, or (height, width), in pixels. Frames of that size pass unchanged.
        mean: Per channel, subtracted after scaling to 0..1.
        std: Per channel, divided by.
    """

    def __init__(self, img_size: int | tuple[int, int], *, mean: Sequence[float], std: Sequence[float]) -> None:
        self.size = _size(img_size)
        self.normalize = v2.Normalize(mean=list(mean), std=list(std))

    def __call__(self, frames: Tensor, *, crop: int = 0, num_crops: int = 1) -> Tensor:
        """See ``ClipTransform``. One crop is the centre; more run from one end of the longer side to the other."""
        if not 0 <= crop < num_crops:
            raise ValueError(
                f"crop={crop} is outside the {num_crops} crops of a frame; allowed are 0 to {num_crops - 1}"
            )
        clip = _cover(_channels_first(frames), self.size)
        free_h, free_w = clip.shape[-2] - self.size[0], clip.shape[-1] - self.size[1]
        place = 0.5 if num_crops == 1 else crop / (num_crops - 1)
        # only one of the two is free when the frame just covers the crop; the other has at most a rounding pixel
        top = round(free_h * (place if free_h > free_w else 0.5))
        left = round(free_w * (place if free_h <= free_w else 0.5))
        return _finish(functional.crop(clip, top, left, *self.size), self.normalize)


def _size(img_size: int | tuple[int, int]) -> list[int]:
    size = [img_size, img_size] if isinstance(img_size, int) else list(img_size)
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"img_size={img_size}: give a side or (height, width), in pixels, each at least 1")
    return size


def _channels_first(frames: Tensor) -> Tensor:
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != torch.uint8:
        raise ValueError(f"frames must be uint8 (T, H, W, 3), not {frames.dtype} {tuple(frames.shape)}")
    return frames.permute(0, 3, 1, 2)


def _cover(clip: Tensor, size: list[int]) -> Tensor:
    height, width = clip.shape[-2:]
    factor = max(size[0] / height, size[1] / width)
    covering = [max(size[0], round(height * factor)), max(size[1], round(width * factor))]
    return functional.resize(clip, covering, antialias=True) if covering != [height, width] else clip


def _finish(clip: Tensor, normalize: v2.Normalize) -> Tensor:
    floats: Tensor = normalize(functional.to_dtype(clip, torch.float32, scale=True))
    return floats.transpose(0, 1).contiguous()
