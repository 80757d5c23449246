"""The loop over updates of a training."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import torch
from accelerate.utils import gather_object
from timm.scheduler.scheduler import Scheduler
from torch import nn

from timesformer_plus.data.dataset import Clip
from timesformer_plus.engine.bad_videos import BadVideos
from timesformer_plus.engine.batches import mix_seed
from timesformer_plus.engine.build import build_loss
from timesformer_plus.engine.build_data import build_mixer, build_normalize
from timesformer_plus.engine.clip_loading import read_clips
from timesformer_plus.engine.display import Display
from timesformer_plus.engine.interrupt import Interrupt
from timesformer_plus.engine.run import Run


class NonFiniteError(RuntimeError):
    """The loss or the gradient is not a finite number; training stopped before it reached the weights."""


class EpochStats(NamedTuple):
    """What an epoch of training came to."""

    loss: float
    lr: float
    seconds: float
    bad_videos: int
    short_videos: int


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
