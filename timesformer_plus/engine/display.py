"""What a run shows while it works: a progress bar on a terminal, a line an epoch elsewhere, nothing when told so."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from timesformer_plus.engine.metrics import Metrics, headline


class Display:
    """Progress of a training run on the main process.

    Args:
        enabled: Whether to show anything.
        steps: Updates of the run.
    """

    def __init__(self, *, enabled: bool, steps: int) -> None:
        self.enabled = enabled
        self.console = Console(highlight=False, soft_wrap=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
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

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self.enabled:
            self.console.print(text, markup=False)

    def step(self, epoch: int, *, loss: float, lr: float) -> None:
        """Count an update."""
        self._bar.update(self._task, advance=1, note=f"epoch {epoch + 1}  loss {loss:.4f}  lr {lr:.2e}")

    @contextlib.contextmanager
    def evaluating(self, split: str) -> Iterator[None]:
        """Say that a split is being scored."""
        self._bar.update(self._task, description=f"scoring {split}")
        yield
        self._bar.update(self._task, description="training")

    def epoch(
        self,
        epoch: int,
        *,
        loss: float,
        clips_per_second: float,
        val: Metrics | None,
        bad_videos: int,
        short_videos: int,
    ) -> None:
        """Report an epoch."""
        scored = "" if val is None else f"  val {_headline(val)}"
        told = {"unreadable": bad_videos, "too short": short_videos}
        odd = "".join(f"  {count} {what}" for what, count in told.items() if count)
        self.say(f"epoch {epoch + 1:3d}  loss {loss:.4f}  {clips_per_second:7.1f} clips/s{scored}{odd}")

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
