"""Softmax attention within many short sequences by FlexAttention, with several sequences in one of its tiles."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["packed_flex", "sequences_of_tile"]

TILE = 128
"""Rows and columns of a block of FlexAttention's block masks."""

_masks: dict[tuple[int, int, int, bool, torch.device], Any] = {}
_compiled: list[Callable[..., Any]] = []


def packed_flex(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Softmax attention, scaled by one over the root of d, under a block-diagonal mask.

    As many sequences as fit into a tile and divide H become one sequence in which a query sees the keys of its own;
    that takes a copy of q, k and v unless the tokens of a sequence lie side by side.

    Args:
        q: Queries, (B, H, L, d).
        k: Keys, (B, H, S, d).
        v: Values, (B, H, S, d).
        causal: Whether query i sees keys 0 to i only.

    Returns:
        (B, H, L, d), lying in memory as (B, L, H, d).
    """
    B, H, L, d = q.shape
    S = k.shape[2]
    packed = sequences_of_tile(H, max(L, S))
    mask = _mask(packed, L, S, causal, q.device)
    if not torch.is_grad_enabled():  # on a CPU FlexAttention refuses what has a gradient even where none is wanted
        q, k, v = q.detach(), k.detach(), v.detach()
    q, k, v = (x.reshape(B, H // packed, packed * x.shape[2], d) for x in (q, k, v))
    y: Tensor = _flex(q.device)(q, k, v, block_mask=mask)
    return y.reshape(B, H, L, d).transpose(1, 2).contiguous().transpose(1, 2)


def sequences_of_tile(sequences: int, length: int) -> int:
    """Most sequences that share a tile evenly: the greatest divisor of their number that fits.

    Args:
        sequences: How many there are.
        length: Tokens of each.

    Returns:
        At least 1.
    """
    return next(n for n in range(max(1, TILE // length), 0, -1) if sequences % n == 0)


def _mask(packed: int, L: int, S: int, causal: bool, device: torch.device) -> Any:
    key = (packed, L, S, causal, device)
    if torch.compiler.is_compiling():  # what is traced is kept in the graph, and is no tensor to be kept here
        return _make_mask(*key)
    if key not in _masks:
        with torch.inference_mode(False):  # training may use it later
            _masks[key] = _make_mask(*key)
    return _masks[key]


def _make_mask(packed: int, L: int, S: int, causal: bool, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def sees(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:  # noqa: ARG001
        same = query // L == key // S
        return same & (query % L >= key % S) if causal else same

    return create_block_mask(sees, None, None, packed * L, packed * S, device=device, BLOCK_SIZE=TILE)


def _flex(device: torch.device) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    if torch.compiler.is_compiling():
        return flex_attention
    if device.type == "cpu":  # compiling takes a C++ compiler, and speed is not what this is for
        return _without_its_warning(flex_attention)
    if not _compiled:
        # shapes are those of a few models: kernels of fixed sizes, rather than one for sizes that vary
        _compiled.append(torch.compile(flex_attention, dynamic=False))
    return _compiled[0]


def _without_its_warning(flex: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
            return flex(*args, **kwargs)

    return call
