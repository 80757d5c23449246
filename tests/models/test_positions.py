"""Where tokens are: one table over T*H*W, learned or fixed, and V-JEPA 2's rotary positions, under every pattern."""

from __future__ import annotations

import logging

import pytest
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from timesformer_plus import Grid, VideoTransformer
from timesformer_plus.models.positions import WavePositions, resize_joint_embed, wave_table

SMALL = {
    "img_size": 16,
    "patch_size": 4,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 2,
    "num_frames": 4,
    "num_classes": 5,
    "input_format": "NCTHW",
}
KINDS = {
    "joint": {"pos_embed": "joint"},
    "sincos": {"pos_embed": "sincos"},
    "vjepa2": {"pos_embed": "none", "rope_type": "vjepa2"},
    "vjepa2.1": {"pos_embed": "none", "rope_type": "vjepa2.1"},
}
PATTERNS = ["j", "ts", "t+s", "t&s", "cs", "lg", "twh", "s | j", "c | t"]


def make(kind: str, pattern: str = "j", **options: object) -> VideoTransformer:
    torch.manual_seed(0)
    model = VideoTransformer(**{**SMALL, "pattern": pattern, **KINDS[kind], **options}).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model


def clip(frames: int = 4, height: int = 16, width: int = 16) -> Tensor:
    return torch.randn(2, 3, frames, height, width)


def test_the_table_of_waves_worked_by_hand() -> None:
    table = wave_table(5, 4)[0]
    wanted = torch.tensor([0.9092974268256817, -0.4161468365471424, 0.01999866669333308, 0.9998000066665778])
    torch.testing.assert_close(table[2], wanted)
    torch.testing.assert_close(table[0], torch.tensor([0.0, 1.0, 0.0, 1.0]))
    assert wave_table(3, 5).shape == (1, 3, 5)


def test_the_table_is_in_no_file_and_survives_the_meta_device() -> None:
    model = make("sincos")
    assert not [key for key in model.state_dict() if "embed" in key and not key.startswith("patch_embed")]
    assert not [name for name, _ in model.named_parameters() if "wave" in name]
    with torch.device("meta"):
        empty = VideoTransformer(**SMALL, pattern="j", pos_embed="sincos")
    empty.to_empty(device="cpu").init_weights(needs_reset=True)
    assert torch.equal(empty.wave_embed.table, wave_table(64, 24))
    half = WavePositions(Grid(1, 2, 3), 8, dtype=torch.float16)
    assert half(Grid(2, 2, 3)).dtype == torch.float16
    assert torch.equal(half(Grid(1, 2, 3)), wave_table(6, 8).half())


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_a_joint_table_is_resampled_apart_in_space_and_time(prefix: int) -> None:
    old, new = Grid(3, 4, 2), Grid(6, 6, 5)
    time, space = torch.randn(3), torch.randn(1, 8, 1)
    table = torch.cat([torch.randn(prefix), (time[:, None] * space.flatten()).flatten()])[None, :, None]
    resized = resize_joint_embed(table, old, new, prefix)
    assert torch.equal(resized[:, :prefix], table[:, :prefix]), "prefix entries stay as they are"
    # a product of a table over time and one over space stays one: linear in time, timm's bicubic in space
    plane = resample_abs_pos_embed(space, new_size=[6, 5], old_size=[4, 2], num_prefix_tokens=0).flatten()
    a, b, c = time
    line = torch.stack([a, a + (b - a) / 4, b - (b - a) / 4, b + (c - b) / 4, c - (c - b) / 4, c])
    wanted = line[:, None] * plane
    torch.testing.assert_close(resized[0, prefix:, 0].view(6, 30), wanted, rtol=1e-5, atol=1e-5)
    assert resize_joint_embed(table, old, old, prefix) is table
    with pytest.raises(ValueError, match=f"has {prefix + 24} entries, this one has {prefix + 23}"):
        resize_joint_embed(table[:, :-1], old, new, prefix)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("kind", KINDS)
class TestEveryPattern:
    def test_takes_the_place_of_the_time_embedding(self, kind: str, pattern: str) -> None:
        pooled = {"global_pool": "avg"} if pattern == "c | t" else {}
        model = make(kind, pattern, **pooled)
        assert model.time_embed is None
        assert model.no_weight_decay() >= {"time_embed", "pos_embed"}
        x = clip()
        y = model(x)
        assert not torch.allclose(model(x.flip(2)), y, atol=1e-4), "a clip and its reverse are told apart"
        y.sum().backward()
        assert all(p.grad is not None for p in model.parameters())
        again = VideoTransformer(**model.model_args).eval()
        again.load_state_dict(model.state_dict())
        assert torch.equal(again(x), y)

    def test_other_sizes_equal_a_resized_model(self, kind: str, pattern: str) -> None:
        model = make(kind, pattern, global_pool="avg", reg_tokens=2, dynamic_img_size=True, dynamic_num_frames=True)
        x = clip(2, 24, 16)
        wanted = model(x)
        model.set_input_size(img_size=(24, 16), num_frames=2)
        assert model.grid == Grid(2, 6, 4)
        torch.testing.assert_close(model(x), wanted)
        again = VideoTransformer(**model.model_args).eval()
        again.load_state_dict(model.state_dict())
        torch.testing.assert_close(again(x), wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pattern", ["c", "cs", "c+s", "s | c"])
def test_a_causal_model_stays_causal(pattern: str, kind: str) -> None:
    model = make(kind, pattern, global_pool="avg").double()
    x = clip().double()
    other = x.clone()
    other[:, :, 2:] = torch.randn_like(other[:, :, 2:])
    before, after = (model.forward_intermediates(v, 1, intermediates_only=True)[0] for v in (x, other))
    assert torch.equal(before[:, :, :2], after[:, :, :2])
    assert not torch.allclose(before[:, :, 2], after[:, :, 2])


@pytest.mark.parametrize("kind", ["joint", "sincos"])
@pytest.mark.parametrize("pattern", ["s", "hw", "h&w", "s | s"])
def test_a_table_over_time_is_refused_where_frames_do_not_know_their_moment(kind: str, pattern: str) -> None:
    with pytest.raises(ValueError, match=r"must not know it; pass pos_embed='learn', or add a letter that uses time"):
        make(kind, pattern)


@pytest.mark.parametrize("kind", ["vjepa2", "vjepa2.1"])
def test_rotary_positions_keep_frames_apart(kind: str) -> None:
    """Frames that never meet do not know when they are, though no prefix token is turned."""
    model = make(kind, "s").double()
    x = clip().double()
    torch.testing.assert_close(model(x.flip(2)), model(x), rtol=1e-12, atol=1e-12)
    alone = make(kind, "s", num_frames=1).double()
    alone.load_state_dict(model.state_dict())
    for t in range(4):
        frame = model.forward_intermediates(x, 1, intermediates_only=True)[0][:, :, [t]]
        torch.testing.assert_close(frame, alone.forward_intermediates(x[:, :, [t]], 1, intermediates_only=True)[0])


@pytest.mark.parametrize("options", [{}, {"reg_tokens": 2}, {"no_embed_class": True}, {"class_token": False}], ids=str)
@pytest.mark.parametrize("pattern", ["j", "cs"])
def test_entries_for_prefix_tokens(pattern: str, options: dict) -> None:
    model = make("joint", pattern, global_pool="avg", **options)
    P = model.num_prefix_tokens
    n = 0 if options.get("no_embed_class") else P
    assert model.pos_embed.shape == (1, n + 64, 24)
    x, grid = model._embed(clip())
    sets = 4 if pattern == "cs" else 1
    assert x.shape[1] == sets * P + grid.num_tokens
    if P:
        tokens = [token for token in (model.cls_token, model.reg_token) if token is not None]
        wanted = torch.cat(tokens, dim=1) + (model.pos_embed[:, :n] if n else 0)
        torch.testing.assert_close(x[:1, : sets * P], wanted.repeat(1, sets, 1))


def test_initial_values() -> None:
    built = VideoTransformer(**SMALL, pattern="j", pos_embed="joint")
    assert built.pos_embed.std().item() == pytest.approx(0.02, rel=0.2)
    wide = VideoTransformer(**SMALL, pos_embed="joint", pos_embed_std=1.0)
    assert wide.pos_embed.std().item() == pytest.approx(1.0, rel=0.2)
    with torch.device("meta"):
        empty = VideoTransformer(**SMALL, pos_embed="joint", global_pool="map", attn_pool_type="attentive")
    empty.to_empty(device="cpu").init_weights(needs_reset=True)
    assert empty.pos_embed.std().item() == pytest.approx(0.02, rel=0.2)
    assert empty.attn_pool.query.std().item() == pytest.approx(0.02, rel=0.5)
    assert torch.isfinite(empty(clip())).all()


def test_a_refused_resize_changes_nothing_and_a_resize_is_said(caplog: pytest.LogCaptureFixture) -> None:
    model = make("joint", "lg")
    x = clip()
    before = model(x)
    with pytest.raises(ValueError, match="does not divide"):
        model.set_input_size(num_frames=3)
    assert torch.equal(model(x), before)
    model.pos_embed.requires_grad_(False)
    with caplog.at_level(logging.INFO):
        model.set_input_size(num_frames=8)
    assert "joint position table from (4, 4, 4) to (8, 4, 4) tokens" in caplog.text
    assert not model.pos_embed.requires_grad


@pytest.mark.parametrize("name", ["absolute", "rope", "Joint"])
def test_unknown_kinds_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must be one of 'learn', 'joint', 'sincos', 'none'"):
        VideoTransformer(**SMALL, pos_embed=name)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_torch_compile_finds_one_graph(kind: str) -> None:
    torch.compiler.reset()
    model = make(kind)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        x = clip()
        torch.testing.assert_close(compiled(x), model(x))
