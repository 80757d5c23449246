"""Train a model: ``python -m timesformer_plus.engine.train --config FILE --output DIR``, alone or under torchrun."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from accelerate import PartialState

from timesformer_plus.data.dataset import VideoDataset
from timesformer_plus.data.decoders import DecodeError
from timesformer_plus.engine.bad_videos import BadVideosError
from timesformer_plus.engine.build_data import build_normalize
from timesformer_plus.engine.checkpoint import load_weights, save_checkpoint
from timesformer_plus.engine.config import TrainConfig, parse_train_config
from timesformer_plus.engine.display import Display
from timesformer_plus.engine.evaluate import Evaluation, evaluate
from timesformer_plus.engine.interrupt import Interrupt, interrupts
from timesformer_plus.engine.metrics import Metrics, better
from timesformer_plus.engine.run import Run, prepare
from timesformer_plus.engine.run_folder import describe_environment
from timesformer_plus.engine.trainer import NonFiniteError, Trainer


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
