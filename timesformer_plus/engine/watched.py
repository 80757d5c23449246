"""A data set looked over the shoulder: its clips together with the frames that they were made of."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor

from timesformer_plus.data.clip_reader import ClipFrames, ClipReader
from timesformer_plus.data.dataset import Clip, VideoDataset
from timesformer_plus.data.manifests import Sample
from timesformer_plus.data.sheets import Picture
from timesformer_plus.data.transforms import ClipTransform, Transformed


class Draw(NamedTuple):
    """One clip of a video.

    Attributes:
        clip: What the data set gives.
        decoded: The frames before the transform, uint8 (T, H, W, 3).
        frames: Their numbers in the video.
        times: Their times in seconds; empty where nobody knows.
        flipped: Whether the transform mirrored them.
    """

    clip: Clip
    decoded: Tensor
    frames: list[int]
    times: list[float]
    flipped: bool

    def pictures(self) -> list[Picture]:
        """What the model sees, (H', W', 3) each."""
        return list(self.clip.video.permute(1, 2, 3, 0).numpy())


class WatchedDataset:
    """Looks over the shoulder of a data set.

    Args:
        dataset: The data set, which is left alone.
    """

    def __init__(self, dataset: VideoDataset) -> None:
        self.dataset = copy.copy(dataset)
        self._reader = self.dataset.reader = _WatchedReader.of(dataset.reader)
        self._transform = self.dataset.transform = _WatchedTransform(dataset.transform)

    def draw(self, epoch: int, index: int, view: int) -> Draw:
        """Load a clip.

        Raises:
            DecodeError: As the data set.
        """
        clip = self.dataset[epoch, index, view]
        indices = self._reader.last.indices
        times = self._reader.times(self.dataset.manifest.samples[clip.index])
        return Draw(
            clip,
            self._reader.last.frames,
            indices,
            [times[i] for i in indices] if times else [],
            self._transform.flipped,
        )


class _WatchedReader(ClipReader):
    """Remembers what it read last."""

    last: ClipFrames

    @classmethod
    def of(cls, reader: ClipReader) -> _WatchedReader:
        watched = cls.__new__(cls)
        watched.__dict__.update(reader.__dict__)
        return watched

    def read(self, sample: Sample, *, clip: int = 0, generator: torch.Generator | None = None) -> ClipFrames:
        self.last = super().read(sample, clip=clip, generator=generator)
        return self.last


class _WatchedTransform:
    """Remembers whether it mirrored the last clip."""

    def __init__(self, transform: ClipTransform) -> None:
        self.transform = transform
        self.flipped = False

    def __call__(self, frames: Tensor, *, crop: int = 0, num_crops: int = 1) -> Transformed:
        made = self.transform(frames, crop=crop, num_crops=num_crops)
        self.flipped = made.flipped
        return made
