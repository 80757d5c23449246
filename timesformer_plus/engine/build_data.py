"""From configuration to data: the videos of every split, and how clips are made of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from timesformer_plus.data.catalogues import read_manifest
from timesformer_plus.data.clip_reader import ClipReader, Sampling
from timesformer_plus.data.clips import ShortPolicy
from timesformer_plus.data.dataset import VideoDataset
from timesformer_plus.data.manifests import Manifest, Sample, without
from timesformer_plus.data.mixing import ClipMixer
from timesformer_plus.data.scan_check import fingerprint
from timesformer_plus.data.scan_table import ScanRow, read_exclude, read_scan
from timesformer_plus.data.splits import check_coverage, check_leaks, find_leaks
from timesformer_plus.data.transforms import EvalTransform, Normalize, TrainTransform
from timesformer_plus.engine.config import EvaluationConfig
from timesformer_plus.engine.data_config import AugmentConfig, DataConfig, require


class Splits(NamedTuple):
    """The manifests of a run; they share their classes.

    Attributes:
        train: What is trained on.
        val: What selects the best epoch.
        test: What is scored at the end.
        report: A line for every split: how many videos it lists, how many are there.
    """

    train: Manifest
    val: Manifest
    test: Manifest | None
    report: tuple[str, ...]


@dataclass(frozen=True)
class ClipRecipe:
    """How a video becomes what the model eats, stored beside the weights so that prediction does as training did.

    Attributes:
        num_frames: Frames a clip.
        stride: Distance between them, in frames of the video.
        sampling: ``"stride"``, ``"seconds"`` or ``"segments"``, see ``DataConfig``.
        img_size: Height and width of a clip, in pixels.
        mean: Subtracted from the channels, for values in 0..1.
        std: Divides the channels.
        multi_label: Whether classes are scored one by one (sigmoid) instead of against each other (softmax).
        num_clips: Clips a video at test time.
        num_crops: Crops a clip at test time.
        target_fps: Frames of a clip a second of video, for ``"seconds"``.
        short: What becomes of a video too short for a clip.
        short_side: Shorter side that frames are resized to before they are cropped at test time, in pixels; ``None``
            for the smallest that covers the crop.
        decode_size: Shorter side that frames are reduced to when they are decoded, in pixels; ``None`` for as they are.
    """

    num_frames: int
    stride: int
    sampling: Sampling
    img_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    multi_label: bool
    num_clips: int = 1
    num_crops: int = 1
    target_fps: float | None = None
    short: ShortPolicy = "repeat"
    short_side: int | None = None
    decode_size: int | None = None


def build_manifests(data: DataConfig) -> Splits:
    """Find the videos of all splits; the classes of the training split are those of the others.

    Raises:
        ValueError: Annotations are missing or malformed, a label is outside the classes, more videos than
            ``max_missing`` are missing or unreadable, or a video or a recording is in two splits.
    """
    scan = _read_scan(data)
    excluded = frozenset(() if data.exclude is None else read_exclude(data.exclude))
    report = []

    def split(name: str, file: str, classes: tuple[str, ...] | None) -> Manifest:
        listed = read_manifest(
            data.root / file,
            format=data.format,
            videos=data.videos_root,
            classes=classes,
            multi_label=data.multi_label,
            target=data.target,
        )
        named = [sample.id for sample in listed.samples if excluded & {sample.id, _relative(sample, data)}]
        manifest = _without_unreadable(without(listed, named), scan, data)
        line = check_coverage(manifest, name, data.max_missing)
        report.append(f"{line}; {len(named)} more are excluded" if named else line)
        return manifest

    train = split("train", data.train, None)
    val = split("val", data.val, train.classes)
    test = None if data.test is None else split("test", data.test, train.classes)
    report += _check_leaks(data, train, val, test)
    return Splits(train, val, test, tuple(report))


def _check_leaks(data: DataConfig, train: Manifest, val: Manifest, test: Manifest | None) -> list[str]:
    scored = {"val": val} if test is None or data.test == data.val else {"val": val, "test": test}
    lines = []
    if test is not None and data.test == data.val:
        # common where a data set publishes no labels for its test split
        lines.append(f"val and test are both {data.val}: the score reported is that of the split that chose the epoch")
    if data.allow_leaks:
        leaks = find_leaks({"train": train, **scored})
        return [*lines, f"{len(leaks)} videos or recordings are in two splits"] if leaks else lines
    check_leaks({"train": train, **scored})
    return lines


def _relative(sample: Sample, data: DataConfig) -> str:
    """A video's path as the scan calls it."""
    root = data.videos_root
    path = (sample.path.relative_to(root) if sample.path.is_relative_to(root) else sample.path).as_posix()
    return path if sample.member is None else f"{path}::{sample.member.name}"


def _read_scan(data: DataConfig) -> dict[str, ScanRow]:
    path = data.videos_root / "scan.csv" if data.scan == "auto" else Path(data.scan)
    if data.scan == "none" or (data.scan == "auto" and not path.is_file()):
        return {}
    return read_scan(path)


def _without_unreadable(manifest: Manifest, scan: dict[str, ScanRow], data: DataConfig) -> Manifest:
    """Move what the scan could not read to what is missing, unless the file has changed since."""
    good, bad = [], []
    for sample in manifest.samples:
        row = scan.get(_relative(sample, data)) if scan else None
        if row is None or row.verdict == "ok" or _has_changed(sample, row):
            good.append(sample)
        else:
            bad.append(f"{sample.path} ({row.kind}: {row.reason})")
    return dataclasses.replace(manifest, samples=tuple(good), missing=(*manifest.missing, *bad))


def _has_changed(sample: Sample, row: ScanRow) -> bool:
    """Whether a file is another one than the scan saw."""
    part = None if sample.member is None else (sample.member.offset, sample.member.length)
    return fingerprint(sample.path, part) != (row.size_bytes, row.mtime_ns)


def build_recipe(network: nn.Module, data: DataConfig, evaluation: EvaluationConfig) -> ClipRecipe:
    """Settle how clips are cut: what the configuration leaves open is what the model is made for."""
    cfg: dict[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
    height, width = network.patch_embed.img_size  # type: ignore[union-attr, misc]
    num_frames: int = network.num_frames  # type: ignore[assignment]
    return ClipRecipe(
        num_frames=num_frames,
        stride=data.stride,
        sampling=data.sampling,
        img_size=(int(height), int(width)),
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
        multi_label=data.multi_label,
        num_clips=evaluation.num_clips,
        num_crops=evaluation.num_crops,
        target_fps=data.target_fps,
        short=data.short,
        short_side=evaluation.short_side,
        decode_size=data.decode_size,
    )


def build_reader(recipe: ClipRecipe, data: DataConfig, *, training: bool) -> ClipReader:
    """What reads the frames of clips: how they are cut is the recipe's, where they come from is the data's."""
    return ClipReader(
        recipe.num_frames,
        sampling=recipe.sampling,
        stride=recipe.stride,
        target_fps=recipe.target_fps,
        short=recipe.short,
        training=training,
        num_clips=1 if training else recipe.num_clips,
        decoder=data.decoder,
        limits=data.limits,
        decode_size=recipe.decode_size,
        image_fps=data.image_fps,
        cache_dir=data.cache_dir,
        cache_mb=data.cache_mb,
    )


def build_train_dataset(
    manifest: Manifest, recipe: ClipRecipe, data: DataConfig, augment: AugmentConfig, *, seed: int
) -> VideoDataset:
    """Augmented clips; every random choice is a function of (seed, epoch, index)."""
    transform = TrainTransform(
        recipe.img_size,
        scale=augment.scale,
        ratio=augment.ratio,
        short_side=augment.short_side,
        multi_scale=augment.multi_scale,
        hflip=augment.hflip,
        color_jitter=augment.color_jitter,
        rand_augment=augment.rand_augment,
        erasing=augment.erasing,
        erasing_mode=augment.erasing_mode,
        fill=recipe.mean,
    )
    return VideoDataset(
        manifest,
        build_reader(recipe, data, training=True),
        transform,
        flip_pairs=_flip_pairs(manifest.classes, augment.flip_pairs),
        on_error="raise" if data.max_bad == 0 else "substitute",
        seed=seed,
    )


def build_test_dataset(manifest: Manifest, recipe: ClipRecipe, data: DataConfig) -> VideoDataset:
    """The views of every video that its score is the mean of; nothing is random, and no video replaces another."""
    return VideoDataset(
        manifest,
        build_reader(recipe, data, training=False),
        EvalTransform(recipe.img_size, short_side=recipe.short_side),
        num_crops=recipe.num_crops,
    )


def build_normalize(recipe: ClipRecipe) -> Normalize:
    """What turns the pixels of a batch into the model's input, on the model's device."""
    return Normalize(recipe.mean, recipe.std)


def shard_numbers(manifest: Manifest) -> list[int] | None:
    """For every video the number of the tar shard that it lies in; ``None`` where videos are files of their own."""
    if not all(sample.member for sample in manifest.samples):
        return None
    numbers: dict[Path, int] = {}
    return [numbers.setdefault(sample.path, len(numbers)) for sample in manifest.samples]


def build_mixer(augment: AugmentConfig, *, num_classes: int) -> ClipMixer | None:
    """Mixup and cutmix of batches; ``None`` where neither is asked for."""
    if not augment.mixup and not augment.cutmix:
        return None
    return ClipMixer(
        mixup_alpha=augment.mixup,
        cutmix_alpha=augment.cutmix,
        prob=augment.mix_prob,
        switch_prob=augment.mix_switch,
        num_classes=num_classes,
    )


def _flip_pairs(classes: Sequence[str], pairs: Sequence[tuple[str, str]]) -> list[tuple[int, int]]:
    numbers = {name: i for i, name in enumerate(classes)}
    for name in {name for pair in pairs for name in pair}:
        require(
            name in numbers,
            f"augment.flip_pairs: {name!r} is not one of the {len(classes)} classes ({', '.join(classes[:5])}, ...)",
        )
    return [(numbers[left], numbers[right]) for left, right in pairs]
