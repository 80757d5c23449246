"""Train a model: ``python -m timesformer_plus.engine.train --config FILE --output DIR``, alone or under torchrun."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from torch import nn

from timesformer_plus.data.dataset import VideoDataset
from timesformer_plus.data.decoders import DecodeError
from timesformer_plus.engine.bad_videos import BadVideosError
from timesformer_plus.engine.build_data import build_normalize
from timesformer_plus.engine.checkpoint import CONFIG_FILE, TRAINING_KEY, load_weights, save_checkpoint
from timesformer_plus.engine.config import TrainConfig, parse_train_config
from timesformer_plus.engine.display import Display
from timesformer_plus.engine.evaluation import Evaluation, evaluate
from timesformer_plus.engine.interrupt import Interrupt, exit_code, interrupts
from timesformer_plus.engine.memory import MemoryShortageError, memory_advice
from timesformer_plus.engine.processes import agreed, choose_workers
from timesformer_plus.engine.reading_workers import WorkerError
from timesformer_plus.engine.run import Run, mixes, prepare, start_processes
from timesformer_plus.engine.run_state import Progress, load_run, save_run
from timesformer_plus.engine.trackers import Trackers
from timesformer_plus.engine.trainer import NonFiniteError, Trainer, count_parameters
from timesformer_plus.engine.views import Interrupted
from timesformer_plus.engine.watch import PeerFailedError, Watch, is_about_a_peer


class Preempted(Exception):  # noqa: N818  # no error: the run can go on
    """A run was told to stop, and has left a checkpoint.

    Args:
        signal: Number of the signal.
        text: What was kept.
    """

    def __init__(self, signal: int, text: str) -> None:
        super().__init__(text)
        self.signal = signal


def train(config: TrainConfig) -> dict[str, Any]:
    """Train, select the best epoch on the validation split, and score it on the test split.

    A run that was stopped or killed goes on where its newest checkpoint is, bitwise as if nothing had happened.

    Args:
        config: The run. Its ``output`` is filled as ``run_folder`` describes.

    Returns:
        What result.json holds: ``status``, ``val`` and ``test`` metrics of the best epoch (see ``metrics.score``),
        ``best_epoch``, ``params``, ``steps``, ``train_seconds`` and ``train_clips_per_second`` (without evaluation),
        ``protocol`` (how many views a video was scored with, and how), what became of the ``videos`` of every split,
        and ``unreadable`` ones by name.

    Raises:
        ValueError: Something does not fit; found before the first update.
        DecodeError: Hardly any video of the training split can be read.
        BadVideosError: More videos of the training split than `data.max_bad` cannot be read.
        NonFiniteError: The loss or the gradient is not finite; the weights are as before that update.
        OSError: The disk is full, say; the checkpoints that were there are as they were.
        WorkerError: A process that reads videos was killed, or hangs.
        MemoryShortageError: Memory has run out.
        PeerFailedError: Another process has failed; the message is about that one.
        Preempted: Told to stop by SIGINT, SIGTERM or SIGUSR1.
    """
    with interrupts() as interrupt, contextlib.ExitStack() as stack:
        accelerator = start_processes(config)
        advice = functools.partial(
            memory_advice,
            batch_size=config.batch_size,
            accumulate=config.accumulate,
            world_size=accelerator.num_processes,
            grad_checkpointing=config.grad_checkpointing,
            pairs=mixes(config),
        )
        stack.enter_context(advice())
        try:
            run = prepare(config, accelerator)
        except RuntimeError as error:
            if accelerator.num_processes > 1 and is_about_a_peer(error):
                raise PeerFailedError("another process has failed before the first update; see its message") from error
            raise
        training = _Training(run, interrupt)
        try:
            # within the watch as well: the other processes are told the advice
            with training.watch, advice():
                return training.run_to_end()
        except Preempted:
            raise
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt)
            training.failed("stopped at once by a second signal" if stopped else str(error) or type(error).__name__)
            raise
        finally:
            run.folder.let_go()


class _Training:
    """A run at work."""

    def __init__(self, run: Run, interrupt: Interrupt) -> None:
        self.run, self.interrupt = run, interrupt
        self.watch = Watch(run.config.timeout, interrupt=interrupt, expected=(Preempted,), on_end=self.failed)
        config, batches = run.config, run.batches
        self.display = Display(
            enabled=config.progress and run.folder.writes, steps=config.epochs * batches.steps_per_epoch
        )
        self.trackers = Trackers(config.trackers, run.folder.path, config)
        self.trainer = Trainer(
            run,
            display=self.display,
            watch=self.watch,
            stop_requested=lambda: interrupt.requested,
            on_update=self._track,
        )
        self.progress = Progress()
        self._saved = (-1, -1)

    def run_to_end(self) -> dict[str, Any]:
        self._begin()
        try:
            with self.display:
                self._restore_models()
                while self.progress.epochs < self.run.config.epochs:
                    self._epoch()
                result = self._result()
        except (Interrupted, Preempted):
            raise self._preempted() from None
        finally:
            self.trackers.finish()
        self.run.folder.finish(result)
        self.display.result(result)
        return result

    def failed(self, reason: str) -> None:
        """Note why the run has ended too early."""
        # on a full disk not even this can be written, and must not take the place of the reason
        with contextlib.suppress(OSError):
            self.run.folder.say_status("failed", step=self.trainer.step, reason=reason)

    def _begin(self) -> None:
        run, folder = self.run, self.run.folder
        if run.start.begun is None:
            folder.begin(run.config, run.environment)
        else:
            if run.start.checkpoint is not None:
                self.progress = load_run(run, self.trainer, run.start.checkpoint)
                self._saved = (self.trainer.step, self.progress.epochs)
            folder.go_on(
                run.config,
                run.start.begun,
                run.environment,
                step=self.trainer.step,
                epochs=self.progress.epochs,
                bad_videos=self.trainer.bad.known,
            )
            self.display.resume(self.trainer.step)
            self.display.say(f"going on after update {self.trainer.step}")
        self.trackers.start(self.trainer.step)
        folder.log("data", report=run.report)
        for line in (*run.report, *self.trackers.notes):
            self.display.say(line)

    def _epoch(self) -> None:
        """Train until the end of the epoch under way, and close it."""
        run, trainer, every = self.run, self.trainer, self.run.config.checkpoint.every
        last = (self.progress.epochs + 1) * run.batches.steps_per_epoch
        for step in trainer.updates(last):
            if every and step % every == 0 and step < last and not trainer.stopping:
                self._save()
        if trainer.stopping:
            raise Preempted(0, "")
        self._close_epoch()

    def _close_epoch(self) -> None:
        run, progress, stats = self.run, self.progress, self.trainer.stats
        epoch = progress.epochs
        val, unreadable = None, 0
        if _is_due(epoch, run.config):
            evaluation = self._evaluate(run.val_data, "val")
            val, unreadable = evaluation.metrics, len(evaluation.unreadable)
            progress.judge(epoch, val)
            # what is kept beside the score of the best epoch is that epoch's
            run.folder.settle_predictions("val", keep=progress.best_epoch == epoch)
            if progress.best_epoch == epoch:
                self._remember("val", evaluation)
        progress.epochs += 1
        progress.seconds += stats.seconds
        progress.clips += stats.clips
        progress.short["train"] = stats.short_videos
        numbers: dict[str, Any] = {
            "loss": stats.loss / run.batches.steps_per_epoch,
            "clips_per_second": stats.clips / stats.seconds,
            "data_wait": stats.waited / stats.seconds,
            "bad_videos": self.trainer.bad.of_epoch,
            "short_videos": stats.short_videos,
            "val": val,
        }
        run.folder.log("epoch", epoch=epoch, step=self.trainer.step, **numbers, unreadable=unreadable)
        self.display.epoch(epoch, **numbers)
        self.trackers.log(
            {"val": val or {}, "epoch": {k: v for k, v in numbers.items() if k != "val"}}, self.trainer.step
        )
        # the checkpoint first: the models in timm's form can be written again from it
        self._save()
        self._export("last")
        if progress.best_epoch == epoch:
            self._export("best")

    def _restore_models(self) -> None:
        """Write what a process that was killed between a checkpoint and these had no time for."""
        run, epoch, best_epoch = self.run, self.progress.epochs - 1, self.progress.best_epoch
        if epoch < 0:
            return
        last, best = agreed(lambda: (_epoch_of(run.folder.last), _epoch_of(run.folder.best)))
        if self.trainer.step == self.progress.epochs * run.batches.steps_per_epoch:
            if last != epoch:
                self._export("last")
            if best_epoch == epoch and best != epoch:
                self._export("best")
                best = epoch
        if best_epoch >= 0 and (best is None or best < best_epoch):
            raise ValueError(f"{run.folder.best} is not the model of epoch {best_epoch + 1}, the best so far; {ANEW}")
        if best is not None and best > max(epoch, best_epoch):
            self.display.say(f"{run.folder.best} is epoch {best + 1}'s, which comes again")

    def _result(self) -> dict[str, Any]:
        run, progress = self.run, self.progress
        if agreed(lambda: _epoch_of(run.folder.best)) != progress.best_epoch:
            raise ValueError(
                f"{run.folder.best} is not the model of epoch {progress.best_epoch + 1}, the best: an older checkpoint "
                f"was gone on from, and came out differently; {ANEW}"
            )
        test = None
        if run.test_data is not None:
            network = self._scored()
            load_weights(run.folder.best, network)
            evaluation = self._evaluate(run.test_data, "test", network)
            self._remember("test", evaluation)
            test = evaluation.metrics
        return {
            "status": "finished",
            "val": progress.best,
            "test": test,
            "best_epoch": progress.best_epoch,
            "protocol": run.recipe.protocol.as_dict(),
            "params": count_parameters(run.network),
            "train_seconds": progress.seconds,
            "train_clips_per_second": progress.clips / progress.seconds,
            "steps": self.trainer.step,
            "videos": {
                name: {**dataclasses.asdict(counts), "short": progress.short[name]}
                for name, counts in run.counts.items()
            },
            "unreadable": progress.unreadable,
            "bad_videos": dict(self.trainer.bad.kinds),
        }

    def _evaluate(self, dataset: VideoDataset, split: str, network: nn.Module | None = None) -> Evaluation:
        run = self.run
        doing = functools.partial(self.watch.at, f"scoring {split}", step=self.trainer.step)
        with self.display.evaluating(split):
            evaluation = evaluate(
                self._scored() if network is None else network,
                dataset,
                build_normalize(run.recipe),
                protocol=run.recipe.protocol,
                # not a share of the training batch: the last bits of a score must not depend on the number of processes
                batch_size=run.config.evaluation.batch_size or min(EVALUATION_BATCH, run.config.batch_size),
                num_workers=choose_workers(run.config.data.num_workers),
                timeout=self.watch.reading_timeout,
                on_batch=lambda _: doing(),
                on_wait=functools.partial(self.watch.at, f"waiting for the scores of {split}", waits=True),
                requested=lambda: self.interrupt.requested,
                predictions=run.folder.predictions_of(split, is_final=split == "test"),
            )
        if evaluation.unreadable:
            count, names = len(evaluation.unreadable), ", ".join(list(evaluation.unreadable)[:NAMED])
            more = f" and {count - NAMED} more" if count > NAMED else ""
            self.display.say(f"{split}: {count} videos cannot be read and count as wrong: {names}{more}")
        return evaluation

    def _remember(self, split: str, evaluation: Evaluation) -> None:
        self.progress.short[split] = evaluation.short_videos
        self.progress.unreadable[split] = evaluation.unreadable

    def _scored(self) -> nn.Module:
        """The network that is scored and exported: the average where there is one. Sharded, a whole copy of it."""
        run = self.run
        return run.parallel.plain(run.model if run.ema is None else run.ema.module)

    def _save(self) -> None:
        point = (self.trainer.step, self.progress.epochs)
        # once a run is over, its network holds the best weights, not the last
        if point != self._saved:
            self.watch.at("writing a checkpoint", step=self.trainer.step)
            save_run(self.run, self.trainer, self.progress)
            self._saved = point

    def _export(self, name: str) -> None:
        run, network = self.run, self._scored()
        if run.folder.writes:
            training = {
                "epoch": self.progress.epochs - 1,
                "step": self.trainer.step,
                "ema": run.ema is not None,
                "val": self.progress.best if name == "best" else None,
            }
            save_checkpoint(run.folder.path / name, network, classes=run.classes, recipe=run.recipe, extra=training)

    def _track(self, numbers: dict[str, float]) -> None:
        self.trackers.log({"train": numbers}, self.trainer.step)

    def _preempted(self) -> Preempted:
        """Leave a checkpoint and say so; all processes come here together."""
        step = self.trainer.step
        with self.interrupt.finishing():
            self._save()
            # not every process need have been told
            signal = max(gather_object([self.interrupt.signal]))
            self.run.folder.say_status("preempted", step=step, signal=signal)
            self.run.accelerator.wait_for_everyone()
        return Preempted(
            signal,
            f"stopped after update {step}, which {self.run.folder.checkpoints} holds; the same command goes on from "
            "there",
        )


# clips a forward pass in evaluation, unless the configuration says another number
EVALUATION_BATCH = 16
# videos that a line names
NAMED = 5
ANEW = "begin again with overwrite=true"
# errors that are told in one line, without a traceback
EXPECTED = (
    ValueError,
    ImportError,
    OSError,
    DecodeError,
    BadVideosError,
    NonFiniteError,
    WorkerError,
    MemoryShortageError,
    PeerFailedError,
)


def _is_due(epoch: int, config: TrainConfig) -> bool:
    last = epoch == config.epochs - 1
    return last or (config.evaluation.every > 0 and (epoch + 1) % config.evaluation.every == 0)


def _epoch_of(model: Path) -> int | None:
    """Which epoch's model a folder holds."""
    path = model / CONFIG_FILE
    epoch: int | None = json.loads(path.read_text())[TRAINING_KEY]["epoch"] if path.is_file() else None
    return epoch


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``tools/train.py``."""
    config = parse_train_config(argv)
    try:
        train(config)
    except Preempted as stop:
        if PartialState().is_main_process:
            sys.stderr.write(f"{stop}\n")
        sys.exit(128 + stop.signal)
    except KeyboardInterrupt as stop:
        sys.exit(exit_code(stop))
    except EXPECTED as error:
        # one write a line: the processes share a terminal
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    finally:
        PartialState().destroy_process_group()


if __name__ == "__main__":
    main()
