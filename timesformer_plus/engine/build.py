"""From configuration to objects: manifests, model, datasets, loss, optimizer, schedule.

Here the configuration is turned into plain keyword arguments; nothing below ``engine`` knows of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn

import timesformer_plus.models  # noqa: F401  registers the models with timm
from timesformer_plus.data.dataset import Sampling, VideoDataset
from timesformer_plus.data.decoders import DecoderName
from timesformer_plus.data.manifests import Manifest, read_csv
from timesformer_plus.data.transforms import EvalTransform, TrainTransform
from timesformer_plus.engine.config import DataConfig, ModelConfig, OptimConfig, ScheduleConfig


class Splits(NamedTuple):
    """The manifests of a run; they share their classes."""

    train: Manifest
    val: Manifest
    test: Manifest | None


@dataclass(frozen=True)
class ClipRecipe:
    """How a video becomes what the model eats, stored beside the weights so that prediction does as training did.

    Attributes:
        num_frames: Frames a clip.
        stride: Distance between them, in frames of the video.
        sampling: ``"stride"`` or ``"segments"``, see ``DataConfig``.
        img_size: Height and width of a clip, in pixels.
        mean: Subtracted from the channels, for values in 0..1.
        std: Divides the channels.
        multi_label: Whether classes are scored one by one (sigmoid) instead of against each other (softmax).
        num_clips: Clips a video at test time.
        num_crops: Crops a clip at test time.
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


def build_manifests(data: DataConfig) -> Splits:
    """Read the manifests of all splits; classes come from classes.txt beside the training manifest, or its labels.

    Raises:
        ValueError: A manifest is missing or malformed, a label is outside the classes, a video is not there.
    """
    train = read_csv(data.root / data.train, root=data.root, multi_label=data.multi_label)

    def rest(name: str) -> Manifest:
        return read_csv(data.root / name, root=data.root, classes=train.classes, multi_label=data.multi_label)

    return Splits(train, rest(data.val), None if data.test is None else rest(data.test))


def build_model(model: ModelConfig, data: DataConfig, num_classes: int) -> nn.Module:
    """Create the network for the clips and the classes of the data.

    Raises:
        ValueError: timm does not know the name, an option does not fit the model, or there are no such weights.
    """
    given: dict[str, Any] = {"num_frames": data.num_frames, "img_size": data.img_size}
    if ":" not in model.name and not timm.is_model(model.name):  # local-dir:FOLDER and hf-hub:REPOSITORY have one
        near = ", ".join(timm.list_models("*timesformer*"))
        raise ValueError(f"model.name={model.name!r} is not a model that timm knows; the video models are {near}")
    try:
        network: nn.Module = timm.create_model(
            model.name,
            pretrained=model.pretrained,
            pattern=model.pattern,
            num_classes=num_classes,
            **{key: value for key, value in given.items() if value is not None},
            **model.args,
        )
    except (TypeError, RuntimeError) as error:  # an unknown key in model.args; no weights, or others than expected
        raise ValueError(
            f"model {model.name!r} cannot be made ({error}); see model.args and model.pretrained"
        ) from error
    return network


def build_recipe(network: nn.Module, data: DataConfig, *, num_clips: int, num_crops: int) -> ClipRecipe:
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
        num_clips=num_clips,
        num_crops=num_crops,
    )


def build_train_dataset(manifest: Manifest, recipe: ClipRecipe, data: DataConfig, *, seed: int) -> VideoDataset:
    """Augmented clips; every random choice is a function of (seed, epoch, index)."""
    transform = TrainTransform(
        recipe.img_size, mean=recipe.mean, std=recipe.std, scale=data.scale, ratio=data.ratio, hflip=data.hflip
    )
    return VideoDataset(
        manifest,
        num_frames=recipe.num_frames,
        stride=recipe.stride,
        training=True,
        transform=transform,
        decoder=data.decoder,
        sampling=recipe.sampling,
        seed=seed,
        cache_mb=data.cache_mb,
        cache_dir=data.cache_dir,
    )


def build_test_dataset(
    manifest: Manifest,
    recipe: ClipRecipe,
    *,
    decoder: DecoderName = "auto",
    cache_mb: int = 0,
    cache_dir: Path | None = None,
) -> VideoDataset:
    """The views of every video that its score is the mean of; nothing is random."""
    return VideoDataset(
        manifest,
        num_frames=recipe.num_frames,
        stride=recipe.stride,
        training=False,
        transform=EvalTransform(recipe.img_size, mean=recipe.mean, std=recipe.std),
        decoder=decoder,
        sampling=recipe.sampling,
        num_clips=recipe.num_clips,
        num_crops=recipe.num_crops,
        cache_mb=cache_mb,
        cache_dir=cache_dir,
    )


def build_loss(*, multi_label: bool, label_smoothing: float = 0.0) -> nn.Module:
    """Mean cross entropy of (B, K) logits against (B,) class indices; multi-label, binary against (B, K) of 0 and 1."""
    return nn.BCEWithLogitsLoss() if multi_label else nn.CrossEntropyLoss(label_smoothing=label_smoothing)


def build_optimizer(network: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Make timm's optimizer of that name; norms, biases and what the model lists are free of weight decay.

    Raises:
        ValueError: timm does not know the name, or the optimizer does not take an argument.
    """
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            network,
            opt=config.name,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            layer_decay=config.layer_decay,
            **config.args,
        )
    except TypeError as error:  # an unknown key in optim.args
        raise ValueError(f"optimizer {config.name!r} refuses its arguments ({error}); see optim.args") from error
    return optimizer


def build_scheduler(
    optimizer: torch.optim.Optimizer, config: ScheduleConfig, *, epochs: int, steps_per_epoch: int
) -> Scheduler:
    """Make timm's schedule of that name, in updates. Call ``step_update(updates done)`` after every update.

    Raises:
        ValueError: The installed timm has no schedule of that name.
    """
    # what is not set is left to timm: 1.0.26 cannot take None for decay_epochs
    decay = {} if config.decay_epochs is None else {"decay_epochs": config.decay_epochs}
    made: tuple[Scheduler | None, int] = create_scheduler_v2(
        optimizer,
        sched=config.name,
        num_epochs=epochs,
        warmup_epochs=config.warmup_epochs,
        warmup_lr=config.warmup_lr,
        min_lr=config.min_lr,
        decay_milestones=list(config.milestones),
        decay_rate=config.decay_rate,
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
        **decay,
    )
    if made[0] is None:  # older versions answer so to a name that they do not know
        raise ValueError(
            f"schedule.name={config.name!r} is not a schedule of timm {timm.__version__}; "
            "choose another, such as cosine, or upgrade timm"
        )
    return made[0]
