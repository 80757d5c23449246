"""Masks that belong to the clip: the same in every batch, process and micro-batch, and as random as they look."""

import copy
import hashlib
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import DropPath
from timm.models import checkpoint
from torch import nn
from torch.testing import assert_close

import timesformer_plus  # noqa: F401  registers the models with timm
from timesformer_plus.engine.sample_dropout import PerSampleDropout, PerSampleDropPath, per_sample_dropout

RATES = {
    "drop_rate": 0.2,
    "pos_drop_rate": 0.1,
    "proj_drop_rate": 0.1,
    "attn_drop_rate": 0.1,
    "drop_path_rate": 0.3,
}
SEEDS = [11, 2**62 + 5, 12, 0, 2**63 - 1]


def tiny(pattern="ts", depth=2, **rates):
    """A model of four tubelets of 16 x 16 pixels that is random wherever it can be, in float64."""
    torch.manual_seed(1)
    options = {"img_size": 16, "num_frames": 4, "embed_dim": 16, "num_classes": 3, "depth": depth}
    network = timm.create_model("timesformer_test_patch8_32", pattern=pattern, **options, **(rates or RATES))
    for parameter in network.parameters():  # so that also the zero-initialised ones tell
        nn.init.normal_(parameter, std=0.2)
    return network.double().train()


def clips():
    return torch.randn(len(SEEDS), 3, 4, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def gradients(network, output, weight=1.0):
    """Of a loss that every element of the output matters to; the network's own are left alone."""
    loss = weight * (output * torch.arange(1, output.numel() + 1).view_as(output).sin()).square().sum()
    return torch.autograd.grad(loss, list(network.parameters()))


def dropout_of(layer, seeds):
    """The layer of the same rates whose masks are those of the clips."""
    network = nn.Sequential(layer).train()
    per_sample_dropout(network).seed(seeds)
    return network[0]


def kept(layer, seeds, shape):
    """Which elements of an input of that shape survive."""
    return dropout_of(layer, seeds)(torch.ones(shape)) != 0


# --- the masks are the clips' own


@given(
    order=st.permutations(range(5)),
    count=st.integers(1, 5),
    groups=st.integers(1, 3),
    layer=st.sampled_from([nn.Dropout(0.4), DropPath(0.4)]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
@settings(max_examples=50)
def test_a_mask_is_the_same_whatever_batch_its_clip_is_in(order, count, groups, layer, dtype):
    """Also of several groups a clip, which lie together, as attention folds them."""
    x = torch.rand(5, groups, 4, 3).to(dtype) + 1
    whole = dropout_of(copy.deepcopy(layer), SEEDS)(x.flatten(0, 1)).view(x.shape)
    some = order[:count]
    part = dropout_of(copy.deepcopy(layer), [SEEDS[i] for i in some])(x[some].flatten(0, 1)).view(x[some].shape)
    assert part.dtype == dtype
    assert torch.equal(part, whole[some])


@pytest.mark.parametrize("pattern", ["ts", "t&s", "t+s lg", "cs", "s | j"])
def test_a_network_scores_a_clip_the_same_whatever_batch_it_is_in(pattern):
    network = tiny(pattern)
    dropout, x = per_sample_dropout(network), clips()
    dropout.seed(SEEDS)
    whole = network(x)
    for some in ([0, 1, 2], [4, 2], [3]):
        dropout.seed([SEEDS[i] for i in some])
        assert_close(network(x[some]), whole[some], rtol=0, atol=1e-12)
    # and it is indeed random: by the seed, and in training alone
    dropout.seed([SEEDS[0] + 1, *SEEDS[1:]])
    other = network(x)
    assert (other[0] - whole[0]).abs().max() > 1e-3
    assert torch.equal(other[1:], whole[1:])


def test_gradients_of_micro_batches_add_up_to_those_of_the_batch():
    network = tiny()
    dropout, x = per_sample_dropout(network), clips()
    dropout.seed(SEEDS)
    weights = torch.randn(5, 3, dtype=torch.float64)
    whole = torch.autograd.grad((network(x) * weights).sum(), list(network.parameters()))
    total = [torch.zeros_like(gradient) for gradient in whole]
    for part in (slice(0, 2), slice(2, 3), slice(3, 5)):
        dropout.seed(SEEDS[part])
        parts = torch.autograd.grad((network(x[part]) * weights[part]).sum(), list(network.parameters()))
        total = [a + b for a, b in zip(total, parts, strict=True)]
    for a, b in zip(total, whole, strict=True):
        assert_close(a, b, rtol=0, atol=1e-12)


def test_processes_draw_what_one_alone_draws():
    """Under DDP, which sends the first process's buffers to the others: seeds must be none."""
    script = Path(__file__).with_name("sample_dropout_ranks.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("gradients are the same") == 2


def test_activation_checkpointing_finds_the_same_masks():
    network = tiny()
    dropout, x = per_sample_dropout(network), clips()
    dropout.seed(SEEDS)
    plain = network(x)
    expected = gradients(network, plain)
    network.set_grad_checkpointing()
    again = network(x)
    assert torch.equal(again, plain)
    torch.rand(5)  # a generator's state must not matter to the second computation
    for a, b in zip(gradients(network, again), expected, strict=True):
        assert torch.equal(a, b)


class Small(nn.Module):
    """What a network has of chance, in little: a graph is made in seconds."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.3), nn.GELU())
        self.drop_path = DropPath(0.4)
        self.grad_checkpointing = False

    def set_grad_checkpointing(self, enable=True):
        self.grad_checkpointing = enable

    def block(self, x):
        return x + self.drop_path(self.inner(x.flatten(0, 1)).view(x.shape))

    def forward(self, x):
        return checkpoint(self.block, x) if self.grad_checkpointing else self.block(x)


def check_compiled(network, x, backend, checkpointing):
    """Held against the network uncompiled, at two batch sizes and new seeds, in one graph each."""
    torch._dynamo.reset()
    dropout = per_sample_dropout(network)
    compiled = torch.compile(network, backend=backend, fullgraph=True)
    for some in ([2, 0, 4, 1], [4, 1]):
        seeds = [SEEDS[i] for i in some]
        dropout.seed(seeds)
        network.set_grad_checkpointing(False)
        plain = network(x[some])
        expected = gradients(network, plain)
        network.set_grad_checkpointing(checkpointing)
        scores = compiled(x[some])
        assert_close(scores, plain, rtol=0, atol=1e-12)
        if not checkpointing:  # what a graph keeps for its backward pass is of the clips it was run for
            dropout.seed([seed // 2 for seed in seeds])
        for a, b in zip(gradients(network, scores), expected, strict=True):
            assert_close(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("checkpointing", [pytest.param(False, marks=pytest.mark.slow), True])
def test_compiled_layers_draw_the_same(checkpointing):
    check_compiled(Small().double(), torch.rand(5, 3, 2, 6, dtype=torch.float64), "aot_eager", checkpointing)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's compiler
@pytest.mark.parametrize("checkpointing", [False, True])
def test_machine_code_draws_the_same(checkpointing):
    check_compiled(Small().double(), torch.rand(5, 3, 2, 6, dtype=torch.float64), "inductor", checkpointing)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_networks_draw_the_same(backend):
    check_compiled(tiny(drop_rate=0.2, drop_path_rate=0.3), clips(), backend, checkpointing=False)


@pytest.mark.gpu
def test_a_gpu_draws_the_same():
    for layer in (nn.Dropout(0.3), DropPath(0.3)):
        layer = dropout_of(layer, SEEDS)
        assert torch.equal(layer(torch.ones(5, 64, 50, device="cuda")).cpu(), layer(torch.ones(5, 64, 50)))


# --- what they are, and that they are random


def reference_word(name, seed, element):
    """The word that decides about an element, in Python's whole numbers of any length."""

    def scatter(x, first=0, second=0):
        x ^= first
        x = (x ^ x >> 17) * 0xED5AD4BB % 2**32
        x = (x ^ x >> 11 ^ second) * 0xAC4C1B51 % 2**32
        x = (x ^ x >> 15) * 0x31848BAB % 2**32
        return x ^ x >> 14

    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    first, second = int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:], "big")
    low, high = seed % 2**32, seed >> 32
    return scatter(element, scatter(scatter(low, first), high), scatter(scatter(high, second), low))


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=4), st.floats(0.01, 0.99))
@settings(max_examples=30)
def test_masks_are_what_they_are_said_to_be(seeds, rate):
    """Worked out in numbers that cannot overflow."""
    mask = kept(nn.Dropout(rate), seeds, (len(seeds), 3, 5))
    rows = kept(DropPath(rate), seeds, (len(seeds) * 4, 2))
    for clip, seed in enumerate(seeds):
        for element in range(15):
            expected = reference_word("0", seed, element) >= rate * 2**32
            assert mask[clip].flatten()[element].item() == expected
        for row in range(4):
            assert rows[4 * clip + row].tolist() == [reference_word("0", seed, row) >= rate * 2**32] * 2


def test_masks_of_runs_made_before_stay():
    words = [reference_word("blocks.0.drop_path1", seed, 0) for seed in (0, 1, 2**62)]
    assert words == PINNED_WORDS
    mask = kept(nn.Dropout(0.5), [7], (1, 64))
    assert sum(1 << i for i, is_kept in enumerate(mask[0].tolist()) if is_kept) == PINNED_MASK


PINNED_WORDS = [1634431720, 3592189927, 1068522952]
PINNED_MASK = 0x22E3352BF13F9CFF


def deviation(counts):
    """By how many standard deviations counts of equally likely events differ from being equal (chi square)."""
    expected = counts.sum() / counts.numel()
    free = counts.numel() - 1
    return (((counts - expected) ** 2 / expected).sum().item() - free) / math.sqrt(2 * free)


def joint(a, b):
    """Deviation of the four cases of two masks that keep half."""
    return deviation(torch.bincount((2 * a.long() + b.long()).flatten(), minlength=4).double())


@pytest.mark.parametrize("base", [0, 2**40, 2**62])
def test_masks_are_independent_of_each_other(base):
    """Neighbouring elements, clips of neighbouring seeds, and layers; the limit is one in ten thousand of chance."""
    seeds = [base + i for i in range(8)]
    names = ("a", "b", "blocks.0.mlp.drop1", "blocks.0.mlp.drop2")
    layers = nn.ModuleDict({name.replace(".", "_"): nn.Dropout(0.5) for name in names}).train()
    per_sample_dropout(layers).seed(seeds)
    masks = torch.stack([layer(torch.ones(8, 40_000)) != 0 for layer in layers.values()])
    found = [deviation(torch.bincount(masks[i, j].long(), minlength=2).double()) for i in range(4) for j in range(8)]
    found += [joint(masks[..., :-lag], masks[..., lag:]) for lag in (1, 2, 3, 4, 7, 8, 16, 64, 196, 197, 768, 1024)]
    found += [joint(masks[:, i], masks[:, j]) for i in range(8) for j in range(i)]
    found += [joint(masks[i], masks[j]) for i in range(4) for j in range(i)]
    # runs of four elements come in all sixteen kinds alike
    fours = (masks.view(4, 8, -1, 4) * torch.tensor([8, 4, 2, 1])).sum(dim=-1)
    found.append(deviation(torch.bincount(fours.flatten(), minlength=16).double()))
    assert max(found) < 10
    # and they are not suspiciously even either
    assert torch.tensor(found).std() > 0.5


def test_every_bit_of_seed_and_element_changes_half_of_the_words():
    def words(seed, element):
        return torch.tensor([reference_word(name, seed, element) for name in map(str, range(400))])

    def flipped(a, b):
        return ((a ^ b)[:, None] >> torch.arange(32) & 1).double().mean()

    plain = words(12345, 678)
    for bit in range(63):
        assert abs(flipped(plain, words(12345 ^ 1 << bit, 678)) - 0.5) < 0.025
    for bit in range(32):
        assert abs(flipped(plain, words(12345, 678 ^ 1 << bit)) - 0.5) < 0.025


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.9])
def test_rates(rate):
    seeds = range(400)
    for share, number in (
        (kept(nn.Dropout(rate), seeds, (400, 500)).double().mean(), 200_000),
        (kept(DropPath(rate), range(20_000), (20_000, 2)).double().mean(), 20_000),
    ):
        assert abs(share - (1 - rate)) < 4 * math.sqrt(rate * (1 - rate) / number)


def test_what_is_kept_is_scaled_as_by_torch_and_timm():
    x = torch.rand(400, 6) + 1
    for ours, peer in ((nn.Dropout(0.3), nn.Dropout(0.3)), (DropPath(0.3), DropPath(0.3))):
        out, theirs = dropout_of(ours, range(400))(x), peer.train()(x)
        both = (out != 0) & (theirs != 0)
        assert both.any(dim=1).sum() > 100
        assert_close(out[both], theirs[both])
    rows = dropout_of(DropPath(0.3), range(400))(x)
    assert ((rows != 0).all(dim=1) | (rows == 0).all(dim=1)).all()
    unscaled = dropout_of(DropPath(0.3, scale_by_keep=False), range(400))(x)
    assert torch.equal(unscaled, torch.where(rows != 0, x, 0.0))
    for layer in (nn.Dropout(1.0), DropPath(1.0)):
        assert torch.equal(dropout_of(layer, range(400))(x), torch.zeros_like(x))


def test_the_mask_is_all_that_is_kept_for_the_backward_pass():
    saved = []
    layer = dropout_of(nn.Dropout(0.5), [1, 2])
    x = torch.rand(2, 100, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        out = layer(x)
    assert [tensor.dtype for tensor in saved] == [torch.bool]
    out.sum().backward()
    assert torch.equal(x.grad, torch.where(out != 0, 2.0, 0.0))


# --- what becomes of the network


def test_a_network_stays_what_it_is_in_evaluation():
    network = tiny(**(RATES | {"attn_drop_rate": 0.0}))
    before, names, x = copy.deepcopy(network).eval(), list(network.state_dict()), clips()
    random = torch.random.get_rng_state()
    dropout = per_sample_dropout(network)
    assert dropout.notes == ()
    assert all(block.attn.fused_attn for block in network.blocks)
    assert list(network.state_dict()) == names
    assert [name for name, _ in network.named_buffers()] == [name for name, _ in before.named_buffers()]
    assert all(module.training for module in network.modules())
    dropout.seed(SEEDS)
    network(x)
    assert torch.equal(torch.random.get_rng_state(), random)  # nothing is drawn from torch's generator
    assert torch.equal(network.eval()(x[:2]), before(x[:2]))  # whatever seeds there are
    assert "p=0.1" in repr(network)
    assert "drop_prob=0.300" in repr(network)


def test_every_random_layer_is_found():
    network = tiny("ts", depth=3)
    wanted = {
        name
        for name, layer in network.named_modules()
        if (isinstance(layer, nn.Dropout) and layer.p) or (isinstance(layer, DropPath) and layer.drop_prob)
    }
    dropout = per_sample_dropout(network)
    assert set(dropout.layers) == wanted
    # pos_drop and head_drop; in a block six dropouts, and in the last two blocks three residuals
    assert len(wanted) == 2 + 3 * 6 + 2 * 3
    for name in wanted:
        layer = network.get_submodule(name)
        assert type(layer) is (PerSampleDropPath if "drop_path" in name else PerSampleDropout)
    assert not any(layer.fused_attn for name, layer in network.named_modules() if name.endswith("attn"))
    assert len(dropout.notes) == 1
    assert "attn_drop_rate is above 0, so 6 layers do without torch's fused attention" in dropout.notes[0]
    # masks go by a layer's name: they stay where other layers are random or not
    fewer = tiny("ts", depth=3, drop_path_rate=0.3)
    per_sample_dropout(fewer).seed(SEEDS)
    dropout.seed(SEEDS)
    x = torch.ones(5, 2, 2)
    for name in ("blocks.1.drop_path2", "blocks.2.added.t.drop_path"):
        assert torch.equal(network.get_submodule(name)(x), fewer.get_submodule(name)(x))


def test_a_network_without_chance_is_left_alone():
    network = tiny(drop_path_rate=0.0)
    before = repr(network)
    assert per_sample_dropout(network) is None
    assert repr(network) == before
    network(clips())


def test_layers_that_are_shared_or_in_evaluation():
    shared = nn.Dropout(0.5)
    frozen = {"c": nn.Dropout(0.5).eval(), "d": DropPath(0.5).eval()}
    network = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared), **frozen})
    dropout = per_sample_dropout(network)
    assert dropout.layers == ("a", "c", "d")
    assert network["a"] is network["b"][0]
    assert isinstance(network["a"], PerSampleDropout)
    assert network["a"].training
    assert not network["c"].training
    assert not network["d"].training


def test_copies():
    """An average of the weights is a copy in evaluation; one that is to be trained gets seeds of its own."""
    network, x = tiny(), clips()
    dropout = per_sample_dropout(network)
    dropout.seed(SEEDS)
    expected = network(x)
    copied = copy.deepcopy(network)
    assert torch.equal(copied(x), expected)
    own = per_sample_dropout(copied)
    assert own.layers == dropout.layers
    with pytest.raises(RuntimeError, match=r"call SampleDropout\.seed before"):
        copied(x)
    own.seed(SEEDS[:1])
    assert_close(copied(x[:1]), expected[:1], rtol=0, atol=1e-12)
    assert torch.equal(network(x), expected)  # the other's seeds are as they were
    # for the same network again: the first one goes on to work
    second = per_sample_dropout(network)
    second.seed(SEEDS)
    assert torch.equal(network(x), expected)
    dropout.seed(SEEDS[:2])
    assert_close(network(x[:2]), expected[:2], rtol=0, atol=1e-12)


def test_autocast():
    network = tiny().float()
    dropout, x = per_sample_dropout(network), clips().float()
    dropout.seed(SEEDS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = network(x)
    assert_close(half.float(), network(x), rtol=0.1, atol=0.1)
    dropout.seed([seed // 2 for seed in SEEDS])
    assert (network(x) - half.float()).abs().max() > 0.2


# --- what is refused


def test_clips_without_seeds():
    network, x = tiny(), clips()
    dropout = per_sample_dropout(network)
    with pytest.raises(RuntimeError, match=r"call SampleDropout\.seed before a forward pass in training"):
        network(x)
    network.eval()(x)
    dropout.seed(SEEDS[:1])
    network.eval()(x)
    network.train()
    # one seed for five clips would pass for five groups of one clip
    with pytest.raises(ValueError, match="there are 1 seeds for a batch of 5 clips"):
        network(x)
    with pytest.raises(ValueError, match="5 rows are not those of 2 clips"):
        dropout_of(nn.Dropout(0.5), [1, 2])(torch.ones(5, 2))


@pytest.mark.parametrize("seeds", [[], [-1], [1, 2**63]])
def test_seeds_that_are_none(seeds):
    with pytest.raises(ValueError, match=r"give every clip of the batch one in 0\.\.2\*\*63-1"):
        per_sample_dropout(tiny()).seed(seeds)


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.Dropout3d(0.2), r"0 \(Dropout3d\) is random with p=0.2"),
        (nn.AlphaDropout(0.2), "AlphaDropout"),
        (nn.MultiheadAttention(4, 2, dropout=0.1), r"MultiheadAttention\) is random with dropout=0.1"),
        (nn.LSTM(2, 2, num_layers=2, dropout=0.1), "LSTM"),
        (timm.layers.PatchDropout(0.3), r"PatchDropout\) is random with prob=0.3"),
        (timm.layers.DropBlock2d(0.3), "DropBlock2d"),
        (type("Other", (nn.Dropout,), {})(0.4), r"Other\) is random with p=0.4"),
    ],
)
def test_what_no_seed_decides_is_refused(layer, name):
    with pytest.raises(ValueError, match=name):
        per_sample_dropout(nn.Sequential(layer, nn.Dropout(0.5)))


def test_layers_that_could_be_random_but_are_not():
    layers = [nn.Dropout3d(0.0), nn.MultiheadAttention(4, 2), timm.layers.PatchDropout(0.0), nn.Dropout(0.5)]
    assert per_sample_dropout(nn.Sequential(*layers)).layers == ("3",)
