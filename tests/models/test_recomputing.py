"""Activations that are computed again: the same gradients, and less kept between the passes."""

from __future__ import annotations

import gc
import itertools
import weakref

import pytest
import timm
import torch
from image_models import image_model, picture
from torch import nn
from torch.profiler import ProfilerActivity, profile

from timesformer_plus.models.adopt import make_video
from timesformer_plus.models.recomputing import outputs_computed_again

PARTS = [True, "mlp", ("attention",), ("mlp", "t"), ("s",), ("attention", "mlp"), "norm", "act", ("norm", "act")]


def build(pattern, name="timesformer_test_patch8_32", **options):
    """A model in which every parameter matters."""
    torch.manual_seed(0)
    model = timm.create_model(name, pattern=pattern, num_classes=5, **options)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model


def clips(batch=2):
    return torch.randn(batch, 3, 8, 32, 32, generator=torch.Generator().manual_seed(batch))


def gradients(model, x, autocast=False):
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = model(x)
    y.float().square().sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("pattern", ["ts", "t&s j", "s"])
def test_parts_computed_again_give_the_same_gradients(pattern, parts):
    model, x = build(pattern), clips()
    wanted = gradients(model, x)
    for enable in (parts, False):
        model.set_grad_checkpointing(enable)
        got = gradients(model, x)
        assert all(torch.equal(got[name], gradient) for name, gradient in wanted.items())


@pytest.mark.parametrize("pattern", ["j s", "lg", "t&s"])
@pytest.mark.parametrize("parts", ["norm", "act", ("norm", "act")])
def test_outputs_computed_again_under_mixed_precision_give_the_same_gradients(parts, pattern):
    model, x = build(pattern), clips()
    wanted = gradients(model, x, autocast=True)
    model.set_grad_checkpointing(parts)
    got = gradients(model, x, autocast=True)
    assert all(torch.equal(got[name], gradient) for name, gradient in wanted.items())


def test_three_projections_of_one_rounded_output_follow_those_that_round_it_themselves():
    """Their gradients are summed in the lower precision then."""
    model, x = build("ts"), clips()
    exact = gradients(model, x)
    errors = []
    for parts in (False, "norm"):
        model.set_grad_checkpointing(parts)
        rounded = gradients(model, x, autocast=True)
        errors.append(sum(float((rounded[name] - exact[name]).norm() / exact[name].norm()) for name in exact))
    assert errors[1] < 1.1 * errors[0]


@pytest.mark.parametrize(
    "options", [{"drop_path_rate": 0.5, "proj_drop_rate": 0.2}, {"act_layer": "relu", "norm_layer": "rmsnorm"}]
)
def test_outputs_computed_again_with_other_layers_of_the_block(options):
    assert_same_when_computed_again(build("ts", **options), clips())


class SinglePrecisionNorm(nn.LayerNorm):
    """Of any input, which it keeps as it is: what a fused norm does under autocast on a GPU, and none on a CPU."""

    def forward(self, x):
        return super().forward(x.float()) + 0 * x.square().mean()


# eva02 has three projections: see the test above
@pytest.mark.parametrize(
    ("kind", "autocast"),
    [("eva02", False), *itertools.product(["eva02_packed", "enormous", "res_post", "dinov3", "clip"], [False, True])],
)
def test_outputs_computed_again_in_adopted_blocks(kind, autocast):
    """Some of which normalise updates, which no Linear layer reads."""
    image = image_model(kind)
    model = make_video(image, pattern="s j", num_frames=2)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.__class__ = SinglePrecisionNorm
    assert_same_when_computed_again(model, torch.randn(2, 3, 2, *picture(image).shape[-2:]), autocast)


def assert_same_when_computed_again(model, x, autocast=False):
    model.train()
    found = []
    for parts in (False, ("norm", "act")):
        model.set_grad_checkpointing(parts)
        torch.manual_seed(1)
        found.append(gradients(model, x, autocast))
    wanted, got = found
    assert all(torch.equal(got[name], gradient) for name, gradient in wanted.items())


def kept_bytes(model, x):
    """What a forward pass has allocated and not freed when it ends: what is kept for the backward pass."""
    model(x)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        y = model(x)
    assert y.grad_fn is not None
    return sum(event.self_cpu_memory_usage for event in seen.key_averages())


def test_every_part_that_is_computed_again_is_kept_no_longer():
    model, x = build("ts"), clips()
    kept = {}
    for parts in (False, ("t",), ("s",), ("attention",), ("mlp",), ("attention", "mlp"), True):
        model.set_grad_checkpointing(parts)
        kept[parts] = kept_bytes(model, x)
    assert kept["t",] < kept[False]
    assert kept["s",] < kept[False]
    assert kept["attention",] < min(kept["t",], kept["s",])
    assert kept["mlp",] < 0.65 * kept[False]
    assert kept[True] < kept["attention", "mlp"] < 0.35 * kept[False]


@pytest.mark.parametrize(("autocast", "of_norms"), [(False, 3), (True, 5)])
def test_outputs_computed_again_are_kept_no_longer(autocast, of_norms):
    """In numbers a token and channel of a block: norms 3, of which one in three copies under autocast, the MLP's 4."""
    model, x = build("ts"), clips()
    tokens, bytes_each = 2 * (8 * 4 * 4 + 1), 2 if autocast else 4
    unit = len(model.blocks) * tokens * model.embed_dim * bytes_each
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        whole = kept_bytes(model, x)
        for parts, numbers in (("norm", of_norms), ("act", 4), (("norm", "act"), of_norms + 4)):
            model.set_grad_checkpointing(parts)
            assert (whole - kept_bytes(model, x)) / unit == pytest.approx(numbers, rel=0.01)


def test_an_activation_that_keeps_its_output_keeps_no_more():
    model, x = build("ts", act_layer="relu"), clips()
    whole = kept_bytes(model, x)
    model.set_grad_checkpointing("act")
    assert kept_bytes(model, x) == whole


class Counting(nn.LayerNorm):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


def test_what_several_layers_read_is_computed_again_once():
    norm, layers = Counting(8), [nn.Linear(8, 8) for _ in range(3)]
    x = torch.randn(4, 8, requires_grad=True)
    with outputs_computed_again([norm]):
        y = norm(x)
        y = layers[0](y) * layers[1](y[:2]).sum() + layers[2](y.T.contiguous().T)
    y.sum().backward(retain_graph=True)
    assert norm.calls == 2
    first, x.grad = x.grad, None
    y.sum().backward()
    assert torch.equal(x.grad, first)
    plain = norm(x)
    plain = layers[0](plain) * layers[1](plain[:2]).sum() + layers[2](plain.T.contiguous().T)
    assert torch.equal(torch.autograd.grad(plain.sum(), x)[0], first)


@pytest.mark.parametrize(
    "layer", [nn.RReLU(), nn.Dropout(), nn.BatchNorm1d(8), nn.ReLU(), nn.ReLU(inplace=True), nn.Identity(), nn.Tanh()]
)
def test_a_layer_that_may_compute_something_else_or_keeps_its_output_is_left_alone(layer):
    linear, x = nn.Linear(8, 8), torch.randn(4, 8, requires_grad=True)
    grads = []
    layer.train()
    for layers in ([], [layer]):
        torch.manual_seed(0)
        calls = []
        handle = layer.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        with outputs_computed_again(layers):
            y = linear(layer(x * 2)).square().sum()
        grads.append(torch.autograd.grad(y, x)[0])
        handle.remove()
        assert len(calls) == 1
    assert torch.equal(*grads)


@pytest.mark.parametrize("changed", ["input", "weight", "kept"])
def test_what_is_changed_before_the_backward_pass_is_an_error_as_without(changed):
    norm, linear = nn.LayerNorm(8), nn.Linear(8, 8)
    for layers in ([], [norm]):
        x = torch.randn(4, 8, requires_grad=True) * 2
        with outputs_computed_again(layers):
            y = linear(norm(x)).sum()
        with torch.no_grad():
            {"input": x, "weight": norm.weight, "kept": linear.weight}[changed].add_(1)
        with pytest.raises(RuntimeError, match="that the backward pass needs was changed in place"):
            y.backward()


def test_an_output_that_is_changed_in_place_is_kept():
    norm, linear, x = nn.LayerNorm(8), nn.Linear(8, 8), torch.randn(4, 8, requires_grad=True)
    grads = []
    for layers in ([], [norm]):
        linear.zero_grad()
        with outputs_computed_again(layers):
            y = linear(norm(x * 2).add_(1)).sum()
        y.backward()
        grads.append(linear.weight.grad.clone())
    assert torch.equal(*grads)


def test_a_forward_pass_without_a_backward_pass_leaves_nothing_behind():
    """Outputs that are kept by their own layer, as of softmax, must not hold themselves."""
    norm, linear = nn.LayerNorm(8), nn.Linear(8, 8)

    class Witness(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, alive):
            ctx.alive = alive
            return x.clone()

        @staticmethod
        def backward(_, grad):
            return grad, None

    class Alive:
        pass

    alive = Alive()
    gone = weakref.ref(alive)
    with outputs_computed_again([norm]):
        y = linear(norm(Witness.apply(torch.randn(4, 8, requires_grad=True), alive))).softmax(-1).relu()
    del alive, y
    gc.collect()
    assert gone() is None


def test_no_hook_stays_behind():
    norm = nn.LayerNorm(8)
    with pytest.raises(RuntimeError), outputs_computed_again([norm]):
        norm(torch.randn(4, 7))
    assert not norm._forward_hooks


def test_an_unknown_part_is_refused():
    with pytest.raises(
        ValueError, match="grad_checkpointing of \\['mpl'\\]: give true, false, or parts of blocks among attention, mlp"
    ):
        build("ts").set_grad_checkpointing("mpl")
