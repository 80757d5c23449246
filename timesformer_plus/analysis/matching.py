"""Equal budgets: what a variant needs to have the parameters or the multiply-adds of another one.

Solved before anything is trained, on models without weights (the meta device). With the width of the MLPs or the depth
both quantities grow, so the solution is found by bisection over whole units, the same on every machine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from torch import nn

from ..engine.build import build_on_meta
from ..models.pattern import parse_pattern
from .cost import clip_shape, count_multiply_adds
from .options import Options, parse_options

GREATEST_RATIO, GREATEST_DEPTH = 64, 256


@dataclass(frozen=True)
class Match:
    """Equal budgets: every variant of a suite is given the number of parameters, or of multiply-adds, of one of them.

    Args:
        quantity: What is made equal: params, or flops of a forward pass; none leaves the variants as they are.
        to: The variant whose quantity the others are given; it stays as it is.
        by: What is changed to get there: mlp_ratio (the width of the MLPs, by whole units) or depth.
        tolerance: Greatest relative difference that counts as equal.
    """

    quantity: Literal["none", "params", "flops"] = "none"
    to: str = ""
    by: Literal["mlp_ratio", "depth"] = "mlp_ratio"
    tolerance: float = 0.02

    def __post_init__(self) -> None:
        if (self.quantity == "none") != (not self.to):
            raise ValueError(f"match: quantity={self.quantity} with to={self.to!r}; name both, or neither")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"match: tolerance={self.tolerance} is not a share in (0, 1); 0.02 is 2 %")


def match_budgets(variants: Mapping[str, Options], match: Match) -> dict[str, Options]:
    """Give all variants of a suite the budget of one of them.

    Args:
        variants: Name -> complete options of a training, nested.
        match: What is made equal, and how.

    Returns:
        Name -> options, with ``model.args.mlp_ratio`` or ``model.args.depth`` set where they had to change.

    Raises:
        ValueError: A variant cannot be made, or does not come within the tolerance; with the nearest that it can.
    """
    if match.quantity == "none":
        return dict(variants)
    target = _quantity(json.dumps(variants[match.to]), match.quantity)
    return {
        name: options if name == match.to else _matched(name, options, match, target)
        for name, options in variants.items()
    }


def describe_matches(variants: Mapping[str, Options], match: Match) -> list[str]:
    """What matching has found, a line a variant: its budget, how far that is from the target, and by which value.

    Args:
        variants: Name -> options, as ``match_budgets`` returns them.
        match: What was made equal; empty for ``quantity: none``.
    """
    if match.quantity == "none":
        return []
    target = _quantity(json.dumps(variants[match.to]), match.quantity)
    lines = []
    for name, options in variants.items():
        value = _quantity(json.dumps(options), match.quantity)
        chosen = ((options.get("model") or {}).get("args") or {}).get(match.by, "the model's own")
        lines.append(f"{name}: {match.quantity} {value:,} ({value / target - 1:+.2%}) with {match.by} {chosen}")
    return lines


def _matched(name: str, options: Options, match: Match, target: int) -> Options:
    unit, greatest, setting = _scale(options, match.by)

    def quantity(units: int) -> int:
        return _quantity(json.dumps(_with(options, match.by, setting(units))), match.quantity)

    low, high = unit, greatest
    if quantity(low) < target <= quantity(high):
        # the smallest that reaches the target lies in (low, high]
        while high - low > unit:
            middle = low + (high - low) // (2 * unit) * unit
            low, high = (middle, high) if quantity(middle) < target else (low, middle)
    nearest = min((low, high), key=lambda units: abs(quantity(units) - target))
    reached = quantity(nearest)
    if abs(reached - target) > match.tolerance * target:
        raise ValueError(
            f"{name} cannot be given the {match.quantity} of {match.to} ({target:,}) by {match.by}: the nearest is "
            f"{reached:,} ({reached / target - 1:+.1%}) with {match.by}={setting(nearest)}, and match.tolerance is "
            f"{match.tolerance:.1%}; raise it, match by something else, or leave the variant out"
        )
    return _with(options, match.by, setting(nearest))


def _scale(options: Options, by: str) -> tuple[int, int, Callable[[int], float]]:
    """Smallest step in whole units, the greatest number of units, and the option's value for a number of them."""
    network = _build(json.dumps(options))
    if by == "depth":
        # a pattern is tiled to the depth, which it has to divide
        pattern = parse_pattern(str(network.pattern))
        if len(pattern.stages) > 1:
            raise ValueError(f"{network.pattern!r} is written out in full and has one depth; match it by mlp_ratio")
        return pattern.num_blocks, GREATEST_DEPTH // pattern.num_blocks * pattern.num_blocks, int
    dim = int(network.embed_dim)  # type: ignore[arg-type]

    def ratio(hidden: int) -> float:
        value = hidden / dim
        # timm cuts dim * ratio down to a whole number
        return value if int(dim * value) == hidden else math.nextafter(value, math.inf)

    return 1, GREATEST_RATIO * dim, ratio


def _with(options: Options, by: str, value: float) -> Options:
    changed = deepcopy(options)
    changed.setdefault("model", {}).setdefault("args", {})[by] = value
    return changed


@lru_cache(maxsize=4096)
def _quantity(options: str, quantity: str) -> int:
    network = _build(options)
    if quantity == "params":
        return sum(parameter.numel() for parameter in network.parameters())
    return count_multiply_adds(network, (1, *clip_shape(network)))


def _build(options: str) -> nn.Module:
    try:
        config = parse_options({"output": ".", **json.loads(options)})
        # two classes stand for those of the data: neither the width of the MLPs nor the depth changes the head
        return build_on_meta(config.model, config.data)
    except ValueError as error:
        raise ValueError(f"equal budgets: a model with these options cannot be made: {error}") from None
