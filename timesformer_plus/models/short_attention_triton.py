"""The Triton programs of ``short_attention``. Imports triton: only the functions that launch them import this file.

A tile holds as many sequences of one sample as fit, one after the other: row r is position ``r % L`` of sequence
``r // L``, and of the scores only the blocks on the diagonal count. No tile holds two samples, so that a broken one
(zero times infinity) spoils no other. Every key of a row lies in the tile, so the softmax
is done in one go, and the backward pass computes it again from queries and keys instead of reading statistics.

Legend: L queries and S keys a sequence, D channels a head, PACKED sequences a tile, ROWS x COLS scores a tile, WIDTH
channels of a tile; the last three are powers of two, filled up with zeros.
"""

# mypy: disable-error-code="no-untyped-def, import-untyped, import-not-found"
# Triton's programs have no types that Python knows, and neither has Triton where it is missing.
from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["INTERPRETED", "backward", "forward"]


@triton.jit
def _places(first, b, H, stride_b, stride_h, stride_l, LENGTH: tl.constexpr, PACKED: tl.constexpr, SIZE: tl.constexpr):
    """Where the tokens of a tile lie, sequence after sequence, and which of them exist."""
    row = tl.arange(0, SIZE)
    sequence = row // LENGTH
    # 64 bits: a batch of long clips has more than 2**31 numbers
    h = (first + sequence).to(tl.int64)
    places = b.to(tl.int64) * stride_b + h * stride_h + (row % LENGTH).to(tl.int64) * stride_l
    return places, (sequence < PACKED) & (h < H)


INTERPRETED = tl.constexpr(not isinstance(_places, triton.JITFunction))
"""Whether Triton runs programs in Python, on tensors of any device (``TRITON_INTERPRET=1`` when it was imported)."""


@triton.jit
def _dot(a, b):
    if INTERPRETED:  # whose product of matrices takes the bits of a bfloat16 for an integer
        a, b = a.to(tl.float32), b.to(tl.float32)
    # ieee: the reduced precision of tensor cores would show in float32, and is not what the caller asked for
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _load(base, places, exist, D: tl.constexpr, WIDTH: tl.constexpr):
    channel = tl.arange(0, WIDTH)
    return tl.load(base + places[:, None] + channel[None, :], mask=exist[:, None] & (channel < D)[None, :], other=0.0)


@triton.jit
def _store(base, places, exist, value, D: tl.constexpr, WIDTH: tl.constexpr):
    channel = tl.arange(0, WIDTH)
    mask = exist[:, None] & (channel < D)[None, :]
    tl.store(base + places[:, None] + channel[None, :], value.to(base.dtype.element_ty), mask=mask)


@triton.jit
def _weights(
    q, k, scale, L: tl.constexpr, S: tl.constexpr, CAUSAL: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr
):
    """Softmax numerators, (ROWS, COLS), zero outside of a sequence, and their sums, (ROWS,), in float32."""
    row = tl.arange(0, ROWS)
    col = tl.arange(0, COLS)
    sees = (row // L)[:, None] == (col // S)[None, :]
    if CAUSAL:
        sees = sees & ((row % L)[:, None] >= (col % S)[None, :])
    scores = _dot(q, tl.trans(k)) * (scale * 1.4426950408889634)  # exp2 wants log2(e)
    scores = tl.where(sees, scores, float("-inf"))
    most = tl.max(scores, 1)
    most = tl.where(most == float("-inf"), 0.0, most)  # rows that fill up the tile see nothing
    weights = tl.exp2(scores - most[:, None])
    total = tl.sum(weights, 1)
    return weights, tl.where(total == 0.0, 1.0, total)


@triton.jit
def forward(
    q, k, v, out, scale, H, q_b, q_h, q_l, k_b, k_h, k_l, v_b, v_h, v_l, out_b, out_h, out_l,
    L: tl.constexpr, S: tl.constexpr, D: tl.constexpr, CAUSAL: tl.constexpr,
    PACKED: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Attend, softmax(q k^T scale) v, for one tile of one sample."""
    tiles = tl.cdiv(H, PACKED)
    b = tl.program_id(0) // tiles
    first = tl.program_id(0) % tiles * PACKED
    at_q, is_row = _places(first, b, H, q_b, q_h, q_l, L, PACKED, ROWS)
    at_k, is_col = _places(first, b, H, k_b, k_h, k_l, S, PACKED, COLS)
    at_v, _ = _places(first, b, H, v_b, v_h, v_l, S, PACKED, COLS)
    at_out, _ = _places(first, b, H, out_b, out_h, out_l, L, PACKED, ROWS)
    weights, total = _weights(
        _load(q, at_q, is_row, D, WIDTH), _load(k, at_k, is_col, D, WIDTH), scale, L, S, CAUSAL, ROWS, COLS
    )
    values = _load(v, at_v, is_col, D, WIDTH)
    mixed = _dot(weights.to(values.dtype), values) / total[:, None]
    _store(out, at_out, is_row, mixed, D, WIDTH)


@triton.jit
def backward(
    grad, q, k, v, grad_q, grad_k, grad_v, scale, H,
    grad_b, grad_h, grad_l, q_b, q_h, q_l, k_b, k_h, k_l, v_b, v_h, v_l, gq_b, gq_h, gq_l, gk_b, gk_h, gk_l,
    L: tl.constexpr, S: tl.constexpr, D: tl.constexpr, CAUSAL: tl.constexpr,
    PACKED: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Gradients of q, k and v for one tile of one sample; that of v lies in memory as that of k does.

    With P the softmax and G the gradient of the output: dV = P^T G, dP = G V^T, dS = P (dP - sum(P dP)), dQ = dS K
    scale, dK = dS^T Q scale.
    """
    tiles = tl.cdiv(H, PACKED)
    b = tl.program_id(0) // tiles
    first = tl.program_id(0) % tiles * PACKED
    at_grad, is_row = _places(first, b, H, grad_b, grad_h, grad_l, L, PACKED, ROWS)
    at_q, _ = _places(first, b, H, q_b, q_h, q_l, L, PACKED, ROWS)
    at_k, is_col = _places(first, b, H, k_b, k_h, k_l, S, PACKED, COLS)
    at_v, _ = _places(first, b, H, v_b, v_h, v_l, S, PACKED, COLS)
    queries = _load(q, at_q, is_row, D, WIDTH)
    keys = _load(k, at_k, is_col, D, WIDTH)
    above = _load(grad, at_grad, is_row, D, WIDTH)
    weights, total = _weights(queries, keys, scale, L, S, CAUSAL, ROWS, COLS)
    weights = weights / total[:, None]
    to_values = _dot(tl.trans(weights).to(above.dtype), above)
    at_gk, _ = _places(first, b, H, gk_b, gk_h, gk_l, S, PACKED, COLS)
    _store(grad_v, at_gk, is_col, to_values, D, WIDTH)
    to_weights = _dot(above, tl.trans(_load(v, at_v, is_col, D, WIDTH)))
    to_scores = weights * (to_weights - tl.sum(weights * to_weights, 1)[:, None]) * scale
    to_keys = _dot(tl.trans(to_scores).to(queries.dtype), queries)
    _store(grad_k, at_gk, is_col, to_keys, D, WIDTH)
    at_gq, _ = _places(first, b, H, gq_b, gq_h, gq_l, L, PACKED, ROWS)
    to_queries = _dot(to_scores.to(keys.dtype), keys)
    _store(grad_q, at_gq, is_row, to_queries, D, WIDTH)
