"""From configuration to clips: how they are cut out of videos, and what is done to their pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from timesformer_plus.data.clip_reader import ClipReader, Sampling
from timesformer_plus.data.clips import ShortPolicy
from timesformer_plus.data.dataset import VideoDataset
from timesformer_plus.data.manifests import Manifest
from timesformer_plus.data.mixing import ClipMixer
from timesformer_plus.data.transforms import ChannelOrder, EvalTransform, Normalize, TrainTransform
from timesformer_plus.engine.config import EvaluationConfig
from timesformer_plus.engine.data_config import AugmentConfig, DataConfig, require
from timesformer_plus.engine.pixels import channel_order_of
from timesformer_plus.engine.protocols import PROTOCOLS, Average, Precision, Protocol, find_protocol, view_text


@dataclass(frozen=True)
class ClipRecipe:
    """How a video becomes what the model eats, stored beside the weights so that prediction does as training did.

    Attributes:
        num_frames: Frames a clip.
        stride: Distance between them, in frames of the video.
        sampling: ``"stride"``, ``"seconds"`` or ``"segments"``, see ``DataConfig``.
        img_size: Height and width of a clip, in pixels.
        mean: Subtracted from red, green and blue (in this order for every ``channel_order``), for values in 0..1.
        std: Divides red, green and blue.
        multi_label: Whether classes are scored one by one (sigmoid) instead of against each other (softmax).
        num_clips: Clips a video at test time.
        num_crops: Crops a clip at test time.
        target_fps: Frames of a clip a second of video, for ``"seconds"``.
        short: What becomes of a video too short for a clip.
        short_side: Shorter side that frames are resized to before they are cropped at test time, in pixels; ``None``
            for the smallest that covers the crop.
        decode_size: Shorter side that frames are reduced to when they are decoded, in pixels; ``None`` for as they are.
        average: What the views of a video are averaged in at test time.
        protocol_name: Published protocol that the views were chosen by; ``None`` for none.
        precision: What the model computes in when it is scored, as it did in training.
        channel_order: The order in which the model takes red, green and blue; see ``Normalize``. Recipes that were
            stored before there was a choice are ``"rgb"``.
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
    average: Average = "probabilities"
    protocol_name: str | None = None
    precision: Precision = "fp32"
    channel_order: ChannelOrder = "rgb"

    @property
    def protocol(self) -> Protocol:
        """How a score of this model comes about; its published name only if the views still are the published ones."""
        views = PROTOCOLS.get(self.protocol_name or "")
        own = (self.num_clips, self.num_crops, self.average)
        name = self.protocol_name if views is not None and views[:3] == own else None
        shared = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(Protocol) if field.name != "name"
        }
        return Protocol(name=name or view_text(*own), **shared)


def choose_views(
    recipe: ClipRecipe,
    *,
    protocol: str | None = None,
    num_clips: int | None = None,
    num_crops: int | None = None,
    average: Average | None = None,
) -> ClipRecipe:
    """The same clips, but other views of a video, by name or by number; what is not given stays as it is.

    Args:
        recipe: The recipe.
        protocol: Name of a published protocol, one of ``PROTOCOLS``.
        num_clips: Clips a video.
        num_crops: Crops a clip.
        average: What the views are averaged in.

    Raises:
        ValueError: A number below one, an unknown protocol, or one that says otherwise than what else is given.
    """
    given: dict[str, Any] = {"num_clips": num_clips, "num_crops": num_crops, "average": average}
    for name, value in given.items():
        require(
            not isinstance(value, int) or value > 0,
            f"{name}={value}: give at least 1, or leave it out for that of training's evaluation",
        )
    chosen = {name: value for name, value in given.items() if value is not None}
    if protocol is not None:
        views = find_protocol(protocol)
        stated = {name: getattr(views, name) for name in given}
        for name, value in chosen.items():
            require(
                value == stated[name],
                f"protocol {protocol} has {name}={stated[name]}, but {name}={value} is given as well; leave out one",
            )
        chosen = {**stated, "protocol_name": protocol}
    return dataclasses.replace(recipe, **chosen)


def build_recipe(
    network: nn.Module, data: DataConfig, evaluation: EvaluationConfig, *, precision: Precision = "fp32"
) -> ClipRecipe:
    """Settle how clips are cut: what the configuration leaves open is what the model is made for.

    Raises:
        ValueError: Frames would be made smaller than they are needed, or the protocol is unknown or contradicted.
    """
    cfg: dict[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
    height, width = network.patch_embed.img_size  # type: ignore[union-attr, misc]
    num_frames: int = network.num_frames  # type: ignore[assignment]
    needed = max(min(int(height), int(width)), evaluation.short_side or 0)
    require(
        data.decode_size is None or data.decode_size >= needed,
        f"data.decode_size={data.decode_size} makes frames smaller than the {needed} pixels that are needed; raise it",
    )
    recipe = ClipRecipe(
        num_frames=num_frames,
        stride=data.stride,
        sampling=data.sampling,
        img_size=(int(height), int(width)),
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
        multi_label=data.multi_label,
        target_fps=data.target_fps,
        short=data.short,
        short_side=evaluation.short_side,
        decode_size=data.decode_size,
        precision=precision,
        channel_order=data.channel_order or channel_order_of(cfg),
    )
    if evaluation.protocol is None:
        return choose_views(
            recipe, num_clips=evaluation.num_clips, num_crops=evaluation.num_crops, average=evaluation.average
        )
    # what still has its default was not asked for
    usual = EvaluationConfig()
    return choose_views(
        recipe,
        protocol=evaluation.protocol,
        num_clips=None if evaluation.num_clips == usual.num_clips else evaluation.num_clips,
        num_crops=None if evaluation.num_crops == usual.num_crops else evaluation.num_crops,
        average=None if evaluation.average == usual.average else evaluation.average,
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
        # also where none is borne: so all processes learn of it and stop together, before the weights are touched
        on_error="substitute",
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
    return Normalize(recipe.mean, recipe.std, recipe.channel_order)


def shard_numbers(manifest: Manifest, data: DataConfig) -> list[int] | None:
    """For every video the number of the tar shard that it lies in; ``None`` where videos are files of their own.

    Raises:
        ValueError: They are, but ``shards_at_once`` is set.
    """
    if not all(sample.member for sample in manifest.samples):
        require(
            not data.shards_at_once,
            f"data.shards_at_once={data.shards_at_once} is for tar shards, and these videos are files; set it to 0",
        )
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
