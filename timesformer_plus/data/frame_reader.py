"""What all decoders share: checks before a read, frames in the order asked for, and one way to make them smaller."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from timesformer_plus.data.guard import DecodeError, Limits

Frames = NDArray[np.uint8]

# frames decoded at a time, in bytes: what is to be made smaller need not be held whole
_BLOCK_BYTES = 64 * 2**20


class FrameReader(ABC):
    """A video whose frames a subclass brings in ascending order; see ``Decoder`` for what it promises.

    Args:
        path: The file.
        num_frames: How many frames can be read.
        fps: Average frames per second; 0 where nobody knows.
        stored: (height, width) of the upright frames as they are stored, in pixels.
        limits: How large a read may be.
        short_side: See ``open_video``.

    Raises:
        ValueError: ``short_side`` below one.
    """

    name: ClassVar[str]

    def __init__(
        self,
        path: Path,
        num_frames: int,
        fps: float,
        stored: tuple[int, int],
        *,
        limits: Limits,
        short_side: int | None,
    ) -> None:
        if short_side is not None and short_side < 1:
            raise ValueError(f"short_side={short_side}: must be at least 1 pixel, or None for frames as they are")
        self.path = path
        self.num_frames = num_frames
        self.fps = fps
        self.size = _fitted(stored, short_side)
        self._stored = stored
        self._limits = limits

    @property
    @abstractmethod
    def times(self) -> Sequence[float]:
        """See ``Decoder.times``."""

    @abstractmethod
    def _pictures(self, wanted: Sequence[int]) -> Iterator[Frames]:
        """Frames by ascending, distinct numbers, in blocks of (n, height, width, 3)."""

    def read(self, indices: Sequence[int]) -> Frames:
        """See ``Decoder.read``."""
        indices = [int(i) for i in indices]
        if not indices or min(indices) < 0 or max(indices) >= self.num_frames:
            raise IndexError(
                f"{self.path}: frames {indices} asked for; allowed are 0 to {self.num_frames - 1}, at least one"
            )
        height, width = self.size
        self._limits.check(
            self.path, "max_read_bytes", len(indices) * height * width * 3, f"{len(indices)} frames of {height}x{width}"
        )
        wanted = sorted(set(indices))
        frames = self._fetch(wanted)
        if indices == wanted:
            return frames
        places = {i: place for place, i in enumerate(wanted)}
        return frames[[places[i] for i in indices]]

    def _fetch(self, wanted: list[int]) -> Frames:
        frames: Frames | None = None
        done = 0
        for block in self._pictures(wanted):
            if block.shape[1:] != (*self._stored, 3):
                found, told = "x".join(map(str, block.shape[1:3])), "x".join(map(str, self._stored))
                reason = f"frame {wanted[done]} is {found} pixels, the first is {told}; cut the video where it changes"
                raise DecodeError(self.path, reason, "unsupported")
            block = _resized(block, self.size)
            if len(block) == len(wanted):
                return block
            if frames is None:
                frames = np.empty((len(wanted), *self.size, 3), np.uint8)
            frames[done : done + len(block)] = block
            done += len(block)
        if frames is None or done < len(wanted):
            raise DecodeError(self.path, f"{done} of {len(wanted)} frames could be decoded; copy it again", "damaged")
        return frames

    def _blocks(self, wanted: Sequence[int]) -> Iterator[list[int]]:
        """Cut a list of frame numbers into pieces that can be decoded at once without taking much memory."""
        step = block_frames(self._stored)
        for start in range(0, len(wanted), step):
            yield list(wanted[start : start + step])


def block_frames(size: tuple[int, int]) -> int:
    """How many frames of (height, width) pixels are decoded at a time."""
    return max(1, _BLOCK_BYTES // (size[0] * size[1] * 3))


def _fitted(size: tuple[int, int], short_side: int | None) -> tuple[int, int]:
    """The size whose shorter side is ``short_side``, rounded down as torchvision does; never a larger one."""
    height, width = size
    if short_side is None or min(size) <= short_side:
        return size
    if height <= width:
        return short_side, int(short_side * width / height)
    return int(short_side * height / width), short_side


def _resized(frames: Frames, size: tuple[int, int]) -> Frames:
    if frames.shape[1:3] == size:
        return frames
    import torch
    from torchvision.transforms.v2 import InterpolationMode, functional

    video = torch.from_numpy(frames).permute(0, 3, 1, 2)
    video = functional.resize(video, list(size), InterpolationMode.BILINEAR, antialias=True)
    return cast(Frames, np.ascontiguousarray(video.permute(0, 2, 3, 1).numpy()))
