"""Softmax attention, and which implementation of it serves which shape."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

__all__ = ["KERNELS", "Kernel", "attend"]

Kernel = Literal["sdpa", "flex", "triton"]
KERNELS: tuple[Kernel, ...] = ("sdpa",)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    dropout_p: float = 0.0,
    kernel: Kernel | Literal["auto"] | None = None,
) -> Tensor:
    """Softmax attention, scaled by one over the root of d.

    Args:
        q: Queries, (B, H, L, d); any strides whose last is 1, so views of a token layout need no copy.
        k: Keys, (B, H, S, d).
        v: Values, (B, H, S, d).
        causal: Whether query i sees keys 0 to i only.
        dropout_p: Dropout of attention weights, a probability; 0 outside training.
        kernel: What is to compute it; None or ``"auto"`` for the choice of the module.

    Returns:
        (B, H, L, d).

    Raises:
        ValueError: A kernel that does not exist.
    """
    if kernel not in (None, "auto", *KERNELS):
        raise ValueError(f"{kernel=} is not one of auto {' '.join(KERNELS)}")
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p, is_causal=causal)
