"""What the table ``model`` measures, and what it has to reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from .contestants import SIZES, Shape

Pass = Literal["forward", "training"]

PATTERNS = ("s", "j", "ts", "twh", "lg")
FEW_PATTERNS = ("s", "ts", "lg")
"""Of a model that is there for tests."""

FOLDED = ("ts", "twh", "lg")
"""Patterns whose groups the yardstick has to copy together: in the others there is little to gain over it."""

COMPILED = (("tiny", "s"), ("tiny", "ts"), ("base", "ts"))
"""Sizes and patterns that are compiled too, forward, on the CPU, which takes half a minute or more for each."""

COMPILED_ON_GPU = ("s", "ts")

# peak of dense bfloat16 products in 10^12 FLOPs a second (a multiplication and an addition are two), from the makers'
# data sheets, by what the device's name holds; the first that fits
_PEAKS = (
    ("B200", 2250.0),
    ("H200", 989.0),
    ("H100 PCIe", 756.0),
    ("H100", 989.0),
    ("A100", 312.0),
    ("L40S", 362.0),
    ("L40", 181.0),
    ("A10G", 70.0),
    ("A10", 125.0),
    ("L4", 121.0),
    ("RTX 4090", 165.2),
    ("RTX 3090", 71.0),
)


@dataclass(frozen=True)
class Case:
    """A model to be timed.

    Attributes:
        shape: The model and its clips.
        passes: What is timed.
        batch: Clips a pass.
        dtype: Type of the arithmetic.
        budget: Seconds for the rounds of a forward pass, warm-up included; training gets nearly twice as many.
        rivals: Whether to time the others too, not ours and the limit alone.
        copies: Whether the yardstick is among them.
        compiled: Whether to compare compiled models as well.
        rounds: Most rounds, without warm-up if it is 1; None leaves it to the command line.
    """

    shape: Shape
    passes: tuple[Pass, ...] = ("forward", "training")
    batch: int = 1
    dtype: torch.dtype = torch.float32
    budget: float = 20.0
    rivals: bool = True
    copies: bool = True
    compiled: bool = False
    rounds: int | None = None


def cases_on_cpu(*, quick: bool, sizes: Sequence[str]) -> list[Case]:
    """The cases of a run without a GPU; all in single precision, one clip a pass."""
    cases = []
    for size in sizes:
        budget = {"test": 1.0, "tiny": 7.0, "small": 10.0, "base": 28.0}[size] * (0.4 if quick else 1)
        side = SIZES[size][1]
        for pattern in PATTERNS if size != "test" else FEW_PATTERNS:
            copies = size != "base" or pattern in FOLDED
            compiled = not quick and (size, pattern) in COMPILED
            cases.append(Case(Shape(size, 8, side, pattern), budget=budget, copies=copies, compiled=compiled))
        if quick or size == "test":
            continue
        longer: tuple[str, ...] = ("ts",) if size == "base" else ("s", "j", "ts")
        passes: tuple[Pass, ...] = ("forward", "training") if size == "tiny" else ("forward",)
        cases += [Case(Shape(size, 16, side, pattern), passes, budget=budget) for pattern in longer]
        if size == "base":
            cases += [
                Case(Shape(size, 96, side, p), ("forward",), rounds=1, rivals=p == "ts", copies=False)
                for p in ("ts", "s", "lg", "twh")
            ]
    return cases


def cases_on_gpu(*, quick: bool, sizes: Sequence[str]) -> list[Case]:
    """The cases of a run on a GPU: single precision and bfloat16, eight clips a pass, one where a clip is long."""
    cases = []
    for size in sizes:
        for dtype in (torch.float32, torch.bfloat16):
            for pattern in PATTERNS:
                compiled = not quick and pattern in COMPILED_ON_GPU
                shape = Shape(size, 8, SIZES[size][1], pattern)
                cases.append(Case(shape, batch=8, dtype=dtype, budget=5.0, compiled=compiled))
        if size == "base" and not quick:
            cases += [
                Case(
                    Shape(size, 96, 224, p),
                    dtype=torch.bfloat16,
                    budget=20.0,
                    rivals=p in ("ts", "s"),
                    copies=p == "ts",
                )
                for p in ("ts", "s", "lg", "twh")
            ]
    return cases


def speedup_target(case: Case, device: torch.device) -> float | None:
    """How many times the speed of ``transformers`` was to be reached."""
    if case.shape.frames != 8 or case.shape.size not in ("tiny", "base"):
        return None
    if device.type == "cuda":
        return 2.0 if case.shape.size == "base" else None
    return 1.3 if case.shape.size == "base" else 1.5


def efficiency_target(case: Case, device: torch.device, what: Pass) -> float | None:
    """What percentage of the matrix products' speed was to be reached."""
    wanted = device.type == "cpu" and what == "forward" and (case.shape.size, case.shape.frames) == ("base", 8)
    return 90.0 if wanted and case.shape.pattern in ("s", "ts") else None


def peak_flops(device_name: str) -> float | None:
    """FLOPs a second that a GPU is sold with, dense products in bfloat16; None where its name is not known here."""
    return next((1e12 * peak for name, peak in _PEAKS if name in device_name), None)


def bytes_of_forward(shape: Shape, channels: int, depth: int, heads: int, batch: int) -> float:
    """Roughly what a forward pass takes at its peak, weights of up to three models included.

    Explicit attention, as in ``transformers``, keeps its weights three times: products, softmax and dropout's output.

    Args:
        shape: The model and its clips.
        channels: C of a token.
        depth: Blocks.
        heads: Heads of an attention.
        batch: Clips a pass.
    """
    places = (shape.side // 16) ** 2
    tokens = shape.frames * (places + 1)
    keys = tokens if shape.pattern == "j" else max(places + 1, shape.frames)
    explicit = 3 * heads * tokens * keys if shape.pattern in ("s", "j", "ts") else 0
    return 4.0 * (3 * 18 * channels**2 * depth + batch * (16 * tokens * channels + explicit))
