"""A run taken down and taken up again: weights, their average, the optimizer, and what has been counted.

There is no state of a generator or a loader among it: what is random is a function of the seed and of counters.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from timm.utils import ModelEmaV3
from torch import Tensor, nn

from timesformer_plus.engine.metrics import Metrics, better
from timesformer_plus.engine.parallel import network_of
from timesformer_plus.engine.run import Run
from timesformer_plus.engine.trainer import Trainer
from timesformer_plus.engine.training_state import load_state, pack_optimizer, save_state, unpack_optimizer


@dataclass
class Progress:
    """What a run has come to.

    Attributes:
        epochs: Epochs that are finished, with their evaluation.
        best: Metrics of the best of them on the validation split.
        best_epoch: Which one that is.
        seconds: Time that training has taken, evaluation and interruptions left out.
        clips: Clips that it has seen.
        short: Name of a split -> videos too short for a clip: in the last epoch, or in the evaluation that is reported.
        unreadable: Name of a split -> videos that the evaluation that is reported could not read, with the reason.
    """

    epochs: int = 0
    best: Metrics | None = None
    best_epoch: int = -1
    seconds: float = 0.0
    clips: int = 0
    short: dict[str, int] = field(default_factory=dict)
    unreadable: dict[str, dict[str, str]] = field(default_factory=dict)

    def judge(self, epoch: int, metrics: Metrics) -> None:
        """Remember the best epoch."""
        if better(metrics, self.best):
            self.best, self.best_epoch = metrics, epoch


def save_run(run: Run, trainer: Trainer, progress: Progress) -> None:
    """Write a checkpoint of the whole run; all processes have to call this together.

    Raises:
        OSError: It cannot be written, because of a full disk, say; the checkpoints that are there stay as they are.
    """
    scaler = run.accelerator.scaler
    record = {
        "trainer": trainer.state(),
        "progress": dataclasses.asdict(progress),
        "scaler": None if scaler is None else scaler.state_dict(),
    }
    folder, keep, trained = run.folder.checkpoints, run.config.checkpoint.keep, _trained(run)
    if run.parallel.is_sharded:
        from timesformer_plus.engine import sharded_state

        sharded_state.save(folder, trainer.step, trained, record, keep=keep)
    elif run.folder.writes:
        optimizer, record["optimizer"] = pack_optimizer(trained.optimizer, trained.network)
        tensors: dict[str, dict[str, Tensor]] = {"model": dict(trained.network.state_dict()), "optimizer": optimizer}
        if trained.ema is not None:
            tensors["ema"] = dict(trained.ema.module.state_dict())
        save_state(folder, trainer.step, tensors, record, keep=keep)


def load_run(run: Run, trainer: Trainer, checkpoint: Path) -> Progress:
    """Go on from a checkpoint.

    Raises:
        ValueError: It is damaged, or of another model.
    """
    trained = _trained(run)
    if run.parallel.is_sharded or any(checkpoint.glob("shard-*.safetensors")):
        from timesformer_plus.engine import sharded_state

        step, record = sharded_state.load(checkpoint, trained)
    else:
        state = load_state(checkpoint)
        step, record = state.step, dict(state.record)
        trained.network.load_state_dict(state.tensors["model"])
        if trained.ema is not None:
            trained.ema.module.load_state_dict(state.tensors["ema"])
        unpack_optimizer(trained.optimizer, trained.network, state.tensors["optimizer"], record["optimizer"])
    if run.accelerator.scaler is not None and record["scaler"] is not None:
        run.accelerator.scaler.load_state_dict(record["scaler"])
    trainer.load_state(step, record["trainer"])
    return Progress(**record["progress"])


class _Trained(NamedTuple):
    network: nn.Module
    optimizer: Any
    ema: ModelEmaV3 | None


def _trained(run: Run) -> _Trained:
    # accelerate has wrapped the optimizer
    return _Trained(network_of(run.model), getattr(run.optimizer, "optimizer", run.optimizer), run.ema)
