"""Typed options of a training run, read from YAML and the command line.

Configuration stops at the door of ``engine``: the models and the data below it take plain keyword arguments.
jsonargparse does the reading: unknown keys are errors, ``1e-4`` is a number, and ``--help`` prints the docstrings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import Namespace

from timesformer_plus.engine.data_config import AugmentConfig, DataConfig, require
from timesformer_plus.engine.option_names import OptionParser
from timesformer_plus.engine.protocols import Average, Precision

CompileMode = Literal["default", "reduce-overhead", "max-autotune"]
Tracker = Literal["auto", "tensorboard", "wandb", "trackio"]


@dataclass(frozen=True)
class ModelConfig:
    """The network.

    Args:
        name: A timm model name, such as timesformer_small_patch16_224, or local-dir:RUN/best for a checkpoint.
        pattern: How the attentions interleave: a scheme (divided, joint, …) or a pattern such as 'ts' or 's*3 j'; null
            for the model's own, which is ts, or that of the checkpoint.
        pretrained: Start from the weights that timm has for this name; those of a file with
            `args: {pretrained_cfg_overlay: {file: PATH}}`.
        args: Further keyword arguments of the model, such as `{depth: 3, embed_dim: 64, global_pool: avg}`; everything
            that timm's VisionTransformer takes is allowed.
    """

    name: str = "timesformer_base_patch16_224"
    pattern: str | None = None
    pretrained: bool = False
    args: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        homes = {
            "pattern": "model.pattern",
            "pretrained": "model.pretrained",
            "num_frames": "data.num_frames",
            "img_size": "data.img_size",
            "num_classes": "the classes of the data",
        }
        require(
            ":" not in self.name or self.pretrained,
            f"model.name={self.name!r} is a saved model; set model.pretrained=true to begin with its weights",
        )
        for key in self.args:
            require(key not in homes, f"model.args.{key}: this is set by {homes.get(key)}; remove it from model.args")


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer, made by timm: norms, biases and embeddings are free of weight decay.

    Args:
        name: An optimizer of timm, such as adamw, sgd, lamb or muon.
        lr: Learning rate at its peak, for the global batch as given: never rescaled.
        weight_decay: Weight decay.
        momentum: Momentum, for the optimizers that have one.
        layer_decay: Factor on the learning rate from each layer to the one below it, for fine-tuning; null for none.
        args: Further keyword arguments of the optimizer, such as `{betas: [0.9, 0.95]}`.
    """

    name: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    momentum: float = 0.9
    layer_decay: float | None = None
    args: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(self.lr > 0, f"optim.lr={self.lr} is not positive")
        require(self.weight_decay >= 0, f"optim.weight_decay={self.weight_decay} is negative")
        require(
            self.layer_decay is None or 0 < self.layer_decay <= 1,
            f"optim.layer_decay={self.layer_decay} is not in (0, 1]; .75 is usual, null is for none",
        )


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate over time, made by timm and set anew for every update.

    Args:
        name: A schedule of timm: cosine, constant, multistep, step, poly, tanh, wsd.
        warmup_epochs: Epochs of linear warm-up, counted within `epochs`; fractions are allowed.
        warmup_lr: Learning rate at the first update of the warm-up.
        min_lr: Learning rate at the end of schedules that decay to one.
        milestones: Epochs at which multistep multiplies the learning rate by `decay_rate`.
        decay_epochs: Epochs between the steps of step, or epochs of the final decay of wsd; null for timm's default.
        decay_rate: Factor of step and multistep; power of poly.
    """

    name: Literal["cosine", "constant", "multistep", "step", "poly", "tanh", "wsd"] = "cosine"
    warmup_epochs: float = 0.0
    warmup_lr: float = 1e-6
    min_lr: float = 0.0
    milestones: tuple[int, ...] = ()
    decay_epochs: float | None = None
    decay_rate: float = 0.1

    def __post_init__(self) -> None:
        require(self.warmup_epochs >= 0, f"schedule.warmup_epochs={self.warmup_epochs} is negative")
        require(
            (self.name == "multistep") == bool(self.milestones),
            f"schedule.milestones={list(self.milestones)} with schedule.name={self.name}: multistep needs some, the "
            "others take none",
        )


@dataclass(frozen=True)
class EmaConfig:
    """A second set of weights, the moving average of those that are trained (timm's ModelEmaV3).

    Where it is on, it is what evaluation scores and what best/ and last/ hold.

    Args:
        decay: Share of the average that stays at each update, such as 0.9999; null for no average.
        warmup: Let the decay grow from 0 over the first updates, as timm does with `--model-ema-warmup`.
    """

    decay: float | None = None
    warmup: bool = False

    def __post_init__(self) -> None:
        require(self.decay is None or 0 < self.decay < 1, f"ema.decay={self.decay} is not between 0 and 1")
        require(self.decay is not None or not self.warmup, "ema.warmup is for a moving average; set ema.decay")


@dataclass(frozen=True)
class CheckpointConfig:
    """What a run keeps to go on from, in checkpoints/ of its folder; removed when the run is finished.

    Args:
        every: Updates between two checkpoints; 0 for one at the end of every epoch. A signal to stop (SIGTERM, SIGINT,
            SIGUSR1) makes one more.
        keep: Newest checkpoints that are kept; with more than one, a damaged one costs the updates since the one
            before.
    """

    every: int = 0
    keep: int = 2

    def __post_init__(self) -> None:
        require(self.every >= 0, f"checkpoint.every={self.every} is negative")
        require(self.keep > 0, f"checkpoint.keep={self.keep} is not positive")


@dataclass(frozen=True)
class EvaluationConfig:
    """How often and with how many views a video is scored.

    Args:
        every: Epochs between evaluations on the validation split; 0 for the last epoch only.
        protocol: A published protocol by name, such as paper_timesformer (1 clip x 3 crops, logits summed); it sets
            `num_clips`, `num_crops` and `average`. null for what these say.
        num_clips: Clips a video, evenly spaced in time.
        num_crops: Crops a clip, evenly spaced along the longer side: 1 (centre) or 3.
        average: What a video's views are averaged in: probabilities, or logits (which ranks classes as summing does).
        short_side: Length of the shorter side, in pixels, that frames are resized to before they are cropped; null for
            the smallest that covers the crop.
        batch_size: Clips a forward pass, in every process; null for 16, or for `batch_size` where that is smaller.
    """

    every: int = 1
    protocol: str | None = None
    num_clips: int = 1
    num_crops: int = 1
    average: Average = "probabilities"
    short_side: int | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        require(self.every >= 0, f"evaluation.every={self.every} is negative")
        require(self.num_clips > 0, f"evaluation.num_clips={self.num_clips} is not positive")
        require(self.num_crops > 0, f"evaluation.num_crops={self.num_crops} is not positive")
        require(self.short_side is None or self.short_side > 0, "evaluation.short_side is not positive")
        require(self.batch_size is None or self.batch_size > 0, "evaluation.batch_size is not positive")


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Args:
        output: Folder of the run: config.yaml, environment.json, metrics.jsonl, best/, last/, and at the end
            result.json.
        data: The videos and how clips are cut from them.
        augment: What training does to clips.
        model: The network.
        optim: The optimizer.
        schedule: The learning rate over time.
        ema: A moving average of the weights.
        evaluation: How often and with how many views a video is scored.
        checkpoint: What is kept to go on from.
        seed: Decides the weights, the order, the augmentation, the mixing and the dropout.
        epochs: Passes over the training split; every epoch shuffles anew.
        batch_size: Clips an update, over all processes together.
        drop_last: Leave out the last clips of an epoch where they do not fill a batch; false trains on them as well, in
            a smaller batch at the same learning rate.
        accumulate: Forward and backward passes an update; saves memory and changes nothing else.
        only: What is trained, the rest stays as it is: kinds of layers (time, space, joint, …, mlp, norm, embed, head)
            or regular expressions that match the names of parameters from the start; empty for everything.
        grad_checkpointing: Compute activations again in the backward pass instead of keeping them: less memory, about a
            third more time, the same numbers. Or only those of some parts of the blocks, for less of both: a list of
            attention, mlp and letters of attentions, such as [mlp, j]; [norm, act] is outputs of norms and activation
            functions alone, no matrix product, and changes nothing where compile is set.
        compile: Mode of torch.compile; null for none.
        precision: fp32, or bf16 / fp16 autocast; fp64 is for checking numbers.
        clip_grad: Greatest norm of the gradient, over all parameters; null for no clipping.
        label_smoothing: Share of the target that is spread over all classes (single-label data only).
        threads: Computing threads a process; 0 for $OMP_NUM_THREADS where it is set, else the cores shared out among
            the processes of this machine.
        world_size: Number of processes you mean to start; another number is refused. null accepts any.
        timeout: Seconds without progress of any process after which the run ends with an error.
        resume: Go on where an unfinished run of the same configuration in `output` has stopped; false refuses to touch
            it.
        overwrite: Replace the run in `output`, finished or not.
        trackers: Where metrics go besides metrics.jsonl, through accelerate: tensorboard, wandb, trackio; auto is
            tensorboard where it is installed; empty for none.
        progress: Show a progress bar (on a terminal) or a line an epoch (elsewhere).
    """

    output: Path
    data: DataConfig
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    seed: int = 0
    epochs: int = 10
    batch_size: int = 64
    drop_last: bool = True
    accumulate: int = 1
    only: tuple[str, ...] = ()
    grad_checkpointing: bool | tuple[str, ...] = False
    compile: CompileMode | None = None
    precision: Precision = "fp32"
    clip_grad: float | None = None
    label_smoothing: float = 0.0
    threads: int = 0
    world_size: int | None = None
    timeout: float = 1800.0
    resume: bool = True
    overwrite: bool = False
    trackers: tuple[Tracker, ...] = ("auto",)
    progress: bool = True

    def __post_init__(self) -> None:
        require(self.seed >= 0, f"seed={self.seed} is negative")
        require(self.epochs > 0, f"epochs={self.epochs} is not positive")
        require(self.batch_size > 0, f"batch_size={self.batch_size} is not positive")
        require(self.accumulate > 0, f"accumulate={self.accumulate} is not positive")
        require(self.clip_grad is None or self.clip_grad > 0, f"clip_grad={self.clip_grad} is not positive")
        require(0 <= self.label_smoothing < 1, f"label_smoothing={self.label_smoothing} is not in [0, 1)")
        require(
            not (self.data.multi_label and self.label_smoothing),
            f"label_smoothing={self.label_smoothing} smooths one label a video; set it to 0 for data.multi_label",
        )
        require(
            self.schedule.warmup_epochs < self.epochs,
            f"schedule.warmup_epochs={self.schedule.warmup_epochs} leaves nothing of epochs={self.epochs}",
        )
        require(self.threads >= 0, f"threads={self.threads} is negative")
        require(self.timeout > 0, f"timeout={self.timeout} is not a positive number of seconds")


def train_parser() -> OptionParser:
    """The command line of training: every field of ``TrainConfig``, dotted, on top of ``--config FILE`` s."""
    parser = OptionParser(
        prog="train",
        usage="%(prog)s --config FILE --output DIR [--option VALUE …]",
        description="Train a video model. Options below override the files given by --config, the last one first.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="A YAML file with any of the options below.")
    parser.add_class_arguments(TrainConfig, as_group=False)
    return parser


def parse_train_config(argv: Sequence[str] | None = None) -> TrainConfig:
    """Read a training configuration from command line words.

    Args:
        argv: Words such as ``["--config", "a.yaml", "--model.pattern", "ts"]``; ``None`` for the process's own.

    Raises:
        SystemExit: An option is unknown, mistyped or out of range; the reason is printed.
    """
    parser = train_parser()
    return make_train_config(parser, parser.parse_args(argv))


def make_train_config(parser: OptionParser, options: Namespace) -> TrainConfig:
    """Make the configuration out of what a parser with all options of training, and perhaps others, has read.

    Raises:
        SystemExit: An option is out of range; the reason is printed.
    """
    try:
        made = parser.instantiate(options)
        return TrainConfig(**{f.name: made[f.name] for f in dataclasses.fields(TrainConfig)})
    except ValueError as error:
        parser.error(str(error))


def dump_config(config: TrainConfig) -> str:
    """Write a configuration as YAML which ``--config`` reads back to an equal one."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    return yaml.safe_dump(plain(dataclasses.asdict(config)), sort_keys=False, allow_unicode=True)
