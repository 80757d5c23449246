"""Every family's names, held against the implementation that they come from."""

import argparse
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from timesformer_peers import CLASSES, PATTERNS, as_mmaction2, as_official, make_peer, options, run_peer

from timesformer_plus.models import timesformer
from timesformer_plus.models.key_tables import FAMILIES
from timesformer_plus.models.key_tables.timesformer import FAMILIES as TIMESFORMERS
from timesformer_plus.models.weights import find_family, fit_checkpoint, load_weights

NAME = "timesformer_test_patch8_32"
LAYOUTS = {
    "transformers": lambda peer: peer.state_dict(),
    "transformers, without the prefix": lambda peer: {
        re.sub("^timesformer[.]", "", key): value for key, value in peer.state_dict().items()
    },
    "official": as_official,
    "official, in a process group": lambda peer: {f"module.{key}": value for key, value in as_official(peer).items()},
    "mmaction2": as_mmaction2,
    "mmaction2, backbone": lambda peer: {
        re.sub("^backbone[.]", "", key): value for key, value in as_mmaction2(peer).items()
    },
}


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Within 1e-5 where the values are of order 1, and of the largest where they are larger."""
    ours, theirs = ours.detach(), theirs.detach()
    assert ours.shape == theirs.shape
    assert theirs.abs().max() > 1e-3  # something is compared
    assert (ours - theirs).abs().max() <= 1e-5 * max(1.0, float(theirs.abs().max()))


@pytest.mark.parametrize("size", [224, 96])
@pytest.mark.parametrize("frames", [8, 16])
@pytest.mark.parametrize("attention_type", PATTERNS)
def test_logits_blocks_and_gradients_are_those_of_transformers(attention_type: str, frames: int, size: int) -> None:
    peer = make_peer(attention_type, frames=frames, size=size, patch=16, width=24, depth=2)
    given = options(size, 16, width=24, depth=2)
    ours = timm.create_model(NAME, pattern=PATTERNS[attention_type], num_frames=frames, **given).eval()
    fitted, report = fit_checkpoint(peer.state_dict(), ours)
    assert report.family == "TimeSformer (transformers)"
    assert not report.resized
    assert len(report.loaded) == len(ours.state_dict())
    ours.load_state_dict(fitted)
    x = torch.randn(1, 3, frames, size, size)
    theirs, blocks = run_peer(peer, x)
    close(ours(x), theirs)
    made = ours.forward_intermediates(x, return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True)
    assert len(made) == len(blocks) == 2
    for (patches, prefix), (their_prefix, their_patches) in zip(made, blocks, strict=True):
        close(prefix, their_prefix)
        close(patches, their_patches)
    (1000 * ours(x).square().mean()).backward()  # gradients of order 1 too
    (1000 * theirs.square().mean()).backward()
    for block, layer in zip(ours.blocks, peer.timesformer.encoder.layer, strict=True):
        close(block.attn.qkv.weight.grad, layer.attention.attention.qkv.weight.grad)
        close(block.mlp.fc1.weight.grad, layer.intermediate.dense.weight.grad)
        if attention_type == "divided_space_time":
            close(block.added["t"].attn.qkv.weight.grad, layer.temporal_attention.attention.qkv.weight.grad)


@pytest.mark.parametrize("wrapped", [None, "model_state", "model", "module", "state_dict"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("attention_type", PATTERNS)
def test_a_file_as_published_scores_as_the_peer(
    attention_type: str, layout: str, wrapped: str | None, tmp_path: Path
) -> None:
    peer = make_peer(attention_type)
    state = LAYOUTS[layout](peer)
    # what training scripts save besides
    more = {"epoch": 15, "args": argparse.Namespace(lr=5e-3), "best": np.float64(78.0), "cfg": "TRAIN:\n", "meta": {}}
    file = tmp_path / "checkpoint.pyth"
    torch.save(state if wrapped is None else {**more, wrapped: state}, file)
    ours = timm.create_model(
        NAME,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(file), "num_classes": CLASSES},
        pattern=PATTERNS[attention_type],
        num_frames=4,
        **options(),
    ).eval()
    x = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        close(ours(x), run_peer(peer, x)[0])


def test_a_bare_model_fills_everything_but_the_head(tmp_path: Path) -> None:
    peer = make_peer("divided_space_time")
    torch.save(peer.timesformer.state_dict(), tmp_path / "pytorch_model.bin")
    ours = timm.create_model(NAME, pattern="ts", num_frames=4, **options()).eval()
    with pytest.raises(ValueError, match=r"missing in the file \(2\): head.weight, head.bias.*num_classes"):
        load_weights(ours, tmp_path / "pytorch_model.bin")
    report = load_weights(ours, tmp_path / "pytorch_model.bin", allow=[r"^head\."])
    assert set(report.initial) == {"head.weight", "head.bias"}
    headless = timm.create_model(NAME, pattern="ts", num_frames=4, **{**options(), "num_classes": 0}).eval()
    assert not load_weights(headless, tmp_path / "pytorch_model.bin").initial
    x = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        features = peer.timesformer(x.transpose(1, 2)).last_hidden_state[:, 0]
        close(headless(x), features)
        close(ours.forward_head(ours.forward_features(x), pre_logits=True), features)


def test_what_a_file_of_mmaction2_holds_besides_is_named() -> None:
    peer = make_peer("joint_space_time")
    ours = timm.create_model(NAME, pattern="j", num_frames=4, **options())
    state = as_mmaction2(peer)
    report = fit_checkpoint({**state, "data_preprocessor.mean": torch.zeros(3, 1, 1)}, ours)[1]
    assert report.ignored == {"data_preprocessor.mean": "normalisation, which the pretrained cfg holds"}
    with pytest.raises(ValueError, match=r"left over in the file \(1\): cls_head.fc_aux.weight"):
        fit_checkpoint({**state, "cls_head.fc_aux.weight": torch.zeros(2, 2)}, ours)


def test_every_row_of_a_table_is_of_use() -> None:
    used = {family.name: set() for family in TIMESFORMERS}
    for attention_type in PATTERNS:
        peer = make_peer(attention_type, depth=1)
        for layout in LAYOUTS.values():
            keys = [re.sub("^module[.]", "", key) for key in layout(peer)]
            family = find_family(keys)
            for key in keys:
                used[family.name].add(next(row for row in family.rows if re.search(row[0], key)))
    for family in TIMESFORMERS:
        assert used[family.name] == set(family.rows), family.name


def test_a_file_is_found_to_be_of_its_own_family() -> None:
    """Among all families that there are."""
    assert set(TIMESFORMERS) < set(FAMILIES)
    for attention_type in PATTERNS:
        peer = make_peer(attention_type, depth=1)
        for name, layout in LAYOUTS.items():
            family = find_family([re.sub("^module[.]", "", key) for key in layout(peer)])
            assert family in TIMESFORMERS, name
            assert name.split(",")[0] in family.name, name


@pytest.mark.parametrize("pattern", ["s", "ts", "lg", "twh"])
def test_our_own_and_timms_names_belong_to_no_family(pattern: str) -> None:
    ours = timm.create_model(NAME, pattern=pattern).state_dict()
    assert find_family(list(ours)) is None
    assert find_family(list(timm.create_model("test_vit").state_dict())) is None


@pytest.mark.parametrize("name", [name for name in timesformer.PUBLISHED if ".fb_" in name])
def test_the_published_files_fit_their_tags(name: str) -> None:
    """The names and shapes of the file on the hub, from transformers' own configuration; nothing is resampled."""
    from transformers import TimesformerConfig, TimesformerForVideoClassification

    said = timesformer.PUBLISHED[name]
    with torch.device("meta"):
        config = TimesformerConfig(
            image_size=said.img_size, num_frames=said.num_frames, num_labels=said.num_classes, num_hidden_layers=12
        )
        theirs = TimesformerForVideoClassification(config).state_dict()
        ours = timm.create_model(name)
    _, report = fit_checkpoint(theirs, ours)
    assert len(report.loaded) == len(ours.state_dict()) == len(theirs)
    assert not report.resized
    assert (ours.num_frames, ours.patch_embed.img_size) == (said.num_frames, (said.img_size, said.img_size))
    assert ours.pretrained_cfg["license"] == "cc-by-nc-4.0"
    assert ours.pretrained_cfg["mean"] == (0.45, 0.45, 0.45)
    assert (said.channel_order == "bgr") == (said.dataset == "something_v2")


@pytest.mark.parametrize("name", [name for name in timesformer.PUBLISHED if ".mm_" in name])
def test_the_re_runs_of_mmaction2_say_their_pattern(name: str) -> None:
    said = timesformer.PUBLISHED[name]
    with torch.device("meta"):
        ours = timm.create_model(name)
    assert ours.pattern == said.model_args["pattern"]
    assert said.url.endswith(f"-{said.sha256}.pth")
    assert ours.pretrained_cfg["url"] == said.url


@pytest.mark.parametrize("released_resize", [False, True])
def test_official_files_are_resampled_on_the_grid_or_as_released(released_resize: bool) -> None:
    peer = make_peer("divided_space_time")  # 4 x 4 tokens, 4 frames
    state = as_official(peer)
    given = {**options(), "img_size": (48, 32)}
    ours = timm.create_model(NAME, pattern="ts", num_frames=6, **given)
    fitted, report = fit_checkpoint(state, ours, released_resize=released_resize)
    assert report.resized == {"pos_embed": ((1, 17, 48), (1, 25, 48)), "time_embed": ((1, 4, 48), (1, 6, 48))}
    theirs = state["model.pos_embed"]
    assert torch.equal(fitted["pos_embed"][:, 0], theirs[:, 0])  # the class token's
    if released_resize:
        # entry n of N' is entry floor(n * N / N') of N, whatever row it is in
        assert torch.equal(fitted["pos_embed"][:, 1:], theirs[:, 1:][:, [n * 16 // 24 for n in range(24)]])
        assert torch.equal(fitted["time_embed"], state["model.time_embed"][:, [n * 4 // 6 for n in range(6)]])
    else:
        plane = theirs[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
        plane = F.interpolate(plane, size=(6, 4), mode="bicubic", antialias=True, align_corners=False)
        torch.testing.assert_close(fitted["pos_embed"][:, 1:], plane.flatten(2).transpose(1, 2))
        line = F.interpolate(state["model.time_embed"].transpose(1, 2), size=6, mode="linear")
        torch.testing.assert_close(fitted["time_embed"], line.transpose(1, 2))


def test_only_the_official_family_has_a_resize_of_its_own() -> None:
    ours = timm.create_model(NAME, pattern="ts", num_frames=6, **options())
    with pytest.raises(ValueError, match=r"TimeSformer \(transformers\), for which no resize of its own is known"):
        fit_checkpoint(make_peer("divided_space_time").state_dict(), ours, released_resize=True)
