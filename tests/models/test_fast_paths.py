"""What makes a model cheaper and must not change its numbers: frames as samples, folding, compiling."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.utils.model import reparameterize_model
from torch import nn

from timesformer_plus import SCHEMES, AxisAttention, parse_pattern

OTHERS = ["h w", "cs", "s*2 | j*2", "ts*2 | c s"]  # what no scheme has: no letter but h and w, c, a reduction
PATTERNS = [*"tchwsjlg", "ts", "twh", "t+s", "t&s", "t s", "s j*3", "s*2 | j*2", "cs"]


def build(pattern, **options):
    """A model in which every parameter matters."""
    torch.manual_seed(0)
    needs_mean = not set(pattern) & set("hwsjlg")
    options = {"num_classes": 5, **({"global_pool": "avg"} if needs_mean else {}), **options}
    model = timm.create_model("timesformer_test_patch8_32", pattern=pattern, **options)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model


def clips(batch=2):
    return torch.randn(batch, 3, 8, 32, 32, generator=torch.Generator().manual_seed(batch))


def gradients(model, x):
    model.zero_grad()
    model(x).square().sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_same_gradients(ours, theirs, **tolerance):
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], **tolerance)


class Shapes:
    """Shapes of what enters each block."""

    def __init__(self, model):
        self.seen = []
        for block in model.blocks:
            block.register_forward_pre_hook(lambda _, args: self.seen.append(tuple(args[0].shape[:2])))


@pytest.mark.parametrize("prefix", [{}, {"reg_tokens": 3}, {"class_token": False, "global_pool": "avg"}])
@pytest.mark.parametrize("pattern", ["s", "h", "w", "h&w", "s+h w", "cs", "c s", "s*2 | j*2", "s c | h s", "t s"])
def test_frames_as_samples_change_nothing(pattern, prefix):
    model = build(pattern, **prefix).double()
    x = clips().double()
    apart, features = model(x), model.forward_intermediates(x, return_prefix_tokens=True, norm=True)
    apart_gradients = gradients(model, x)
    model.frames_apart = False
    torch.testing.assert_close(apart, model(x))
    torch.testing.assert_close(features, model.forward_intermediates(x, return_prefix_tokens=True, norm=True))
    assert_same_gradients(apart_gradients, gradients(model, x))


def test_which_blocks_get_frames_as_samples():
    model = build("c s", depth=4)
    shapes = Shapes(model)
    model(clips(3))
    together, apart = (3, 8 * 17), (3 * 8, 17)
    assert shapes.seen == [together, apart] * 2
    model = build("t s", depth=2)
    shapes = Shapes(model)
    model(clips(3))
    assert shapes.seen == [(3, 1 + 8 * 16)] * 2, "prefix tokens are the clip's"


def test_stochastic_depth_leaves_out_clips_and_not_frames():
    model = build("s", drop_path_rate=0.5).train()
    shapes = Shapes(model)
    model(clips())
    # the first block's rate is zero
    assert shapes.seen[0] == (2 * 8, 17)
    assert set(shapes.seen[1:]) == {(2, 8 * 17)}
    shapes.seen.clear()
    model.eval()(clips())
    assert set(shapes.seen) == {(2 * 8, 17)}


@pytest.mark.parametrize("options", [{}, {"proj_bias": False}, {"init_values": 0.1}])
@pytest.mark.parametrize("pattern", ["ts", "twh", "t+s", "t&s j", "lg", "s"])
def test_fuse_keeps_the_scores_and_spares_the_products(pattern, options):
    model = build(pattern, **options).double().eval()
    x = clips().double()
    wanted = model(x)
    folded = sum(isinstance(m, AxisAttention) and m.fc is not None for m in model.modules())
    before = sum(p.numel() for p in model.parameters())
    assert model.fuse() is model
    torch.testing.assert_close(model(x), wanted, rtol=1e-10, atol=1e-10)
    assert not any(m.fc is not None for m in model.modules() if isinstance(m, AxisAttention))
    width = model.embed_dim
    biases = width if model.blocks[0].attn.proj.bias is not None else 0
    assert before - sum(p.numel() for p in model.parameters()) == folded * (width * width + biases)
    torch.testing.assert_close(model.fuse()(x), wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("options", [{}, {"reg_tokens": 2, "qk_norm": True, "init_values": 0.1}])
@pytest.mark.parametrize("pattern", ["s", "j", "l", "g", "h", "w", "ts", "lg", "c s", "s*2 | j*2", "s*2 | t j", "s j"])
def test_fused_the_last_block_computes_what_the_class_token_needs(pattern, options):
    model = build(pattern, **options).double().eval()
    x = clips().double()
    wanted, features = model(x), model.forward_features(x)
    model.fuse()
    seen = []
    model.blocks[-1].mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[0] * args[0].shape[1]))
    torch.testing.assert_close(model(x), wanted, rtol=1e-10, atol=1e-10)
    per_frame = model.plan[-1].per_frame_prefix
    assert seen == [2 * model.num_prefix_tokens * (8 if per_frame else 1)]
    torch.testing.assert_close(model.forward_features(x), features, rtol=1e-10, atol=1e-10)
    model.frames_apart = False
    torch.testing.assert_close(model(x), wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("pattern", "pool"), [("st", "token"), ("t+s", "token"), ("t&s", "token"), ("s", "avg")])
def test_fused_a_block_is_run_whole_where_more_is_read(pattern, pool):
    model = build(pattern, global_pool=pool).double().eval()
    x = clips().double()
    wanted = model(x)
    seen = []
    model.fuse().blocks[-1].mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0].numel()))
    torch.testing.assert_close(model(x), wanted, rtol=1e-10, atol=1e-10)
    assert seen[0] >= 2 * 8 * 16 * model.embed_dim


def test_timm_folds_with_its_own_word():
    model = build("ts").double().eval()
    x = clips().double()
    wanted = model(x)
    folded = reparameterize_model(model)
    assert not any(name.endswith("fc.weight") for name in folded.state_dict())
    torch.testing.assert_close(folded(x), wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("pattern", "trained"),
    [
        *((p, False) for p in sorted({*(p for p in SCHEMES.values() if "|" not in p), *OTHERS})),
        ("ts", True),
    ],
)
def test_one_graph_serves_every_batch(pattern, trained):
    """No graph break, and no second compilation for another number of clips."""
    torch.compiler.reset()
    model = build(pattern, depth=parse_pattern(pattern).num_blocks).train(trained)
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, fullgraph=True, backend=count)
    with torch.set_grad_enabled(trained):
        first = clips(2)
        torch._dynamo.mark_dynamic(first, 0)
        for x in (first, clips(3), clips(5)):
            torch.testing.assert_close(compiled(x), model(x))
    assert len(graphs) == 1


# the real code generator takes a minute
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_it_trains_alike(backend):
    """Forward and backward."""
    torch.compiler.reset()
    model = build("ts lg", depth=2)
    x = clips()
    wanted = gradients(model, x)
    model.compile(fullgraph=True, backend=backend)
    assert_same_gradients(gradients(model, x), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_bfloat16_autocast_follows_float32(pattern):
    model, x = build(pattern).eval(), clips()
    with torch.autocast("cpu", torch.bfloat16):
        half = model(x)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), model(x), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("pattern", ["ts", "j"])
def test_channels_last_clips_and_weights_change_nothing(pattern):
    model, x = build(pattern, tubelet_size=2).eval(), clips()
    wanted = model(x)
    model = model.to(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(model(x.to(memory_format=torch.channels_last_3d)), wanted)
