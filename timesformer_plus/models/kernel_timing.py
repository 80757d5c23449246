"""Time the implementations of attention side by side, so that ``kernels`` can choose among them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from .kernel_choices import KERNELS, LENGTHS, Direction, Kernel, Timing
from .kernels import Case, attend, why_not

__all__ = ["Shape", "measure_kernels", "time_attention_shapes"]

# a call takes some 10 microseconds: many of them are what a clock can tell from nothing
CALLS = 20


class Shape(NamedTuple):
    """Shape of an attention.

    Args:
        batch: B, samples.
        heads: H, sequences of a sample: places times heads for attention over time.
        tokens: L, of queries and of keys.
        head_dim: d.
        causal: Whether query i sees keys 0 to i only.
    """

    batch: int
    heads: int
    tokens: int
    head_dim: int
    causal: bool = False


def time_attention_shapes(
    *, batch: int = 32, places: int = 196, heads: int = 12, head_dim: int = 64, frames: Sequence[int] = LENGTHS
) -> list[Shape]:
    """Shapes of attention over time, causal and not; the defaults are ViT-B/16 at 224 x 224 pixels.

    Args:
        batch: Clips; many, so that what is timed is the GPU and not Python on its way there.
        places: H*W.
        heads: Of the attention.
        head_dim: Channels of a head.
        frames: Lengths of the time axis.
    """
    return [Shape(batch, places * heads, t, head_dim, causal) for t in frames for causal in (False, True)]


def measure_kernels(
    shapes: Sequence[Shape], device: torch.device | str, dtype: torch.dtype, *, rounds: int = 20
) -> list[Timing]:
    """Time every kernel that can serve a shape, forward, and forward with backward, on views of a token layout.

    The kernels take turns, each round in the opposite order of the last, after they have been compiled. To let them
    decide::

        write_timings(measure_kernels(time_attention_shapes(), "cuda", torch.bfloat16), "h100.json")
        load_choices("h100.json")  # or TIMESFORMER_PLUS_KERNEL_CHOICES=h100.json

    Args:
        shapes: What to time, up to 32 tokens each.
        device: Where. On a CPU only SDPA is timed: the others are there to be tested.
        dtype: Type of queries, keys and values.
        rounds: Timed rounds; the median counts.

    Returns:
        Two timings a shape.

    Raises:
        ValueError: No rounds.
    """
    if rounds < 1:
        raise ValueError(f"need {rounds=} >= 1")
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    directions: tuple[Direction, ...] = ("forward", "training")
    timings = []
    for shape in shapes:
        for direction in directions:
            median: dict[str, float] = {
                kernel: statistics.median(seconds) * 1e3
                for kernel, seconds in _take_turns(_calls(shape, device, dtype, direction), device, rounds).items()
            }
            kind = str(dtype).removeprefix("torch.")
            timings.append(Timing(name, kind, *shape, direction=direction, milliseconds=median))
    return timings


def _calls(
    shape: Shape, device: torch.device, dtype: torch.dtype, direction: Direction
) -> dict[Kernel, Callable[[], object]]:
    B, H, L, d, causal = shape
    training = direction == "training"
    q, k, v, grad = (torch.randn(B, L, H, d, device=device, dtype=dtype).transpose(1, 2) for _ in range(4))
    q, k, v = (x.requires_grad_(training) for x in (q, k, v))
    case = Case(device, dtype, L, L, d, causal, training=training)
    kernels = [
        kernel for kernel in KERNELS if kernel == "sdpa" or (device.type == "cuda" and not why_not(kernel, case))
    ]
    run = _train if training else _infer
    return {kernel: partial(run, q, k, v, grad, causal, kernel) for kernel in kernels}


def _infer(q: Tensor, k: Tensor, v: Tensor, grad: Tensor, causal: bool, kernel: Kernel) -> None:  # noqa: ARG001
    with torch.no_grad():
        attend(q, k, v, causal=causal, kernel=kernel)


def _train(q: Tensor, k: Tensor, v: Tensor, grad: Tensor, causal: bool, kernel: Kernel) -> None:
    torch.autograd.grad(attend(q, k, v, causal=causal, kernel=kernel), (q, k, v), grad)


def _take_turns(
    calls: dict[Kernel, Callable[[], object]], device: torch.device, rounds: int
) -> dict[Kernel, list[float]]:
    seconds: dict[Kernel, list[float]] = {kernel: [] for kernel in calls}
    for call in calls.values():
        for _ in range(3):
            call()
    order = list(calls)
    for _ in range(rounds):
        for kernel in order:
            seconds[kernel].append(_time(calls[kernel], device))
        order.reverse()
    return seconds


def _time(call: Callable[[], object], device: torch.device) -> float:
    repeats = CALLS if device.type == "cuda" else 1
    _wait_for(device)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    _wait_for(device)
    return (time.perf_counter() - start) / repeats


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
