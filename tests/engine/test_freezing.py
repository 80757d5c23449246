"""Training a part of a network."""

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2

import timesformer_plus  # noqa: F401  registers the models
from timesformer_plus.engine.freezing import kinds_of_layers, train_only
from timesformer_plus.models.rotary_video_transformer import RotaryVideoTransformer
from timesformer_plus.models.tokens import LETTERS


def small(pattern="ts", **options):
    return timm.create_model("timesformer_test_patch8_32", pattern=pattern, num_classes=5, **options)


def trained(network):
    return {name for name, parameter in network.named_parameters() if parameter.requires_grad}


def test_nothing_named_leaves_everything_as_it_is():
    network = small()
    network.pos_embed.requires_grad_(False)
    count = sum(p.numel() for p in network.parameters())
    assert "pos_embed" not in trained(network)
    assert train_only(network, []).startswith("trains ")
    assert "pos_embed" not in trained(network)
    assert train_only(small(), ()) == f"trains all {count / 1e6:.1f}M parameters" or count < 1e6


def test_time_and_head():
    network = small()
    line = train_only(network, ["time", "head"])
    names = trained(network)
    assert names == {
        n for n, _ in network.named_parameters() if ".added.t." in n or n.startswith(("head.", "time_embed"))
    }
    count = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert f"trains {count / 1e3:.1f}K of" in line
    assert "time " in line
    assert "head " in line


@pytest.mark.parametrize("letter", LETTERS)
def test_a_primary_attention_is_of_the_kind_of_its_letter(letter):
    # alone in its block it is stored under timm's name, blocks.N.attn
    network = small(letter, global_pool="avg")
    row = LETTERS[letter]
    for entry in (letter, row.name):
        train_only(network, [entry])
        names = trained(network)
        assert {"blocks.0.attn.qkv.weight", "blocks.0.norm1.weight"} <= names
        assert ("time_embed" in names) == (letter in "tc")
        assert not any(".mlp." in n or n.startswith(("head", "patch_embed")) for n in names)


def test_kinds_of_a_mixture():
    kinds = kinds_of_layers(small("ts lg t+s t&s"))
    assert set(kinds) == {"time", "space", "local", "sparse global", "mlp", "norm", "embed", "head"}
    assert {n.split(".")[1] for n in kinds["time"] if n.startswith("blocks")} == {"0", "2", "3"}
    assert {n.split(".")[1] for n in kinds["space"]} == {"0", "2", "3"}  # the last shares its heads with time
    assert {n.split(".")[1] for n in kinds["local"]} == {"1"}


@pytest.mark.parametrize(
    "options", [{}, {"reg_tokens": 2, "init_values": 0.1, "qk_norm": True}, {"global_pool": "map"}]
)
def test_kinds_cover_the_model(options):
    network = small("ts", **options)
    kinds = kinds_of_layers(network)
    assert set().union(*kinds.values()) == {name for name, _ in network.named_parameters()}


def test_regular_expressions_match_from_the_start():
    network = small()
    train_only(network, [r"blocks\.[23]\.", "norm\\."])
    assert trained(network) == {
        n for n, _ in network.named_parameters() if n.startswith(("blocks.2.", "blocks.3.", "norm."))
    }
    with pytest.raises(ValueError, match=r"matches no parameter's name from its start"):
        train_only(network, ["qkv"])


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("tiem", "did you mean 'time'"),
        ("haed", "did you mean 'head'"),
        ("joint", "no layer of the kind 'joint'; it has the kinds embed, head, mlp, norm, space, time"),
        ("j", "no layer of the kind 'j'"),
        ("block.0.attn.qkv", "did you mean 'blocks.0.attn.qkv"),
        ("blocks.(", "neither a kind of layer nor a regular expression"),
        ("§", "a parameter is called"),
    ],
)
def test_an_entry_that_matches_nothing(entry, told):
    network = small()
    with pytest.raises(ValueError) as refused:  # noqa: PT011  told is the match
        train_only(network, ["head", entry])
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
    assert trained(network) == {name for name, _ in network.named_parameters()}  # nothing was done by half


def test_what_is_frozen_stays_bit_for_bit_and_the_rest_learns():
    network = small(drop_path_rate=0.1)
    train_only(network, ["time", "head"])
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimizer = create_optimizer_v2(network, opt="adamw", lr=1e-2, weight_decay=0.5, layer_decay=0.7)
    for _ in range(2):  # the Linear behind time attention starts at zero: what is before it moves from the second on
        optimizer.zero_grad()
        network(torch.randn(4, 3, 8, 32, 32)).square().sum().backward()
        optimizer.step()
    moved = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    assert moved == trained(network)


def test_a_model_on_timms_eva():
    network = RotaryVideoTransformer(
        "ts", 2, img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=3, init_values=0.1,
        use_rot_pos_emb=True, rope_type="mixed",
    )  # fmt: skip
    kinds = kinds_of_layers(network)
    assert set(kinds) == {"time", "space", "mlp", "norm", "embed", "head"}
    assert {"blocks.0.gamma_1", "blocks.0.attn.q_bias", "blocks.0.norm1.weight"} <= kinds["space"]
    assert {"blocks.1.gamma_2", "blocks.1.mlp.fc1.weight"} <= kinds["mlp"]
    assert "blocks.0.added.t.attn.fc.weight" in kinds["time"]
    assert "rope.freqs" in kinds["embed"]
    assert set().union(*kinds.values()) == {name for name, _ in network.named_parameters()}
