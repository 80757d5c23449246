"""The Triton kernel in Triton's interpreter: run by test_kernels.py in a process of its own.

The interpreter is chosen when triton is imported, for all of a process.
"""

import os

import pytest
import torch
from short_sequences import CASES, TOLERANCES, compare, explicit, inputs

from timesformer_plus.models import short_attention as operators
from timesformer_plus.models import short_attention_triton as programs
from timesformer_plus.models.kernels import attend, use_kernel
from timesformer_plus.models.short_attention import short_attention, short_attention_backward, tile_of

# PyTorch's own, where it looks for gradients of views
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")

SOME = CASES if os.environ.get("SHORT_ATTENTION_CASES") != "some" else CASES[:35:6] + CASES[35:]


def one_more_than_a_tile_holds(L: int, S: int, d: int, itemsize: int) -> int:
    return tile_of(L, S, d, itemsize)[0] + 1


@pytest.mark.parametrize(("L", "S", "d", "causal", "layout"), SOME)
def test_equals_attention_written_out(L: int, S: int, d: int, causal: bool, layout: str) -> None:
    compare("triton", *inputs(2, one_more_than_a_tile_holds(L, S, d, 4), L, S, d, layout), causal)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("L", "S", "d", "causal", "layout"), CASES[:35:8] + CASES[-4:-2])
def test_half_precision(L: int, S: int, d: int, causal: bool, layout: str, dtype: torch.dtype) -> None:
    compare("triton", *inputs(1, one_more_than_a_tile_holds(L, S, d, 2), L, S, d, layout, dtype), causal)


class FirstProgram:
    """Runs the first of the programs that are launched, and no other."""

    def __init__(self, function):
        self.function = function

    def __getitem__(self, launched):
        return self.function[(1,)]


@pytest.mark.parametrize(("L", "S"), [(3, 3), (3, 5), (5, 2)])
def test_a_program_writes_what_is_its_own(L: int, S: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter runs one after the other, where a GPU would show them overwriting each other."""
    for name in ("forward", "backward"):
        monkeypatch.setattr(programs, name, FirstProgram(getattr(programs, name)))
    new = operators._like_tokens
    monkeypatch.setattr(operators, "_like_tokens", lambda x: new(x).fill_(torch.nan))
    packed = tile_of(L, S, 16, 4)[0]
    q, k, v = (x.detach() for x in inputs(2, 2 * packed, L, S, 16))
    for result in (short_attention(q, k, v, False), *short_attention_backward(torch.ones_like(q), q, k, v, False)):
        assert result[0, :packed].isfinite().all()
        assert result[0, packed:].isnan().all()
        assert result[1].isnan().all()


def test_widest_heads() -> None:
    compare("triton", *inputs(1, 3, 8, 8, 256), True)
    compare("triton", *inputs(1, 3, 8, 8, 129), False)


def test_gradients_by_finite_differences() -> None:
    x = [t.detach() for t in inputs(1, 3, 5, 5, 8)]
    towards = [torch.randn_like(t) for t in x]
    weight = torch.randn(1, 3, 5, 8, dtype=torch.float64)

    def value(step: float) -> float:
        y = attend(*(t.detach() + step * u for t, u in zip(x, towards, strict=True)), causal=True, kernel="triton")
        return float((y.double() * weight).sum())

    leaves = [t.requires_grad_() for t in x]
    gradients = torch.autograd.grad(attend(*leaves, causal=True, kernel="triton"), leaves, weight.float())
    slope = sum(float((g * u).sum()) for g, u in zip(gradients, towards, strict=True))
    assert slope == pytest.approx((value(1e-2) - value(-1e-2)) / 2e-2, rel=2e-3)


@pytest.mark.parametrize("causal", [False, True])
def test_extreme_scores_stay_numbers(causal: bool) -> None:
    q, k, v = inputs(1, 5, 8, 8, 16)
    with torch.no_grad():
        q.mul_(1e5)
        k.mul_(1e5)
    y = attend(q, k, v, causal=causal, kernel="triton")
    torch.testing.assert_close(y.double(), explicit(q, k, v, causal), rtol=1e-5, atol=1e-5)
    for g in torch.autograd.grad(y.sum(), (q, k, v)):
        assert g.isfinite().all()


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_a_broken_sample_spoils_no_other() -> None:
    q, k, v = inputs(2, 3, 4, 4, 16)
    with torch.no_grad():
        v[0].fill_(torch.inf)
        k[0].fill_(torch.nan)
    y = attend(q, k, v, kernel="triton")
    assert y[0].isnan().all()
    torch.testing.assert_close(y[1:].double(), explicit(q[1:], k[1:], v[1:], False), rtol=1e-5, atol=1e-6)


def test_a_gradient_of_any_strides() -> None:
    q, k, v = inputs(2, 3, 4, 4, 16)
    wanted = torch.autograd.grad(explicit(q, k, v, False).sum(), (q, k, v))
    for ours, theirs in zip(
        torch.autograd.grad(attend(q, k, v, kernel="triton").sum(), (q, k, v)), wanted, strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_no_samples() -> None:
    q, k, v = inputs(0, 3, 4, 4, 16)
    y = attend(q, k, v, kernel="triton")
    assert y.shape == (0, 3, 4, 16)
    assert [g.shape for g in torch.autograd.grad(y.sum(), (q, k, v))] == [(0, 3, 4, 16)] * 3


def test_operators_keep_the_rules_of_pytorch() -> None:
    q, k, v = inputs(2, 5, 4, 4, 16)
    torch.library.opcheck(short_attention, (q, k, v, True))
    plain = [x.detach() for x in (q, k, v)]
    torch.library.opcheck(short_attention_backward, (torch.randn(2, 5, 4, 16), *plain, True))


def test_compiles_as_one_graph_for_any_batch_and_under_autocast() -> None:
    def attention(q, k, v):
        return attend(2 * q, k, v, causal=True).transpose(1, 2).flatten(2)

    compiled = torch.compile(attention, backend="aot_eager", fullgraph=True, dynamic=True)
    with use_kernel("triton"):
        for B in (2, 3):
            x = inputs(B, 5, 4, 4, 16)
            y, wanted = compiled(*x), attention(*x)
            assert torch.equal(y, wanted)
            for ours, theirs in zip(
                torch.autograd.grad(y.sin().sum(), x), torch.autograd.grad(wanted.sin().sum(), x), strict=True
            ):
                assert torch.equal(ours, theirs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            halves = [attention(*x), compiled(*x)]
        for y in halves:
            assert y.dtype == torch.bfloat16
            torch.testing.assert_close(y.float(), wanted, rtol=0, atol=TOLERANCES[torch.bfloat16] * 3)
            assert torch.autograd.grad(y.sum(), x)[0].dtype == torch.float32
