"""From a sample to the frames of a clip: which frames, read by which decoder or from the folder of decoded videos."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from timesformer_plus.data.clips import ShortPolicy, is_short, is_short_in_time, sample_indices, sample_times, trim
from timesformer_plus.data.containers import Limits
from timesformer_plus.data.decoded import Decoded, DecodedFolder
from timesformer_plus.data.decoders import (
    DecodeError,
    Decoder,
    DecoderName,
    describe_auto,
    open_video,
    resolve_decoder,
)
from timesformer_plus.data.manifests import Sample

Sampling = Literal["stride", "segments", "seconds"]
# Part of what a stored video is known by: to be raised whenever the same file is decoded to other pixels than before.
FORMAT = 1
# The first clip of a video decodes the whole of it if it is kept: bytes of its frames above which that is too much.
MAX_KEPT_BYTES = 256 * 2**20
# folders that this process could not write to
_UNWRITABLE: set[Path] = set()


class ClipFrames(NamedTuple):
    """The frames of one clip.

    Attributes:
        frames: uint8, (T, H, W, 3).
        indices: Their numbers in the video.
        short: Whether the video, or its labelled part, was too short for the clip, so that frames come again.
    """

    frames: Tensor
    indices: list[int]
    short: bool


class ClipReader:
    """Reads clips of ``num_frames`` frames.

    Args:
        num_frames: Frames of a clip.
        sampling: ``"stride"`` for frames ``stride`` apart, ``"seconds"`` for what is on screen ``target_fps`` times a
            second, ``"segments"`` for one frame from each of ``num_frames`` equal parts of the video.
        stride: Distance of neighbouring clip frames, in video frames, for ``"stride"``.
        target_fps: Clip frames a second of video, for ``"seconds"``.
        short: What becomes of a video too short for its clip: ``"repeat"`` its last frame, ``"loop"``, or ``"error"``.
        training: Whether clips start anywhere (else they are spread evenly over the video).
        num_clips: Clips that a video is tested with.
        decoder: Name of the decoder; see ``open_video``.
        limits: What a file may ask of this machine.
        decode_size: Length of the shorter side that decoded frames are reduced to, in pixels; ``None`` for as they are.
        image_fps: Frames a second of folders of images and ``.npy`` clips, which do not say.
        cache_dir: Folder in which decoded videos are kept for other processes and later runs; ``None`` for none. Where
            it cannot be written, a warning says so once in each process and nothing more is stored.
        cache_mb: Size that the folder may reach, in MB (10^6 bytes). A video that no longer fits, or whose frames take
            more than 256 MiB, is decoded each time.

    Raises:
        ValueError: A count below one, or an unknown option.
        ImportError: The decoder is not installed.
    """

    def __init__(
        self,
        num_frames: int,
        *,
        sampling: Sampling = "stride",
        stride: int = 1,
        target_fps: float | None = None,
        short: ShortPolicy = "repeat",
        training: bool = False,
        num_clips: int = 1,
        decoder: DecoderName = "auto",
        limits: Limits | None = None,
        decode_size: int | None = None,
        image_fps: float | None = None,
        cache_dir: str | Path | None = None,
        cache_mb: float = 0,
    ) -> None:
        for name, value in {"num_frames": num_frames, "stride": stride, "num_clips": num_clips}.items():
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        for name, choice, allowed in (("sampling", sampling, Sampling), ("short", short, ShortPolicy)):
            if choice not in get_args(allowed):
                raise ValueError(f"{name}={choice!r} is unknown; allowed are {', '.join(map(repr, get_args(allowed)))}")
        if (target_fps is not None) != (sampling == "seconds") or not (target_fps is None or target_fps > 0):
            raise ValueError(
                f"{target_fps=} with {sampling=}: sampling='seconds' needs a number of frames a second, above 0; the "
                "others take none"
            )
        if cache_mb < 0 or (cache_mb > 0) != (cache_dir is not None):
            raise ValueError(f"{cache_mb=} with {cache_dir=}: name the folder of decoded videos and a size, or none")
        self.num_frames = num_frames
        self.sampling = sampling
        self.stride = stride
        self.target_fps = target_fps
        self.short: ShortPolicy = short
        self.training = training
        self.num_clips = num_clips
        self.decoder = resolve_decoder(decoder)
        self.limits = limits or Limits()
        self.decode_size = decode_size
        self.image_fps = image_fps
        self._decoded = None
        if cache_dir is not None:
            reads = describe_auto() if self.decoder == "auto" else self.decoder
            recipe = f"{FORMAT} {reads} {decode_size} {image_fps} {self.limits}"
            self._decoded = DecodedFolder(Path(cache_dir), recipe=recipe, limit_mb=cache_mb)

    def read(self, sample: Sample, *, clip: int = 0, generator: torch.Generator | None = None) -> ClipFrames:
        """Read one clip of a video.

        Args:
            sample: The video, or the part of one.
            clip: Which of the ``num_clips`` clips; of no use in training.
            generator: Where training takes its chance from.

        Returns:
            The frames.

        Raises:
            DecodeError: The video cannot be read; or it is too short and ``short`` is ``"error"``.
        """
        stored = None if self._decoded is None else self._decoded.load(sample)
        if stored is not None:
            return self._cut(sample, stored, clip, generator)
        video = self._open(sample)
        whole = self._read_whole(sample, video)
        if whole is not None:
            return self._cut(sample, whole, clip, generator)
        indices, short = self._choose(sample, video.num_frames, lambda: _seconds(video), clip, generator)
        return ClipFrames(torch.from_numpy(video.read(indices)), indices, short)

    def _read_whole(self, sample: Sample, video: Decoder) -> Decoded | None:
        """All frames of a video that can be kept; ``None`` for another."""
        if self._decoded is None or self._decoded.folder in _UNWRITABLE:
            return None
        try:
            size = 3 * video.num_frames * math.prod(video.size)
            if size > MAX_KEPT_BYTES or not self._decoded.fits(size):
                return None
            whole = Decoded(video.read(range(video.num_frames)), _seconds_if_any(video))
        except DecodeError:
            # damaged or large in parts that this clip may not touch: with a cache no other videos fail than without
            return None
        try:
            self._decoded.store(sample, whole)
        except OSError as error:
            _UNWRITABLE.add(self._decoded.folder)
            warnings.warn(
                f"{self._decoded.folder}: decoded videos are not kept from {sample.id} on ({error}); training goes on "
                "with those already there. Make room, or set data.cache_dir elsewhere",
                stacklevel=2,
            )
        return whole

    def times(self, sample: Sample) -> list[float]:
        """When each frame of a video appears, in seconds; empty for pictures of which nobody said.

        Raises:
            DecodeError: The video cannot be read.
        """
        return _seconds_if_any(self._open(sample))

    def _open(self, sample: Sample) -> Decoder:
        return open_video(
            sample.path,
            self.decoder,
            member=None if sample.member is None else (sample.member.offset, sample.member.length),
            limits=self.limits,
            short_side=self.decode_size,
            fps=self.image_fps,
        )

    def _cut(self, sample: Sample, whole: Decoded, clip: int, generator: torch.Generator | None) -> ClipFrames:
        # what is stored of pictures without times has none; the video itself says what to do about it
        indices, short = self._choose(
            sample, len(whole.frames), lambda: whole.times or _seconds(self._open(sample)), clip, generator
        )
        # a list of places cuts out a copy: the map is read-only, and a tensor is not
        return ClipFrames(torch.from_numpy(whole.frames[indices]), indices, short)

    def _choose(
        self,
        sample: Sample,
        total: int,
        times: Callable[[], Sequence[float]],
        clip: int,
        generator: torch.Generator | None,
    ) -> tuple[list[int], bool]:
        """Frames of the clip, and whether they come again because there are too few."""
        try:
            part = range(total)
            if sample.start > 0 or sample.end is not None:
                part = trim(times(), sample.start, sample.end)
            chosen, short = self._sample(part, times, clip, generator)
        except ValueError as error:
            raise DecodeError(sample.path, f"{sample.id}: {error}", kind="unfit part") from error
        return [part.start + i for i in chosen], short

    def _sample(
        self, part: range, times: Callable[[], Sequence[float]], clip: int, generator: torch.Generator | None
    ) -> tuple[list[int], bool]:
        """As ``_choose``, counted from the beginning of the labelled part."""
        chance = generator if self.training else None
        clip, num_clips = (0, 1) if self.training else (clip, self.num_clips)
        random_or_not: Literal["random", "uniform"] = "random" if self.training else "uniform"
        if self.target_fps is not None:
            seconds = times()[part.start : part.stop]
            indices = sample_times(
                seconds,
                self.num_frames,
                target_fps=self.target_fps,
                mode=random_or_not,
                clip=clip,
                num_clips=num_clips,
                generator=chance,
                short=self.short,
            )
            return indices, is_short_in_time(seconds, self.num_frames, target_fps=self.target_fps)
        stride = 1 if self.sampling == "segments" else self.stride
        indices = sample_indices(
            len(part),
            self.num_frames,
            stride,
            mode="segments" if self.sampling == "segments" else random_or_not,
            clip=clip,
            num_clips=num_clips,
            generator=chance,
            short=self.short,
        )
        return indices, is_short(len(part), self.num_frames, stride)


def _seconds(video: Decoder) -> list[float]:
    # hours of video have a million times: an array makes a list of them at once, one by one they take a second
    times: list[float] = np.asarray(video.times, np.float64).tolist()
    return times


def _seconds_if_any(video: Decoder) -> list[float]:
    try:
        return _seconds(video)
    except DecodeError:  # pictures of which nobody said how many are shown a second
        return []
