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

__all__ = ["OUTPUTS", "Recipe", "outputs_computed_again", "parts_to_compute_again"]

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
        x: What it was called with; kept for its own backward pass anyway.
        version: Of ``x``, which nothing may have changed since.
        dtype: Of the output, a lower one where mixed precision has the next layer round it.
        autocast: Whether mixed precision was on, and its type.
        waiting: How many have still to ask for the output, which is kept between the first of them and the last.
    """

    layer: nn.Module
    x: Tensor
    version: int
    dtype: torch.dtype
    autocast: tuple[bool, torch.dtype]
    waiting: int = 0
    again: Tensor | None = None

    def output(self) -> Tensor:
        """Compute the output again, or hand out what was computed for another."""
        assert self.x._version == self.version, "a layer's input was changed in place before its backward pass"
        y, enabled, dtype = self.again, *self.autocast
        if y is None:
            with torch.no_grad(), torch.autocast(self.x.device.type, dtype, enabled=enabled):
                y = self.layer(self.x).to(self.dtype)
        self.waiting -= 1
        self.again = y if self.waiting > 0 else None
        return y


@contextlib.contextmanager
def outputs_computed_again(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Let the backward pass compute outputs of layers again that others, called within, would keep.

    Values are those of the forward pass, bit for bit. Under mixed precision an output is rounded here, once, as the
    Linear layers behind it would each do for themselves. A layer is left alone if a second call may give something
    else, since it draws or counts or works in place; all are where no gradient is wanted, and under a compiler, which
    decides for itself what to compute again.

    Args:
        layers: Norms and activation functions, each of one tensor, whose outputs go into Linear layers alone.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        yield
        return
    made: dict[int, tuple[Tensor, Recipe]] = {}  # by address; the output is held so that nothing else can lie there

    def note(layer: nn.Module, inputs: tuple[Any, ...], y: Tensor) -> Tensor:
        (x,) = inputs
        device = x.device.type
        autocast = (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
        if autocast[0] and y.dtype == torch.float32:
            y = y.to(autocast[1])  # otherwise what is kept is a copy that nothing here knows
        if y.data_ptr() != x.data_ptr() and y.is_contiguous() and y.storage_offset() == 0:
            made[y.data_ptr()] = (y, Recipe(layer, x.detach(), x._version, y.dtype, autocast))
        return y

    def pack(kept: Tensor) -> Tensor | tuple[Recipe, Any]:
        known = made.get(kept.untyped_storage().data_ptr())
        if known is None or known[0].dtype != kept.dtype or kept._version != known[0]._version:
            return kept
        known[1].waiting += 1
        return known[1], (kept.shape, kept.stride(), kept.storage_offset())

    def unpack(kept: Tensor | tuple[Recipe, Any]) -> Tensor:
        return kept if isinstance(kept, Tensor) else kept[0].output().as_strided(*kept[1])

    hooks = [layer.register_forward_hook(note) for layer in layers if _computes_the_same(layer)]
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield
    finally:
        made.clear()  # autograd holds on to `pack`
        for hook in hooks:
            hook.remove()


def _computes_the_same(layer: nn.Module) -> bool:
    """Whether a second call gives what the first gave and leaves nothing behind."""
    has_parts = any(True for _ in layer.children()) or any(True for _ in layer.buffers())
    return not has_parts and not isinstance(layer, nn.RReLU | nn.Identity)
