"""What a run shows while it works: a progress bar on a terminal, a line an epoch elsewhere, nothing when told so."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from datetime import timedelta
from types import TracebackType
from typing import Any

import psutil  # type: ignore[import-untyped]  # accelerate needs it too
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from timesformer_plus.engine.metrics import Metrics, headline

# updates that speed, waiting and the time left are told from
_WINDOW = 50


class Display:
    """Progress of a training run on the main process.

    Args:
        enabled: Whether to show anything.
        steps: Updates of the run.
        console: Where to show it; standard output if not given.
    """

    def __init__(self, *, enabled: bool, steps: int, console: Console | None = None) -> None:
        self.enabled = enabled
        self.steps = steps
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._done = 0
        self._recent: deque[tuple[int, float, float]] = deque(maxlen=_WINDOW)  # clips, seconds, of them waited
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=not (enabled and self.console.is_terminal),
            refresh_per_second=4,
            transient=True,
        )
        self._task = self._bar.add_task("training", total=steps, note="")

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def resume(self, step: int) -> None:
        """Count these updates as done before."""
        self._done = step
        self._bar.update(self._task, completed=step)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self.enabled:
            self.console.print(text, markup=False)

    def step(self, epoch: int, *, loss: float, lr: float, clips: int, seconds: float, waited: float) -> None:
        """Count an update.

        Args:
            epoch: Epochs finished.
            loss: Its loss.
            lr: Its learning rate.
            clips: Clips that it saw, over all processes.
            seconds: Time that it took.
            waited: Part of it that the main process waited for clips.
        """
        self._done += 1
        self._recent.append((clips, seconds, waited))
        if self._bar.disable:
            return
        all_clips, all_seconds, all_waited = (sum(column) for column in zip(*self._recent, strict=True))
        note = (
            f"epoch {epoch + 1}  loss {loss:.4f}  lr {lr:.2e}  {all_clips / all_seconds:.1f} clips/s  "
            f"data wait {100 * all_waited / all_seconds:.0f} %  {_memory()}  {_duration(self._left())} left"
        )
        self._bar.update(self._task, completed=self._done, note=note)

    def _left(self) -> float:
        """Seconds that the remaining updates take, going by the recent ones; evaluations are not in it."""
        spent = sum(seconds for _, seconds, _ in self._recent)
        return spent / len(self._recent) * (self.steps - self._done) if self._recent else 0.0

    @contextlib.contextmanager
    def evaluating(self, split: str) -> Iterator[None]:
        """Say that a split is being scored."""
        self._bar.update(self._task, description=f"scoring {split}")
        try:
            yield
        finally:
            self._bar.update(self._task, description="training")

    def epoch(
        self,
        epoch: int,
        *,
        loss: float,
        clips_per_second: float,
        data_wait: float,
        val: Metrics | None,
        bad_videos: int,
        short_videos: int,
    ) -> None:
        """Report an epoch.

        Args:
            epoch: Epochs finished before it.
            loss: Mean loss of its updates.
            clips_per_second: Clips a second of training, over all processes.
            data_wait: Share of that time in which the main process waited for clips, in 0..1.
            val: Metrics on the validation split; ``None`` where it was not scored.
            bad_videos: Unreadable videos that others took the place of.
            short_videos: Clips of videos too short for one.
        """
        scored = "" if val is None else f"  val {_headline(val)}"
        told = {"unreadable": bad_videos, "too short": short_videos}
        odd = "".join(f"  {count} {what}" for what, count in told.items() if count)
        left = f"  {_duration(self._left())} left" if self._done < self.steps else ""
        self.say(
            f"epoch {epoch + 1:3d}  loss {loss:.4f}  {clips_per_second:7.1f} clips/s  "
            f"data wait {100 * data_wait:2.0f} %  {_memory()}{scored}{odd}{left}"
        )

    def result(self, result: dict[str, Any]) -> None:
        """Report the outcome."""
        test = "" if result["test"] is None else f"  test {_headline(result['test'])}"
        self.say(
            f"done in {result['train_seconds']:.0f} s of training: best epoch {result['best_epoch'] + 1}  "
            f"val {_headline(result['val'])}{test}"
        )


def _headline(metrics: Metrics) -> str:
    name = headline(metrics)
    return f"{name} {100 * metrics[name]:.2f} %"  # type: ignore[operator]  # headline metrics are numbers


def _memory() -> str:
    """The most that tensors have taken of the main process's GPU so far; without one, what the process takes now."""
    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB GPU"
    return f"{psutil.Process().memory_info().rss / 1e9:.1f} GB"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
