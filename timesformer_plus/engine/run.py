"""Everything a run works with, made from its configuration and checked before the first update."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn

from timesformer_plus.data.dataset import VideoDataset
from timesformer_plus.data.decoders import describe_auto, resolve_decoder
from timesformer_plus.data.manifests import manifest_digest
from timesformer_plus.engine.bad_videos import default_max_bad
from timesformer_plus.engine.batches import GlobalBatches, check_shares
from timesformer_plus.engine.build import build_model, build_optimizer, build_scheduler
from timesformer_plus.engine.build_data import (
    ClipRecipe,
    build_recipe,
    build_test_dataset,
    build_train_dataset,
    shard_numbers,
)
from timesformer_plus.engine.build_splits import SplitCounts, Splits, build_splits
from timesformer_plus.engine.config import TrainConfig
from timesformer_plus.engine.environment import describe_environment
from timesformer_plus.engine.freezing import train_only
from timesformer_plus.engine.parallel import Parallel
from timesformer_plus.engine.pixels import describe_pixels
from timesformer_plus.engine.processes import (
    agreed,
    choose_workers,
    describe_reading,
    join_processes,
    runs_on_cpu,
    set_threads,
)
from timesformer_plus.engine.resume import Start, find_start, version_notes
from timesformer_plus.engine.run_folder import RunFolder
from timesformer_plus.engine.sample_dropout import SampleDropout, per_sample_dropout
from timesformer_plus.engine.trackers import choose_trackers


class Run(NamedTuple):
    """Everything a run works with, checked against each other before the first update.

    Attributes:
        config: The options, with everything settled that they left open.
        accelerator: This process among the others.
        parallel: How they share the work.
        classes: Names of the classes.
        recipe: How videos become clips.
        batches: Which clips this process sees in which update.
        counts: Name of a split -> what became of the videos that it lists.
        report: What people should know, a line each.
        train_data: The training split, augmented.
        val_data: The split that selects the best epoch.
        test_data: The split scored at the end.
        network: The model, as timm made it.
        model: The same, prepared for its processes.
        optimizer: Prepared for its processes.
        scheduler: Stepped once an update, on any number of processes.
        ema: The moving average of the weights.
        dropout: What makes dropout a function of the clip; ``None`` where the model has none.
        folder: What the run leaves on disk.
        start: Where it begins.
        environment: What else its numbers depend on.
    """

    config: TrainConfig
    accelerator: Accelerator
    parallel: Parallel
    classes: tuple[str, ...]
    recipe: ClipRecipe
    batches: GlobalBatches
    counts: dict[str, SplitCounts]
    report: tuple[str, ...]
    train_data: VideoDataset
    val_data: VideoDataset
    test_data: VideoDataset | None
    network: nn.Module
    model: nn.Module
    optimizer: Any
    scheduler: Scheduler
    ema: ModelEmaV3 | None
    dropout: SampleDropout | None
    folder: RunFolder
    start: Start
    environment: dict[str, Any]


def prepare(config: TrainConfig, accelerator: Accelerator) -> Run:
    """Make and check everything the run needs.

    Args:
        config: The options.
        accelerator: What ``start_processes`` returned.

    Raises:
        ValueError: Something does not fit.
    """
    choose_trackers(config.trackers)
    check_shares(
        config.batch_size, world_size=accelerator.num_processes, accumulate=config.accumulate, pairs=mixes(config)
    )
    folder = RunFolder(config.output, writes=accelerator.is_main_process)
    folder.refuse_finished(config.overwrite)
    data = dataclasses.replace(config.data, decoder=resolve_decoder(config.data.decoder))
    splits = build_splits(data)
    batches = _build_batches(config, splits, accelerator)
    torch.manual_seed(config.seed)
    network = build_model(config.model, data, len(splits.train.classes))
    recipe = build_recipe(network, data, config.evaluation, precision=config.precision)
    max_bad = default_max_bad(len(splits.train.samples)) if data.max_bad is None else data.max_bad
    workers = choose_workers(data.num_workers)
    data = dataclasses.replace(
        data, num_frames=recipe.num_frames, img_size=recipe.img_size, max_bad=max_bad, num_workers=workers
    )
    config = dataclasses.replace(config, data=data)
    named = {"train": splits.train, "val": splits.val, "test": splits.test}
    digests = {name: manifest_digest(manifest) for name, manifest in named.items() if manifest is not None}
    environment = describe_environment(
        device=accelerator.device, world_size=accelerator.num_processes, seed=config.seed, data=digests
    )
    notes = [
        describe_weights(config),
        describe_pixels(config, network.pretrained_cfg, recipe.channel_order),  # type: ignore[arg-type]  # timm's
        describe_auto() if data.decoder == "auto" else f"videos are read by {data.decoder}",
        describe_reading(workers),
    ]

    network = network.double() if config.precision == "fp64" else network
    if config.grad_checkpointing:
        network.set_grad_checkpointing(config.grad_checkpointing)  # type: ignore[operator]  # timm's
    if config.only:
        notes.append(train_only(network, config.only))
    dropout = per_sample_dropout(network)
    notes += dropout.notes if dropout is not None else ()
    if config.compile is not None:
        network.compile(mode=config.compile)
    optimizer = build_optimizer(network, config.optim)
    scheduler = build_scheduler(
        optimizer, config.schedule, epochs=config.epochs, steps_per_epoch=batches.steps_per_epoch
    )
    parallel = Parallel(accelerator)
    # the scheduler is not prepared: accelerate would step it once for every process
    model, prepared = parallel.prepare(network, optimizer)
    ema = None
    if config.ema.decay is not None:
        ema = parallel.average(model, decay=config.ema.decay, warmup=config.ema.warmup)
    processes = parallel.describe(batch_size=config.batch_size, accumulate=config.accumulate)
    agreed(folder.hold)
    try:
        start = agreed(lambda: find_start(folder, config, digests))
    except BaseException:
        folder.let_go()
        raise
    if start.begun is not None:
        notes += version_notes(start.begun, environment)
    return Run(
        config=config,
        accelerator=accelerator,
        parallel=parallel,
        classes=splits.train.classes,
        recipe=recipe,
        batches=batches,
        counts=splits.counts,
        report=(*splits.report, *notes, processes, *start.notes),
        train_data=build_train_dataset(splits.train, recipe, data, config.augment, seed=config.seed),
        val_data=build_test_dataset(splits.val, recipe, data),
        test_data=None if splits.test is None else build_test_dataset(splits.test, recipe, data),
        network=network,
        model=model,
        optimizer=prepared,
        scheduler=scheduler,
        ema=ema,
        dropout=dropout,
        folder=folder,
        start=start,
        environment=environment,
    )


def _build_batches(config: TrainConfig, splits: Splits, accelerator: Accelerator) -> GlobalBatches:
    return GlobalBatches(
        len(splits.train.samples),
        batch_size=config.batch_size,
        epochs=config.epochs,
        seed=config.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        accumulate=config.accumulate,
        shards=shard_numbers(splits.train, config.data),
        shards_at_once=config.data.shards_at_once,
        repeats=config.augment.repeats,
        drop_last=config.drop_last,
        pairs=mixes(config),
    )


def describe_weights(config: TrainConfig) -> str:
    """Where the model's first weights come from, for people."""
    if not config.model.pretrained:
        return f"weights: {config.model.name} from scratch, seed {config.seed}"
    file = dict(config.model.args.get("pretrained_cfg_overlay") or {}).get("file")
    return f"weights: {config.model.name}, pretrained{f' ({file})' if file else ''}"


def mixes(config: TrainConfig) -> bool:
    """Whether clips are mixed, which is done in pairs."""
    return bool(config.augment.mixup or config.augment.cutmix)


def start_processes(config: TrainConfig) -> Accelerator:
    """Join the other processes; see ``join_processes``."""
    join_processes(config.world_size, timeout=config.timeout)
    set_threads(config.threads)
    autocast = config.precision if config.precision in ("bf16", "fp16") else "no"
    return Accelerator(mixed_precision=autocast, cpu=runs_on_cpu())
