"""Train a model: ``python -m timesformer_plus.engine.train --config FILE --output DIR``, alone or under torchrun."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import gather_object
from timm.scheduler.scheduler import Scheduler
from torch import nn

from timesformer_plus.data.dataset import Clip, VideoDataset
from timesformer_plus.data.decoders import DecodeError, describe_auto, resolve_decoder
from timesformer_plus.engine.bad_videos import BadVideos, BadVideosError, default_max_bad
from timesformer_plus.engine.batches import GlobalBatches, mix_seed
from timesformer_plus.engine.build import build_loss, build_model, build_optimizer, build_scheduler
from timesformer_plus.engine.build_data import (
    ClipRecipe,
    build_mixer,
    build_normalize,
    build_recipe,
    build_test_dataset,
    build_train_dataset,
    shard_numbers,
)
from timesformer_plus.engine.build_splits import SplitCounts, build_splits
from timesformer_plus.engine.checkpoint import load_weights, save_checkpoint
from timesformer_plus.engine.clip_loading import read_clips
from timesformer_plus.engine.config import TrainConfig, parse_train_config
from timesformer_plus.engine.display import Display
from timesformer_plus.engine.evaluate import Evaluation, evaluate
from timesformer_plus.engine.interrupt import Interrupt, interrupts
from timesformer_plus.engine.metrics import Metrics, better
from timesformer_plus.engine.processes import join_processes, runs_on_cpu, set_threads
from timesformer_plus.engine.run_folder import RunFolder, describe_environment


class NonFiniteError(RuntimeError):
    """The loss or the gradient is not a finite number; training stopped before it reached the weights."""


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


class EpochStats(NamedTuple):
    """What an epoch of training came to."""

    loss: float
    lr: float
    seconds: float
    bad_videos: int
    short_videos: int


def train(config: TrainConfig) -> dict[str, Any]:
    """Train, select the best epoch on the validation split, and score it on the test split.

    Args:
        config: The run. Its ``output`` is filled as ``run_folder`` describes.

    Returns:
        What result.json holds: ``status``, ``val`` and ``test`` metrics of the best epoch (see ``metrics.score``),
        ``best_epoch``, ``params``, ``steps``, ``train_seconds`` and ``train_clips_per_second`` (without evaluation).

    Raises:
        ValueError: Something does not fit; found before the first update.
        DecodeError: A video of the validation or the test split cannot be read; or hardly any of the training split.
        BadVideosError: More videos of the training split than `data.max_bad` cannot be read.
        NonFiniteError: The loss or the gradient is not finite; the weights are as before that update.
    """
    run = prepare(config)
    steps = config.epochs * run.batches.steps_per_epoch
    try:
        with Display(enabled=config.progress and run.folder.writes, steps=steps) as display, interrupts() as interrupt:
            return _fit(run, display, interrupt)
    except KeyboardInterrupt:
        if run.folder.writes:
            kept = run.folder.last.exists()
            what = (
                f"{run.folder.last} holds the last finished epoch" if kept else "no epoch was finished, nothing is kept"
            )
            print(f"interrupted: {what}", file=sys.stderr)
        raise


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


def _fit(run: Run, display: Display, interrupt: Interrupt) -> dict[str, Any]:
    config, accelerator, folder = run.config, run.accelerator, run.folder
    folder.start(
        config,
        describe_environment(device=accelerator.device, world_size=accelerator.num_processes, seed=config.seed),
    )
    folder.log("data", report=run.report)
    for line in run.report:
        display.say(line)
    # the scheduler is not prepared: accelerate would step it once for every process
    model, optimizer = accelerator.prepare(run.network, run.optimizer)
    trainer = Trainer(run, model, optimizer, run.scheduler, display, interrupt)
    best: Metrics | None = None
    best_epoch = -1
    short = {}
    seconds = 0.0
    for epoch in range(config.epochs):
        stats = trainer.epoch(epoch)
        short["train"] = stats.short_videos
        seconds += stats.seconds
        _save(run, "last")
        val = None
        if _is_due(epoch, config):
            val, short["val"] = _evaluate(run, run.val_data, display, "val")
            if better(val, best):
                best, best_epoch = val, epoch
                _save(run, "best")
        speed = run.batches.steps_per_epoch * config.batch_size / stats.seconds
        step = (epoch + 1) * run.batches.steps_per_epoch
        folder.log(
            "epoch",
            epoch=epoch,
            step=step,
            loss=stats.loss,
            lr=stats.lr,
            clips_per_second=speed,
            bad_videos=stats.bad_videos,
            short_videos=stats.short_videos,
            val=val,
        )
        display.epoch(
            epoch,
            loss=stats.loss,
            clips_per_second=speed,
            val=val,
            bad_videos=stats.bad_videos,
            short_videos=stats.short_videos,
        )
    accelerator.wait_for_everyone()
    load_weights(folder.best, run.network)
    steps = config.epochs * run.batches.steps_per_epoch
    test = None
    if run.test_data is not None:
        test, short["test"] = _evaluate(run, run.test_data, display, "test")
    result = {
        "status": "finished",
        "val": best,
        "test": test,
        "best_epoch": best_epoch,
        "params": sum(parameter.numel() for parameter in run.network.parameters()),
        "train_seconds": seconds,
        "train_clips_per_second": steps * config.batch_size / seconds,
        "steps": steps,
        "videos": {name: {**dataclasses.asdict(counts), "short": short[name]} for name, counts in run.counts.items()},
        "bad_videos": dict(trainer.bad.kinds),
    }
    folder.finish(result)
    display.result(result)
    return result


def _is_due(epoch: int, config: TrainConfig) -> bool:
    last = epoch == config.epochs - 1
    return last or (config.evaluation.every > 0 and (epoch + 1) % config.evaluation.every == 0)


def _evaluate(run: Run, dataset: VideoDataset, display: Display, split: str) -> Evaluation:
    batch_size = run.config.evaluation.batch_size or run.batches.micro_size
    with display.evaluating(split):
        return evaluate(
            run.network,
            dataset,
            build_normalize(run.recipe),
            batch_size=batch_size,
            num_workers=run.config.data.num_workers,
        )


def _save(run: Run, name: str) -> None:
    if run.folder.writes:
        save_checkpoint(run.folder.path / name, run.network, classes=run.classes, recipe=run.recipe)


class Trainer:
    """The loop over updates.

    Args:
        run: The run.
        model: Its network, prepared by accelerate.
        optimizer: Prepared by accelerate.
        scheduler: Not prepared.
        display: Told about every update.
        interrupt: Asked after every update.
    """

    def __init__(
        self, run: Run, model: nn.Module, optimizer: Any, scheduler: Scheduler, display: Display, interrupt: Interrupt
    ) -> None:
        self.run = run
        self.model = model
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.display = display
        self.interrupt = interrupt
        self.criterion = build_loss(multi_label=run.recipe.multi_label, label_smoothing=run.config.label_smoothing)
        self.normalize = build_normalize(run.recipe)
        self.mixer = build_mixer(run.config.augment, num_classes=len(run.classes))
        self.dtype = next(run.network.parameters()).dtype
        self.bad = BadVideos(run.config.data.max_bad or 0)
        self.short = 0
        self.step = 0
        self._batches = self._read()

    def _read(self) -> Iterator[Clip]:
        # one loader for the whole run: its workers persist and read ahead across epochs; the epoch travels in the key
        return read_clips(
            self.run.train_data,
            self.run.batches,
            num_workers=self.run.config.data.num_workers,
            pin_memory=self.run.accelerator.device.type == "cuda",
        )

    def epoch(self, epoch: int) -> EpochStats:
        """Train on the whole training split once."""
        self.model.train()
        start = time.perf_counter()
        total = 0.0
        self.short = 0
        self.bad.start_epoch()
        for _ in range(self.run.batches.steps_per_epoch):
            lr = max(group["lr"] for group in self.optimizer.param_groups)
            loss, grad_norm = self._update()
            total += loss
            self.run.folder.log("step", epoch=epoch, step=self.step, loss=loss, lr=lr, grad_norm=grad_norm)
            self.display.step(epoch, loss=loss, lr=lr)
        seconds = time.perf_counter() - start
        return EpochStats(total / self.run.batches.steps_per_epoch, lr, seconds, self.bad.of_epoch, self.short)

    def _update(self) -> tuple[float, float]:
        """One update of the weights: its loss, the mean over the global batch, and the norm of its gradient."""
        accelerator, config = self.run.accelerator, self.run.config
        # dropout and stochastic depth are a function of (seed, step, process)
        torch.manual_seed(mix_seed(config.seed, "dropout", self.step, accelerator.process_index))
        total = torch.zeros((), device=accelerator.device, dtype=torch.float64)
        indices: list[int] = []
        short = 0
        for micro in range(config.accumulate):
            clip = next(self._batches)
            indices += clip.index.tolist()  # type: ignore[attr-defined]  # collated: one number a clip
            short += int(clip.short.sum())  # type: ignore[attr-defined]
            self.bad.see(clip)
            video = self.normalize(clip.video.to(accelerator.device, non_blocking=True), self.dtype)
            # class indices stay integers; the zeros and ones of multi-label data take the logits' type
            dtype = self.dtype if clip.target.is_floating_point() else None
            target = clip.target.to(accelerator.device, dtype, non_blocking=True)
            if self.mixer is not None:
                seed = mix_seed(config.seed, "mix", self.step, micro, accelerator.process_index)
                video, target = self.mixer(video, target, seed=seed)
                target = target.to(self.dtype)
            is_last = micro == config.accumulate - 1
            # gradients travel between processes once an update
            with contextlib.nullcontext() if is_last else accelerator.no_sync(self.model):
                loss = self.criterion(self.model(video), target) / config.accumulate
                accelerator.backward(loss)
            total += loss.detach()
        # an interrupt and what there is to count travel with the loss: all processes stop after the same update
        counts = total.new_tensor([float(self.interrupt.requested), self.bad.fresh, short])
        reduced = accelerator.reduce(torch.cat([total[None], counts]), reduction="mean").tolist()
        mean_loss, interrupted, bad, short_videos = reduced
        self.short += round(short_videos * accelerator.num_processes)
        if bad:
            self._report_bad_videos()
        grad_norm = accelerator.clip_grad_norm_(self.model.parameters(), config.clip_grad or math.inf).item()
        if not (math.isfinite(mean_loss) and (math.isfinite(grad_norm) or config.precision == "fp16")):
            self._stop(mean_loss, total.item(), grad_norm, indices)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.scheduler.step_update(self.step)
        if interrupted:
            raise KeyboardInterrupt
        return mean_loss, grad_norm

    def _report_bad_videos(self) -> None:
        samples = self.run.train_data.manifest.samples
        for video in self.bad.gather():
            self.run.folder.bad_video(samples[video.index].id, video.kind, video.reason)
            self.display.say(f"unreadable, another video takes its place: {video.reason}")
        self.bad.check()

    def _stop(self, loss: float, own_loss: float, grad_norm: float, indices: Sequence[int]) -> NoReturn:
        # the mean loss and the norm are the same in every process, so all come here together. With fp16 an overflowing
        # gradient is part of the game: the scaler skips that update and lowers its scale.
        rank = self.run.accelerator.process_index
        samples = self.run.train_data.manifest.samples
        reports = gather_object([(rank, math.isfinite(own_loss), [samples[index].id for index in indices])])
        # the gradient is that of all clips; a loss is that of its process
        guilty = [report for report in reports if math.isfinite(loss) or not report[1]]
        what = f"the gradient's norm is {grad_norm}" if math.isfinite(loss) else f"the loss is {loss}"
        clips = "; ".join(f"process {rank}: {', '.join(ids)}" for rank, _, ids in guilty)
        raise NonFiniteError(
            f"update {self.step + 1}: {what}; lower optim.lr, set clip_grad, or look at the clips: {clips}"
        )


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``tools/train.py``."""
    config = parse_train_config(argv)
    try:
        train(config)
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, ImportError, OSError, DecodeError, BadVideosError, NonFiniteError) as error:
        # one write a line: the processes share a terminal
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    finally:
        PartialState().destroy_process_group()


if __name__ == "__main__":
    main()
