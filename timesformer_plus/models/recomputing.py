"""Activations computed again in the backward pass instead of being kept: which parts, and how outputs of single layers.

Whole parts of a block go through timm's ``checkpoint``, which runs their matrix products again. Norms and activation
functions cost one pass over memory: what the next layer would keep of them, half of what an MLP leaves for its backward
pass, can be had again from the input that they keep for their own.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .tokens import LETTERS

__all__ = ["OUTPUTS", "outputs_computed_again", "parts_to_compute_again"]

OUTPUTS = ("norm", "act")
"""Parts of which outputs alone are computed again: the blocks' norms, and the activation functions of their MLPs."""


def parts_to_compute_again(enable: bool | str | Sequence[str]) -> frozenset[str]:
    """Check what a user asks ``set_grad_checkpointing`` for.

    Args:
        enable: A part, or several of them; true and false name none.

    Returns:
        The parts: of ``attention``, ``mlp``, ``norm``, ``act`` and the letters.

    Raises:
        ValueError: A part that is none.
    """
    parts: tuple[str, ...] = ()
    if not isinstance(enable, bool):
        parts = (enable,) if isinstance(enable, str) else tuple(enable)
    known = ("attention", "mlp", *OUTPUTS, *LETTERS)
    unknown = [part for part in parts if part not in known]
    if unknown:
        raise ValueError(
            f"grad_checkpointing of {unknown}: give true, false, or parts of blocks among {', '.join(known)}"
        )
    return frozenset(parts)


@dataclasses.dataclass
class Recipe:
    """How to have a layer's output again.

    Attributes:
        layer: Computes the same whenever it is called with the same tensor.
        x: What it was called with, which it keeps for its own backward pass.
        dtype: Of the output, a lower one where mixed precision has the next layer round it.
        autocast: Whether mixed precision was on, and its type.
        waiting: How many have still to ask for the output, which is kept between the first of them and the last.
    """

    layer: nn.Module
    x: Kept
    dtype: torch.dtype
    autocast: tuple[bool, torch.dtype]
    waiting: int = 0
    again: Tensor | None = None

    def __post_init__(self) -> None:
        self.weights = [Kept(weight) for weight in self.layer.parameters()]

    def output(self) -> Tensor:
        """Compute the output again, or hand out what was computed for another.

        Raises:
            RuntimeError: The layer's input or weights have been changed since.
        """
        x, y, (enabled, dtype) = self.x.unchanged(), self.again, self.autocast
        for weight in self.weights:
            weight.unchanged()
        if y is None:
            with torch.no_grad(), torch.autocast(x.device.type, dtype, enabled=enabled):
                y = self.layer(x).to(self.dtype)
        self.waiting -= 1
        self.again = y if self.waiting > 0 else None
        return y


class Kept:
    """A tensor as it is now; autograd leaves it to its hooks to see that nobody changes it."""

    def __init__(self, x: Tensor) -> None:
        self.x = x.detach()  # with its node it would hold itself, where it is an output that its own layer keeps
        self.version = x._version

    def unchanged(self) -> Tensor:
        """Hand the tensor out.

        Raises:
            RuntimeError: It has been changed in place.
        """
        if self.x._version != self.version:
            raise RuntimeError(
                f"a tensor {tuple(self.x.shape)} that the backward pass needs was changed in place after the forward "
                "pass; change a copy, or call backward first"
            )
        return self.x


@contextlib.contextmanager
def outputs_computed_again(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Let the backward pass compute outputs of layers again that others, called within, would keep.

    Values are those of the forward pass, bit for bit. Under mixed precision an output is rounded here, once, as the
    Linear layers behind it would each do for themselves. A layer is left alone where a second call may give something
    else (it draws, counts or works in place) and where it keeps its output itself, as ReLU does; all are where no
    gradient is wanted. Not for a compiler to trace, which decides for itself what to compute again. Hooks on what
    autograd keeps that were set outside, such as ``save_on_cpu``, see nothing of what is called within.

    Args:
        layers: Norms and activation functions, each of one tensor, whose outputs go into Linear layers alone.
    """
    if not torch.is_grad_enabled():
        yield
        return
    seen: set[int] = set()  # addresses of what is kept
    made: dict[int, tuple[Kept, Recipe]] = {}  # by address; an output is held so that nothing else can lie there

    def note(layer: nn.Module, inputs: tuple[Any, ...], y: Tensor) -> Tensor:
        (x,) = inputs
        keeps_input_alone = _address(x) in seen and _address(y) not in seen
        if not keeps_input_alone or not y.is_contiguous() or y.storage_offset():
            return y
        autocast = (torch.is_autocast_enabled(x.device.type), torch.get_autocast_dtype(x.device.type))
        if autocast[0] and y.dtype == torch.float32:
            y = y.to(autocast[1])  # otherwise what is kept is a copy that nothing here knows
        made[_address(y)] = Kept(y), Recipe(layer, Kept(x), y.dtype, autocast)
        return y

    def pack(x: Tensor) -> Kept | tuple[Recipe, Any]:
        output, recipe = made.get(_address(x), (None, None))
        if output is None or recipe is None or x._version != output.version or x.dtype != recipe.dtype:
            seen.add(_address(x))
            return Kept(x)
        recipe.waiting += 1
        return recipe, (x.shape, x.stride(), x.storage_offset())

    def unpack(kept: Kept | tuple[Recipe, Any]) -> Tensor:
        return kept.unchanged() if isinstance(kept, Kept) else kept[0].output().as_strided(*kept[1])

    hooks = [layer.register_forward_hook(note) for layer in layers if _computes_the_same(layer)]
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield
    finally:
        made.clear()  # autograd holds on to `pack`
        for hook in hooks:
            hook.remove()


def _address(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def _computes_the_same(layer: nn.Module) -> bool:
    """Whether a second call gives what the first gave and leaves nothing behind, as far as the layer shows."""
    has_parts = any(True for _ in layer.children()) or any(True for _ in layer.buffers())
    return not has_parts and not isinstance(layer, nn.RReLU | nn.modules.dropout._DropoutNd)
