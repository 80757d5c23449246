"""The loop over updates of a training."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from timesformer_plus.data.dataset import Clip
from timesformer_plus.engine.bad_videos import BadVideos
from timesformer_plus.engine.batches import mix_seed
from timesformer_plus.engine.build import build_loss
from timesformer_plus.engine.build_data import build_mixer, build_normalize
from timesformer_plus.engine.clip_loading import read_clips
from timesformer_plus.engine.display import Display
from timesformer_plus.engine.parallel import network_of
from timesformer_plus.engine.processes import choose_workers
from timesformer_plus.engine.run import Run
from timesformer_plus.engine.watch import Watch

# updates in a row that fp16 may skip because a gradient overflowed: each halves the loss' scale
MAX_SKIPPED = 30


class NonFiniteError(RuntimeError):
    """The loss or the gradient is not a finite number; training stopped before it reached the weights."""


class EpochStats(NamedTuple):
    """What an epoch of training has come to.

    Attributes:
        loss: Sum over its updates of the mean loss of their clips.
        seconds: Time that its updates took.
        waited: Part of it that the main process waited for clips.
        clips: Clips that its updates have seen, over all processes.
        short_videos: Of those, how many are of videos too short for a clip.
    """

    loss: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0
    clips: int = 0
    short_videos: int = 0


class Trainer:
    """The loop over updates.

    Args:
        run: The run.
        display: Told about every update.
        watch: Told what this process is doing.
        stop_requested: Whether somebody has asked this process to stop; asked at every update.
        on_update: Called with the numbers of every update.

    Attributes:
        step: Updates done.
        stopping: Whether somebody has asked any of the processes to stop, as they have agreed after the last update.
        stats: What the epoch of the last update has come to.
    """

    def __init__(
        self,
        run: Run,
        *,
        display: Display,
        watch: Watch,
        stop_requested: Callable[[], bool],
        on_update: Callable[[dict[str, float]], None],
    ) -> None:
        self.run = run
        self.model, self.optimizer = run.model, run.optimizer
        self.display = display
        self.watch = watch
        self.stop_requested = stop_requested
        self.on_update = on_update
        self.criterion = build_loss(multi_label=run.recipe.multi_label, label_smoothing=run.config.label_smoothing)
        self.normalize = build_normalize(run.recipe)
        self.mixer = build_mixer(run.config.augment, num_classes=len(run.classes))
        self.dtype = next(run.network.parameters()).dtype
        self.bad = BadVideos(run.config.data.max_bad or 0)
        self.step = 0
        self.stopping = False
        self.stats = EpochStats()
        self._skipped = 0
        self._resumed = False
        self._batches: Iterator[Clip] | None = None

    @property
    def epoch(self) -> int:
        """Epoch of the next update."""
        return self.step // self.run.batches.steps_per_epoch

    def updates(self, last: int) -> Iterator[int]:
        """Train until ``last`` updates are done, or one after which all processes were told to stop.

        Yields:
            The number of updates done, after each.
        """
        self.model.train()
        while self.step < last:
            if self.step % self.run.batches.steps_per_epoch == 0:
                self.stats = EpochStats()
                self.bad.start_epoch()
            self.stopping = self._update()
            yield self.step
            if self.stopping:
                return

    def _clips(self) -> Clip:
        if self._batches is None:
            # one loader for the whole run: its workers persist and read ahead across epochs
            self.run.batches.start = self.step
            self._batches = read_clips(
                self.run.train_data,
                self.run.batches,
                num_workers=choose_workers(self.run.config.data.num_workers),
                pin_memory=self.run.accelerator.device.type == "cuda",
                timeout=self.watch.reading_timeout,
            )
        return next(self._batches)

    def _update(self) -> bool:
        """One update of the weights; whether it is the last because somebody asked to stop."""
        accelerator, config, batches = self.run.accelerator, self.run.config, self.run.batches
        start = time.perf_counter()
        epoch, lr = self.epoch, max(group["lr"] for group in self.optimizer.param_groups)
        # what is random in the model is a function of the clip; what a model of somebody else's may draw besides, of
        # the update and the process
        torch.manual_seed(mix_seed(config.seed, "dropout", self.step, accelerator.process_index))
        total = torch.zeros((), device=accelerator.device, dtype=torch.float64)
        indices: list[int] = []
        waited, short = 0.0, 0
        for micro in range(config.accumulate):
            names = functools.partial(self._names, self.step, micro)
            self.watch.at("reading clips", step=self.step, clips=names)
            before = time.perf_counter()
            clip = self._clips()
            waited += time.perf_counter() - before
            # the share of a process may be empty at the end of an epoch: it goes along with a clip that counts nothing
            own = batches.count(self.step, micro)
            indices += clip.index.tolist()[:own]  # type: ignore[attr-defined]  # collated: one number a clip
            short += int(clip.short[:own].sum())  # type: ignore[index]
            self.bad.see(clip, own)
            self.watch.at("computing", clips=names)
            if self._resumed:
                self.run.parallel.rehearse(self.model, functools.partial(self._mean_loss, clip, epoch))
                self._resumed = False
            # gradients travel between processes once an update
            is_last = micro == config.accumulate - 1
            with contextlib.nullcontext() if is_last else self.run.parallel.no_sync(self.model):
                loss = self._losses(clip, epoch)[:own].sum() / batches.update_size(self.step)
                # gradients are averaged over the processes, and what is wanted is the mean over the global batch
                self.run.parallel.backward(loss * accelerator.num_processes)
            total += loss.detach()
        self.watch.at("combining losses and gradients", waits=True)
        # a request to stop and what there is to count travel with the loss: all processes stop after the same update
        counts = total.new_tensor([float(self.stop_requested()), self.bad.fresh, short])
        mean_loss, stops, bad, short_videos = accelerator.reduce(torch.cat([total[None], counts]), "sum").tolist()
        if bad:
            self._report_bad_videos()
        grad_norm = self.run.parallel.clip_grad_norm(self.model, config.clip_grad)
        self._check(mean_loss, total.item(), grad_norm, indices)
        # some optimizers draw (kron): all processes the same
        torch.manual_seed(mix_seed(config.seed, "optimizer", self.step))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.run.scheduler.step_update(self.step)
        if self.run.ema is not None:
            self.run.ema.update(network_of(self.model), step=self.step)
        seconds = time.perf_counter() - start
        size = batches.update_size(self.step - 1)
        s = self.stats
        self.stats = EpochStats(
            s.loss + mean_loss,
            s.seconds + seconds,
            s.waited + waited,
            s.clips + size,
            s.short_videos + int(short_videos),
        )
        # JSON has no infinity: null stands for a gradient that overflowed under fp16, whose update was skipped
        norm = grad_norm if math.isfinite(grad_norm) else None
        self.run.folder.log("step", epoch=epoch, step=self.step, loss=mean_loss, lr=lr, grad_norm=norm)
        self.on_update({"loss": mean_loss, "lr": lr, "grad_norm": grad_norm})
        self.display.step(epoch, loss=mean_loss, lr=lr, clips=size, seconds=seconds, waited=waited)
        return bool(stops)

    def _losses(self, clip: Clip, epoch: int) -> Tensor:
        """The loss of every clip of this process's share, (B,)."""
        device, seed = self.run.accelerator.device, self.run.config.seed
        video = self.normalize(clip.video.to(device, non_blocking=True), self.dtype)
        # class indices stay integers; the zeros and ones of multi-label data take the logits' type
        dtype = self.dtype if clip.target.is_floating_point() else None
        target = clip.target.to(device, dtype, non_blocking=True)
        keys = list(zip(clip.wanted.tolist(), clip.view.tolist(), strict=True))  # type: ignore[attr-defined]
        if self.mixer is not None:
            seeds = [mix_seed(seed, "mix", epoch, *key) for key in keys[: len(keys) // 2 * 2 : 2]]
            video, target = self.mixer.mix_pairs(video, target, seeds=seeds)
            target = target.to(self.dtype)
        if self.run.dropout is not None:
            self.run.dropout.seed([mix_seed(seed, "dropout", epoch, *key) for key in keys])
        losses: Tensor = self.criterion(self.model(video), target)
        return losses if losses.ndim == 1 else losses.mean(dim=1)

    def _names(self, step: int, micro: int) -> list[str]:
        samples = self.run.train_data.manifest.samples
        return [samples[index].id for _, index, _ in self.run.batches.share(step, micro)]

    def _mean_loss(self, clip: Clip, epoch: int) -> Tensor:
        return self._losses(clip, epoch).mean()

    def _report_bad_videos(self) -> None:
        samples = self.run.train_data.manifest.samples
        for video in self.bad.gather():
            self.run.folder.bad_video(samples[video.index].id, video.kind, video.reason)
            self.display.say(f"unreadable, another video takes its place: {video.reason}")
        self.bad.check()

    def _check(self, loss: float, own_loss: float, grad_norm: float, indices: Sequence[int]) -> None:
        # the mean loss and the norm are the same in every process, so all come to the same end
        if math.isfinite(loss) and math.isfinite(grad_norm):
            self._skipped = 0
        elif math.isfinite(loss) and self.run.config.precision == "fp16" and self._skipped < MAX_SKIPPED:
            # an overflowing gradient is part of the game: the scaler skips that update and lowers its scale
            self._skipped += 1
        else:
            self._stop(loss, own_loss, grad_norm, indices)

    def _stop(self, loss: float, own_loss: float, grad_norm: float, indices: Sequence[int]) -> NoReturn:
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

    def state(self) -> dict[str, Any]:
        """What the loop has counted, as JSON: losses and times of the epoch so far, unreadable videos."""
        return {"stats": self.stats._asdict(), "bad_videos": self.bad.state(), "skipped": self._skipped}

    def load_state(self, step: int, state: dict[str, Any]) -> None:
        """Go on after ``step`` updates with what ``state`` has returned then."""
        self.step = step
        self.stats = EpochStats(**state["stats"])
        self.bad.load_state(state["bad_videos"])
        self._skipped = state["skipped"]
        self._resumed = True


def count_parameters(network: nn.Module) -> int:
    """Parameters of a network, frozen ones included."""
    return sum(parameter.numel() for parameter in network.parameters())
