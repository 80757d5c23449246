"""Timings of the implementations of attention, and which of them is the fastest where.

A file of timings is a JSON object: "format" 1, the versions they were taken with, and "timings", a list of objects
with the fields of ``Timing``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import torch

__all__ = [
    "KERNELS",
    "LENGTHS",
    "Choices",
    "Direction",
    "Kernel",
    "Key",
    "Timing",
    "bucket_of",
    "choose_from",
    "read_timings",
    "write_timings",
]

Kernel = Literal["sdpa", "flex", "triton"]
Direction = Literal["forward", "training"]
KERNELS: tuple[Kernel, ...] = ("sdpa", "flex", "triton")
LENGTHS = (4, 8, 16, 32)
"""Upper ends of the ranges of lengths that share a choice."""
MARGIN = 0.95
"""Part of SDPA's time that another kernel may take at most: a choice should outlast the noise of a clock."""


@dataclass(frozen=True)
class Key:
    """What a choice depends on.

    Args:
        device: Name of the GPU, as PyTorch gives it.
        dtype: Such as ``"bfloat16"``.
        length: One of ``LENGTHS``.
        head_dim: Channels of a head, d.
        causal: Whether the attention is.
        direction: Without gradients, or with the backward pass.
    """

    device: str
    dtype: str
    length: int
    head_dim: int
    causal: bool
    direction: Direction


Choices = dict[Key, Kernel]


@dataclass(frozen=True)
class Timing:
    """How long the kernels took on one shape, side by side.

    Args:
        device: Name of the GPU, as PyTorch gives it, or ``"cpu"``.
        dtype: Such as ``"bfloat16"``.
        batch: B.
        heads: H, sequences of a sample.
        tokens: L, of queries and of keys.
        head_dim: d.
        causal: Whether the attention was.
        direction: Forward alone, or forward and backward.
        milliseconds: Kernel -> median of a call; kernels that cannot serve the shape are missing.
    """

    device: str
    dtype: str
    batch: int
    heads: int
    tokens: int
    head_dim: int
    causal: bool
    direction: Direction
    milliseconds: dict[str, float]

    @property
    def key(self) -> Key:
        """Under what its outcome counts."""
        length = bucket_of(self.tokens)
        return Key(self.device, self.dtype, length, self.head_dim, self.causal, self.direction)


def bucket_of(length: int) -> int:
    """The range of lengths that a length belongs to.

    Args:
        length: Tokens of the longer of queries and keys.

    Returns:
        The least of ``LENGTHS`` that is not smaller.

    Raises:
        ValueError: It is greater than all of them.
    """
    for end in LENGTHS:
        if length <= end:
            return end
    raise ValueError(f"{length=} is no short sequence; timings are kept of up to {LENGTHS[-1]} tokens")


def choose_from(timings: Iterable[Timing]) -> Choices:
    """Choose per key the kernel that is faster than SDPA on every shape measured, by the most on the worst of them.

    Args:
        timings: Of any devices and shapes.

    Returns:
        A kernel per key; SDPA where none other is faster by a margin everywhere.
    """
    shapes: dict[Key, list[dict[str, float]]] = {}
    for timing in timings:
        shapes.setdefault(timing.key, []).append(timing.milliseconds)
    choices: Choices = {}
    for key, rows in shapes.items():
        worst: dict[Kernel, float] = {
            kernel: max(row.get(kernel, float("inf")) / row["sdpa"] for row in rows) for kernel in KERNELS[1:]
        }
        best = min(worst, key=lambda kernel: worst[kernel])
        choices[key] = best if worst[best] <= MARGIN else "sdpa"
    return choices


def write_timings(timings: Iterable[Timing], path: str | Path) -> None:
    """Keep timings in a file.

    Args:
        timings: What ``measure_kernels`` returned.
        path: The file; an older one is replaced.
    """
    content = {"format": 1, "torch": torch.__version__, "timings": [asdict(timing) for timing in timings]}
    Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_timings(path: str | Path) -> list[Timing]:
    """Read a file of timings.

    Args:
        path: What ``write_timings`` wrote.

    Returns:
        Its timings.

    Raises:
        ValueError: The file is missing or holds something else.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content["format"] != 1:
            raise ValueError(f"format {content['format']!r} is not 1")
        timings = [Timing(**row) for row in content["timings"]]
        for timing in timings:
            _check(timing)
    except (OSError, UnicodeDecodeError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is no file of timings ({type(error).__name__}: {error}); write one with "
            "write_timings(measure_kernels(...), path)"
        ) from error
    return timings


def _check(timing: Timing) -> None:
    wanted = {"device": str, "dtype": str, "causal": bool, "milliseconds": dict}
    for field in fields(Timing):
        value = getattr(timing, field.name)
        if field.name == "direction":
            if value not in ("forward", "training"):
                raise ValueError(f"direction {value!r} is not one of forward training")
        elif not isinstance(value, wanted.get(field.name, int)):
            raise ValueError(f"{field.name} is {value!r}")
    bucket_of(timing.tokens)
    unknown = set(timing.milliseconds) - set(KERNELS)
    if unknown or "sdpa" not in timing.milliseconds:
        raise ValueError(f"milliseconds are of {sorted(timing.milliseconds)}, not of sdpa and others of {KERNELS}")
    if not all(isinstance(value, (int, float)) and value > 0 for value in timing.milliseconds.values()):
        raise ValueError(f"milliseconds {timing.milliseconds} are not all above zero")
