"""Softmax attention within many short sequences, as operators of PyTorch over programs of Triton.

Kernels for long sequences give every sequence a tile of its own, at least 16 rows and often 64 or 128, which a time
axis of 8 frames leaves mostly empty. Here several sequences share a tile; ``short_attention_triton`` says how.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

__all__ = ["LONGEST", "WIDEST", "short_attention", "short_attention_backward", "tile_of"]

LONGEST = 32
"""Most tokens of a sequence."""
WIDEST = 256
"""Most channels of a head."""


@torch.library.custom_op(
    "timesformer_plus::short_attention", mutates_args=(), schema="(Tensor q, Tensor k, Tensor v, bool causal) -> Tensor"
)
def short_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Softmax attention, scaled by one over the root of d; differentiable once.

    Args:
        q: Queries, (B, H, L, d) with L <= ``LONGEST`` and d <= ``WIDEST``, in float32, bfloat16 or float16, any
            strides; on a CUDA device, or on any under Triton's interpreter. Shapes are not checked: ``attend`` does.
        k: Keys, (B, H, S, d) with S <= ``LONGEST``, of the same type.
        v: Values, as ``k``.
        causal: Whether query i sees keys 0 to i only.

    Returns:
        (B, H, L, d), lying in memory as (B, L, H, d).
    """
    from .short_attention_triton import forward  # here: triton takes time to import, and is not everywhere

    q, k, v = (_with_unit_stride(x) for x in (q, k, v))
    out = _like_tokens(q)
    _launch(forward, (q, k, v, out), (q, k, v, out), q, k, causal)
    return out


@torch.library.custom_op(
    "timesformer_plus::short_attention_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor q, Tensor k, Tensor v, bool causal) -> (Tensor, Tensor, Tensor)",
)
def short_attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``short_attention``.

    Args:
        grad: Gradient of its output, (B, H, L, d).
        q: Its queries, (B, H, L, d).
        k: Its keys, (B, H, S, d).
        v: Its values, (B, H, S, d).
        causal: As there.

    Returns:
        Gradients of q, k and v, each lying in memory as (B, tokens, H, d).
    """
    from .short_attention_triton import backward

    grad, q, k, v = (_with_unit_stride(x) for x in (grad, q, k, v))
    grads = _like_tokens(q), _like_tokens(k), _like_tokens(v)
    _launch(backward, (grad, q, k, v, *grads), (grad, q, k, v, *grads[:2]), q, k, causal)
    return grads


@short_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:  # noqa: ARG001
    return _like_tokens(q)


@short_attention_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG001
    return _like_tokens(q), _like_tokens(k), _like_tokens(v)


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool], output: Tensor) -> None:  # noqa: ARG001
    *tensors, ctx.causal = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    grad_q, grad_k, grad_v = short_attention_backward(grad, *ctx.saved_tensors, ctx.causal)
    return grad_q, grad_k, grad_v, None


short_attention.register_autograd(_differentiate, setup_context=_remember)


def tile_of(queries: int, keys: int, width: int, itemsize: int) -> tuple[int, int, int, int]:
    """Share a tile out among sequences.

    Args:
        queries: Queries of a sequence, L.
        keys: Its keys, S.
        width: Channels of a head, d.
        itemsize: Bytes of a number.

    Returns:
        Sequences of a tile; rows, columns and channels of it, powers of two of at least 16 (the least that a product
        of matrices takes).
    """
    channels = _power_of_two(width)
    longest = max(queries, keys)
    # so that a program holds in registers what it computes: those compiled for compute capability 9.0 do, but for
    # the backward pass in float32 with more than 64 channels
    most = (16, 32) if itemsize > 2 else (32, 32) if channels > 64 else (64, 64)
    packed = most[longest > 16] // longest
    return packed, _power_of_two(packed * queries), _power_of_two(packed * keys), channels


def _power_of_two(number: int) -> int:
    return max(16, 1 << (number - 1).bit_length())


def _launch(
    program: Any, tensors: tuple[Tensor, ...], strided: tuple[Tensor, ...], q: Tensor, k: Tensor, causal: bool
) -> None:
    B, H, L, d = q.shape
    if not q.numel():
        return
    packed, rows, cols, width = tile_of(L, k.shape[2], d, q.element_size())
    warps = 8 if q.element_size() > 2 and max(rows, cols) > 16 else 4
    strides = [stride for x in strided for stride in x.stride()[:3]]
    # triton launches on the current device, which need not be that of the tensors
    with torch.cuda.device(q.device) if q.is_cuda else nullcontext():
        program[(B * -(-H // packed),)](
            *tensors, d**-0.5, H, *strides,
            L=L, S=k.shape[2], D=d, CAUSAL=causal, PACKED=packed, ROWS=rows, COLS=cols, WIDTH=width,
            num_warps=warps,
        )  # fmt: skip


def _with_unit_stride(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _like_tokens(x: Tensor) -> Tensor:
    """New memory, (B, H, L, d), lying as (B, L, H, d): heads of a token side by side, as the next projection wants."""
    B, H, L, d = x.shape
    return x.new_empty(B, L, H, d).transpose(1, 2)
