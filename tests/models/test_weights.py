"""Weights from elsewhere, held against implementations that nobody here wrote."""

import dataclasses
import logging
import os
import shlex
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timesformer_peers import CLASSES, as_official, make_peer, options, randomise
from timm.models import adapt_input_conv
from timm.models._hub import save_for_hf
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer

from timesformer_plus.models.adopt import make_video
from timesformer_plus.models.registry import published
from timesformer_plus.models.weights import KeyReport, Misfit, filter_checkpoint, fit_checkpoint, load_weights

IMAGE_MODELS = {
    "augreg": {},
    "clip": {"pre_norm": True, "class_token": True},
    "dinov2": {"reg_tokens": 4, "no_embed_class": True, "init_values": 1e-2},
    "siglip": {"class_token": False, "global_pool": "map"},
    "qk_norm": {"qk_norm": True, "qkv_bias": False},
    "mean": {"class_token": False, "global_pool": "avg", "fc_norm": True},
}
SIZE = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5}


def inflate(image: VisionTransformer, folder: Path, **options: object) -> torch.nn.Module:
    """Through timm's own door: a file, a strict load, a filter."""
    save_file({k: v.contiguous() for k, v in image.state_dict().items()}, folder / "image.safetensors")
    return timm.create_model(
        "timesformer_test_patch8_32",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(folder / "image.safetensors"), "num_classes": 5, "input_size": (3, 16, 16)},
        **{**SIZE, **options},
    ).eval()


@pytest.mark.parametrize("pattern", ["s", "ts", "st", "t+s", "cs", "ts st"])
@pytest.mark.parametrize("kind", IMAGE_MODELS)
def test_an_inflated_model_scores_still_clips_as_the_image_model(kind: str, pattern: str, tmp_path: Path) -> None:
    image = VisionTransformer(**SIZE, **IMAGE_MODELS[kind]).eval()
    randomise(image)
    model = inflate(image, tmp_path, pattern=pattern, num_frames=3, input_format="NCTHW", **IMAGE_MODELS[kind])
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(model(x[:, :, None].expand(-1, -1, 3, -1, -1)), image(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tubelet_size", [2, 3])
def test_tubelets_read_their_central_frame(tubelet_size: int, tmp_path: Path) -> None:
    image = VisionTransformer(**SIZE).eval()
    randomise(image)
    model = inflate(image, tmp_path, pattern="ts", num_frames=2 * tubelet_size, tubelet_size=tubelet_size)
    x = torch.randn(2, 3, 2 * tubelet_size, 16, 16)
    still = torch.randn(2, 3, 16, 16)
    x[:, :, [tubelet_size // 2, tubelet_size + tubelet_size // 2]] = still[:, :, None]
    torch.testing.assert_close(model(x), image(still), rtol=1e-5, atol=1e-5)


def test_another_resolution_resamples_positions_as_timm_does(tmp_path: Path) -> None:
    image = VisionTransformer(**SIZE).eval()
    randomise(image)
    model = inflate(image, tmp_path, pattern="ts", img_size=24, num_frames=2)
    image.set_input_size(img_size=(24, 24))
    x = torch.randn(2, 3, 24, 24)
    torch.testing.assert_close(model(x[:, :, None].expand(-1, -1, 2, -1, -1)), image(x), rtol=1e-5, atol=1e-5)


def test_a_video_checkpoint_of_ours_fits_other_sizes(tmp_path: Path) -> None:
    source = timm.create_model("timesformer_test_patch8_32", pattern="ts", num_frames=4, **SIZE).eval()
    randomise(source)
    save_file(source.state_dict(), tmp_path / "video.safetensors")
    overlay = {"file": str(tmp_path / "video.safetensors"), "num_classes": 5}
    wider = {**SIZE, "img_size": 24}
    model = timm.create_model(
        "timesformer_test_patch8_32", pretrained=True, pretrained_cfg_overlay=overlay, num_frames=8, **wider
    ).eval()
    source.set_input_size(img_size=24, num_frames=8)
    x = torch.randn(1, 3, 8, 24, 24)
    torch.testing.assert_close(model(x), source(x))


@pytest.mark.parametrize("said", [True, False])
def test_frames_that_are_not_square_keep_their_shape(said: bool, tmp_path: Path) -> None:
    """4 x 9 and 6 x 6 tokens are as many: only the file's configuration tells them apart."""
    wide = {**SIZE, "img_size": (16, 36)}
    source = timm.create_model("timesformer_test_patch8_32", pattern="ts", num_frames=2, **wide).eval()
    randomise(source)
    save_file(source.state_dict(), tmp_path / "video.safetensors")
    overlay = {"file": str(tmp_path / "video.safetensors"), "num_classes": 5}
    if said:
        overlay["input_size"] = (3, 16, 36)
        square = {**SIZE, "img_size": 24, "num_frames": 2}
        model = timm.create_model(
            "timesformer_test_patch8_32", pretrained=True, pretrained_cfg_overlay=overlay, **square
        ).eval()
        source.set_input_size(img_size=24)
        x = torch.randn(1, 3, 2, 24, 24)
        torch.testing.assert_close(model(x), source(x))
    else:
        narrow = timm.create_model(
            "timesformer_test_patch8_32", pattern="ts", num_frames=2, **{**SIZE, "img_size": (8, 16)}
        )
        save_file(narrow.state_dict(), tmp_path / "video.safetensors")
        with pytest.raises(ValueError, match="8 space positions, and its input_size 32x32 does not say"):
            timm.create_model("timesformer_test_patch8_32", pretrained=True, pretrained_cfg_overlay=overlay, **SIZE)


def test_another_number_of_classes_keeps_everything_but_the_head(tmp_path: Path) -> None:
    image = VisionTransformer(**SIZE).eval()
    randomise(image)
    model = inflate(image, tmp_path, pattern="ts", num_classes=9)
    assert model.head.weight.shape == (9, 16)
    assert torch.equal(model.blocks[1].attn.qkv.weight, image.blocks[1].attn.qkv.weight)


def test_space_attention_on_one_frame_is_timms_vit() -> None:
    image = timm.create_model("vit_tiny_patch16_224").eval()
    model = timm.create_model("timesformer_tiny_patch16_224", pattern="s", num_frames=1, num_classes=1000).eval()
    assert model.load_state_dict(image.state_dict()).missing_keys == []
    x = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(model(x[:, :, None]), image(x), rtol=1e-5, atol=1e-5)


def clip_model(**given: object) -> torch.nn.Module:
    return timm.create_model("timesformer_test_patch8_32", num_frames=4, **{**options(), **given}).eval()


def snapshot(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


class Runs:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {shlex.quote(str(self.trace))}",)


def missing_key(state: dict, path: Path) -> None:
    del state["model.blocks.1.temporal_attn.proj.bias"]
    torch.save({"model_state": state}, path)


def extra_key(state: dict, path: Path) -> None:
    torch.save({"model_state": {**state, "model.blocks.1.ls1.gamma": torch.ones(48)}}, path)


def wrong_shape(state: dict, path: Path) -> None:
    state["model.blocks.2.mlp.fc1.weight"] = torch.zeros(95, 48)
    torch.save({"model_state": state}, path)


def wrong_dtype(state: dict, path: Path) -> None:
    state["model.norm.weight"] = torch.ones(48, dtype=torch.int64)
    torch.save({"model_state": state}, path)


def truncated(state: dict, path: Path) -> None:
    torch.save({"model_state": state}, path)
    path.write_bytes(path.read_bytes()[:-1000])


def with_code(state: dict, path: Path) -> None:
    torch.save({"model_state": state, "hook": Runs(path.parent / "it ran")}, path)


def other_architecture(_state: dict, path: Path) -> None:
    torch.save({"state_dict": timm.create_model("test_resnet").state_dict()}, path)


def other_depth(state: dict, path: Path) -> None:
    torch.save({"model": {k: v for k, v in state.items() if "blocks.2." not in k}}, path)


def other_pattern(_state: dict, path: Path) -> None:
    torch.save({"model": as_official(make_peer("joint_space_time"))}, path)


DAMAGES = {
    missing_key: r"missing in the file \(1\): blocks.1.added.t.attn.proj.bias\. .*pattern: the model has attentions",
    extra_key: r"left over in the file \(1\): model.blocks.1.ls1.gamma\. ",
    wrong_shape: r"different \(1\): blocks.2.mlp.fc1.weight \(95x48 in the file, 96x48 in the model\)",
    wrong_dtype: r"different \(1\): norm.weight \(torch.int64 in the file, torch.float32 in the model\)",
    truncated: r"is damaged or truncated \(.*fetch it again",
    with_code: r"wants to run \S*posix.system, .*python -m timesformer_plus\S* ",
    other_architecture: r"is a checkpoint of another architecture \(0 of .* 69 tensors fit\).*left over.*missing",
    other_depth: r"missing in the file \(\d+\): blocks.2.added.t.norm.weight, .* and \d+ more",
    other_pattern: r"does not fit the model .*missing in the file.*pattern: the model has attentions that it lacks",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_changes_nothing(damage: object, tmp_path: Path) -> None:
    model, path = clip_model(pattern="ts"), tmp_path / "checkpoint.pyth"
    damage(as_official(make_peer("divided_space_time")), path)
    before = snapshot(model)
    with pytest.raises(ValueError, match=DAMAGES[damage]) as caught:
        load_weights(model, path)
    assert str(caught.value).startswith(str(path))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises(ValueError, match=DAMAGES[damage]):  # and by timm's door
        timm.create_model(
            "timesformer_test_patch8_32",
            pretrained=True,
            pretrained_cfg_overlay={"file": str(path), "num_classes": CLASSES},
            pattern="ts",
            num_frames=4,
            **options(),
        )
    assert not (tmp_path / "it ran").exists()


def test_what_is_allowed_is_named_and_left_as_it_is(tmp_path: Path) -> None:
    state = as_official(make_peer("divided_space_time"))
    state["model.extra"] = torch.ones(1)
    del state["model.norm.bias"]
    state["model.head.weight"] = torch.zeros(3, 48)
    torch.save(state, tmp_path / "c.pth")
    model = clip_model(pattern="ts")
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"model\.extra") as caught:
        load_weights(model, tmp_path / "c.pth", allow=["^norm", "head"])
    assert "norm.bias" not in str(caught.value)
    report = load_weights(model, tmp_path / "c.pth", allow=["^norm", "head", "extra"])
    assert report.ignored == {"model.extra": "allowed by 'extra'"}
    assert report.initial == {
        "norm.bias": "allowed by '^norm'",
        "head.weight": "allowed by 'head', 3x48 in the file, 7x48 in the model",
    }
    for key, value in model.state_dict().items():
        kept = key in report.initial
        assert torch.equal(value, before[key]) == kept, key
    table = report.table()
    assert "names of TimeSformer (official): 67 tensors matched" in table
    assert "  model.blocks.0.temporal_fc.weight -> blocks.0.added.t.attn.fc.weight" in table
    assert "kept as initialised (2)\n  norm.bias: allowed by '^norm'" in table
    assert "ignored (1)\n  model.extra: allowed by 'extra'" in table


def test_a_misfit_shows_how_far_it_came() -> None:
    state = as_official(make_peer("joint_space_time"))
    with pytest.raises(Misfit) as caught:
        fit_checkpoint(state, clip_model(pattern="ts"))
    report: KeyReport = caught.value.report
    assert len(report.missing) == 24
    assert all(".added.t." in key for key in report.missing)
    assert not report.left_over
    assert "missing in the file (24)\n  blocks.0.added.t.norm.weight" in report.table()


def test_another_number_of_classes_excuses_the_head_alone(tmp_path: Path) -> None:
    """Timm would load such a file with whatever else is missing from it."""
    state = as_official(make_peer("divided_space_time"))
    overlay = {"file": str(tmp_path / "c.pth"), "num_classes": CLASSES}
    given = {"pattern": "ts", "num_frames": 4, "pretrained_cfg_overlay": overlay, **options(), "num_classes": 5}
    torch.save(state, tmp_path / "c.pth")
    model = timm.create_model("timesformer_test_patch8_32", pretrained=True, **given)
    assert model.head.weight.shape == (5, 48)
    assert torch.equal(model.norm.weight, state["model.norm.weight"])
    headless = timm.create_model("timesformer_test_patch8_32", pretrained=True, **{**given, "num_classes": 0})
    assert torch.equal(headless.norm.weight, state["model.norm.weight"])
    del state["model.blocks.0.norm1.weight"]
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(ValueError, match=r"missing in the file \(1\): blocks.0.norm1.weight"):
        timm.create_model("timesformer_test_patch8_32", pretrained=True, **given)


def test_features_only_reads_the_same_file(tmp_path: Path) -> None:
    peer = make_peer("divided_space_time")
    torch.save(as_official(peer), tmp_path / "c.pth")
    overlay = {"file": str(tmp_path / "c.pth"), "num_classes": CLASSES}
    given = {"pattern": "ts", "num_frames": 4, "pretrained_cfg_overlay": overlay, "pretrained": True, **options()}
    whole = timm.create_model("timesformer_test_patch8_32", **given).eval()
    part = timm.create_model("timesformer_test_patch8_32", features_only=True, out_indices=[0, 2], **given).eval()
    x = torch.randn(1, 3, 4, 32, 32)
    expected = whole.forward_intermediates(x, [0, 2], intermediates_only=True)
    for made, wanted in zip(part(x), expected, strict=True):
        torch.testing.assert_close(made, wanted)


@pytest.mark.parametrize("in_chans", [1, 2, 4, 7])
@pytest.mark.parametrize("tubelet_size", [1, 2])
def test_other_channels_adapt_the_stem_as_timm_does(tubelet_size: int, in_chans: int, tmp_path: Path) -> None:
    source = clip_model(tubelet_size=tubelet_size)
    randomise(source)
    save_file(source.state_dict(), tmp_path / "video.safetensors")
    overlay = {"file": str(tmp_path / "video.safetensors"), "num_classes": CLASSES}
    model = timm.create_model(
        "timesformer_test_patch8_32",
        pretrained=True,
        pretrained_cfg_overlay=overlay,
        num_frames=4,
        tubelet_size=tubelet_size,
        in_chans=in_chans,
        **options(),
    )
    theirs, ours = source.patch_embed.proj.weight, model.patch_embed.proj.weight
    assert ours.shape[1] == in_chans
    for t in range(tubelet_size):
        frame, made = (w[:, :, t] if w.ndim == 5 else w for w in (theirs, ours))
        torch.testing.assert_close(made, adapt_input_conv(in_chans, frame))
    assert torch.equal(model.blocks[2].attn.qkv.weight, source.blocks[2].attn.qkv.weight)


def test_a_stem_of_other_channels_than_three_is_refused() -> None:
    with pytest.raises(ValueError, match=r"stem reads 4 channels and the model's 3.*in_chans=4"):
        fit_checkpoint(clip_model(in_chans=4).state_dict(), clip_model())


def test_a_tubelet_of_one_frame_is_a_patch() -> None:
    source = clip_model()
    state = source.state_dict()
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].unsqueeze(2)
    fitted, _ = fit_checkpoint(state, clip_model())
    assert torch.equal(fitted["patch_embed.proj.weight"], source.patch_embed.proj.weight)


def test_tubelets_of_another_length_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"patch_embed.proj.weight \(48x3x2x8x8 in the file, 48x3x4x8x8 in the model\)"
    ):
        fit_checkpoint(clip_model(tubelet_size=2).state_dict(), clip_model(tubelet_size=4))


@pytest.mark.parametrize("tubelet_size", [1, 2])
def test_the_layout_of_another_image_project_goes_through_timms_filter(tubelet_size: int) -> None:
    """DINOv2's own file: a mask token, registers and class token apart, LayerScale by its own name."""
    kind = {"reg_tokens": 4, "no_embed_class": False, "init_values": 1e-2}
    image = VisionTransformer(**{**SIZE, "num_classes": 0}, **{**kind, "no_embed_class": True}).eval()
    randomise(image)
    state = image.state_dict()
    # there, the class token's position is the table's first row
    row = torch.randn(1, 1, 16)
    theirs = {key.replace("reg_token", "register_tokens"): value for key, value in state.items()}
    theirs |= {
        "mask_token": torch.zeros(1, 16),
        "cls_token": state["cls_token"] - row,
        "pos_embed": torch.cat([row, state["pos_embed"]], dim=1),
    }
    model = timm.create_model(
        "timesformer_test_patch8_32",
        pattern="ts",
        num_frames=2 * tubelet_size,
        tubelet_size=tubelet_size,
        **{**SIZE, "num_classes": 0},
        **{**kind, "no_embed_class": True},
    ).eval()
    fitted, report = fit_checkpoint(theirs, model)
    model.load_state_dict(fitted)
    assert all("an image model has none" in why for why in report.initial.values())
    x = torch.randn(1, 3, 16, 16)
    still = x[:, :, None].expand(-1, -1, 2 * tubelet_size, -1, -1)
    torch.testing.assert_close(model(still), image(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [{}, {"qkv_fused": False}, {"use_rot_pos_emb": True, "num_reg_tokens": 4}])
def test_an_adopted_rotary_model_takes_the_file_of_its_image_model(kind: dict, tmp_path: Path) -> None:
    """Its names, ``q_bias`` among them, are not taken for those of another project."""
    image = Eva(**SIZE, **kind).eval()
    randomise(image)
    save_file(image.state_dict(), tmp_path / "image.safetensors")
    model = make_video(Eva(**SIZE, **kind), pattern="ts", num_frames=2).eval()
    assert load_weights(model, tmp_path / "image.safetensors").family is None
    x = torch.randn(1, 3, 16, 16)
    torch.testing.assert_close(model(x[:, :, None].expand(-1, -1, 2, -1, -1)), image(x), rtol=1e-5, atol=1e-5)
    tubelets = make_video(Eva(**{**SIZE, "img_size": 24}, **kind), pattern="ts", num_frames=4, tubelet_size=2)
    report = load_weights(tubelets, tmp_path / "image.safetensors")
    assert report.resized["patch_embed.proj.weight"] == ((16, 3, 4, 4), (16, 3, 2, 4, 4))
    assert report.resized["pos_embed"][1] == tuple(tubelets.pos_embed.shape)


def test_a_damaged_folder_is_told_as_damage(tmp_path: Path) -> None:
    source = clip_model()
    save_for_hf(source, tmp_path, model_args=source.model_args, safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert torch.equal(again.head.weight, source.head.weight)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is a damaged or truncated safetensors file"):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True)


def test_half_precision_fits() -> None:
    source, model = clip_model(), clip_model()
    fitted, _ = fit_checkpoint({key: value.half() for key, value in source.state_dict().items()}, model)
    model.load_state_dict(fitted)
    assert model.norm.weight.dtype == torch.float32
    torch.testing.assert_close(model.head.weight, source.head.weight.half().float())


def test_a_model_without_values_is_not_filled(tmp_path: Path) -> None:
    save_file(clip_model().state_dict(), tmp_path / "m.safetensors")
    with torch.device("meta"):
        model = clip_model()
    with pytest.raises(ValueError, match="on the meta device"):
        load_weights(model, tmp_path / "m.safetensors")


def test_no_tensors_and_two_for_one_name() -> None:
    with pytest.raises(ValueError, match="holds no tensors"):
        fit_checkpoint({}, clip_model())
    state = as_official(make_peer("divided_space_time"))
    with pytest.raises(ValueError, match=r"two tensors for 'norm\.bias', one of them"):
        fit_checkpoint({**state, "norm.bias": torch.zeros(48)}, clip_model())


@pytest.mark.parametrize("change", [{"num_frames": 8}, {"img_size": (48, 32)}, {"num_frames": 2, "img_size": 24}, {}])
def test_resampling_is_said_once(change: dict, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By the loader of a file and by ``set_input_size``, which agree about the result too."""
    source = clip_model()
    randomise(source)
    save_file(source.state_dict(), tmp_path / "m.safetensors")
    overlay = {"file": str(tmp_path / "m.safetensors"), "num_classes": CLASSES}
    given = {**options(), "num_frames": 4, **change}
    with caplog.at_level(logging.INFO, logger="timesformer_plus"):
        model = timm.create_model(
            "timesformer_test_patch8_32", pretrained=True, pretrained_cfg_overlay=overlay, **given
        ).eval()
    said = [record.getMessage() for record in caplog.records if record.name.startswith("timesformer_plus")]
    height, width = (given["img_size"],) * 2 if isinstance(given["img_size"], int) else given["img_size"]
    expected = []
    if "img_size" in change:
        expected.append(f"Resampled the checkpoint's positions from (4, 4) to {(height // 8, width // 8)} tokens")
    if "num_frames" in change:
        expected.append(f"Resampled the checkpoint's time embedding from 4 to {change['num_frames']} frames")
    assert said == expected

    caplog.clear()
    with caplog.at_level(logging.INFO):
        source.set_input_size(**change)
    about = [record.getMessage() for record in caplog.records]
    assert sum("time embedding" in line for line in about) == ("num_frames" in change)
    assert sum("position embedding" in line for line in about) == ("img_size" in change)
    x = torch.randn(1, 3, given["num_frames"], height, width)
    torch.testing.assert_close(model(x), source(x))


def test_the_size_of_the_file_is_the_models_where_nothing_says_otherwise() -> None:
    """4 x 9 tokens into 4 x 9 tokens: not taken for 6 x 6 because that is square."""
    wide = {"img_size": (32, 72)}
    source = clip_model(**wide)
    randomise(source)
    fitted, report = fit_checkpoint(source.state_dict(), clip_model(**wide))
    assert torch.equal(fitted["pos_embed"], source.pos_embed)
    assert not report.resized


def test_the_filter_reads_the_classes_of_the_file_from_the_cfg() -> None:
    source, model = clip_model(num_classes=3), clip_model()
    with pytest.raises(ValueError, match=r"head\.weight"):
        fit_checkpoint(source.state_dict(), model)
    model.pretrained_cfg = {**model.pretrained_cfg, "num_classes": 3}
    fitted = filter_checkpoint(source.state_dict(), model)
    assert fitted["head.weight"] is not source.head.weight
    assert fitted["head.weight"].shape == (CLASSES, 48)
    assert torch.equal(fitted["norm.bias"], source.norm.bias)


@pytest.mark.parametrize(
    ("name", "place", "wanted"),
    [
        ("timesformer_base_patch16_224.fb_k400", "facebook/timesformer-base-finetuned-k400", "model.safetensors or"),
        ("timesformer_base_patch16_448.fb_ssv2", "facebook/timesformer-hr-finetuned-ssv2", "pytorch_model.bin"),
    ],
)
def test_without_a_network_the_error_says_what_to_fetch(name: str, place: str, wanted: str) -> None:
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE  # as the tests' configuration has it
    with torch.device("meta"), pytest.raises(ValueError, match="could not be fetched") as caught:
        timm.create_model(name, pretrained=True)
    message = str(caught.value)
    assert place in message
    assert wanted in message
    assert f"timm.create_model('{name}', pretrained=True, pretrained_cfg_overlay=dict(file='PATH'))" in message
    assert "\n" not in message


def test_a_dead_link_says_what_to_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(_url: str, **_options: object) -> str:
        raise OSError("Name or service not known")

    monkeypatch.setattr("timesformer_plus.models.registry.download_cached_file", no_network)
    with torch.device("meta"), pytest.raises(ValueError, match=r"download\.openmmlab\.com/\S+\.pth") as caught:
        timm.create_model("timesformer_base_patch16_224.mm_joint_k400", pretrained=True)
    assert "Name or service not known" in str(caught.value)
    assert "dict(file='PATH')" in str(caught.value)


def test_what_was_downloaded_is_held_against_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"state_dict": {"a": torch.ones(1)}}, tmp_path / "c.pth")
    monkeypatch.setattr("timesformer_plus.models.registry.download_cached_file", lambda *_, **__: tmp_path / "c.pth")
    with torch.device("meta"), pytest.raises(ValueError, match=r"has sha256 .* not 8022d1c0"):
        timm.create_model("timesformer_base_patch16_224.mm_joint_k400", pretrained=True)


def test_what_came_from_the_hub_is_held_against_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "timesformer_base_patch16_224.fb_k400"
    known = dataclasses.replace(published(name), sha256="8022d1c0")
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    monkeypatch.setattr("timesformer_plus.models.timesformer.PUBLISHED", {name: known})
    monkeypatch.setattr(
        "timesformer_plus.models.registry.download_from_hf", lambda *_, **__: tmp_path / "model.safetensors"
    )
    with torch.device("meta"), pytest.raises(ValueError, match=r"has sha256 .* not 8022d1c0"):
        timm.create_model(name, pretrained=True)


def test_a_missing_file_and_a_name_without_weights() -> None:
    with pytest.raises(FileNotFoundError, match=r"no file /no/such\.pth with weights of timesformer_test_patch8_32"):
        timm.create_model(
            "timesformer_test_patch8_32", pretrained=True, pretrained_cfg_overlay={"file": "/no/such.pth"}
        )
    with torch.device("meta"), pytest.raises(RuntimeError, match=r"No pretrained weights.*_224\.fb_k400"):
        timm.create_model("timesformer_base_patch16_224", pretrained=True)


def test_the_published_tags_leave_the_plain_names_alone() -> None:
    with torch.device("meta"):
        for name in (
            "timesformer_base_patch16_224",
            "timesformer_base_patch16_448",
            "timesformer_base_patch16_224_f96",
        ):
            model = timm.create_model(name)
            assert model.pretrained_cfg["tag"] == "untrained"
            assert model.pretrained_cfg["license"] == "apache-2.0"
            assert published(name) is None
        long = timm.create_model("timesformer_base_patch16_224_f96.fb_ssv2")
        assert long.num_frames == published("timesformer_base_patch16_224_f96.fb_ssv2").num_frames == 64
        assert timm.create_model("timesformer_base_patch16_224_f96.fb_ssv2", num_frames=8).num_frames == 8
    assert published("no_such_model") is None
    assert published("vit_base_patch16_224.augreg_in21k") is None
