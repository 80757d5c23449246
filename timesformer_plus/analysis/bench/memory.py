"""Table ``memory``: peak of a training step, ours against others."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import timm
import torch

from ..counted_cost import MEGABYTE
from .contestants import NO_TRANSFORMERS, SIZES, Autocast, Shape, TrainingStep, Who, build
from .memory_process import Job, StepPeaks, watch
from .rows import Progress, Row, make_row

TABLE = "memory"

# size -> patterns, clips of a step
_ON_CPU: dict[str, tuple[tuple[str, ...], int]] = {
    "test": (("ts",), 8),
    "tiny": (("s", "j", "ts", "twh", "lg"), 8),
    "small": (("ts",), 8),
    "base": (("s", "ts"), 4),
}
_COMPARED: tuple[tuple[Who, Who, str], ...] = (
    ("ours", "transformers", "peak over transformers"),
    ("ours_outputs", "transformers", "norms and activations computed again, peak over transformers"),
    ("ours_mlp", "transformers", "norms and MLPs computed again, peak over transformers"),
    ("ours", "copies", "peak over fold by copies"),
)
_TARGET = 0.6
# what a card of the size that was asked for can hold
_CARD_MB = 80_000.0


def measure(
    *, rounds: int, quick: bool, progress: Progress, sizes: Sequence[str], device: torch.device | str = "cpu"
) -> list[Row]:
    """Measure peaks: of a GPU its allocator's, on the CPU by how much the resident set of a fresh process grows.

    Args:
        rounds: Unused: a peak is a single number.
        quick: Whether to leave out all but pattern ``ts``.
        progress: Is told what goes on.
        sizes: Keys of ``SIZES``.
        device: Where to run.

    Returns:
        Peaks of ours over those of the others (ratios, below 1 where ours takes less) and ours in MB; the model, its
        gradients and, in ``training step``, the state of AdamW included.
    """
    del rounds
    device = torch.device(device)
    if not Shape("test", 8, 32, "ts").has_peer:
        progress.say(NO_TRANSFORMERS)
    contests: list[tuple[Shape, int, torch.dtype]] = []
    for size in sizes:
        patterns, batch = _ON_CPU[size]
        if device.type == "cuda":
            patterns, batch = ("s", "j", "ts", "twh", "lg"), 8
        chosen = [p for p in patterns if not quick or p == "ts"]
        dtypes = (torch.float32, torch.bfloat16) if device.type == "cuda" else (torch.float32,)
        contests += [(Shape(size, 8, SIZES[size][1], p), batch, dtype) for p in chosen for dtype in dtypes]
    jobs = [(who, *contest) for contest in contests for who in _who(contest[0])]
    peaks = _on_gpu(jobs, device, progress) if device.type == "cuda" else _on_cpu(jobs, progress)
    rows = [row for contest in contests for row in _compare(contest, peaks, device)]
    if device.type == "cuda" and "base" in sizes and not quick:
        rows += _long_clip(device, progress)
    return rows


_Key = tuple[Who, Shape, int, torch.dtype]


def _who(shape: Shape) -> list[Who]:
    return ["ours", "ours_outputs", "ours_mlp", "copies", "transformers"] if shape.has_peer else ["ours", "copies"]


def _on_cpu(jobs: Sequence[_Key], progress: Progress) -> dict[_Key, StepPeaks]:
    peaks = {}
    threads = torch.get_num_threads()
    answers = watch([Job(who, shape, batch, threads) for who, shape, batch, _ in jobs])
    for i, job in enumerate(jobs):
        progress(f"{job[1]}, {job[0]} ({i + 1} of {len(jobs)} processes)")
        answer = next(answers)
        if isinstance(answer, str):
            progress.say(f"memory of {job[1]}, {job[0]}: {answer}")
        else:
            peaks[job] = answer
    return peaks


def _on_gpu(jobs: Sequence[_Key], device: torch.device, progress: Progress) -> dict[_Key, StepPeaks]:
    peaks = {}
    for job in jobs:
        who, shape, batch, dtype = job
        progress(f"{shape} {dtype}, {who}")
        try:
            peaks[job] = allocated(who, shape, batch, dtype, device)
        except torch.cuda.OutOfMemoryError:
            progress.say(f"memory of {shape} {dtype}, {who}: more than the GPU has")
    return peaks


def allocated(who: Who, shape: Shape, batch: int, dtype: torch.dtype, device: torch.device) -> StepPeaks:
    """Peaks of a GPU's allocator over what it held before.

    Args:
        who: Whose model.
        shape: The model and its clips.
        batch: Clips of the step.
        dtype: float32, or a lower one for mixed precision.
        device: The GPU.

    Raises:
        torch.cuda.OutOfMemoryError: It does not fit.
    """
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    model = build(who, shape).to(device)
    step = TrainingStep(model if dtype == torch.float32 else Autocast(model, dtype), shape.clips(batch, device))

    def peak() -> float:
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / MEGABYTE

    step.forward_backward()  # libraries ask for their working space once
    step.optimizer.zero_grad(set_to_none=True)
    torch.cuda.reset_peak_memory_stats(device)
    step.forward_backward()
    backward = peak()
    step.optimizer.step()
    step.optimizer.zero_grad(set_to_none=True)
    step.run()
    return StepPeaks(backward, peak())


def _compare(contest: tuple[Shape, int, torch.dtype], peaks: dict[_Key, StepPeaks], device: torch.device) -> list[Row]:
    shape, batch, dtype = contest
    keys: dict[Who, _Key] = {who: (who, shape, batch, dtype) for who in _who(shape)}
    mine = {who: peaks[key] for who, key in keys.items() if key in peaks}
    if "ours" not in mine:
        return []
    where = f" {str(dtype).removeprefix('torch.')} on GPU" if device.type == "cuda" else ""
    detail: dict[str, Any] = {"batch": batch, "of": "allocator" if where else "resident set of a fresh process"}
    detail |= {f"{who}_backward_mb": peak.backward_mb for who, peak in mine.items()}
    detail |= {f"{who}_training_mb": peak.training_mb for who, peak in mine.items()}
    rows = []
    for what, key in (("forward and backward", "backward_mb"), ("training step", "training_mb")):
        ours = float(getattr(mine["ours"], key))
        name = f"{shape}{where}, batch {batch}, {what}"
        for who, other, label in _COMPARED:
            if who in mine and other in mine and getattr(mine[other], key) > 0:
                aimed = (other, key) == ("transformers", "training_mb") and shape.size != "test"
                target = _TARGET if aimed else None
                peak = float(getattr(mine[who], key))
                ratio = peak / float(getattr(mine[other], key))
                note = _fixed(shape, peak, key) if target else ""
                rows.append(
                    make_row(
                        TABLE,
                        f"{name}: {label}",
                        [ratio],
                        better="lower",
                        target=target,
                        note=note,
                        detail=detail,
                    )
                )
        rows.append(make_row(TABLE, f"{name}: peak of ours", [ours], unit="MB", better="lower", detail=detail))
    return rows


def _fixed(shape: Shape, ours: float, key: str) -> str:
    """How much of a peak is the same in every implementation."""
    with torch.device("meta"):
        model = timm.create_model(SIZES[shape.size][0], pattern=shape.pattern, num_frames=shape.frames)
    weights = sum(weight.numel() for weight in model.parameters()) * 4 / MEGABYTE
    fixed = weights * (4 if key == "training_mb" else 2)
    return f"weights, gradients and AdamW's state are {fixed:.0f} of the {ours:.0f} MB, whoever computes"


def _long_clip(device: torch.device, progress: Progress) -> list[Row]:
    """Whether a model of 96 frames trains on one card."""
    rows = []
    for pattern in ("ts", "s", "lg", "twh", "j"):
        shape = Shape("base", 96, 224, pattern)
        progress(f"{shape} bfloat16, a training step")
        try:
            peak = allocated("ours", shape, 1, torch.bfloat16, device)
        except torch.cuda.OutOfMemoryError:
            progress.say(f"{shape}: a training step on one clip in mixed precision takes more than the GPU has")
            continue
        name = f"{shape} bfloat16 on GPU, batch 1, training step: ours"
        rows.append(
            make_row(TABLE, name, [peak.training_mb], unit="MB", better="lower", target=_CARD_MB, detail={"batch": 1})
        )
    return rows
