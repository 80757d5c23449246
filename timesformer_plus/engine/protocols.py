"""How the score of a video comes about: how many views of it, cut how, averaged in what.

Scores of one model under two protocols differ by points, so every score carries its ``Protocol``. Published ones have
names, and state the number of views and what is averaged; the frames and their size are the model's own.

Logits are averaged, not summed: that ranks classes in the same order, and leaves probabilities calibrated as the
model's are.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from timesformer_plus.data.clip_reader import Sampling
from timesformer_plus.data.clips import ShortPolicy
from timesformer_plus.data.transforms import ChannelOrder

Average = Literal["probabilities", "logits"]
Precision = Literal["fp64", "fp32", "bf16", "fp16"]


class Views(NamedTuple):
    """The views of a published protocol.

    Attributes:
        num_clips: Clips a video, evenly spaced in time.
        num_crops: Crops a clip, evenly spaced along the longer side.
        average: What the views of a video are averaged in.
        source: Where it is published.
    """

    num_clips: int
    num_crops: int
    average: Average
    source: str


# Where a paper only says that scores are averaged, its released code decides what of.
PROTOCOLS: dict[str, Views] = {
    "paper_timesformer": Views(1, 3, "logits", "TimeSformer, arXiv 2102.05095, section 4 and its code (logits summed)"),
    "slowfast": Views(10, 3, "probabilities", "SlowFast, arXiv 1812.03982, section 4 (softmax scores averaged)"),
    "vivit": Views(4, 3, "logits", "ViViT, arXiv 2103.15691, section 4 (per-view logits averaged), as for ViViT-H"),
    "mvit": Views(5, 1, "probabilities", "MViT, arXiv 2104.11227, Kinetics"),
    "mvit_ssv2": Views(1, 3, "probabilities", "MViT, arXiv 2104.11227, Something-Something v2"),
    "video_swin": Views(4, 3, "probabilities", "Video Swin, arXiv 2106.13230, Kinetics"),
    "video_swin_ssv2": Views(1, 3, "probabilities", "Video Swin, arXiv 2106.13230, Something-Something v2"),
    "videomae": Views(5, 3, "probabilities", "VideoMAE, arXiv 2203.12602, Kinetics-400"),
    "videomae_ssv2": Views(2, 3, "probabilities", "VideoMAE, arXiv 2203.12602, Something-Something v2"),
}


@dataclass(frozen=True)
class Protocol:
    """Everything about the clips and their averaging that a score depends on; stored with every score.

    Attributes:
        name: One of ``PROTOCOLS``, or such as ``"2x3 probabilities"``: clips x crops, and what is averaged.
        num_clips: Clips a video, evenly spaced in time.
        num_crops: Crops a clip, evenly spaced along the longer side.
        average: What the views of a video are averaged in.
        num_frames: Frames a clip.
        sampling: How they are chosen, see ``DataConfig``.
        stride: Distance between them, in frames of the video, for ``"stride"``.
        target_fps: Frames of a clip a second of video, for ``"seconds"``.
        short: What becomes of a video too short for a clip.
        img_size: Height and width of a clip, in pixels.
        short_side: Shorter side that frames are resized to before they are cropped, in pixels; ``None`` for the
            smallest that covers the crop.
        decode_size: Shorter side that frames are reduced to when they are decoded, in pixels; ``None`` for none.
        mean: Subtracted from red, green and blue, for values in 0..1.
        std: Divides red, green and blue.
        precision: What the model computes in; ``"bf16"`` and ``"fp16"`` are autocast.
        channel_order: The model's order of the channels, ``"rgb"`` or ``"bgr"``.
    """

    name: str
    num_clips: int
    num_crops: int
    average: Average
    num_frames: int
    sampling: Sampling
    stride: int
    target_fps: float | None
    short: ShortPolicy
    img_size: tuple[int, int]
    short_side: int | None
    decode_size: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    precision: Precision = "fp32"
    channel_order: ChannelOrder = "rgb"

    @property
    def num_views(self) -> int:
        """Views a video."""
        return self.num_clips * self.num_crops

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it; ``from_dict`` reads it back."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Protocol:
        """Read what ``as_dict`` has written; what an older version did not know yet has its default.

        Raises:
            ValueError: Its keys are others.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        old = {field.name for field in dataclasses.fields(cls) if field.default is dataclasses.MISSING}
        if not old <= stored.keys() <= names:
            differ = ", ".join(sorted((stored.keys() - names) | (old - stored.keys())))
            raise ValueError(f"the protocol was written by another version of timesformer_plus; keys differ: {differ}")
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in stored.items()}
        return cls(**values)

    def __str__(self) -> str:
        frames = {
            "stride": f"{self.num_frames} frames {self.stride} apart",
            "seconds": f"{self.num_frames} frames at {self.target_fps} a second",
            "segments": f"{self.num_frames} frames, one a segment",
        }[self.sampling]
        height, width = self.img_size
        views = view_text(self.num_clips, self.num_crops, self.average)
        named = "" if self.name == views else f"{self.name}: "
        cut = f"{self.num_clips} clips x {self.num_crops} crops of {frames}, {height}x{width}"
        computed = "" if self.precision == "fp32" else f"; computed in {self.precision}"
        channels = "" if self.channel_order == "rgb" else f"; channels in the order {self.channel_order}"
        return f"{named}{cut}; {self.average} averaged{computed}{channels}"


def view_text(num_clips: int, num_crops: int, average: Average) -> str:
    """Name of a protocol that has no published one, such as ``"2x3 probabilities"``."""
    return f"{num_clips}x{num_crops} {average}"


def find_protocol(name: str) -> Views:
    """Look up a published protocol.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in PROTOCOLS:
        near = difflib.get_close_matches(name, PROTOCOLS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        known = ", ".join(f"{key} ({views.num_clips}x{views.num_crops})" for key, views in PROTOCOLS.items())
        raise ValueError(f"protocol {name!r} is unknown; {hint}known are {known}")
    return PROTOCOLS[name]
