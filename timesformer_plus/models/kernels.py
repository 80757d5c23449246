"""Softmax attention, and which implementation of it serves which shape.

=========  ==========================================================================================================
sdpa       PyTorch's ``scaled_dot_product_attention``: serves everything.
flex       PyTorch's FlexAttention over tiles that several sequences share (``packed_flex``).
triton     A kernel of our own in which several sequences of up to 32 tokens share a tile (``short_attention``).
=========  ==========================================================================================================
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .kernel_choices import KERNELS, Choices, Kernel, Key, bucket_of, choose_from, read_timings
from .packed_flex import packed_flex
from .short_attention import LONGEST, WIDEST, short_attention

__all__ = ["Case", "attend", "choose_kernel", "load_choices", "use_kernel", "why_not"]

KERNEL_VARIABLE = "TIMESFORMER_PLUS_KERNEL"
CHOICES_VARIABLE = "TIMESFORMER_PLUS_KERNEL_CHOICES"
# CUDA launches at most so many blocks along two of its three axes, and SDPA's kernels put heads on one of these
MOST_HEADS = 65535

_asked: str | None = None
_choices: Choices | None = None


class Case(NamedTuple):
    """What a choice of kernel is made from.

    Args:
        device: Of the tensors.
        dtype: In which attention is computed, autocast considered.
        queries: Tokens of a sequence, L.
        keys: Its keys, S.
        head_dim: d.
        causal: Whether query i sees keys 0 to i only.
        dropout_p: Dropout of attention weights.
        training: Whether a backward pass may follow.
    """

    device: torch.device
    dtype: torch.dtype
    queries: int
    keys: int
    head_dim: int
    causal: bool = False
    dropout_p: float = 0.0
    training: bool = False


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
        kernel: What is to compute it; see ``choose_kernel``.

    Returns:
        (B, H, L, d). Where q is a view of a token layout, it lies in memory as (B, L, H, d), so that its heads merge
        without a copy; not so where SDPA falls back to plain products (dropout on a CPU, for one).

    Raises:
        ValueError: Shapes or types that do not fit, or a kernel that does not exist or cannot serve the case.
    """
    dtype = _dtype_of_autocast(q)
    _check(q, k, v, dtype is None)
    dtype = dtype or q.dtype
    training = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    case = Case(q.device, dtype, q.shape[2], k.shape[2], q.shape[3], causal, dropout_p, training)
    chosen = choose_kernel(case, kernel)
    if chosen == "sdpa":
        return _sdpa(q, k, v, causal, dropout_p)
    q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)  # autocast knows SDPA, and not these
    if chosen == "flex":
        return packed_flex(q, k, v, causal)
    y: Tensor = short_attention(q, k, v, causal)
    return y


def choose_kernel(case: Case, kernel: Kernel | Literal["auto"] | None = None) -> Kernel:
    """Choose who computes an attention.

    The first that says something decides: the argument; ``use_kernel``; the variable ``TIMESFORMER_PLUS_KERNEL``. The
    latter two speak of sequences of up to 32 tokens only, so that a model in which such attention is mixed with that
    of whole frames runs under them.

    Without any of them, or with ``"auto"``, it is SDPA, unless a file of timings (``load_choices`` or the variable
    ``TIMESFORMER_PLUS_KERNEL_CHOICES``) says that on this GPU another kernel took at most 95 % of its time, in this
    type, for this range of lengths, width of heads and direction, and that kernel can serve the case. No such file
    comes with the package, because none of the kernels has been measured on a GPU yet; on a CPU SDPA is always taken.

    Args:
        case: What is to be computed.
        kernel: ``"sdpa"``, ``"flex"`` or ``"triton"``; ``"auto"`` to choose by timings; None for no word.

    Returns:
        The kernel's name.

    Raises:
        ValueError: The name is none of these, or a kernel that was asked for cannot serve the case.
    """
    asked, origin = _wish(kernel)
    short = max(case.queries, case.keys) <= LONGEST
    if asked == "auto" or (kernel is None and not short):
        chosen = _measured(case) if short and case.device.type == "cuda" else "sdpa"
        return "sdpa" if why_not(chosen, case) else chosen
    reason = why_not(asked, case)
    if reason:
        raise ValueError(f"kernel {asked!r} (asked for by {origin}) {reason}, or leave the choice to 'auto'")
    return asked


def why_not(kernel: Kernel, case: Case) -> str:
    """Say why a kernel cannot serve a case, and what to try; empty if it can.

    Args:
        kernel: Its name.
        case: What is to be computed.
    """
    if kernel == "sdpa":
        return ""
    if case.dropout_p > 0:
        return f"has no dropout of attention weights, got {case.dropout_p}; set attn_drop to 0 or take 'sdpa'"
    if case.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"computes in float32, bfloat16 or float16, got {case.dtype}; convert or take 'sdpa'"
    if kernel == "flex":
        if case.device.type == "cpu" and case.training:
            return "has no backward pass on a CPU; use a GPU, no gradients or 'sdpa'"
        if case.device.type == "cuda" and case.head_dim < 16:
            return f"wants heads of at least 16 channels, got {case.head_dim}; use fewer heads or take 'sdpa'"
        return ""
    if not 0 < min(case.queries, case.keys) <= max(case.queries, case.keys) <= LONGEST:
        lengths = f"{case.queries} queries and {case.keys} keys"
        return f"serves sequences of 1 to {LONGEST} tokens, got {lengths}; take 'sdpa' or 'flex'"
    if case.head_dim > WIDEST:
        return f"serves heads of up to {WIDEST} channels, got {case.head_dim}; use more heads or take 'sdpa'"
    state = _triton_state()
    if state == "missing":
        return "needs the package triton, which is not installed here; install it (Linux) or take 'sdpa'"
    if case.device.type != "cuda" and state != "interpreted":
        return f"needs a CUDA device, got {case.device}; set TRITON_INTERPRET=1 to interpret it, or take 'sdpa'"
    return ""


@contextmanager
def use_kernel(kernel: Kernel | Literal["auto"]) -> Iterator[None]:
    """Let a kernel compute the attention of all sequences of up to 32 tokens within a ``with`` statement.

    It counts for all threads. A compiled model takes what held when it was compiled, or compiles anew.

    Args:
        kernel: One that ``choose_kernel`` knows.

    Raises:
        ValueError: None of these; later, where the kernel cannot serve a case.
    """
    global _asked
    _check_name(kernel, "use_kernel")
    before = _asked
    _asked = kernel
    try:
        yield
    finally:
        _asked = before


def load_choices(path: str | Path | None) -> Choices:
    """Choose by the timings in a file from now on; those loaded before no longer count.

    Args:
        path: What ``write_timings`` wrote; None for no timings.

    Returns:
        The choices that now hold.

    Raises:
        ValueError: No file of timings.
    """
    global _choices
    _choices = {} if path is None else choose_from(read_timings(path))
    return _choices


def _wish(kernel: str | None) -> tuple[Kernel | Literal["auto"], str]:
    if kernel is not None:
        return _check_name(kernel, "the argument kernel"), "the argument"
    if _asked is not None:
        return _check_name(_asked, "use_kernel"), "use_kernel"
    # empty is as good as unset: a shell has no other way to unset a variable for one command
    return _check_name(os.environ.get(KERNEL_VARIABLE) or "auto", KERNEL_VARIABLE), KERNEL_VARIABLE


def _check_name(kernel: str, origin: str) -> Kernel | Literal["auto"]:
    for name in KERNELS:
        if kernel == name:
            return name
    if kernel == "auto":
        return "auto"
    raise ValueError(f"{origin} is {kernel!r}, which is not one of auto {' '.join(KERNELS)}")


def _measured(case: Case) -> Kernel:
    if not _has_choices() or _choices is None:
        return "sdpa"
    key = Key(
        _device_name(case.device.index),
        str(case.dtype).removeprefix("torch."),
        bucket_of(max(case.queries, case.keys)),
        case.head_dim,
        case.causal,
        "training" if case.training else "forward",
    )
    return _choices.get(key, "sdpa")


# torch.compile cannot follow the next three, and what they return does not change while a model is compiled
@torch.compiler.assume_constant_result
def _has_choices() -> bool:
    if _choices is None:
        load_choices(os.environ.get(CHOICES_VARIABLE) or None)
    return bool(_choices)


@torch.compiler.assume_constant_result
def _device_name(index: int | None) -> str:
    return torch.cuda.get_device_name(index)


@torch.compiler.assume_constant_result
def _triton_state() -> str:
    if importlib.util.find_spec("triton") is None:
        return "missing"
    from .short_attention_triton import INTERPRETED

    return "interpreted" if INTERPRETED else "compiled"


def _dtype_of_autocast(q: Tensor) -> torch.dtype | None:
    kind = q.device.type
    if q.dtype == torch.float64 or not torch.amp.is_autocast_available(kind):  # not on the meta device, for one
        return None
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def _sdpa(q: Tensor, k: Tensor, v: Tensor, causal: bool, dropout_p: float) -> Tensor:
    if not q.is_cuda or q.shape[1] <= MOST_HEADS:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p, is_causal=causal)
    return _in_parts(q, k, v, causal, dropout_p)


def _in_parts(q: Tensor, k: Tensor, v: Tensor, causal: bool, dropout_p: float) -> Tensor:
    done = [
        F.scaled_dot_product_attention(q_part, k_part, v_part, dropout_p=dropout_p, is_causal=causal)
        for q_part, k_part, v_part in zip(*(x.split(MOST_HEADS, dim=1) for x in (q, k, v)), strict=True)
    ]
    return torch.cat([y.transpose(1, 2) for y in done], dim=2).transpose(1, 2)


def _check(q: Tensor, k: Tensor, v: Tensor, one_dtype: bool) -> None:
    a, b, c = q.shape, k.shape, v.shape  # every attention passes here, and asking takes time
    if len(a) != 4 or b != c or a[:2] != b[:2] or a[3:] != b[3:]:
        raise ValueError(
            f"q {tuple(a)}, k {tuple(b)} and v {tuple(c)} should be (B, H, L, d), (B, H, S, d) and "
            "(B, H, S, d); repeat heads that several share"
        )
    if (one_dtype and not q.dtype == k.dtype == v.dtype) or not q.device == k.device == v.device:
        kinds = ", ".join(f"{x.dtype} on {x.device}" for x in (q, k, v))
        raise ValueError(f"q, k and v are {kinds}; give all of them one type and one device")
