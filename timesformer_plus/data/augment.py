"""Augmentations of a training clip, on uint8 frames (T, C, H, W): each is drawn once and is the same for all frames.

What an operation of RandAugment or the contrast jitter reads off the picture (its mean, its histogram) it reads off
each frame by itself: the draw is the clip's, the picture is the frame's.

All randomness comes from torch's global CPU generator.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

ErasingMode = Literal["const", "pixel"]
Augmentation = Callable[[Tensor], Tensor]

# Magnitudes run from 0 to this, as in timm, whose words the field's recipes use. torchvision's own scale has 31 steps:
# its 9 is timm's 3.
MAX_MAGNITUDE = 10


class MultiScaleCrop:
    """TSN's crop (Wang et al. 2016): at a corner or the centre, its sides drawn from a few scales, resized to ``size``.

    The largest crop is the largest rectangle of the result's shape that fits into the frame. Its height and its width
    are scaled by two of the ``scales`` that stand beside each other in the list, or by the same.

    Args:
        size: (height, width) of the result, in pixels.
        scales: Each in 0..1, the largest first; TSN's are 1, 0.875, 0.75 and 0.66.
    """

    def __init__(self, size: Sequence[int], scales: Sequence[float]) -> None:
        if not len(scales) or not all(0 < scale <= 1 for scale in scales):
            raise ValueError(f"multi_scale={scales}: needs scales above 0 and up to 1, e.g. (1, 0.875, 0.75, 0.66)")
        self.size = list(size)
        self.pairs = [(a, b) for i, a in enumerate(scales) for j, b in enumerate(scales) if abs(i - j) <= 1]

    def __call__(self, clip: Tensor) -> Tensor:
        """Crop a clip, (T, C, H, W)."""
        factor = min(clip.shape[-2] / self.size[0], clip.shape[-1] / self.size[1])
        scales = self.pairs[int(torch.randint(len(self.pairs), ()))]
        height, width = (max(1, round(side * factor * scale)) for side, scale in zip(self.size, scales, strict=True))
        bottom, right = clip.shape[-2] - height, clip.shape[-1] - width
        places = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
        top, left = places[int(torch.randint(len(places), ()))]
        cropped: Tensor = functional.resized_crop(clip, top, left, height, width, self.size, antialias=True)
        return cropped


class ClipErasing:
    """Erase one rectangle at the same place in all frames, with the sizes and shapes of torchvision's RandomErasing.

    Args:
        prob: Of erasing anything.
        mode: ``"const"`` fills it with ``color``; ``"pixel"`` with noise, a uniformly drawn uint8 for every pixel and
            channel, the same in all frames.
        color: Per channel, 0..255.
    """

    def __init__(self, prob: float, mode: ErasingMode, color: Sequence[int]) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f"erasing={prob}: a probability lies in 0..1")
        if mode not in get_args(ErasingMode):
            raise ValueError(
                f"erasing_mode={mode!r} is unknown; allowed are {', '.join(map(repr, get_args(ErasingMode)))}"
            )
        self.prob = prob
        self.mode = mode
        self.color = torch.tensor(color, dtype=torch.uint8).view(-1, 1, 1)
        self.rectangle = v2.RandomErasing(p=1.0)

    def __call__(self, clip: Tensor) -> Tensor:
        """Erase from a clip, (T, C, H, W); the clip itself is left alone."""
        if torch.rand(()) >= self.prob:
            return clip
        drawn = self.rectangle.make_params([clip])
        if drawn["v"] is None:  # no rectangle fits, which happens to frames of a few pixels
            return clip
        if self.mode == "const":
            drawn["v"] = self.color
        else:  # not torchvision's "random": it draws from a normal distribution around 0, which uint8 cannot hold
            drawn["v"] = torch.randint(0, 256, (clip.shape[1], drawn["h"], drawn["w"]), dtype=torch.uint8)
        erased: Tensor = functional.erase(clip, **drawn)
        return erased


def color_jitter_of(strength: float | Sequence[float]) -> Augmentation | None:
    """Make torchvision's colour jitter; ``None`` when nothing may change.

    Args:
        strength: For brightness, contrast and saturation alike, or one for each, or those and the hue.

    Raises:
        ValueError: Another number of strengths, one below 0, or a hue above 0.5.
    """
    strengths = [strength] * 3 if isinstance(strength, int | float) else list(strength)
    if len(strengths) not in (3, 4) or not all(0 <= value < float("inf") for value in strengths):
        raise ValueError(
            f"color_jitter={strength}: give one strength, at least 0, or one each for brightness, contrast, saturation "
            "(and hue)"
        )
    if len(strengths) == 4 and strengths[3] > 0.5:
        raise ValueError(f"color_jitter={strength}: the hue turns by at most 0.5, half the colour wheel")
    jitter: Augmentation = v2.ColorJitter(*strengths)
    return jitter if any(strengths) else None


def rand_augment_of(words: str | Sequence[int] | None, fill: Sequence[int]) -> Augmentation | None:
    """Make torchvision's RandAugment from timm's words for it.

    The operations are torchvision's: those of timm's increasing set (``inc1``) without inversion and additive
    solarisation, with the identity. None of them mirrors a picture. Every one drawn is applied, while timm applies it
    with probability one half: ``n2`` changes as much here as ``n4`` does there.

    Args:
        words: ``"m9-n2"`` or ``"rand-m9-n2-inc1"``: magnitude 9 of 10, 2 operations; or (2, 9); or ``None`` for none.
        fill: Colour of what is moved into the picture, per channel, 0..255.

    Raises:
        ValueError: The words cannot be read or ask for what torchvision does not do, a magnitude outside 0..10, or no
            operation.
    """
    if words is None:
        return None
    if isinstance(words, str):
        found = re.fullmatch(r"(?:rand-)?m(\d+)-n(\d+)(?:-inc1)?", words)
        if found is None:
            raise ValueError(
                f"rand_augment={words!r}: write 'm9-n2' for magnitude 9 of {MAX_MAGNITUDE} and 2 operations; noise on "
                "the magnitude (timm's mstd) and weights are not known to torchvision, leave them out"
            )
        magnitude, num_ops = int(found[1]), int(found[2])
    else:
        if len(words) != 2:
            raise ValueError(f"rand_augment={words}: give (operations, magnitude), e.g. (2, 9), or 'm9-n2'")
        num_ops, magnitude = words
    if num_ops < 1 or not 0 <= magnitude <= MAX_MAGNITUDE:
        raise ValueError(
            f"rand_augment={words!r}: needs at least 1 operation and a magnitude of 0 to {MAX_MAGNITUDE} (timm's scale)"
        )
    augment: Augmentation = v2.RandAugment(
        num_ops,
        magnitude,
        num_magnitude_bins=MAX_MAGNITUDE + 1,
        interpolation=InterpolationMode.BILINEAR,
        fill=[float(value) for value in fill],
    )
    return augment
