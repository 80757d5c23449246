"""What a sweep would cost, before anything is spent: its runs, with parameters, GFLOPs, updates and estimated time.

The time comes from a few updates on random clips of the right shape. Nothing is trained, and nothing is written.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from ..engine.batches import GlobalBatches
from ..engine.build import build_loss, build_model, build_on_meta, build_optimizer
from ..engine.build_data import build_recipe
from ..engine.config import TrainConfig
from ..engine.freezing import train_only
from ..engine.processes import runs_on_cpu
from .cost import Cost, clip_shape, device_name, measure_cost
from .data_digest import why_unusable
from .matching import describe_matches
from .options import parse_options
from .runs import Run
from .split_sizes import SplitSizes, split_sizes
from .sweep import Sweep, suite_matches

UPDATES, WARMUP = 3, 1
# of greater batches this many clips are timed, and the time is multiplied
MOST_CLIPS = 16


@dataclass(frozen=True)
class Pace:
    """What was measured of a training.

    Attributes:
        update: Seconds of an update of the weights.
        view: Seconds to run one clip view forward, as in evaluation.
    """

    update: float
    view: float


@dataclass(frozen=True)
class VariantPlan:
    """What there is to do of a variant.

    Attributes:
        name: The variant.
        todo: Seeds that would be run.
        done: Seeds that are finished.
        cost: Of its model.
        pace: As measured.
        updates: Of a training; None where the data cannot be read.
        views: Clip views that a training scores; None where the data cannot be read.
    """

    name: str
    todo: tuple[int, ...]
    done: tuple[int, ...]
    cost: Cost
    pace: Pace
    updates: int | None
    views: int | None

    @property
    def seconds(self) -> float | None:
        """Estimated time of one training; None where the data cannot be read."""
        if self.updates is None or self.views is None:
            return None
        return self.updates * self.pace.update + self.views * self.pace.view


def print_plan(sweep: Sweep, runs: Sequence[Run], console: Console) -> None:
    """Print the runs of a sweep, with what they would cost.

    Args:
        sweep: The sweep.
        runs: Its runs.
        console: Where to print.

    Raises:
        ValueError: A run cannot be trained with its options, or on its data.
    """
    plans = []
    notes: dict[str, None] = {}
    for name, suite in sweep.suites.items():
        for line in describe_matches(suite_matches(sweep, name), suite.match):
            console.print(f"{name}: {line}", highlight=False, markup=False, soft_wrap=True)
        of_suite = []
        for variant in suite.variants:
            own = [run for run in runs if (run.suite, run.variant) == (name, variant)]
            plan, missing = _plan(variant, own, sweep)
            of_suite.append(plan)
            if missing:
                notes[f"updates and times are unknown, and parameters counted with two classes: {missing}"] = None
        console.print(_table(name, of_suite))
        plans += of_suite
    changed = sum(run.state() == "changed" for run in runs)
    if changed:
        fate = "would be thrown away and run again" if sweep.on_change == "rerun" else "make the sweep refuse to start"
        notes[f"{changed} finished runs have other options or data than there are now, and {fate}"] = None
    left = [run.name for run in runs if _is_left(run, sweep)]
    if left:
        notes[f"failed, and left as they are without --rerun_failed true: {', '.join(left)}"] = None
    for line in (*notes, *_total(plans, sweep)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def measure_pace(config: TrainConfig, classes: int, *, threads: int) -> Pace:
    """Time a few updates of a training on random clips, and a forward pass.

    Args:
        config: Of the training.
        classes: Number of classes.
        threads: Threads to compute with.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _pace(config, classes)
    finally:
        torch.set_num_threads(before)


def _pace(config: TrainConfig, classes: int) -> Pace:
    device = _device()
    network = build_model(replace(config.model, pretrained=False), config.data, classes).to(device)
    dtype = torch.float64 if config.precision == "fp64" else torch.float32
    network = network.to(dtype)
    if config.grad_checkpointing:
        network.set_grad_checkpointing(config.grad_checkpointing)  # type: ignore[operator]  # timm's
    if config.only:
        train_only(network, config.only)
    optimizer = build_optimizer(network, config.optim)
    loss = build_loss(multi_label=config.data.multi_label, label_smoothing=config.label_smoothing)
    share = config.batch_size // config.accumulate
    size = min(share, MOST_CLIPS)
    clips = torch.randn(size, *clip_shape(network), device=device, dtype=dtype)
    labels = torch.randint(classes, (size,), device=device)
    target = nn.functional.one_hot(labels, classes).to(dtype) if config.data.multi_label else labels
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.precision)

    def forward() -> torch.Tensor:
        with torch.autocast(device.type, half) if half is not None else nullcontext():
            losses: torch.Tensor = loss(network(clips), target)
        return losses.mean()

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad()

    network.train()
    learning, stepping = [], []
    for _ in range(WARMUP + UPDATES):
        learning.append(_seconds(lambda: forward().backward(), device))
        stepping.append(_seconds(update, device))
    network.eval()
    with torch.inference_mode():
        scoring = [_seconds(forward, device) for _ in range(WARMUP + UPDATES)]
    learn, step, score = (statistics.median(times[WARMUP:]) for times in (learning, stepping, scoring))
    return Pace(update=learn * config.accumulate * share / size + step, view=score / size)


def _device() -> torch.device:
    accelerator = None if runs_on_cpu() else torch.accelerator.current_accelerator()
    return accelerator or torch.device("cpu")


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start


def _plan(variant: str, runs: Sequence[Run], sweep: Sweep) -> tuple[VariantPlan, str | None]:
    """The plan of a variant, and what its data lack."""
    run = runs[0]
    try:
        config = parse_options({**run.options, "output": str(run.folder)})
        missing = why_unusable(run.options)
        sizes = None if missing else split_sizes(config.data)
        classes = 2 if sizes is None else sizes.classes
        cost = measure_cost(build_on_meta(config.model, config.data, classes))
        plan = VariantPlan(
            name=variant,
            todo=tuple(run.seed for run in runs if run.state() != "finished" and not _is_left(run, sweep)),
            done=tuple(run.seed for run in runs if run.state() == "finished"),
            cost=cost,
            pace=measure_pace(config, classes, threads=sweep.threads),
            updates=None if sizes is None else _updates(config, sizes),
            views=None if sizes is None else _views(config, sizes),
        )
    except ValueError as error:
        raise ValueError(f"{run.suite}/{variant} cannot be trained: {error}") from None
    return plan, missing


def _is_left(run: Run, sweep: Sweep) -> bool:
    """Whether a run has failed with the options and the data of now, and nobody asks for it again."""
    return run.state() == "failed" and not sweep.rerun_failed and not run.changes()


def _updates(config: TrainConfig, sizes: SplitSizes) -> int:
    batches = GlobalBatches(
        sizes.train,
        batch_size=config.batch_size,
        epochs=config.epochs,
        seed=config.seed,
        accumulate=config.accumulate,
        repeats=config.augment.repeats,
        drop_last=config.drop_last,
    )
    return config.epochs * batches.steps_per_epoch


def _views(config: TrainConfig, sizes: SplitSizes) -> int:
    """Clip views of all evaluations of a training: of val every so many epochs and after the last, of test once."""
    network = build_on_meta(config.model, config.data)
    recipe = build_recipe(network, config.data, config.evaluation, precision=config.precision)
    evaluations = math.ceil(config.epochs / config.evaluation.every) if config.evaluation.every else 1
    return (evaluations * sizes.val + sizes.test) * recipe.num_clips * recipe.num_crops


def _table(suite: str, plans: Sequence[VariantPlan]) -> Table:
    table = Table(title=suite, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("variant", overflow="fold", min_width=16)
    for heading in ("to run", "done"):
        table.add_column(heading, overflow="fold")
    for heading in ("params", "GFLOPs", "updates", "update", "a run"):
        table.add_column(heading, justify="right", no_wrap=True)
    for plan in plans:
        seconds = plan.seconds
        table.add_row(
            Text(plan.name),
            " ".join(map(str, plan.todo)) or "-",
            " ".join(map(str, plan.done)) or "-",
            f"{plan.cost.params / 1e6:.3g} M",
            f"{plan.cost.gflops:.3g}",
            "?" if plan.updates is None else f"{plan.updates:,}",
            duration(plan.pace.update),
            "?" if seconds is None else duration(seconds),
        )
    return table


def _total(plans: Sequence[VariantPlan], sweep: Sweep) -> list[str]:
    todo, done = sum(len(plan.todo) for plan in plans), sum(len(plan.done) for plan in plans)
    lines = [f"{todo} runs to do, {done} finished; {sweep.jobs} at a time"]
    known = [(plan.seconds, len(plan.todo)) for plan in plans if plan.seconds is not None]
    if todo and len(known) == len(plans):
        work = sum(seconds * runs for seconds, runs in known)
        # no sweep is over before its longest run is
        least = max(seconds for seconds, runs in known if runs)
        lines.append(f"estimated time: {duration(max(work / sweep.jobs, least))} ({duration(work)} of work)")
    lines.append(
        f"Estimated from the median of {UPDATES} updates a variant on random clips (threads: {sweep.threads}; "
        f"{device_name(_device())}), one at a time. Left out are reading videos, augmentation, start-up, "
        "checkpoints, and the measurements after training; runs under way count from their beginning. Trainings side "
        "by side that share cores, caches or memory are slower."
    )
    return lines


def duration(seconds: float) -> str:
    """A time for people, in the unit that suits it: ``"12 ms"``, ``"43 s"``, ``"1.5 h"``."""
    units = (("ms", 1e-3, 1.0), ("s", 1.0, 120.0), ("min", 60.0, 7200.0), ("h", 3600.0, 172800.0))
    unit, size = next(((unit, size) for unit, size, until in units if seconds < until), ("days", 86400.0))
    number = seconds / size
    return f"{number:.1f} {unit}" if number < 10 else f"{number:.0f} {unit}"
