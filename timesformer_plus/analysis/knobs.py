"""What is turned to give a training another size: an option, and the steps in which it may go."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

from ..models.pattern import parse_pattern
from .quantities import GREATEST_EPOCHS, config_of, multiply_adds, network_of, replaced

By = Literal["mlp_ratio", "embed_dim", "depth", "steps"]

GREATEST_RATIO, GREATEST_DEPTH, GREATEST_WIDTH = 64, 256, 16384


class Knob(NamedTuple):
    """An option that can be turned.

    Attributes:
        key: The option, dotted.
        unit: Smallest step, in units (hidden units, channels, blocks, epochs).
        low: Least number of units.
        high: Greatest number of units.
        now: Number of units that the training has of its own.
        setting: Number of units -> value of the option.
    """

    key: str
    unit: int
    low: int
    high: int
    now: int
    setting: Callable[[int], float]

    def turned(self, options: str, units: int) -> str:
        """The same options with so many units."""
        return replaced(options, self.key, self.setting(units))


def option_of(by: By) -> str:
    """The option that is turned, dotted; the trainer counts its steps in whole epochs."""
    return "epochs" if by == "steps" else f"model.args.{by}"


def find_knob(options: str, by: By) -> Knob:
    """How an option of a training can be turned.

    Args:
        options: Of the training, a JSON text.
        by: What is turned.

    Raises:
        ValueError: The options make no model, or one without such an option.
    """
    if by == "steps":
        config = config_of(options)
        # the warm-up has to leave something of the epochs
        return Knob(option_of(by), 1, int(config.schedule.warmup_epochs) + 1, GREATEST_EPOCHS, config.epochs, int)
    if by == "depth":
        return _depth(options)
    return _width(options) if by == "embed_dim" else _hidden(options)


def _depth(options: str) -> Knob:
    network = network_of(options, None)
    # a pattern is tiled to the depth, which it has to divide
    pattern = parse_pattern(str(network.pattern))
    if len(pattern.stages) > 1:
        raise ValueError(f"{network.pattern!r} is written out in full and has one depth; match it by mlp_ratio")
    unit, now = pattern.num_blocks, len(network.blocks)  # type: ignore[arg-type]
    return Knob(option_of("depth"), unit, unit, GREATEST_DEPTH // unit * unit, now, int)


def _hidden(options: str) -> Knob:
    dim = _embed_dim(options)
    own = config_of(options).model.args.get("mlp_ratio", 4)  # timm's

    def ratio(hidden: int) -> float:
        value = hidden / dim
        # timm cuts dim * ratio down to a whole number
        return value if int(dim * value) == hidden else math.nextafter(value, math.inf)

    return Knob(option_of("mlp_ratio"), 1, 1, GREATEST_RATIO * dim, max(int(dim * own), 1), ratio)


def _width(options: str) -> Knob:
    """Widths that the heads divide; what else they have to be (rotary positions are choosy) shows in a forward pass."""
    dim, key = _embed_dim(options), option_of("embed_dim")
    heads = int(network_of(options, None).blocks[0].attn.num_heads)  # type: ignore[index, union-attr]

    def runs(width: int) -> bool:
        try:
            multiply_adds(replaced(options, key, width), None)
        except (ValueError, RuntimeError, AssertionError):  # of the constructor, or of the forward pass
            return False
        return True

    steps = [heads * share for share in (1, 2, 4, 8) if dim % (heads * share) == 0]
    unit = next((step for step in steps if runs(dim + step)), None)
    if unit is None:
        raise ValueError(f"no embed_dim near {dim} goes with {heads} heads; match by mlp_ratio")
    low = next(width for width in range(unit, dim + 1, unit) if runs(width))
    return Knob(key, unit, low, GREATEST_WIDTH // unit * unit, dim, int)


def _embed_dim(options: str) -> int:
    network = network_of(options, None)
    try:
        return int(network.embed_dim)  # type: ignore[arg-type]
    except AttributeError:
        raise ValueError(
            f"{type(network).__name__} has no width that could be matched; leave the variant out"
        ) from None
