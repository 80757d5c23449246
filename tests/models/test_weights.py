"""Weights from elsewhere, held against implementations that nobody here wrote."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from timesformer_plus.models.weights import HF_TIMESFORMER, rename_keys

IMAGE_MODELS = {
    "augreg": {},
    "clip": {"pre_norm": True, "class_token": True},
    "dinov2": {"reg_tokens": 4, "no_embed_class": True, "init_values": 1e-2},
    "siglip": {"class_token": False, "global_pool": "map"},
    "qk_norm": {"qk_norm": True, "qkv_bias": False},
    "mean": {"class_token": False, "global_pool": "avg", "fc_norm": True},
}
SIZE = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5}


def randomise(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)


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


def test_what_does_not_fit_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"blocks\.1\."):
        inflate(VisionTransformer(**{**SIZE, "depth": 1}), tmp_path, pattern="ts")
    with pytest.raises(ValueError, match="knows nothing of"):
        rename_keys({"backbone.conv1": torch.zeros(1)}, HF_TIMESFORMER)


def test_space_attention_on_one_frame_is_timms_vit() -> None:
    image = timm.create_model("vit_tiny_patch16_224").eval()
    model = timm.create_model("timesformer_tiny_patch16_224", pattern="s", num_frames=1, num_classes=1000).eval()
    assert model.load_state_dict(image.state_dict()).missing_keys == []
    x = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(model(x[:, :, None]), image(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("pattern", "attention_type"), [("ts", "divided_space_time"), ("s", "space_only"), ("j", "joint_space_time")]
)
def test_parity_with_transformers(pattern: str, attention_type: str) -> None:
    from transformers import TimesformerConfig, TimesformerForVideoClassification

    config = TimesformerConfig(
        image_size=32,
        patch_size=8,
        num_frames=4,
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=96,
        attention_type=attention_type,
        num_labels=7,
    )
    theirs = TimesformerForVideoClassification(config).eval()
    randomise(theirs)
    ours = timm.create_model(
        "timesformer_test_patch8_32",
        pattern=pattern,
        num_frames=4,
        embed_dim=48,
        depth=3,
        num_heads=3,
        mlp_ratio=2.0,
        num_classes=7,
    ).eval()
    state = rename_keys(theirs.state_dict(), HF_TIMESFORMER)
    assert ours.load_state_dict(state).missing_keys == []
    x = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        output = theirs(x.transpose(1, 2), output_hidden_states=True)
        logits = output.logits
        if pattern == "s":
            # theirs returns logits a frame, (B*T, classes); the released weights were trained with the class token
            # averaged over frames in front of the final norm
            tokens = output.hidden_states[-1][:, 0].reshape(2, 4, -1).mean(dim=1)
            logits = theirs.classifier(theirs.timesformer.layernorm(tokens))
        torch.testing.assert_close(ours(x), logits, rtol=1e-5, atol=1e-5)
