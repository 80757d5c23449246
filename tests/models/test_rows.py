"""Rows with prefix tokens against slices and concatenations, and which letters need no copy."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.overrides import TorchFunctionMode

from timesformer_plus import LETTERS, AxisAttention, Grid, SpaceTimeBlock
from timesformer_plus.models.rows import add_to_patches, gather_rows, scatter_rows
from timesformer_plus.models.tokens import fold, groups_around_tokens, num_groups, unfold

GRID = Grid(2, 4, 2)
JOINED = [letter for letter, row in LETTERS.items() if row.prefix]


def gathered(x, letter, frames):
    """Rows by slices, fold and concatenation."""
    P = x.shape[1] - GRID.num_tokens
    groups = num_groups(GRID, letter)
    rows = fold(x[:, P:].flatten(2), GRID, letter).unflatten(-1, x.shape[2:])
    sets = x[:, :P].unflatten(1, (frames, P // frames))
    each = [sets[:, g * frames // groups] for g in range(groups)]
    return torch.cat([torch.stack(each, dim=1).flatten(0, 1), rows], dim=1)


def scattered(rows, letter, num_prefix, frames):
    groups, copies = num_groups(GRID, letter), num_prefix // frames
    patches = unfold(rows[:, copies:].flatten(2), GRID, letter).unflatten(-1, rows.shape[2:])
    prefix = rows[:, :copies].unflatten(0, (-1, frames, groups // frames)).mean(dim=2).flatten(1, 2)
    return torch.cat([prefix, patches], dim=1)


@pytest.mark.parametrize("rest", [(3,), (2, 3), (3, 2, 2)])
@pytest.mark.parametrize("copies", [0, 1, 3])
@pytest.mark.parametrize(("letter", "frames"), [*((x, 1) for x in JOINED), ("s", 2), ("h", 2), ("w", 2)])
def test_equals_slices_and_concatenations(letter, frames, copies, rest):
    P = copies * frames
    x = torch.randn(2, P + GRID.num_tokens, *rest, dtype=torch.float64, requires_grad=True)
    rows, wanted = gather_rows(x, GRID, letter, frames), gathered(x, letter, frames)
    assert torch.equal(rows, wanted)
    direction = torch.randn_like(rows)
    torch.testing.assert_close(*(torch.autograd.grad((y * direction).sum(), x)[0] for y in (rows, wanted)))
    rows = direction.requires_grad_()
    back, wanted = scatter_rows(rows, GRID, letter, P, frames), scattered(rows, letter, P, frames)
    torch.testing.assert_close(back, wanted)
    direction = torch.randn_like(back)
    torch.testing.assert_close(*(torch.autograd.grad((y * direction).sum(), rows)[0] for y in (back, wanted)))


def test_derivatives_of_first_and_second_order():
    grid = Grid(2, 2, 1)
    x = torch.randn(1, 3 + 4, 2, dtype=torch.float64, requires_grad=True)
    update = torch.randn(1, 4, 2, dtype=torch.float64, requires_grad=True)
    for function, inputs in [
        (lambda x: gather_rows(x, grid, "s"), (x,)),
        (lambda x: scatter_rows(gather_rows(x, grid, "h"), grid, "h", 3), (x,)),
        (add_to_patches, (x, update)),
    ]:
        assert gradcheck(function, inputs)
        assert gradgradcheck(function, inputs)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # torch's of its attention
def test_gradients_a_sample_by_vmap():
    block = SpaceTimeBlock(8, 2, "ts").double()
    torch.nn.init.normal_(block.added["t"]["attn"].fc.weight)
    names = dict(block.named_parameters())
    x = torch.randn(3, 1 + 8, 8, dtype=torch.float64)

    def loss(parameters, one):
        return torch.func.functional_call(block, parameters, (one[None], Grid(2, 2, 2))).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(names, x)
    for i, one in enumerate(x):
        block.zero_grad()
        loss(names, one).backward()
        for name, parameter in names.items():
            torch.testing.assert_close(each[name][i], parameter.grad)


def test_an_update_of_patches_keeps_the_prefix_bitwise_and_the_wider_type():
    x, update = torch.randn(2, 5, 3), torch.randn(2, 3, 3, dtype=torch.float64)
    y = add_to_patches(x, update)
    assert y.dtype == torch.float64
    assert torch.equal(y, torch.cat([x[:, :2].double(), x[:, 2:] + update], dim=1))
    assert torch.equal(add_to_patches(x, x), x + x)


class CopiesOfQueries(TorchFunctionMode):
    """Notes whether what reaches the softmax shares its memory with what a projection returned."""

    def __init__(self):
        super().__init__()
        self.projected, self.shared = set(), []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is torch.nn.functional.linear:
            self.projected.add(result.untyped_storage().data_ptr())
        if function is torch.nn.functional.scaled_dot_product_attention:
            self.shared += [part.untyped_storage().data_ptr() in self.projected for part in args[:3]]
        return result


def test_whoever_waits_at_the_projection_is_called():
    """A hook, a forward put on the instance, an adapter in its place: none is passed by for the sake of a view."""
    grid = Grid(2, 2, 3)
    layer, x = AxisAttention(16, "t", 2), torch.randn(2, grid.num_tokens, 16)
    plain = layer(x, grid)
    calls = []
    hook = layer.qkv.register_forward_hook(lambda *_: calls.append("hook"))
    torch.testing.assert_close(layer(x, grid), plain)
    hook.remove()
    forward = layer.qkv.forward

    def other(x):
        calls.append("forward")
        return forward(x)

    layer.qkv.forward = other
    torch.testing.assert_close(layer(x, grid), plain)
    del layer.qkv.forward

    class Adapter(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    layer.qkv.__class__ = Adapter
    adapted = layer(x, grid)
    layer.qkv.__class__ = nn.Linear
    assert calls == ["hook", "forward"]
    with torch.no_grad():
        layer.qkv.weight.mul_(2)
    torch.testing.assert_close(adapted, layer(x, grid))


@pytest.mark.parametrize("letter", LETTERS)
def test_where_a_view_exists_nothing_is_copied(letter):
    """Neither in front of the softmax nor behind it."""
    layer, grid = AxisAttention(32, letter, 4), Grid(2, 4, 6)
    around = groups_around_tokens(letter)
    assert (around is None) == (letter in "lg")
    behind = []
    layer.proj.register_forward_pre_hook(lambda _, args: behind.append(args[0]))
    for num_prefix in (0, 1):
        joins = LETTERS[letter].prefix and num_prefix > 0
        with CopiesOfQueries() as seen:
            layer(torch.randn(3, num_prefix + grid.num_tokens, 32), grid)
        copies = around is None or (joins and letter != "j")
        assert seen.shared == [not copies] * 3
        assert behind.pop().is_contiguous()
