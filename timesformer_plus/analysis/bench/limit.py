"""The limit of a model's speed: the bare matrix products that it runs, and nothing between them.

What a forward pass multiplies is read off the operators that it really calls, so that a model which leaves something
out is measured by what it still does. Each product is then run as ``torch.mm(out=)`` or ``torch.bmm(out=)`` on operands
that lie there already: no bias, no softmax, no norm, no residual, no copy. The limit counts both products of every
attention, whose weights (rows x keys) the bare product has to write to memory and a fused kernel does not: where groups
are long, more than 100 % is possible.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ...models.kernels import use_kernel
from ..counted_cost import evaluating

# numbers in the greatest operand of a batched product: of longer batches so much is computed at a time
_LARGEST = 2**25


@dataclass(frozen=True)
class Product:
    """A product of matrices, (batch, rows, inner) with (batch, inner, columns).

    Attributes:
        batch: Independent products; 1 for a Linear.
        rows: Of the left matrix.
        inner: What is summed over.
        columns: Of the right matrix.
        is_attention: Whether it is one of the two of an attention.
        by_columns: Whether the right matrix lies in memory column by column, as weights of a Linear and keys do.
        left_learns: Whether training needs the gradient of the left matrix; not if those are the pixels.
    """

    batch: int
    rows: int
    inner: int
    columns: int
    is_attention: bool = False
    by_columns: bool = True
    left_learns: bool = True

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the product."""
        return self.batch * self.rows * self.inner * self.columns


def products_of(model: nn.Module, clips: Tensor) -> list[Product]:
    """Run a model once and list the matrix products of its forward pass, in order.

    Args:
        model: Any module that takes one tensor.
        clips: What it takes.

    Returns:
        Products of Linear layers, convolutions (without overlap between places, as patches are) and attentions.

    Raises:
        ValueError: It calls an attention operator that is not known here.
    """
    # under inference_mode a Linear and an attention would arrive as they are written, not as what they call
    recorder = _Recorder()
    with evaluating(model), torch.no_grad(), use_kernel("sdpa"), recorder:  # others run the same products
        model(clips)
    return recorder.products


class Limit:
    """Matrix products on operands of their own, ready to be timed.

    Args:
        products: What to run.
        device: Where.
        dtype: Type of all operands.
        training: Whether to run the two products of the backward pass of each as well: the gradients of left and right
            matrix.
    """

    def __init__(
        self, products: Sequence[Product], *, device: torch.device | str, dtype: torch.dtype, training: bool
    ) -> None:
        self._made: dict[tuple[str, tuple[int, ...]], Tensor] = {}
        self._device, self._dtype = torch.device(device), dtype
        self._runs: list[Callable[[], object]] = []
        for product in products:
            self._add(product, training)

    def run(self) -> None:
        """Run all of them once."""
        for run in self._runs:
            run()

    def _add(self, p: Product, training: bool) -> None:
        widest = max(p.rows * p.inner, p.inner * p.columns, p.rows * p.columns)
        chunk = max(1, min(p.batch, _LARGEST // widest))
        times, rest = divmod(p.batch, chunk)
        left = self._shared("left", (chunk, p.rows, p.inner))
        shape = (chunk, p.columns, p.inner) if p.by_columns else (chunk, p.inner, p.columns)
        # every Linear has weights of its own, which do not wait in the cache
        right = self._shared("right", shape) if p.is_attention else self._new(shape)
        right = right.transpose(1, 2) if p.by_columns else right
        self._multiply(left, right, times, rest)
        if training:
            gradient = self._shared("gradient", (chunk, p.rows, p.columns))
            self._multiply(left.transpose(1, 2), gradient, times, rest)
            if p.left_learns:
                self._multiply(gradient, right.transpose(1, 2), times, rest)

    def _multiply(self, left: Tensor, right: Tensor, times: int, rest: int) -> None:
        out = self._shared("out", (left.shape[0], left.shape[1], right.shape[2]))
        if len(out) == 1:
            a, b, c = left[0], right[0], out[0]
            self._runs += [lambda: torch.mm(a, b, out=c)] * times
        else:
            self._runs += [lambda: torch.bmm(left, right, out=out)] * times
        if rest:
            d, e, f = left[:rest], right[:rest], out[:rest]
            self._runs.append(lambda: torch.bmm(d, e, out=f))

    def _shared(self, role: str, shape: tuple[int, ...]) -> Tensor:
        """An operand that products of the same shape share, of ordinary numbers: tiny ones would be slow."""
        if (role, shape) not in self._made:
            self._made[role, shape] = self._new(shape)
        return self._made[role, shape]

    def _new(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, device=self._device, dtype=self._dtype)


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.products: list[Product] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm"):
            left, right = args[-2:]
            self.products.append(Product(1, left.shape[0], left.shape[1], right.shape[1]))
        elif name in ("bmm", "baddbmm"):
            left, right = args[-2:]
            by_columns = right.stride(-2) == 1  # keys are
            batch, rows, inner = left.shape
            self.products.append(Product(batch, rows, inner, right.shape[2], is_attention=True, by_columns=by_columns))
        elif name == "convolution":
            channels, inner = out.shape[1], args[1][0].numel()
            self.products.append(Product(1, out.numel() // channels, inner, channels, left_learns=False))
        elif name.startswith("_scaled_dot_product"):
            q, k, v = args[:3]
            if not q.ndim == k.ndim == v.ndim == 4:
                raise ValueError(f"{name} with queries {tuple(q.shape)}: its products are not known here")
            self.products += _of_attention(q, k, v)
        elif "attention" in name or name.lstrip("_").startswith("linear"):
            raise ValueError(f"the model calls {name}, and which products that runs is not known here")
        return out


def _of_attention(q: Tensor, k: Tensor, v: Tensor) -> list[Product]:
    batch = math.prod(q.shape[:2])
    length, keys, d = q.shape[2], k.shape[2], q.shape[3]
    return [
        Product(batch, length, d, keys, is_attention=True),
        Product(batch, length, keys, v.shape[3], is_attention=True, by_columns=False),
    ]
