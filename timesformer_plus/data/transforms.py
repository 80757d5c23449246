"""From decoded frames to what a model eats: resize, crop, flip and augment whole clips with torchvision.

Clips stay uint8, (C, T, H, W), until they are on the model's device, where ``Normalize`` makes them floats: a quarter
of the bytes to pass between processes and to a GPU.

Every random choice is drawn once for a clip and holds for all its frames. Randomness comes from torch's global CPU
generator, as everywhere in torchvision.transforms.v2; ``VideoDataset`` seeds it for each clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from timesformer_plus.data.augment import ClipErasing, ErasingMode, MultiScaleCrop, color_jitter_of, rand_augment_of
from timesformer_plus.data.clips import spread

ChannelOrder = Literal["rgb", "bgr"]


class Transformed(NamedTuple):
    """A clip as a transform leaves it.

    Attributes:
        video: uint8, (C, T, H', W'), contiguous.
        flipped: Whether it was mirrored: what was labelled "left" then shows "right".
    """

    video: Tensor
    flipped: bool


class ClipTransform(Protocol):
    """What ``VideoDataset`` asks of a transform."""

    def __call__(self, frames: Tensor, *, crop: int = 0, num_crops: int = 1) -> Transformed:
        """Turn decoded frames into a clip of the model's size.

        Args:
            frames: uint8, (T, H, W, 3).
            crop: Which of the spatial crops is wanted; training transforms crop at random instead.
            num_crops: How many crops a video is tested with. With ``num_clips`` of ``sample_indices`` that makes the
                field's "10 x 3" or "5 x 1" views.

        Returns:
            The clip, uint8 (3, T, H', W'), and whether it was mirrored.
        """
        ...


class Normalize:
    """Turn uint8 clips into a model's floats, on whichever device they are: scaled to 0..1, then by ``mean``, ``std``.

    Decoders, transforms and augmentations know red, green, blue only. A model that was trained on blue, green, red
    gets its order here and nowhere else; ``mean`` and ``std`` belong to the colours, so they are reversed with them.

    Args:
        mean: Per channel, subtracted after scaling to 0..1; of red, green, blue, whatever the model's order.
        std: Per channel, divided by; in the same order as ``mean``.
        channel_order: The model's order; ``"bgr"`` reverses the three channels of a clip.

    Raises:
        ValueError: As many means as standard deviations are needed, standard deviations above 0, and for ``"bgr"``
            three of each; or an order that there is not.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], channel_order: ChannelOrder = "rgb") -> None:
        if len(mean) != len(std) or not len(mean) or min(std) <= 0:
            raise ValueError(f"mean={mean}, std={std}: give one of each for every channel, std above 0")
        if channel_order not in get_args(ChannelOrder) or (channel_order == "bgr" and len(mean) != 3):
            raise ValueError(f"{channel_order=} with {len(mean)} channels: give rgb, or bgr for three channels")
        step = -1 if channel_order == "bgr" else 1
        self.mean = [float(value) for value in mean][::step]
        self.std = [float(value) for value in std][::step]
        self.channel_order = channel_order

    def __call__(self, video: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Normalise a clip or a batch of clips.

        Args:
            video: uint8, (..., C, T, H, W); three channels are red, green, blue.
            dtype: Of the result. In half precisions all but the last rounding is done in float32.

        Returns:
            The same shape and device, channels in the model's order.

        Raises:
            ValueError: Not uint8, another number of channels, or a result that is no float.
        """
        if video.dtype != torch.uint8 or video.ndim < 4 or video.shape[-4] != len(self.mean):
            raise ValueError(
                f"video must be uint8 (..., {len(self.mean)}, T, H, W), not {video.dtype} {tuple(video.shape)}; "
                "floats would be scaled twice"
            )
        if not dtype.is_floating_point:
            raise ValueError(f"dtype={dtype}: normalised clips are floats")
        if self.channel_order == "bgr":
            video = video.flip(-4)
        working = torch.float64 if dtype == torch.float64 else torch.float32
        # torchvision's order is (..., T, C, H, W); as a view, so that the result has the order it came in
        floats = functional.to_dtype(video.movedim(-4, -3), working, scale=True)
        normalized: Tensor = functional.normalize(floats, self.mean, self.std, inplace=True)
        return normalized.movedim(-3, -4).to(dtype)


class TrainTransform:
    """Random crop, and on request flip, colour jitter, RandAugment and erasing, in this order.

    Args:
        img_size: Side of the result, or (height, width), in pixels.
        scale: Smallest and largest share of the frame's area to crop; the crop is resized to ``img_size``. ``None``
            crops ``img_size`` out of the frame at a random place; without ``short_side`` the frame is first resized
            until it just covers ``img_size``, so frames that have that size already pass unchanged.
        ratio: Smallest and largest width / height of the crop, for ``scale``.
        hflip: Probability of mirroring the clip. Off by default: a mirrored "left" is a "right".
        short_side: Smallest and largest length in pixels that the frame's shorter side is resized to before it is
            cropped, e.g. (256, 320): the scale jitter of VGG, Non-local and SlowFast networks.
        multi_scale: Scales of TSN's multi-scale crop, e.g. (1, 0.875, 0.75, 0.66); see ``MultiScaleCrop``. It takes the
            place of ``scale`` and ``ratio``.
        color_jitter: How far brightness, contrast and saturation may change (0.4: by factors from 0.6 to 1.4), as one
            number for all, three for each, or four with the hue (at most 0.5, a turn by half the colour wheel).
        rand_augment: RandAugment (Cubuk et al. 2020) as ``"m9-n2"`` (timm's words: magnitude 9 of 10, 2 operations) or
            (2, 9); see ``rand_augment_of``.
        erasing: Probability of erasing one rectangle, at the same place in all frames (Zhong et al. 2017).
        erasing_mode: What it is erased with: ``"const"``, the colour ``fill``, or ``"pixel"``, noise.
        fill: Colour per channel, as shares of 1, of what is erased and of the borders that RandAugment moves into the
            picture. With the model's mean they are 0 after ``Normalize``.

    Raises:
        ValueError: A number outside its range; the text says what is allowed.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int],
        *,
        scale: tuple[float, float] | None = (0.5, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        hflip: float = 0.0,
        short_side: tuple[int, int] | None = None,
        multi_scale: Sequence[float] | None = None,
        color_jitter: float | Sequence[float] = 0.0,
        rand_augment: str | tuple[int, int] | None = None,
        erasing: float = 0.0,
        erasing_mode: ErasingMode = "const",
        fill: Sequence[float] = (0.5, 0.5, 0.5),
    ) -> None:
        self.size = _size(img_size)
        if scale is not None and not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"scale={scale}: needs 0 < smallest <= largest <= 1, or None to keep the scale")
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"ratio={ratio}: needs 0 < smallest <= largest")
        if not 0 <= hflip <= 1:
            raise ValueError(f"hflip={hflip}: a probability lies in 0..1")
        if len(fill) != 3 or not all(0 <= share <= 1 for share in fill):
            raise ValueError(f"fill={fill}: give red, green and blue as shares, each in 0..1")
        self.keeps_scale = scale is None and multi_scale is None
        if short_side is not None:
            _check_short_side(short_side[0], self.size if self.keeps_scale else [1])
            if short_side[1] < short_side[0]:
                raise ValueError(f"short_side={short_side}: needs smallest <= largest, in pixels")
        self.short_side = short_side
        if multi_scale is not None:
            self.crop = MultiScaleCrop(self.size, multi_scale)
        elif scale is not None:
            self.crop = v2.RandomResizedCrop(self.size, scale, ratio, antialias=True)
        else:
            self.crop = v2.RandomCrop(self.size)
        self.hflip = hflip
        color = [round(255 * share) for share in fill]
        self.augmentations = [
            color_jitter_of(color_jitter),
            rand_augment_of(rand_augment, color),
            ClipErasing(erasing, erasing_mode, color) if erasing else None,
        ]

    def __call__(self, frames: Tensor, *, crop: int = 0, num_crops: int = 1) -> Transformed:  # noqa: ARG002
        """See ``ClipTransform``; the crop is random, so ``crop`` and ``num_crops`` are not looked at."""
        clip = _channels_first(frames)
        if self.short_side is not None:
            smallest, largest = self.short_side
            clip = _resize_short_side(clip, int(torch.randint(smallest, largest + 1, ())))
        elif self.keeps_scale:
            clip = _cover(clip, self.size)
        # a random place for a crop as large as the frame is no choice: nothing is drawn for it either
        if not self.keeps_scale or list(clip.shape[-2:]) != self.size:
            clip = self.crop(clip)
        flipped = bool(torch.rand(1) < self.hflip)
        if flipped:
            clip = functional.horizontal_flip(clip)
        for augment in self.augmentations:
            if augment is not None:
                clip = augment(clip)
        return Transformed(_channels_in_front(clip), flipped)


class EvalTransform:
    """Resize, then crop: the centre, or several places along the longer side.

    Args:
        img_size: Side of the result, or (height, width), in pixels. Without ``short_side``, frames of that size pass
            unchanged.
        short_side: Length in pixels that the frame's shorter side is resized to, e.g. 256 for crops of 224. ``None``
            resizes until the frame just covers ``img_size``, which loses least.

    Raises:
        ValueError: A size below 1, or ``short_side`` below ``img_size``.
    """

    def __init__(self, img_size: int | tuple[int, int], *, short_side: int | None = None) -> None:
        self.size = _size(img_size)
        if short_side is not None:
            _check_short_side(short_side, self.size)
        self.short_side = short_side

    def __call__(self, frames: Tensor, *, crop: int = 0, num_crops: int = 1) -> Transformed:
        """See ``ClipTransform``. One crop is the centre; more run from one end of the longer side to the other."""
        if not 0 <= crop < num_crops:
            raise ValueError(
                f"crop={crop} is outside the {num_crops} crops of a frame; allowed are 0 to {num_crops - 1}"
            )
        clip = _channels_first(frames)
        clip = _cover(clip, self.size) if self.short_side is None else _resize_short_side(clip, self.short_side)
        free_h, free_w = clip.shape[-2] - self.size[0], clip.shape[-1] - self.size[1]
        top, left = round(free_h / 2), round(free_w / 2)
        if 2 * crop + 1 != num_crops:  # else it is the central one, where torchvision's center_crop puts it
            if free_h > free_w:
                top = spread(free_h, crop, num_crops)
            else:
                left = spread(free_w, crop, num_crops)
        return Transformed(_channels_in_front(functional.crop(clip, top, left, *self.size)), False)


def _size(img_size: int | tuple[int, int]) -> list[int]:
    size = [img_size, img_size] if isinstance(img_size, int) else list(img_size)
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"img_size={img_size}: give a side or (height, width), in pixels, each at least 1")
    return size


def _check_short_side(short_side: int, size: list[int]) -> None:
    if short_side < max(size):
        raise ValueError(
            f"short_side={short_side}: must be at least {max(size)} pixels, or the frame would not cover the crop"
        )


def _channels_first(frames: Tensor) -> Tensor:
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != torch.uint8:
        raise ValueError(f"frames must be uint8 (T, H, W, 3), not {frames.dtype} {tuple(frames.shape)}")
    return frames.permute(0, 3, 1, 2)


def _channels_in_front(clip: Tensor) -> Tensor:
    """(T, 3, H, W) to (3, T, H, W), contiguous."""
    # of pixels whose colours lie side by side NumPy makes planes in a third of torch's time
    return torch.from_numpy(np.ascontiguousarray(clip.transpose(0, 1).numpy()))


def _cover(clip: Tensor, size: list[int]) -> Tensor:
    height, width = clip.shape[-2:]
    factor = max(size[0] / height, size[1] / width)
    return _resize(clip, [max(size[0], round(height * factor)), max(size[1], round(width * factor))])


def _resize_short_side(clip: Tensor, side: int) -> Tensor:
    height, width = clip.shape[-2:]
    shorter = min(height, width)
    return _resize(clip, [round(height * side / shorter), round(width * side / shorter)])


def _resize(clip: Tensor, size: list[int]) -> Tensor:
    resized: Tensor = functional.resize(clip, size, antialias=True) if size != list(clip.shape[-2:]) else clip
    return resized
