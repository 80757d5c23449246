"""What the benchmark compares computes the same, and its limit is the products that the model runs."""

import time
from collections import Counter

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import timesformer_plus  # noqa: F401  registers the models
from timesformer_plus import AxisAttention, Grid
from timesformer_plus.analysis.bench.contestants import (
    SIZES,
    Shape,
    check_same,
    make_fused,
    make_ours,
    make_peer,
)
from timesformer_plus.analysis.bench.limit import Limit, Product, products_of
from timesformer_plus.analysis.bench.timing import ratios, take_turns
from timesformer_plus.analysis.bench.yardstick import CopyingModel, attend_by_copies
from timesformer_plus.analysis.cost import count_multiply_adds
from timesformer_plus.models.tokens import LETTERS

PREFIXES = {
    "none": {"class_token": False, "global_pool": "avg"},
    "class token": {"class_token": True, "global_pool": "avg"},
    "class token, 3 registers": {"class_token": True, "reg_tokens": 3, "global_pool": "avg"},
    "class token that is read": {"class_token": True},
}


def make(pattern, **options):
    model = timm.create_model("timesformer_test_patch8_32", pattern=pattern, depth=2, num_classes=5, **options).eval()
    with torch.no_grad():
        for weight in model.parameters():
            nn.init.normal_(weight, std=0.1)
    return model


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("pattern", [*LETTERS, "ts", "twh", "lg", "t+s", "t&s", "cs", "s j"])
def test_the_yardstick_computes_what_ours_does(pattern, prefix):
    if prefix == "class token that is read" and not any(LETTERS[x].prefix for x in pattern if x in LETTERS):
        pytest.skip("refused: the class token would see nothing")
    ours = make(pattern, **PREFIXES[prefix])
    yardstick, clips = CopyingModel(ours), torch.randn(2, 3, 8, 32, 32)
    assert check_same(ours, yardstick, clips, "the yardstick") < 1e-5
    ours(clips).square().sum().backward()
    yardstick(clips).square().sum().backward()
    for (name, weight), other in zip(ours.named_parameters(), yardstick.model.parameters(), strict=True):
        if weight.grad is None and (other.grad is None or not other.grad.any()):
            continue
        torch.testing.assert_close(weight.grad, other.grad, rtol=1e-3, atol=1e-4 * float(other.grad.abs().max() + 1))
        assert name


@pytest.mark.parametrize("letter", LETTERS)
def test_one_attention_by_copies_is_ours(letter):
    attn, x = AxisAttention(16, letter, 4, qkv_bias=True, qk_norm=True), torch.randn(2, 3 + 4 * 4 * 2, 16)
    torch.testing.assert_close(attend_by_copies(attn, x, Grid(4, 4, 2)), attn(x, Grid(4, 4, 2)))


def test_what_has_no_yardstick_is_refused():
    with pytest.raises(ValueError, match="measure a pattern without"):
        CopyingModel(make("s | t"))
    with pytest.raises(ValueError, match="Linear has no yardstick"):
        CopyingModel(nn.Linear(1, 1))


def test_models_that_differ_are_refused():
    ours, other = make("ts"), make("ts")
    with pytest.raises(ValueError, match="does not compute what ours does"):
        check_same(ours, other, torch.randn(1, 3, 8, 32, 32), "another")


@pytest.mark.parametrize("pattern", ["s", "j", "ts"])
def test_transformers_gets_the_same_weights_and_answers_alike(pattern):
    shape = Shape("test", 8, SIZES["test"][1], pattern)
    ours = make_ours(shape)
    peer = make_peer(ours)
    assert check_same(ours, peer, shape.clips(2), "transformers") < 1e-5
    assert peer(shape.clips(2)).shape == ours(shape.clips(2)).shape
    assert all(bool(weight.any()) for weight in ours.parameters())


def test_a_fused_model_computes_the_same():
    ours = make_ours(Shape("test", 8, 32, "ts"))
    fused = make_fused(ours)
    if fused is not None:
        check_same(ours, fused, torch.randn(2, 3, 8, 32, 32), "fused")


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("pattern", ["s", "j", "ts", "twh", "lg", "c+s", "t&s", "s | t"])
def test_the_limit_has_every_multiply_add_of_the_model(pattern, prefix):
    model = make(pattern, **PREFIXES[prefix])
    products = products_of(model, torch.randn(2, 3, 8, 32, 32))
    assert sum(product.multiply_adds for product in products) == count_multiply_adds(model, (2, 3, 8, 32, 32))
    # attention over L tokens in groups: scores and weighted sums come in pairs of one size
    sizes = [product.multiply_adds for product in products if product.is_attention]
    assert sizes[::2] == sizes[1::2]


def test_the_products_of_a_block_by_hand():
    model = timm.create_model("timesformer_test_patch8_32", pattern="ts", depth=1, num_classes=5, global_pool="avg")
    products = products_of(model, torch.randn(2, 3, 8, 32, 32))
    B, T, places, C, heads = 2, 8, 16, 64, 2
    tokens = B * (1 + T * places)
    linear = Counter()
    for product in products:
        if not product.is_attention:
            linear[product.rows] += product.inner * product.columns  # one projection for queries and keys, or two
    in_time = 3 * C * C + C * C + C * C  # queries, keys, values; the projection; fc: the class token stays out
    in_space = 3 * C * C + C * C + 2 * C * 4 * C
    assert linear == {B * T * places: 3 * 8 * 8 * C + in_time, tokens: in_space, B: C * 5}
    d, frame = C // heads, places + 1
    assert [(p.batch, p.rows, p.inner, p.columns) for p in products if p.is_attention] == [
        (B * places * heads, T, d, T),
        (B * places * heads, T, T, d),
        (B * T * heads, frame, d, frame),
        (B * T * heads, frame, frame, d),
    ]
    assert [p.left_learns for p in products] == [False] + [True] * (len(products) - 1)


@pytest.mark.parametrize("training", [False, True])
def test_the_limit_runs_the_products_and_nothing_else(training, monkeypatch):
    monkeypatch.setattr("timesformer_plus.analysis.bench.limit._LARGEST", 2**11)  # so that batches are cut
    products = [
        Product(1, 30, 20, 10, left_learns=False),
        Product(1, 30, 20, 10),
        Product(7, 16, 8, 40, is_attention=True),
        Product(7, 16, 40, 8, is_attention=True, by_columns=False),
    ]
    limit = Limit(products, device="cpu", dtype=torch.float32, training=training)
    with FlopCounterMode(display=False) as counter:
        limit.run()
    forward = [product.multiply_adds for product in products]
    wanted = sum(forward) * (3 if training else 1) - (forward[0] if training else 0)
    assert counter.get_total_flops() == 2 * wanted


def test_a_product_that_nobody_knows_is_refused():
    @torch.library.custom_op("bench_test::new_attention", mutates_args=())
    def new_attention(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    class Model(nn.Module):
        def forward(self, x):
            return new_attention(x)

    with pytest.raises(ValueError, match="calls new_attention, and which products that runs is not known"):
        products_of(Model(), torch.randn(2, 2))


def test_passes_take_turns_in_opposite_order():
    order = []
    passes = {name: lambda name=name: order.append(name) or time.sleep(0.04) for name in "abc"}
    seconds = take_turns(passes, rounds=3)
    assert "".join(order) == "abc" + "abc" + "cba" + "abc"
    assert {name: len(times) for name, times in seconds.items()} == dict.fromkeys("abc", 3)
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]


def test_slow_passes_get_fewer_rounds_and_short_ones_are_repeated(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("timesformer_plus.analysis.bench.timing.time.perf_counter", lambda: now[0])

    def passes(seconds):
        return {"only": lambda: now.__setitem__(0, now[0] + seconds)}

    assert len(take_turns(passes(1.0), rounds=11, budget=6.0)["only"]) == 5
    assert len(take_turns(passes(100.0), rounds=11, budget=6.0)["only"]) == 3
    assert len(take_turns(passes(100.0), rounds=1, budget=6.0)["only"]) == 1
    before = now[0]
    assert take_turns(passes(0.001), rounds=2)["only"] == pytest.approx([0.001, 0.001])
    assert 0.06 <= now[0] - before < 0.07  # 0.03 s a round and the warm-up
    with pytest.raises(ValueError, match="rounds=0"):
        take_turns(passes(1.0), rounds=0)
