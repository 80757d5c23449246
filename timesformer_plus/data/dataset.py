"""A data set of videos: samples x decoder x sampler x transform."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from timesformer_plus.data.clips import sample_indices
from timesformer_plus.data.decoded import DecodedFolder
from timesformer_plus.data.decoders import DecoderName, Frames, open_video, resolve_decoder
from timesformer_plus.data.manifests import Manifest
from timesformer_plus.data.transforms import ClipTransform

Sampling = Literal["stride", "segments"]


class Clip(NamedTuple):
    """One clip as a model takes it; torch's default collation makes a batch of them.

    Attributes:
        video: float32, (C, T, H, W).
        target: The class index, int64 and scalar; or one 0 or 1 for every class, float32, (num_classes,).
        index: Which sample of the manifest.
        view: Which of the sample's views.
    """

    video: Tensor
    target: Tensor
    index: int  # type: ignore[assignment]  # takes the place of tuple.index, which nobody asks a clip for
    view: int


class VideoDataset(Dataset[Clip]):
    """Clips of the videos of a manifest, looked up by ``(epoch, index, view)``.

    All randomness is a function of ``(seed, epoch, index, view)``: neither the order of access nor the number of
    workers changes a clip, and a run can be taken up again anywhere. The epoch is part of the key because an attribute
    set in the main process never reaches workers that persist.

    Args:
        manifest: The videos.
        num_frames: Frames of a clip.
        stride: Distance of neighbouring clip frames, in video frames.
        training: Whether clips start anywhere (else they are spread evenly over the video).
        transform: Turns decoded frames into the clip.
        decoder: Name of the decoder; ``"auto"`` is settled here, once.
        sampling: ``"stride"`` for frames ``stride`` apart, ``"segments"`` for one frame from each of ``num_frames``
            equal parts of the video (``stride`` then has no use).
        num_clips: Clips in time that a video is tested with.
        num_crops: Crops of each clip that a video is tested with; view ``v`` is crop ``v % num_crops`` of clip
            ``v // num_crops``.
        seed: Seed of all randomness.
        cache_mb: Keep whole decoded videos in memory up to this many megabytes (10^6 bytes) *per process*: every worker
            has a cache of its own. Videos that no longer fit are read again each time.
        cache_dir: Folder in which every process stores, decoded, the videos that fit into its ``cache_mb``, for other
            processes and later runs. With ``cache_mb`` above 0, a video found there is not decoded, whether it still
            fits or not; with 0 the folder is neither read nor written. Nothing is ever removed from it. Where it cannot
            be written, a warning says so once in each process and nothing more is stored. ``None`` for no folder.

    Raises:
        ValueError: A count below one, or an unknown option.
        ImportError: The decoder is not installed.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        num_frames: int,
        stride: int = 1,
        training: bool,
        transform: ClipTransform,
        decoder: DecoderName = "auto",
        sampling: Sampling = "stride",
        num_clips: int = 1,
        num_crops: int = 1,
        seed: int = 0,
        cache_mb: float = 0,
        cache_dir: str | Path | None = None,
    ) -> None:
        counts = {"num_frames": num_frames, "stride": stride, "num_clips": num_clips, "num_crops": num_crops}
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        if sampling not in get_args(Sampling):
            raise ValueError(
                f"sampling={sampling!r} is unknown; allowed are {', '.join(map(repr, get_args(Sampling)))}"
            )
        if seed < 0 or cache_mb < 0:
            raise ValueError(f"seed={seed}, cache_mb={cache_mb}: neither may be negative")
        self.manifest = manifest
        self.num_frames = num_frames
        self.stride = stride
        self.training = training
        self.transform = transform
        self.decoder = resolve_decoder(decoder)
        self.sampling: Sampling = sampling
        self.num_clips = num_clips
        self.num_crops = num_crops
        self.seed = seed
        self.cache_mb = cache_mb
        self._decoded = None if cache_dir is None else DecodedFolder(Path(cache_dir), self.decoder)
        self._storing = True
        self._cache: dict[int, Tensor] = {}
        self._cache_bytes = 0

    @property
    def num_views(self) -> int:
        """Views that a video is tested with: ``num_clips * num_crops``."""
        return self.num_clips * self.num_crops

    def __len__(self) -> int:
        """Number of videos."""
        return len(self.manifest.samples)

    def __getitem__(self, key: tuple[int, int, int]) -> Clip:
        """Load one view of one video.

        Args:
            key: ``(epoch, index, view)``: epoch at least 0, index in ``range(len(self))``, view in
                ``range(self.num_views)``.

        Returns:
            The clip.

        Raises:
            TypeError: The key is a plain number, as a sampler made for ordinary data sets sends.
            IndexError: The index or view is outside its range.
            DecodeError: The video cannot be read. It names the file; no other video is put in its place.
        """
        if not isinstance(key, tuple) or len(key) != 3:
            raise TypeError(
                f"key {key!r}: a video is looked up by (epoch, index, view); use a sampler that yields these"
            )
        epoch, index, view = (int(part) for part in key)
        if not 0 <= index < len(self) or not 0 <= view < self.num_views or epoch < 0:
            raise IndexError(
                f"key {key!r}: there are {len(self)} videos with {self.num_views} views, and epochs from 0"
            )
        clip, crop = divmod(view, self.num_crops)
        seed = int(np.random.SeedSequence([self.seed, epoch, index, view]).generate_state(1, np.uint64)[0])
        generator = torch.Generator().manual_seed(seed)
        # torchvision draws from torch's global CPU generator; the caller's is put back afterwards. torch.manual_seed
        # would reseed the GPUs as well, which fork_rng(devices=[]) does not restore.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            video = self.transform(self._read(index, clip, generator), crop=crop, num_crops=self.num_crops)
        return Clip(video, self._target(index), index, view)

    def _read(self, index: int, clip: int, generator: torch.Generator) -> Tensor:
        """Decode the frames of one clip, uint8 (T, H, W, C)."""
        whole = self._cache.get(index)
        if whole is not None:
            return whole[self._choose(len(whole), clip, generator)]
        path = self.manifest.samples[index].path
        stored = self._decoded.load(path) if self._decoded is not None and self.cache_mb else None
        if stored is not None:
            whole = self._keep(index, stored)
            return whole[self._choose(len(whole), clip, generator)]
        video = open_video(path, self.decoder)
        # the size of a frame may cost the decoding of one, so it is asked for only where it matters
        if self.cache_mb and self._fits(3 * video.num_frames * math.prod(video.size)):
            frames = video.read(range(video.num_frames))
            self._store(path, frames)
            whole = self._keep(index, frames)
            return whole[self._choose(len(whole), clip, generator)]
        return torch.from_numpy(video.read(self._choose(video.num_frames, clip, generator)))

    def _store(self, path: Path, frames: Frames) -> None:
        if self._decoded is None or not self._storing:
            return
        try:
            self._decoded.store(path, frames)
        except OSError as error:
            self._storing = False
            warnings.warn(
                f"{self._decoded.folder}: decoded videos are not kept from {path.name} on ({error}); training goes on "
                "with those already there and the cache in memory. Make room, or set data.cache_dir elsewhere",
                stacklevel=2,
            )

    def _fits(self, size: int) -> bool:
        return self._cache_bytes + size <= self.cache_mb * 1e6

    def _keep(self, index: int, frames: Frames) -> Tensor:
        whole = torch.from_numpy(frames)
        if self._fits(frames.nbytes):
            self._cache[index] = whole
            self._cache_bytes += frames.nbytes
        return whole

    def _choose(self, total: int, clip: int, generator: torch.Generator) -> list[int]:
        if self.sampling == "segments":
            return sample_indices(
                total,
                self.num_frames,
                mode="segments",
                clip=clip,
                num_clips=self.num_clips,
                generator=generator if self.training else None,
            )
        mode: Literal["random", "uniform"] = "random" if self.training else "uniform"
        return sample_indices(
            total,
            self.num_frames,
            self.stride,
            mode=mode,
            clip=clip,
            num_clips=self.num_clips,
            generator=generator if self.training else None,
        )

    def _target(self, index: int) -> Tensor:
        label = self.manifest.samples[index].label
        return torch.tensor(label, dtype=torch.float32 if self.manifest.multi_label else torch.int64)

    def __getstate__(self) -> dict[str, Any]:
        # a spawned worker starts with an empty cache rather than with a copy of the parent's, sent through a pipe
        return self.__dict__ | {"_cache": {}, "_cache_bytes": 0}
