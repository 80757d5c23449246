"""Table ``kernels``: attention over time alone, each kernel against SDPA on copies sorted by place."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ...models.kernel_choices import KERNELS, Direction, Kernel
from ...models.kernels import Case, attend, why_not
from ..measured_cost import device_name
from .rows import Progress, Row, make_row
from .timing import medians, ratios, take_turns

TABLE = "kernels"
COPIES = "copies"

# ViT-B/16 at 224 x 224 pixels
PLACES, HEADS, WIDTH = 14 * 14, 12, 64
FRAMES = (4, 8, 16, 32)
# a GPU is to be busy for longer than Python takes to launch what it does
CLIPS = {"cpu": 1, "cuda": 32}
# of the best kernel on a GPU, in the forward pass: what tiles left empty by 8 frames should be worth
TARGET = 1.5


def measure(
    *, rounds: int = 5, quick: bool = False, progress: Progress, device: torch.device | str = "cpu"
) -> list[Row]:
    """Time attention over time, (B, T, H*W, heads, d) to the same, forward and with its backward pass.

    What it is held against copies queries, keys and values into rows, a row a place, and the outcome back; the kernels
    get views of the token layout. On a CPU only SDPA is timed, the others are there to be tested.

    Args:
        rounds: Rounds of a comparison.
        quick: Whether to time 8 frames only.
        progress: Is told what goes on.
        device: Where to run, in bfloat16 on a GPU, in float32 on a CPU; None for the GPU if there is one.

    Returns:
        For every number of frames, direction and kernel: speed over SDPA on copies, above 1 where the kernel is faster.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cpu":
        progress.say("kernels: without a GPU SDPA alone is measured; flex and triton get no rows")
    rows = []
    directions: tuple[Direction, ...] = ("forward", "training")
    for frames in (8,) if quick else FRAMES:
        for direction in directions:
            progress(f"attention over {frames} frames, {direction}")
            rows += _compare(frames, direction, rounds, progress, device)
    return rows


def _compare(frames: int, direction: Direction, rounds: int, progress: Progress, device: torch.device) -> list[Row]:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    training = direction == "training"
    case = Case(device, dtype, frames, frames, WIDTH, training=training)
    kernels: list[Kernel] = []
    for kernel in KERNELS if device.type == "cuda" else KERNELS[:1]:
        if reason := why_not(kernel, case):
            progress.say(f"kernels: no row for {kernel}, which {reason}")
        else:
            kernels.append(kernel)
    clips = CLIPS.get(device.type, 1)
    shape = (clips, frames, PLACES * HEADS, WIDTH)
    q, k, v = (torch.randn(shape, device=device, dtype=dtype, requires_grad=training) for _ in range(3))
    passes: dict[str, Callable[[], object]] = {COPIES: partial(_run, _by_copies, q, k, v, training)}
    for kernel in kernels:
        passes[kernel] = partial(_run, partial(_by_views, kernel), q, k, v, training)
    with torch.set_grad_enabled(training):
        seconds = take_turns(passes, rounds=rounds, warmup=3, device=device)
    detail = {
        **medians(seconds),
        "clips": clips,
        "places": PLACES,
        "heads": HEADS,
        "head_dim": WIDTH,
        "frames": frames,
        "dtype": str(dtype).removeprefix("torch."),
        "device": device_name(device),
    }
    return [
        make_row(
            TABLE,
            f"T={frames} {direction}: {kernel} over SDPA on copies",
            ratios(seconds[COPIES], seconds[kernel]),
            target=TARGET if kernel == "triton" and direction == "forward" else None,
            detail=detail,
        )
        for kernel in kernels
    ]


def _by_copies(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Fold as a token axis of unknown order needs it: rows (B*places, heads, T, d), each in one piece."""
    q, k, v = (x.unflatten(2, (PLACES, HEADS)).permute(0, 2, 3, 1, 4).flatten(0, 1).contiguous() for x in (q, k, v))
    y = F.scaled_dot_product_attention(q, k, v)
    tokens: Tensor = y.unflatten(0, (-1, PLACES)).permute(0, 3, 1, 2, 4).flatten(2)
    return tokens


def _by_views(kernel: Kernel, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    y = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), kernel=kernel)
    return y.transpose(1, 2).flatten(2)


def _run(
    attention: Callable[[Tensor, Tensor, Tensor], Tensor], q: Tensor, k: Tensor, v: Tensor, training: bool
) -> Tensor:
    y = attention(q, k, v)
    if training:
        torch.autograd.grad(y, (q, k, v), y.detach())
    return y
