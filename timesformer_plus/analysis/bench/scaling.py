"""Table ``scaling``: how time and memory of a model grow with frames and with resolution."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]  # accelerate needs it too
import torch
from scipy.stats import linregress

from ..counted_cost import MEGABYTE
from ..passes import Inference
from .contestants import Shape, Who, make_ours
from .limit import products_of
from .memory import allocated
from .memory_process import Job, watch
from .rows import Progress, Row, make_row
from .timing import take_turns

TABLE = "scaling"

PATTERNS = ("s", "j", "ts", "twh", "lg")
FRAMES, SIDES = (4, 8, 16, 32, 64, 96), (128, 192, 256, 320, 448)
# `lg` cuts every side of the token grid in two, so that 112 px, 7 tokens, will not do
SIDE, FEW = 128, 8

_QUICK_FRAMES, _QUICK_SIDES = (4, 8, 16, 32), (128, 192, 256)
# how far quartiles of a normal distribution lie from its mean, in standard errors
_QUARTILE = 0.6745
# seconds of training steps on a GPU behind which no longer clip is tried
_PATIENCE = 10.0


def measure(
    *, rounds: int, quick: bool, progress: Progress, sizes: Sequence[str], device: torch.device | str = "cpu"
) -> list[Row]:
    """Time forward passes over growing clips, and watch training steps.

    Args:
        rounds: Rounds of each size of clip; slow ones make fewer.
        quick: Whether to stop at clips of middling size and leave memory out.
        progress: Is told what goes on.
        sizes: The smallest of them is measured.
        device: Where to run.

    Returns:
        Exponents: slopes of the logarithm of seconds, or MB, over that of frames, or of pixels of a side. 1 is
        proportional to frames; to tokens it would be 2 in a side.
    """
    device = torch.device(device)
    size = next(size for size in ("test", "tiny", "small", "base") if size in sizes)
    # its frames are small, and its patches half as wide
    unit = 4 if size == "test" else 1
    frames, sides = (_QUICK_FRAMES, _QUICK_SIDES) if quick or size == "test" else (FRAMES, SIDES)
    rows = []
    for pattern in PATTERNS:
        by_frames = {T: Shape(size, T, SIDE // unit, pattern) for T in frames}
        by_side = {side: Shape(size, FEW, side // unit, pattern) for side in sides}
        for what, shapes in (("frames", by_frames), ("side", by_side)):
            name = f"{size} {pattern}, time against {what}"
            progress(name)
            rows.append(_growth(name, shapes, rounds, 3.0 if quick else 6.0, device))
    if not quick:
        rows += _memory(size, SIDE // unit, frames, progress, device)
    return rows


def slope(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Fit a power law.

    Args:
        x: Sizes.
        y: Costs, as many.

    Returns:
        The exponent, and its standard error.
    """
    fit: Any = linregress(np.log(np.asarray(x)), np.log(np.asarray(y)))
    return float(fit.slope), float(fit.stderr)


def _growth(name: str, shapes: Mapping[int, Shape], rounds: int, budget: float, device: torch.device) -> Row:
    passes, counts = {}, []
    for n, shape in shapes.items():
        model, clips = make_ours(shape).to(device), shape.clips(1, device)
        counts.append(float(sum(product.multiply_adds for product in products_of(model, clips))))
        passes[str(n)] = Inference(model, clips).run
    seconds = take_turns(passes, rounds=rounds, budget=budget, device=device)
    exponents = [slope(list(shapes), times)[0] for times in zip(*seconds.values(), strict=True)]
    middle = {n: statistics.median(times) for n, times in seconds.items()}
    fitted, error = slope(list(shapes), list(middle.values()))
    upper = len(shapes) // 2
    detail = {
        "seconds": middle,
        "fitted": fitted,
        "standard_error": error,
        "of_the_larger_half": slope(list(shapes)[upper:], list(middle.values())[upper:])[0] if upper > 1 else None,
        "of_counted_multiply_adds": slope(list(shapes), counts)[0],
    }
    gc.collect()
    note = f"multiply-adds grow by {detail['of_counted_multiply_adds']:.2f}; standard error {error:.2f}"
    return make_row(TABLE, name, exponents, unit="exponent", better="lower", note=note, detail=detail)


def _memory(size: str, side: int, frames: Sequence[int], progress: Progress, device: torch.device) -> list[Row]:
    """How the memory of a training step grows, and at how many frames it would pass what there is."""
    contests: list[tuple[str, Who]] = [("j", "ours"), ("ts", "ours")]
    if Shape(size, 8, side, "j").has_peer:
        contests += [("j", "transformers"), ("ts", "transformers")]
    rows = []
    for pattern, who in contests:
        name = f"{size} {pattern}, memory of a training step against frames: {who}"
        progress(name)
        measured, limit = _tried(size, side, pattern, who, frames, device)
        total = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else psutil.virtual_memory().total
        there = total / MEGABYTE
        if len(measured) < 3:
            progress.say(f"{name}: left out, fewer than three numbers of frames could be run")
            continue
        exponent, error = slope(list(measured), list(measured.values()))
        where = f"{there / 1e3:.0f} GB are passed at {limit} frames, by trying" if limit else _passed(measured, there)
        rows.append(
            make_row(
                TABLE,
                name,
                [exponent],
                unit="exponent",
                better="lower",
                note=where,
                detail={"mb": {str(T): mb for T, mb in measured.items()}, "standard_error": error, "machine_mb": there},
                quartiles=(exponent - _QUARTILE * error, exponent + _QUARTILE * error),
            )
        )
    return rows


def _tried(
    size: str, side: int, pattern: str, who: Who, frames: Sequence[int], device: torch.device
) -> tuple[dict[int, float], int | None]:
    """Peak in MB by number of frames; and the number at which a GPU had no more, if it came to that."""
    measured: dict[int, float] = {}
    if device.type != "cuda":
        todo = (T for T in frames if _fits(measured, T))
        peaks = watch(Job(who, Shape(size, T, side, pattern), 1, torch.get_num_threads()) for T in todo)
        for T, peak in zip(frames, peaks, strict=False):
            if isinstance(peak, str):
                break
            measured[T] = peak.training_mb
        return measured, None
    T = frames[0]
    seconds = 0.0
    while seconds < _PATIENCE:
        start = time.perf_counter()
        try:
            measured[T] = allocated(who, Shape(size, T, side, pattern), 1, torch.float32, device).training_mb
        except torch.cuda.OutOfMemoryError:
            return measured, T
        seconds = time.perf_counter() - start
        T *= 2
    return measured, None


def _fits(measured: Mapping[int, float], T: int) -> bool:
    """Whether so many frames will not take the machine down, if memory grows with the square of the last number."""
    if not measured:
        return True
    last, mb = list(measured.items())[-1]
    return bool(mb * (T / last) ** 2 < 0.7 * psutil.virtual_memory().available / MEGABYTE)


def _passed(measured: Mapping[int, float], there: float) -> str:
    """Where a polynomial through the peaks passes what there is: weights, what goes with tokens, what with pairs."""
    T, mb = (np.array(list(part), dtype=float) for part in (measured.keys(), measured.values()))
    # the largest count most; a quadratic that bends downwards is noise, and then a line it is
    fit = np.polynomial.Polynomial.fit(T, mb, 2, w=1 / mb).convert()
    if len(fit.coef) < 3 or fit.coef[2] * T[-1] ** 2 < 0.02 * mb[-1]:
        fit = np.polynomial.Polynomial.fit(T, mb, 1).convert()
    roots = [root.real for root in (fit - there).roots() if abs(root.imag) < 1e-9 and root.real > 0]
    kind = "quadratic" if fit.degree() == 2 else "linear"
    if not roots:
        return f"no number of frames fills {there / 1e3:.0f} GB, by the fit"
    return f"{there / 1e3:.0f} GB are passed at about {max(roots):.0f} frames ({kind}, extrapolated from {int(T[-1])})"
