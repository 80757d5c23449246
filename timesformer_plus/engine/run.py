"""Everything a run works with, made from its configuration and checked before the first update."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from accelerate import Accelerator
from timm.scheduler.scheduler import Scheduler
from torch import nn

from timesformer_plus.data.dataset import VideoDataset
from timesformer_plus.data.decoders import describe_auto, resolve_decoder
from timesformer_plus.engine.bad_videos import default_max_bad
from timesformer_plus.engine.batches import GlobalBatches
from timesformer_plus.engine.build import build_model, build_optimizer, build_scheduler
from timesformer_plus.engine.build_data import (
    ClipRecipe,
    build_recipe,
    build_test_dataset,
    build_train_dataset,
    shard_numbers,
)
from timesformer_plus.engine.build_splits import SplitCounts, build_splits
from timesformer_plus.engine.config import TrainConfig
from timesformer_plus.engine.processes import join_processes, runs_on_cpu, set_threads
from timesformer_plus.engine.run_folder import RunFolder


class Run(NamedTuple):
    """Everything a run works with, checked against each other before the first update."""

    config: TrainConfig
    accelerator: Accelerator
    classes: tuple[str, ...]
    recipe: ClipRecipe
    batches: GlobalBatches
    counts: dict[str, SplitCounts]
    report: tuple[str, ...]
    train_data: VideoDataset
    val_data: VideoDataset
    test_data: VideoDataset | None
    network: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: Scheduler
    folder: RunFolder


def prepare(config: TrainConfig) -> Run:
    """Start the processes and make and check everything the run needs.

    Raises:
        ValueError: Something does not fit.
    """
    accelerator = _start_processes(config)
    folder = RunFolder(config.output, writes=accelerator.is_main_process)
    folder.refuse_finished(config.overwrite)
    data = dataclasses.replace(config.data, decoder=resolve_decoder(config.data.decoder))
    splits = build_splits(data)
    batches = GlobalBatches(
        len(splits.train.samples),
        batch_size=config.batch_size,
        epochs=config.epochs,
        seed=config.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        accumulate=config.accumulate,
        shards=shard_numbers(splits.train, data),
        shards_at_once=data.shards_at_once,
    )
    torch.manual_seed(config.seed)
    network = build_model(config.model, data, len(splits.train.classes))
    recipe = build_recipe(network, data, config.evaluation)
    max_bad = default_max_bad(len(splits.train.samples)) if data.max_bad is None else data.max_bad
    data = dataclasses.replace(data, num_frames=recipe.num_frames, img_size=recipe.img_size, max_bad=max_bad)
    reading = describe_auto() if data.decoder == "auto" else f"videos are read by {data.decoder}"

    network = network.double() if config.precision == "fp64" else network
    optimizer = build_optimizer(network, config.optim)
    return Run(
        config=dataclasses.replace(config, data=data),
        accelerator=accelerator,
        classes=splits.train.classes,
        recipe=recipe,
        batches=batches,
        counts=splits.counts,
        report=(*splits.report, reading),
        train_data=build_train_dataset(splits.train, recipe, data, config.augment, seed=config.seed),
        val_data=build_test_dataset(splits.val, recipe, data),
        test_data=None if splits.test is None else build_test_dataset(splits.test, recipe, data),
        network=network,
        optimizer=optimizer,
        scheduler=build_scheduler(
            optimizer, config.schedule, epochs=config.epochs, steps_per_epoch=batches.steps_per_epoch
        ),
        folder=folder,
    )


def _start_processes(config: TrainConfig) -> Accelerator:
    join_processes(config.world_size)
    set_threads(config.threads)
    autocast = config.precision if config.precision in ("bf16", "fp16") else "no"
    return Accelerator(mixed_precision=autocast, cpu=runs_on_cpu())
