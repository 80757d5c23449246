"""To pytorchvideo and back: its lists of labelled paths, its sample dictionaries, its data sets with our transforms.

Works with ``pytorchvideo.data.labeled_video_dataset.LabeledVideoDataset`` and whatever takes or yields the same
(``Kinetics``, ``Hmdb51``, ``Ucf101`` of ``pytorchvideo.data``), and needs none of ``pytorchvideo.transforms``, which
current torchvision versions cannot import. This module itself imports nothing of pytorchvideo.

Mind that ``LabeledVideoDataset`` passes over a video that it cannot read without a word, at test time too: count what
it yields, or read with ``VideoDataset``. Without OpenCV, folders of images are among what it cannot read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from timesformer_plus.data.clips import spread
from timesformer_plus.data.dataset import Clip
from timesformer_plus.data.manifests import Manifest, Sample
from timesformer_plus.data.transforms import ClipTransform
from timesformer_plus.data.vocabulary import MAX_UNNAMED_CLASSES, Vocabulary

LabeledPath = tuple[str, dict[str, Any]]


def to_labeled_video_paths(manifest: Manifest) -> list[LabeledPath]:
    """Write a manifest as ``LabeledVideoDataset`` takes it.

    Args:
        manifest: Whole videos with one label each. Pairs and groups have no place in the list and are left out.

    Returns:
        ``(path, {"label": class index})`` for every sample, in the manifest's order.

    Raises:
        ValueError: The manifest says what such a list cannot: several labels a video, parts of videos, videos inside
            tar shards, or arrays of frames.
    """
    if manifest.multi_label:
        raise ValueError("pytorchvideo labels a video with one class index; this manifest gives every class a 0 or 1")
    for sample in manifest.samples:
        problem = None
        if sample.member is not None:
            problem = "lies inside a tar shard; extract the shards"
        elif sample.start != 0 or sample.end is not None:
            problem = f"is the part of a video from {sample.start} s to {sample.end} s; cut the parts into files"
        elif sample.path.suffix.lower() == ".npy":
            problem = "is an array of frames; write it as a video or as a folder of images"
        if problem is not None:
            raise ValueError(f"{sample.id}: {problem}, for pytorchvideo's lists hold whole videos only")
    return [(str(sample.path), {"label": sample.label}) for sample in manifest.samples]


def from_labeled_video_paths(
    paths: Iterable[tuple[str, Mapping[str, Any] | None]], *, classes: Sequence[str] | None = None
) -> Manifest:
    """Read a list as ``LabeledVideoDataset`` takes it.

    Args:
        paths: A list of ``(path, {"label": class index})``, or a ``pytorchvideo.data.labeled_video_paths``
            ``LabeledVideoPaths``. Other entries of the dictionaries have no place in a manifest and are left out.
        classes: Names of the classes. If not given, their numbers, from 0 to the largest that occurs: give them, or
            splits that end with different classes will not agree.

    Returns:
        The manifest, in the order of the list. Paths that lead nowhere are in its ``missing``.

    Raises:
        ValueError: An empty list, a path that occurs twice, or a label that is none of the classes.
    """
    # `iter` also takes LabeledVideoPaths, which has no more than __getitem__
    rows = [(str(path), _class_index(str(path), info)) for path, info in iter(paths)]
    if not rows:
        raise ValueError("the list of labelled paths is empty; a data set needs at least one video")
    if classes is None:
        largest = max(label for _, label in rows)
        if largest >= MAX_UNNAMED_CLASSES:
            raise ValueError(f"class number {largest} without class names; give `classes`")
        classes = [str(number) for number in range(largest + 1)]
    names = Vocabulary(classes, "`classes`").names
    samples, missing = [], []
    seen: set[str] = set()
    for path, label in rows:
        if label >= len(names):
            raise ValueError(f"{path}: label {label} is none of the {len(names)} classes; they count from 0")
        if path in seen:
            raise ValueError(f"{path}: stands in the list twice; remove one")
        seen.add(path)
        if Path(path).exists():
            samples.append(Sample(path, Path(path), label))
        else:
            missing.append(path)
    return Manifest(tuple(samples), names, multi_label=False, missing=tuple(missing))


def _class_index(path: str, info: Mapping[str, Any] | None) -> int:
    label = None if info is None else info.get("label")
    if isinstance(label, bool) or not isinstance(label, int) or label < 0:
        raise ValueError(
            f"{path}: label {label!r} is no class index; every video needs {{'label': number}}, counted from 0 (-1 is "
            "pytorchvideo's word for a video without a label)"
        )
    return label


class DictTransform:
    """One of our transforms for pytorchvideo's sample dictionaries; pass it as a data set's ``transform``.

    Args:
        transform: A transform of decoded frames, such as ``TrainTransform`` or ``EvalTransform``.
        num_frames: Frames to keep, evenly from the first to the last of pytorchvideo's clip (as its
            ``UniformTemporalSubsample`` does, but rounded to the nearest frame); a clip of fewer repeats some. ``None``
            keeps all.
        num_crops: Crops that a clip is tested with. Above 1, the sample's ``"aug_index"`` says which one it is: make
            the clip sampler with ``augs_per_clip=num_crops``.

    Raises:
        ValueError: A count below 1.
    """

    def __init__(self, transform: ClipTransform, *, num_frames: int | None = None, num_crops: int = 1) -> None:
        if num_crops < 1 or (num_frames is not None and num_frames < 1):
            raise ValueError(f"{num_frames=}, {num_crops=}: both must be at least 1")
        self.transform = transform
        self.num_frames = num_frames
        self.num_crops = num_crops

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Transform ``sample["video"]``; the other entries pass through, and the sample itself is left alone.

        Args:
            sample: ``"video"`` is (C, T, H, W) with three channels, uint8 or floats that hold whole numbers 0..255, as
                pytorchvideo's decoders return it.

        Returns:
            The dictionary with ``"video"`` uint8 (C, T, H', W'), ``"view"`` (which crop of which clip, counted as
            ``VideoDataset`` counts), ``"short"`` (whether frames repeat) and ``"flipped"``: exchange the labels of
            left and right where it is true.

        Raises:
            ValueError: The video has another layout or was normalised already, or there are more views than crops.
        """
        frames = _frames(sample.get("video"))
        total = len(frames)
        if self.num_frames is not None:
            frames = frames[[spread(total - 1, place, self.num_frames) for place in range(self.num_frames)]]
        crop = int(sample.get("aug_index", 0))
        if crop >= self.num_crops:
            raise ValueError(
                f"aug_index={crop}, but num_crops={self.num_crops}: make the clip sampler with the same number of "
                "augmentations a clip"
            )
        video, flipped = self.transform(frames, crop=crop, num_crops=self.num_crops)
        view = int(sample.get("clip_index", 0)) * self.num_crops + crop
        return {**sample, "video": video, "view": view, "short": total < len(frames), "flipped": flipped}


def to_clip(sample: Mapping[str, Any]) -> Clip:
    """Turn a sample of a ``LabeledVideoDataset`` into what a ``VideoDataset`` yields.

    Args:
        sample: What a ``DictTransform`` left.

    Returns:
        The clip. Its indices count the data set's list of paths.

    Raises:
        ValueError: The sample was not transformed, or has no label.
    """
    video = sample.get("video")
    if not isinstance(video, Tensor) or video.dtype != torch.uint8 or video.ndim != 4 or "view" not in sample:
        raise ValueError("the sample was not transformed: give its data set transform=DictTransform(...)")
    index = int(sample["video_index"])
    target = torch.tensor(_class_index(str(sample.get("video_name", f"video {index}")), sample))
    return Clip(video, target, index, sample["view"], wanted=index, problem="", reason="", short=sample["short"])


def _frames(video: Any) -> Tensor:
    """The video as decoders return it, uint8 (T, H, W, C)."""
    if not isinstance(video, Tensor) or video.ndim != 4 or video.shape[0] != 3 or not video.shape[1]:
        found = f"{video.dtype} {tuple(video.shape)}" if isinstance(video, Tensor) else type(video).__name__
        raise ValueError(
            f"sample['video'] must be a tensor (3, T, H, W), not {found}; a sampler that cuts several clips at once "
            "(RandomMultiClipSampler) is not supported"
        )
    if video.dtype != torch.uint8 and not torch.equal(video, video.round().clamp(0, 255)):
        raise ValueError(
            "sample['video'] holds other numbers than the grey levels 0 to 255: it was scaled or normalised "
            "already; put this transform first"
        )
    frames: Tensor = video.to(torch.uint8).permute(1, 2, 3, 0)
    return frames
