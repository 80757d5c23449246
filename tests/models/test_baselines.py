"""Networks of other libraries: theirs bit by bit, and models of timm's to whoever uses them."""

import importlib
import warnings

import pytest
import timm
import torch
from safetensors.torch import save_file

import timesformer_plus  # noqa: F401  registers the models
from timesformer_plus.models.baselines import NETWORKS

SMALL = {
    "pytorchvideo_x3d_xs": {"stem_dim_in": 8, "depth_factor": 0.3},
    "pytorchvideo_slowfast_r50": {"stem_dim_outs": (16, 8), "slowfast_channel_reduction_ratio": (2,)},
    "pytorchvideo_r2plus1d_r50": {"stem_dim_out": 8},
    "pytorchvideo_mvit_b_16x4": {
        "depth": 2,
        "patch_embed_dim": 16,
        "embed_dim_mul": [[1, 2.0]],
        "atten_head_mul": [[1, 2.0]],
        "pool_q_stride_size": [[1, 1, 2, 2]],
    },
    "torchvision_swin3d_t": {"embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2]},
    "torchvision_mvit_v2_s": {"embed_dim": 12, "depths": (1, 1)},
}
CLIPS = (2, 3, 8, 32, 32)


def small(name, **options):
    torch.manual_seed(0)
    return timm.create_model(name, **{"num_classes": 5, "num_frames": 8, "img_size": 32, **SMALL[name], **options})


def published(name):
    """The library's own network, on the meta device where it can be."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        library, _, model = name.partition("_")
        if library == "torchvision":
            return getattr(importlib.import_module("torchvision.models.video"), model)()
        hub = importlib.import_module("pytorchvideo.models.hub")
        return getattr(hub, {"mvit_b_16x4": "mvit_base_16x4"}.get(model, model))()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_name_makes_the_network_that_its_library_publishes(name):
    shapes = {key: value.shape for key, value in published(name).state_dict().items()}
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=400)
    assert {key.removeprefix("network."): value.shape for key, value in model.state_dict().items()} == shapes
    assert all(value.is_meta for value in model.state_dict().values())


@pytest.mark.parametrize("name", ["torchvision_mvit_v2_s", "pytorchvideo_x3d_xs"])
def test_logits_are_those_of_the_library(name, tmp_path):
    theirs = published(name).eval()
    save_file({key: value.contiguous() for key, value in theirs.state_dict().items()}, tmp_path / "weights.safetensors")
    overlay = {"file": str(tmp_path / "weights.safetensors")}
    ours = timm.create_model(name, pretrained=True, num_classes=400, pretrained_cfg_overlay=overlay).eval()
    frames, side = ours.num_frames, ours.patch_embed.img_size[0]
    x = torch.randn(1, 3, frames, side, side)
    with torch.no_grad():
        expected = theirs(x)
        # pytorchvideo's X3D ends in a softmax
        found = ours(x).softmax(-1) if name.startswith("pytorchvideo") else ours(x)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", SMALL)
def test_clips_become_logits_and_all_weights_are_reached(name):
    model = small(name).train()
    x = torch.randn(CLIPS)
    logits = model(x)
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    assert not [key for key, weight in model.named_parameters() if weight.grad is None]
    model.eval()
    with torch.no_grad():
        first = model(x)
        torch.testing.assert_close(model(x[:1]), first[:1])  # clips are scored by themselves
        assert not torch.allclose(model(x.flip(2)), first, atol=1e-6)  # and time matters
        with pytest.raises(ValueError, match=r"was made for clips \(B, 3, 8, 32, 32\), not \(2, 3, 4, 32, 32\)"):
            model(x[:, :, :4])
        model.reset_classifier(3)
        assert model(x).shape == (2, 3)
        assert model.get_classifier().out_features == model.num_classes == 3
        model.reset_classifier(0)
        features = model(x)
        assert features.shape == (2, model.num_features)
        assert small(name, num_classes=0).eval()(x).shape == features.shape


@pytest.mark.parametrize("name", ["pytorchvideo_x3d_xs", "pytorchvideo_mvit_b_16x4", "torchvision_swin3d_t"])
def test_saved_and_loaded_by_timm(name, tmp_path):
    model = small(name).eval()
    timm.models.save_for_hf(model, tmp_path / "saved", model_args=model.model_args)
    x = torch.randn(CLIPS)
    with torch.no_grad():
        again = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True).eval()
        torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)
        other = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True, num_classes=2).eval()
        assert other(x).shape == (2, 2)
    body = [key for key in model.state_dict() if not key.startswith(f"network.{NETWORKS[name].head}.")]
    assert body
    assert all(torch.equal(other.state_dict()[key], model.state_dict()[key]) for key in body)


def test_weights_of_another_network_are_refused(tmp_path):
    model = small("torchvision_swin3d_t")
    save_file({"network.norm.weight": model.state_dict()["network.norm.weight"]}, tmp_path / "part.safetensors")
    overlay = {"file": str(tmp_path / "part.safetensors")}
    with pytest.raises(ValueError, match=r"part.safetensors does not fit torchvision_swin3d_t: .* and \d+ more differ"):
        small("torchvision_swin3d_t", pretrained=True, pretrained_cfg_overlay=overlay)
    with pytest.raises(RuntimeError, match="No pretrained weights exist for torchvision_swin3d_t"):
        small("torchvision_swin3d_t", pretrained=True)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("torchvision_swin3d_t", {"pattern": "ts"}, "has no interleaving to choose"),
        ("torchvision_swin3d_t", {"in_chans": 1}, "clips of 3 channels"),
        ("torchvision_swin3d_t", {"drop_rate": 0.1}, "no dropout in front of its classifier"),
        ("pytorchvideo_mvit_b_16x4", {"droppath_rate_block": 0.1}, "droppath_rate_block cannot be set"),
        ("pytorchvideo_slowfast_r50", {"num_frames": 6}, "6 frames do not divide"),
        ("pytorchvideo_x3d_xs", {"img_size": (32, 64)}, "square frames"),
    ],
)
def test_what_does_not_fit_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        small(name, **options)


def test_checkpointing_is_refused_where_there_is_none():
    model = small("torchvision_swin3d_t")
    model.set_grad_checkpointing(False)
    with pytest.raises(ValueError, match="no activation checkpointing"):
        model.set_grad_checkpointing(True)
