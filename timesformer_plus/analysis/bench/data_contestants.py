"""Who reads the clips of the table ``data``: all of them the same frames, made as large and cropped alike."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, SequentialSampler
from torchvision.transforms.v2 import functional

from timesformer_plus.data.clip_reader import ClipReader
from timesformer_plus.data.dataset import VideoDataset
from timesformer_plus.data.manifests import Manifest, Sample
from timesformer_plus.data.transforms import EvalTransform

from .data_files import FPS

SHORT_SIDE, CROP, BATCH = 256, 224, 2


@dataclass(frozen=True)
class Task:
    """Clips to be read.

    Attributes:
        places: Of every clip the file and the number of its first frame.
        num_frames: Frames a clip.
        stride: From one to the next, in frames of the video.
    """

    places: tuple[tuple[Path, int], ...]
    num_frames: int
    stride: int

    @property
    def span(self) -> int:
        """Frames of the video from a clip's first to its last."""
        return (self.num_frames - 1) * self.stride + 1

    def indices(self, start: int) -> list[int]:
        """Numbers of the frames of the clip that begins at ``start``."""
        return list(range(start, start + self.span, self.stride))


def make_loader(who: str, task: Task, workers: int) -> DataLoader[Any]:
    """A loader that yields the clips of a task once a pass, with workers that stay from pass to pass.

    Args:
        who: A key of ``CONTESTANTS``.
        task: The clips.
        workers: Processes that read.
    """
    dataset, order = CONTESTANTS[who](task)
    return DataLoader(dataset, batch_size=BATCH, sampler=order, num_workers=workers, persistent_workers=workers > 0)


def clips_of(batch: Any) -> Tensor:
    """The clips in a batch, (B, C, T, H, W), uint8 or float32 in 0..255."""
    video: Tensor = batch if isinstance(batch, Tensor) else batch["video"] if isinstance(batch, dict) else batch.video
    return video


def _ours(task: Task) -> tuple[Dataset[Any], Sequence[Any]]:
    # the labelled part of a video is the clip: so every contestant reads the same frames
    # from the middle of the first frame's time to the middle of the last one's
    samples = tuple(
        Sample(str(i), path, label=0, start=(first + 0.5) / FPS, end=(first + task.span - 0.5) / FPS)
        for i, (path, first) in enumerate(task.places)
    )
    reader = ClipReader(task.num_frames, stride=task.stride)
    manifest = Manifest(samples, ("a class",), multi_label=False)
    dataset = VideoDataset(manifest, reader, EvalTransform(CROP, short_side=SHORT_SIDE))
    return dataset, [(0, i, 0) for i in range(len(samples))]


def _pytorchvideo(decoder: str, task: Task) -> tuple[Dataset[Any], None]:
    from pytorchvideo.data import LabeledVideoDataset
    from pytorchvideo.data.clip_sampling import ClipInfo, ClipSampler

    class _At(ClipSampler):  # type: ignore[misc]  # untyped
        """A clip a video, where its entry says; as a RandomClipSampler, but the same clips for all."""

        def __call__(self, _last: Any, _duration: Any, info: Mapping[str, Any]) -> Any:
            return ClipInfo(info["start"], info["start"] + self._clip_duration, 0, 0, True)

    entries = [(str(path), {"label": 0, "start": Fraction(first, FPS)}) for path, first in task.places]
    dataset = LabeledVideoDataset(
        entries,
        _At(Fraction(task.span, FPS)),
        SequentialSampler,
        partial(_pytorchvideo_transform, num_frames=task.num_frames),
        decode_audio=False,
        decoder=decoder,
    )
    return dataset, None


def _pytorchvideo_transform(sample: dict[str, Any], *, num_frames: int) -> dict[str, Any]:
    # UniformTemporalSubsample, ShortSideScale and CenterCrop
    theirs = _pytorchvideo_functional()
    video = theirs.uniform_temporal_subsample(sample["video"], num_frames)
    video = theirs.short_side_scale(video, SHORT_SIDE)
    return {"video": functional.center_crop(video, [CROP, CROP]).contiguous(), "label": sample["label"]}


def _pytorchvideo_functional() -> ModuleType:
    """Their functions by their file: their package imports a module that torchvision no longer has."""
    spec = importlib.util.find_spec("pytorchvideo")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    place = Path(spec.submodule_search_locations[0]) / "transforms" / "functional.py"
    return _loaded(place)


_LOADED: dict[Path, ModuleType] = {}


def _loaded(place: Path) -> ModuleType:
    if place not in _LOADED:
        spec = importlib.util.spec_from_file_location("pytorchvideo_transforms_functional", place)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        _LOADED[place] = module
    return _LOADED[place]


class _Decord(Dataset[Tensor]):
    """The loop that most projects write: open, ``get_batch``, resize, crop."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __len__(self) -> int:
        return len(self.task.places)

    def __getitem__(self, i: int) -> Tensor:
        import decord

        path, first = self.task.places[i]
        frames = decord.VideoReader(str(path), num_threads=1).get_batch(self.task.indices(first))
        # pytorchvideo sets decord's bridge for the whole process
        array = frames if isinstance(frames, Tensor) else torch.from_numpy(frames.asnumpy())
        video = functional.resize(array.permute(0, 3, 1, 2), [SHORT_SIDE], antialias=True)
        clip: Tensor = functional.center_crop(video, [CROP, CROP])
        return clip.transpose(0, 1).contiguous()


class _Limit(Dataset[Tensor]):
    """Only decoding: from the key frame before a clip's first frame to its last, nothing converted or returned."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __len__(self) -> int:
        return len(self.task.places)

    def __getitem__(self, i: int) -> Tensor:
        import av

        path, first = self.task.places[i]
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            assert stream.time_base is not None
            first_time, last_time = (
                round(Fraction(number, FPS) / stream.time_base) for number in (first, first + self.task.span - 1)
            )
            container.seek(first_time, stream=stream, backward=True)
            for decoded, frame in enumerate(container.decode(stream), start=1):
                if frame.pts is not None and frame.pts >= last_time:
                    return torch.tensor(decoded)
        raise ValueError(f"{path} ends before frame {first + self.task.span - 1}")


CONTESTANTS: dict[str, Callable[[Task], tuple[Dataset[Any], Sequence[Any] | None]]] = {
    "ours": _ours,
    "pytorchvideo (decord)": partial(_pytorchvideo, "decord"),
    "pytorchvideo (PyAV)": partial(_pytorchvideo, "pyav"),
    "decord loop": lambda task: (_Decord(task), None),
    "decoder's limit": lambda task: (_Limit(task), None),
}
"""Name -> what makes a data set, and the keys to look it up by where these are not the numbers from 0."""


def check_same_clips(task: Task) -> None:
    """Make sure that all read the same frames: their clips are alike but for how they were made smaller.

    Args:
        task: The clips; the first two are looked at.

    Raises:
        ValueError: They do not.
    """
    seen: dict[str, Tensor] = {}
    for who in CONTESTANTS:
        if who != "decoder's limit":
            clips = clips_of(next(iter(make_loader(who, task, 0)))).float()
            # filters differ, and so do single pixels
            seen[who] = torch.nn.functional.avg_pool3d(clips, (1, 16, 16))
    for who, clips in seen.items():
        distance = float(np.abs((clips - seen["ours"]).numpy()).mean())
        if clips.shape != seen["ours"].shape or distance > 1:
            raise ValueError(f"{who} reads other frames than ours: {tuple(clips.shape)}, {distance:.1f} levels apart")
