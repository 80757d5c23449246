"""Attention written out in float64, and inputs that a kernel for short sequences could get wrong."""

import itertools

import torch
from torch import Tensor

from timesformer_plus.models.kernel_choices import Kernel
from timesformer_plus.models.kernels import attend

LENGTHS = (1, 2, 3, 8, 16, 17, 32)
WIDTHS = (8, 32, 48, 64, 80)
LAYOUTS = ("rows", "tokens", "slices", "mixed")
# of what is compared, relative to the greatest number in it
TOLERANCES = {torch.float32: 3e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}

# (L, S, d, causal, layout): all pairs of length and width, the rest in turn; and lengths that differ
CASES = [
    (length, length, width, i // 4 % 2 == 1, LAYOUTS[i % 4])
    for i, (length, width) in enumerate(itertools.product(LENGTHS, WIDTHS))
]
CASES += [(1, 32, 48, False, "tokens"), (17, 3, 80, False, "slices"), (2, 9, 64, False, "every second")]
CASES += [(8, 8, 64, True, "tokens"), (8, 8, 64, False, "tokens"), (3, 5, 16, True, "rows"), (5, 3, 16, True, "rows")]


def explicit(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Softmax attention, one step after the other, in float64."""
    q, k, v = q.double(), k.double(), v.double()
    scores = torch.einsum("bhld, bhsd -> bhls", q, k) / q.shape[-1] ** 0.5
    if causal:
        later = torch.arange(k.shape[2])[None, :] > torch.arange(q.shape[2])[:, None]
        scores = scores.masked_fill(later.to(q.device), -torch.inf)
    return torch.einsum("bhls, bhsd -> bhld", scores.softmax(-1), v)


def inputs(
    B: int, H: int, L: int, S: int, d: int, layout: str = "tokens", dtype: torch.dtype = torch.float32, device="cpu"
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, (B, H, L or S, d), that lie in memory as the layout says; leaves with a gradient."""

    def one(length: int, layout: str) -> Tensor:
        if layout == "rows":
            x = torch.randn(B, H, length, d, device=device)
        elif layout == "tokens":  # what attention over time gets: H is places times heads, L has the great stride
            x = torch.randn(B, length, H, d, device=device).transpose(1, 2)
        elif layout == "slices":
            x = torch.randn(B, length + 1, H, 3, d, device=device)[:, 1:, :, 1].transpose(1, 2)
        else:  # every second
            x = torch.randn(B, H, length, 2 * d, device=device)[..., ::2]
        out = torch.empty_strided(x.shape, x.stride(), dtype=dtype, device=device).copy_(x)
        return out.requires_grad_()

    layouts = ("tokens", "rows", "slices") if layout == "mixed" else (layout,) * 3
    return one(L, layouts[0]), one(S, layouts[1]), one(S, layouts[2])


def compare(kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, causal: bool, gradients: bool = True) -> None:
    """Hold a kernel against attention written out, and its gradients of q, k and v."""
    y, wanted = attend(q, k, v, causal=causal, kernel=kernel), explicit(q, k, v, causal)
    assert y.dtype == q.dtype
    if kernel != "sdpa" or q.transpose(1, 2).is_contiguous():  # SDPA lays its output out as its queries are
        assert y.transpose(1, 2).is_contiguous()
    pairs = [(y, wanted)]
    if gradients:
        direction = torch.randn_like(y)
        ours = torch.autograd.grad(y, (q, k, v), direction)
        pairs += zip(ours, torch.autograd.grad(wanted, (q, k, v), direction.double()), strict=True)
    for a, b in pairs:
        assert a.shape == b.shape
        # a single key has no gradient towards queries and keys: an error there is one of numbers about 1
        error = (a.double() - b.double()).abs().max() / max(float(b.detach().abs().max()), 1.0)
        assert error <= TOLERANCES[q.dtype], f"off by {error:.1e}"
